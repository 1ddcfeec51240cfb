"""What the operations of layers ask of the axes: convolution, attention, norms, pooling."""

from __future__ import annotations

from thalweg.solvers.symmetries.arithmetic_rules import contract
from thalweg.solvers.symmetries.axes import Axis, Dim, flat
from thalweg.solvers.symmetries.flow import Call, NormSite
from thalweg.solvers.symmetries.rulebook import rule


@rule("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution")
def _convolution(call: Call) -> None:
    x, weight = call.dims("input"), call.dims("weight")
    spatial = call["weight"].ndim - 2
    lead, channels = x[: -spatial - 1], x[-spatial - 1]
    groups = call["groups"] or 1
    call.flow.fix(weight[2:], "are positions of a kernel")
    call.read(call.traced("input"), len(lead), not call.traced("weight").from_data)
    if call["transposed"]:
        if groups > 1:
            call.give_up()
            return
        out, inner = weight[1], weight[0]
    else:
        out, inner = weight[0], weight[1]
    if groups == 1:
        contract(call, channels, inner, call.traced("weight").from_data)
    else:
        # Channels are (group, member); the outputs' are (group, outputs of each).
        group, member = Axis(groups), Axis(call["input"].shape[-spatial - 1] // groups)
        within, each = (member,) if member.size > 1 else (), call["weight"].shape[0] // groups
        call.flow.link(channels, (group, *within))
        call.flow.link(out, (group, Axis(each)) if each > 1 else (group,))
        own = len(flat((group,)))
        # Each group's own weight: the outputs scale with that, and the inputs not at all.
        call.flow.stiffen((flat(channels)[:own],), "are groups of a convolution")
        contract(call, flat(channels)[own:], inner, False)
        out = flat(out)
    if call.has("bias"):
        call.flow.link(out, call.dims("bias")[0], 1)
    positions = call.state.fresh(call.outputs[0].shape[-spatial:], "are positions")
    call.put((*lead, flat(out), *positions))


@rule("embedding")
def _embedding(call: Call) -> None:
    rows, features = call.dims("weight")
    call.flow.fix((rows,), "are looked up by number")
    call.come_from_weights()
    call.put((*call.dims("indices"), features))


def attention(call: Call) -> None:
    """Fused attention: queries with keys, weights with values."""
    query, key, value = (call.dims(name) for name in ("query", "key", "value"))
    for other in (key, value):
        for one, two in zip(query[:-2], other[:-2], strict=True):
            call.flow.link(one, two)
            call.flow.stiffen((one, two), "are heads")
    call.flow.link(key[-2], value[-2])
    for name in ("query", "key"):
        call.read(call.traced(name), len(query) - 1, by_weights=False)
    contract(call, query[-1], key[-1], both_data=True)
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


@rule("_weight_norm_interface")
def _weight_norm(call: Call) -> None:
    """``w = g v / ||v||``, a norm for each entry along one dimension: of that its length is g's alone."""
    v, dim = call.dims("v"), call["dim"] or 0
    norms = call.dims("g")[dim % len(v)]
    # The direction may have any length, apart from the weight's, which scales with g.
    scaled: Dim = tuple(Axis(axis.size) for axis in v[dim % len(v)])
    call.flow.link(v[dim % len(v)], scaled)
    call.flow.link(scaled, norms, 1)
    others = [own for i, own in enumerate(v) if i != dim % len(v)]
    call.flow.stiffen(others, "go through a weight norm")
    call.put(tuple(flat(scaled) if i == dim % len(v) else flat(own) for i, own in enumerate(v)))
    call.put(tuple(flat(norms) if i == dim % len(v) else () for i in range(len(v))), 1)


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


def pooling(call: Call) -> None:
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
