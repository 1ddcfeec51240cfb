"""What sums, products and functions of single entries ask of the axes."""

from __future__ import annotations

from thalweg.solvers.symmetries.axes import Dim, flat
from thalweg.solvers.symmetries.flow import Call, Dims, Traced
from thalweg.solvers.symmetries.rulebook import rule


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


def pointwise(call: Call) -> None:
    """Any function of single entries: units stay units, and none may be scaled."""
    dims, _ = _broadcast(call)
    call.flow.stiffen(dims, f"go through {call.name}")
    call.put(dims)


@rule(
    "clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "lift", "neg", "copy", "view_as_real"
)
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


def contract(call: Call, a: Dim, b: Dim, both_data: bool) -> None:
    """Sum over a dimension that two factors share; noted where both are activations."""
    call.flow.link(a, b, -1)
    if both_data:
        call.flow.contracted += flat(a) + flat(b)


@rule("mm", "bmm", "mv", "dot")
def _matrix_product(call: Call) -> None:
    _multiply(call, *call.inputs)


def _multiply(call: Call, first: Traced, second: Traced) -> None:
    batch, a, b = first.dims[:-2], first.dims[-2:], second.dims[len(first.dims[:-2]) :]
    for one, other in zip(batch, second.dims, strict=False):
        call.flow.link(one, other)
        call.flow.stiffen((one, other), "go through a product of two batches")
    both = first.from_data and second.from_data
    call.read(first, len(first.dims) - 1, not both)
    call.read(second, len(batch), not both)
    contract(call, a[-1], b[0], both)
    if both:
        call.flow.carried += [axis for dim in (*a[:-1], *b[1:]) for axis in flat(dim)]
    call.put((*(flat(dim) for dim in (*batch, *a[:-1], *b[1:])),))


@rule("addmm", "baddbmm", "addmv")
def _matrix_product_plus(call: Call) -> None:
    bias, *factors = call.inputs
    _multiply(call, *factors)
    dims = call.state.of(call.outputs[0], call.name).dims
    added: Dims = ((),) * (len(dims) - len(bias.dims)) + bias.dims
    for own, other in zip(dims, added, strict=True):
        if own and other:
            call.flow.link(own, other, 1)
        else:
            call.flow.stiffen((own,), "meet one bias for all")
    call.put(tuple(flat(dim) for dim in dims))


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
