"""What becomes of the axes when arrays are viewed, joined, cut and indexed."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.solvers.symmetries.axes import Axis, Dim, flat, regroup, split, variant
from thalweg.solvers.symmetries.flow import Call, Dims, Traced
from thalweg.solvers.symmetries.rulebook import rule

# More slices of one dimension than that are no packed projections.
MOST_SLICES = 64


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy")
def _view(call: Call) -> None:
    call.put(regroup(call.dims("self"), call.outputs[0].shape))


@rule("t", "transpose", "permute", "transpose_copy", "permute_copy")
def _permuted(call: Call) -> None:
    dims, ndim = list(call.dims("self")), call["self"].ndim
    if call.name.startswith("permute"):
        dims = [dims[d % ndim] for d in call["dims"]]
    elif call.name == "t":
        dims.reverse()
    else:
        i, j = call["dim0"] % ndim, call["dim1"] % ndim
        dims[i], dims[j] = dims[j], dims[i]
    call.put(tuple(dims))


@rule("squeeze", "unsqueeze", "squeeze_copy", "unsqueeze_copy")
def _squeezed(call: Call) -> None:
    call.put(regroup(call.dims("self"), call.outputs[0].shape))


@rule("expand", "expand_copy")
def _expanded(call: Call) -> None:
    dims, shape = call.dims("self"), call.outputs[0].shape
    dims = ((),) * (len(shape) - len(dims)) + dims
    new: list[Dim] = []
    for dim, size in zip(dims, shape, strict=True):
        # Copies of one thing are the same in any order.
        new.append(dim if dim or size == 1 else (Axis(size),))
        if not dim:
            call.flow.stiffen((new[-1],), "are copies")
    call.put(tuple(new))


@rule("repeat")
def _repeated(call: Call) -> None:
    repeats = call["repeats"]
    dims = ((),) * (len(repeats) - call["self"].ndim) + call.dims("self")
    copies: list[Dim] = [(Axis(n),) if n > 1 else () for n in repeats]
    call.flow.stiffen(copies, "are copies")
    call.put(tuple((*copy, *dim) for copy, dim in zip(copies, dims, strict=True)))


@rule("glu")
def _gated(call: Call) -> None:
    along, half = call["dim"] % call["self"].ndim, call["self"].shape[call["dim"]] // 2
    first, second = (_taken(call, along, start, half) for start in (0, half))
    for one, other in zip(first, second, strict=True):
        call.flow.link(one, other)
        call.flow.stiffen((one, other), "go through glu")
    call.put(tuple(flat(dim) for dim in first))


@rule("zeros", "zeros_like", "new_zeros")
def _noughts(call: Call) -> None:
    call.put(tuple((Axis(n),) if n != 1 else () for n in call.outputs[0].shape))


@rule("cat")
def _joined(call: Call) -> None:
    ndim = call.outputs[0].ndim
    along = (call["dim"] or 0) % ndim
    pieces = [known for known in call.inputs if known.tensor.ndim == ndim]
    _side_by_side(call, pieces, along)
    reason = "are joined with others by cat"
    joined = [piece.dims[along] for piece in pieces]
    call.flow.fix(joined, reason)
    fresh = call.state.fresh((call.outputs[0].shape[along],), reason, joined)
    first = pieces[0].dims
    call.put(tuple(fresh[0] if i == along else flat(dim) for i, dim in enumerate(first)))


@rule("stack")
def _stacked(call: Call) -> None:
    ndim = call.outputs[0].ndim
    along = (call["dim"] or 0) % ndim
    _side_by_side(call, call.inputs, None)
    dims = [flat(dim) for dim in call.inputs[0].dims]
    dims.insert(along, call.state.fresh((len(call.inputs),), "are stacked")[0])
    call.put(tuple(dims))


def _side_by_side(call: Call, pieces: Sequence[Traced], along: int | None) -> None:
    for piece in pieces[1:]:
        for i, (one, other) in enumerate(zip(pieces[0].dims, piece.dims, strict=True)):
            if i != along:
                call.flow.link(one, other, 1)


@rule("select", "select_copy")
def _selected(call: Call) -> None:
    along = call["dim"] % call["self"].ndim
    index = call["index"] % call["self"].shape[along]
    call.put(tuple(dim for i, dim in enumerate(_taken(call, along, index, 1)) if i != along))


@rule("unbind", "unbind_copy")
def _unbound(call: Call) -> None:
    along = (call["dim"] or 0) % call["self"].ndim
    for index in range(len(call.outputs)):
        dims = _taken(call, along, index, 1)
        call.put(tuple(dim for i, dim in enumerate(dims) if i != along), index)


@rule("slice", "narrow", "slice_copy")
def _sliced(call: Call) -> None:
    along = (call["dim"] or 0) % call["self"].ndim
    whole, length = call["self"].shape[along], call.outputs[0].shape[along]
    if length == whole:
        call.put(call.dims("self"))
        return
    start = min(max((call["start"] or 0) + (whole if (call["start"] or 0) < 0 else 0), 0), whole)
    call.put(_taken(call, along, start if call["step"] in (1, None) else None, length))


@rule("split", "split_with_sizes", "split_copy", "split_with_sizes_copy", "unsafe_split", "unsafe_chunk")
def _cut(call: Call) -> None:
    along, start = (call["dim"] or 0) % call["self"].ndim, 0
    for index, tensor in enumerate(call.outputs):
        length = tensor.shape[along]
        whole = length == call["self"].shape[along]
        call.put(call.dims("self") if whole else _taken(call, along, start, length), index)
        start += length


def _taken(call: Call, along: int, start: int | None, length: int) -> Dims:
    """Dimensions of a slice; one of several equal ones along a dimension is a choice among copies."""
    dims = call.dims("self")
    whole = call["self"].shape[along]
    reason = f"are told apart by {call.name}"
    num_slices = whole // length if length else 0
    if whole == length == 1:
        return dims
    if start is None or not length or whole % length or start % length or num_slices > MOST_SLICES:
        call.flow.fix((dims[along],), reason)
        fresh = call.state.fresh((length,), reason, (dims[along],))[0]
        return tuple(fresh if i == along else dim for i, dim in enumerate(dims))
    first = dims[along][0]
    if first.size > num_slices and first.size % num_slices == 0 and not first.parts:
        split(first, (num_slices, first.size // num_slices))
    selector, *rest = flat(dims[along])
    if selector.size != num_slices:
        call.flow.fix((dims[along],), reason)
        fresh = call.state.fresh((length,), reason, (dims[along],))[0]
        return tuple(fresh if i == along else flat(dim) for i, dim in enumerate(dims))
    call.flow.fix(((selector,),), reason)
    index = start // length

    def chosen(dim: Dim) -> Dim:
        return tuple(leaf for axis in flat(dim) for leaf in variant(axis, selector, index).flat())

    return tuple(
        tuple(leaf for axis in rest for leaf in variant(axis, selector, index).flat())
        if i == along
        else chosen(dim)
        for i, dim in enumerate(dims)
    )


@rule("index")
def _indexed(call: Call) -> None:
    dims, indices = call.dims("self"), list(call["indices"])
    count = len(indices)
    if any(index is None for index in indices):
        call.give_up()
        return
    call.flow.fix(dims[:count], "are picked by index")
    shape = call.outputs[0].shape
    lead = len(shape) - (len(dims) - count)
    call.put((*call.state.fresh(shape[:lead], "are picked by index", dims[:count]), *dims[count:]))


@rule("index_select")
def _index_selected(call: Call) -> None:
    dims, along = call.dims("self"), call["dim"] % call["self"].ndim
    call.flow.fix((dims[along],), "are picked by index")
    fresh = call.state.fresh((call.outputs[0].shape[along],), "are picked by index", (dims[along],))[0]
    call.put(tuple(fresh if i == along else dim for i, dim in enumerate(dims)))
