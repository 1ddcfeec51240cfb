"""What each of torch's operations asks of the axes it works on; see `thalweg.solvers.symmetries.flow`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thalweg.solvers.symmetries.axes import Axis, Dim, flat, regroup, split, variant
from thalweg.solvers.symmetries.flow import Call, Dims, NormSite

Rule = Callable[[Call], None]
RULES: dict[str, Rule] = {}

# More slices of one dimension than that are no packed projections.
MOST_SLICES = 64


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def apply_rule(call: Call) -> None:
    """Note what one operation does; one without a rule tells all units apart."""
    if not call.outputs:
        return
    if call.name in RULES:
        RULES[call.name](call)
    elif call.name.startswith("_scaled_dot_product"):
        _attention(call)
    elif call.name.endswith(("pool1d", "pool2d", "pool3d", "pool2d_with_indices", "pool3d_with_indices")):
        _pooling(call)
    elif call.name.startswith("upsample_"):
        _pooling(call)
    elif call.is_pointwise:
        _pointwise(call)
    else:
        call.give_up()


# -- unit by unit ----------------------------------------------------------------------------------------


def _broadcast(call: Call) -> tuple[Dims, list[Dims]]:
    """The output's dimensions, one unit for one where operands have both; the operands' own, aligned."""
    ndim = call.outputs[0].ndim
    aligned = [((),) * (ndim - len(known.dims)) + known.dims for known in call.inputs]
    dims: list[Dim] = []
    for each in zip(*aligned, strict=True):
        present = [dim for dim in each if dim]
        for other in present[1:]:
            call.flow.link(present[0], other)
        dims.append(flat(present[0]) if present else ())
    return tuple(dims), aligned


def _pointwise(call: Call) -> None:
    dims, _ = _broadcast(call)
    call.flow.stiffen(dims, f"go through {call.name}")
    call.put(dims)


@rule("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "lift", "neg", "copy", "view_as_real")
def _same_units(call: Call) -> None:
    if len(call.inputs) != 1 or call.inputs[0].tensor.shape != call.outputs[0].shape:
        call.give_up()
        return
    known = call.inputs[0]
    call.put(known.dims, name=known.name if call.name == "clone" else None)


@rule("as_strided")
def _strided(call: Call) -> None:
    _same_units(call)  # where the shape stays, which is how layouts are mended


@rule("relu", "leaky_relu", "_prelu_kernel")
def _homogeneous(call: Call) -> None:
    dims, aligned = _broadcast(call)
    call.flow.bent += [axis for dim in aligned[0] for axis in dim]
    for slopes in aligned[1:]:
        call.flow.stiffen(slopes, "are slopes")
    call.put(dims)


@rule("add", "sub")
def _sum(call: Call) -> None:
    dims, aligned = _broadcast(call)
    if len(aligned) == 1:
        call.flow.stiffen(dims, f"go through {call.name} of a number")
    for first, second in zip(*aligned, strict=True) if len(aligned) == 2 else ():
        if first and second:
            call.flow.link(first, second, 1)
        else:
            call.flow.stiffen((first, second), f"go through {call.name} of one number for all")
    call.put(dims)


@rule("mul", "div")
def _product(call: Call) -> None:
    dims, aligned = _broadcast(call)
    for first, second in zip(*aligned, strict=True) if len(aligned) == 2 else ():
        if first and second:
            call.flow.stiffen((first, second), f"go through {call.name}")
    if call.name == "div" and len(aligned) == 2:
        call.flow.stiffen(aligned[1], "are divided by")
    if call["rounding_mode"]:
        call.flow.stiffen(dims, "are rounded")
    call.put(dims)


# -- products --------------------------------------------------------------------------------------------


def _contract(call: Call, a: Dim, b: Dim, both_data: bool) -> None:
    call.flow.link(a, b, -1)
    if both_data:
        call.flow.contracted += flat(a) + flat(b)


@rule("mm", "bmm", "mv", "dot")
def _matrix_product(call: Call) -> None:
    first, second = call.inputs
    batch, a, b = first.dims[:-2], first.dims[-2:], second.dims[len(first.dims[:-2]) :]
    for one, other in zip(batch, second.dims, strict=False):
        call.flow.link(one, other)
        call.flow.stiffen((one, other), "go through a product of two batches")
    both = first.from_data and second.from_data
    _contract(call, a[-1], b[0], both)
    if both:
        call.flow.carried += [axis for dim in (*a[:-1], *b[1:]) for axis in flat(dim)]
    call.put((*(flat(dim) for dim in (*batch, *a[:-1], *b[1:])),))


@rule("addmm", "baddbmm", "addmv")
def _matrix_product_plus(call: Call) -> None:
    bias, *factors = call.inputs
    _matrix_product(Call(call.state, call.name, {}, factors, call.outputs))
    dims = call.state.of(call.outputs[0], call.name).dims
    added: Dims = ((),) * (len(dims) - len(bias.dims)) + bias.dims
    for own, other in zip(dims, added, strict=True):
        if own and other:
            call.flow.link(own, other, 1)
        else:
            call.flow.stiffen((own,), "meet one bias for all")
    call.put(tuple(flat(dim) for dim in dims))


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution")
def _convolution(call: Call) -> None:
    x, weight = call.dims("input"), call.dims("weight")
    spatial = call["weight"].ndim - 2
    lead, channels = x[: -spatial - 1], x[-spatial - 1]
    groups = call["groups"] or 1
    call.flow.fix(weight[2:], "are positions of a kernel")
    if call["transposed"]:
        if groups > 1:
            call.give_up()
            return
        out, inner = weight[1], weight[0]
    else:
        out, inner = weight[0], weight[1]
    if groups == 1:
        _contract(call, channels, inner, call.traced("weight").from_data)
    else:
        # Channels are (group, member); the outputs' are (group, outputs of each).
        group, member = Axis(groups), Axis(call["input"].shape[-spatial - 1] // groups)
        within, each = (member,) if member.size > 1 else (), call["weight"].shape[0] // groups
        call.flow.link(channels, (group, *within))
        call.flow.link(out, (group, Axis(each)) if each > 1 else (group,))
        own = len(flat((group,)))
        # Each group's own weight: the outputs scale with that, and the inputs not at all.
        call.flow.stiffen((flat(channels)[:own],), "are groups of a convolution")
        _contract(call, flat(channels)[own:], inner, False)
        out = flat(out)
    if call.has("bias"):
        call.flow.link(out, call.dims("bias")[0], 1)
    positions = call.state.fresh(call.outputs[0].shape[-spatial:], "are positions")
    call.put((*lead, flat(out), *positions))


@rule("embedding")
def _embedding(call: Call) -> None:
    rows, features = call.dims("weight")
    call.flow.fix((rows,), "are looked up by number")
    call.put((*call.dims("indices"), features))


def _attention(call: Call) -> None:
    query, key, value = (call.dims(name) for name in ("query", "key", "value"))
    for other in (key, value):
        for one, two in zip(query[:-2], other[:-2], strict=True):
            call.flow.link(one, two)
            call.flow.stiffen((one, two), "are heads")
    call.flow.link(key[-2], value[-2])
    _contract(call, query[-1], key[-1], both_data=True)
    call.flow.carried += value[-1]
    for name in ("attn_mask", "attn_bias"):
        if call.has(name):
            scores = (*query[:-1], key[-2])
            mask = call.dims(name)
            for own, other in zip(scores[-len(mask) :], mask, strict=True):
                if own and other:
                    call.flow.link(own, other)
            call.flow.stiffen(mask, "are a mask")
    call.put((*(flat(dim) for dim in (*query[:-1], value[-1])),))
    for i, tensor in enumerate(call.outputs[1:], 1):
        call.put(call.state.fresh(tensor.shape, "come out of attention"), i)


# -- normalisation ---------------------------------------------------------------------------------------


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update",
    "_batch_norm_no_update",
    "cudnn_batch_norm",
    "miopen_batch_norm",
)
def _batch_norm(call: Call) -> None:
    x = call.dims("input")
    channels = x[1]
    # The input scales apart from the output, which scales with the weight.
    scaled: Dim = tuple(Axis(axis.size) for axis in channels)
    call.flow.link(channels, scaled)
    named = {k: call.traced(k).name if call.has(k) else None for k in ("weight", "bias")}
    computes = bool(call["training"])
    statistics = {"mean": "running_mean", "var": "running_var"}
    for key, argument in statistics.items():
        used = call.has(argument) and not computes
        named[key] = call.traced(argument).name if used else None
        if used:
            call.flow.link(channels, call.dims(argument)[0], 1 if key == "mean" else None)
    for key in ("weight", "bias"):
        if call.has(key):
            call.flow.link(scaled, call.dims(key)[0], 1)
        else:
            call.flow.stiffen((scaled,), "come out of a batch norm without its own scale")
    call.flow.bent += flat(channels) + flat(scaled)
    eps = call["eps"] if call["eps"] is not None else call["epsilon"]
    call.flow.norms.append(NormSite(channels, **named, eps=float(eps), computes=computes))
    call.put((x[0], flat(scaled), *x[2:]))
    call.put_fresh(start=1)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def _layer_norm(call: Call) -> None:
    x = call.dims("input")
    for name in ("weight", "bias"):
        if call.has(name):
            own = call.dims(name)
            for one, other in zip(x[-len(own) :], own, strict=True):
                if one:
                    call.flow.link(one, other)
            call.flow.stiffen(own, "go through a layer norm")
    call.flow.stiffen(x, "go through a layer norm")
    call.put(x)
    call.put_fresh(start=1)


@rule("native_group_norm")
def _group_norm(call: Call) -> None:
    x, groups = call.dims("input"), call["group"]
    channels = x[1]
    for name in ("weight", "bias"):
        if call.has(name):
            call.flow.link(channels, call.dims(name)[0])
    if 1 < groups < call["C"]:
        call.flow.link(channels, (Axis(groups), Axis(call["C"] // groups)))
    call.flow.stiffen((*x, flat(channels)), "go through a group norm")
    call.put((x[0], flat(channels), *x[2:]))
    call.put_fresh(start=1)


@rule("_softmax", "_log_softmax", "_safe_softmax")
def _softmax(call: Call) -> None:
    dims = call.dims("self")
    call.flow.stiffen(dims, "go through a softmax")
    call.put(dims)


# -- sums over dimensions, pooling -----------------------------------------------------------------------


@rule("sum", "mean", "amax", "amin", "logsumexp", "var", "std", "linalg_vector_norm", "prod", "any", "all")
def _reduction(call: Call) -> None:
    dims, ndim = call.dims("self"), call["self"].ndim
    given = call["dim"]
    given = list(range(ndim)) if given is None or given == [] else given
    reduced = {d % ndim for d in (given if isinstance(given, list | tuple) else [given])} if ndim else set()
    gone = tuple(dim for i, dim in enumerate(dims) if i in reduced)
    call.flow.stiffen(gone, f"are lumped together by {call.name}")
    if call.name not in ("sum", "mean"):
        call.flow.stiffen(dims, f"go through {call.name}")
    if call["keepdim"]:
        call.put(tuple(() if i in reduced else dim for i, dim in enumerate(dims)))
    else:
        call.put(tuple(dim for i, dim in enumerate(dims) if i not in reduced))


def _pooling(call: Call) -> None:
    """Channels stay; positions become others."""
    dims = call.inputs[0].dims
    spatial = int(next(c for c in reversed(call.name.partition("d_")[0]) if c.isdigit()))
    if call.name.startswith("upsample_"):
        spatial = len(dims) - 2
    call.flow.bent += [axis for dim in dims for axis in flat(dim)]
    for i, tensor in enumerate(call.outputs):
        call.put((*dims[:-spatial], *call.state.fresh(tensor.shape[-spatial:], "are positions")), i)


@rule("constant_pad_nd")
def _padding(call: Call) -> None:
    dims, pad = call.dims("self"), call["pad"]
    padded = len(pad) // 2
    call.flow.fix(dims[len(dims) - padded :], "are padded")
    if call["value"]:
        call.flow.stiffen(dims, "are padded with a number")
    shape = call.outputs[0].shape
    call.put((*dims[: len(dims) - padded], *call.state.fresh(shape[len(dims) - padded :], "are padded")))


# -- shapes ----------------------------------------------------------------------------------------------


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
    call.flow.fix([piece.dims[along] for piece in pieces], reason)
    fresh = call.state.fresh((call.outputs[0].shape[along],), reason)
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


def _side_by_side(call: Call, pieces: list[Any], along: int | None) -> None:
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
        fresh = call.state.fresh((length,), reason)[0]
        return tuple(fresh if i == along else dim for i, dim in enumerate(dims))
    first = dims[along][0]
    if first.size > num_slices and first.size % num_slices == 0 and not first.parts:
        split(first, (num_slices, first.size // num_slices))
    selector, *rest = flat(dims[along])
    if selector.size != num_slices:
        call.flow.fix((dims[along],), reason)
        fresh = call.state.fresh((length,), reason)[0]
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
    call.put((*call.state.fresh(shape[:lead], "are picked by index"), *dims[count:]))


@rule("index_select")
def _index_selected(call: Call) -> None:
    dims, along = call.dims("self"), call["dim"] % call["self"].ndim
    call.flow.fix((dims[along],), "are picked by index")
    fresh = call.state.fresh((call.outputs[0].shape[along],), "are picked by index")[0]
    call.put(tuple(fresh if i == along else dim for i, dim in enumerate(dims)))
