"""How alike the units of two networks are: by their weights, or by what they put out on the data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.core.array_store import Store, key_of, recalled
from thalweg.core.progress import Progress, Work
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import arithmetic
from thalweg.solvers.matching import InnerProduct, PairScores, Term, Units
from thalweg.solvers.symmetries.tracing import activations, trace
from thalweg.solvers.symmetries.units import Layer, Sight, sights_of

# Examples of a pass that keeps the activations of all layers at once.
EXAMPLES_AT_ONCE = 64

# A variance below this part of the mean square is rounding: a unit that is always the same.
CONSTANT = 1e-12


def weight_terms(a: Objective, b: Objective, layers: Sequence[Layer]) -> list[Term]:
    r"""Inner products of the parameters that the layers' orders move: their sum falls with the distance.

    :math:`\lVert\theta_a - \pi(\theta_b)\rVert^2 = \lVert\theta_a\rVert^2 + \lVert\theta_b\rVert^2 - 2
    \langle\theta_a, \pi(\theta_b)\rangle`, over all trainable parameters, each entry counting once: weights,
    biases, scales and shifts of norms. Running statistics go along and do not count. In float64.
    """
    first, second = (o.space.unflatten(o.params.detach().cpu().double()) for o in (a, b))
    units: dict[str, list[Units]] = {}
    for number, layer in enumerate(layers):
        for own in layer.along:
            units.setdefault(own.tensor, []).append(Units(number, own.dim, own.entries))
    return [InnerProduct(first[name], second[name], own) for name, own in units.items() if name in first]


def activation_terms(
    a: Objective,
    b: Objective,
    layers: Sequence[Layer],
    store: Store | None = None,
    progress: Progress | None = None,
) -> list[Term]:
    """Pearson correlations of the units' values over the data, wherever a product takes them.

    One term for each product: a convolution or a matrix product with weights takes a layer's values after
    its activation function; queries and keys are taken by each other. A value that several products take
    counts for each. Examples and positions are the sample; statistics of batch norm are those of the mode.
    A unit that never changes is correlated with none. The `store` keeps the correlations.

    Raises
    ------
    ValueError
        If no product takes the units of some layer, or a pass over later examples has other products.
    """
    sights = sights_of(layers, trace(b))
    reads = [sight.read for sight in sights]
    wide = torch.float32 if a.device.type == "mps" else torch.float64

    def moments(micro: MicroBatch) -> list[tuple[Tensor, ...]]:
        other = MicroBatch(b, micro.batch, micro.start, micro.stop)
        sums = []
        for sight, *pair in zip(sights, activations(micro, reads), activations(other, reads), strict=True):
            x, y = (sight.values(t).flatten(0, -2).to(wide) for t in pair)  # (Q, sample)
            count = torch.tensor(x.shape[1], dtype=torch.float64)
            squares = (x.square().sum(1), y.square().sum(1), x @ y.T)
            sums.append((count, *(t.cpu().double() for t in (x.sum(1), y.sum(1), *squares))))
        return sums

    def correlations() -> dict[str, Tensor]:
        work = Work(progress, a.num_examples)
        totals = a.reduce(moments, at_most=EXAMPLES_AT_ONCE, on_examples=work.add)
        return {str(i): _correlations(*sums) for i, sums in enumerate(totals)}

    key = ""
    if store is not None:
        seen = [[layer.name, layer.size] for layer in layers]
        both = [[o.describe(), arithmetic(o)] for o in (a, b)]
        key = key_of(correlations=seen, of=both)
    found = recalled(store, key, correlations)
    return [PairScores(found[str(i)], _units_of(sight, layers)) for i, sight in enumerate(sights)]


def _units_of(sight: Sight, layers: Sequence[Layer]) -> list[Units]:
    """Which of the Q combinations of units belong to each unit of each layer."""
    sizes = [layers[number].size for number in sight.layers]
    index = torch.arange(math.prod(sizes)).reshape(sizes)
    return [
        Units(number, 1, index.movedim(k, 0).reshape(sizes[k], -1)) for k, number in enumerate(sight.layers)
    ]


def _correlations(count: Tensor, x: Tensor, y: Tensor, xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """``(Q, Q)`` from sums over the sample."""
    means = x / count, y / count
    variances = [s / count - m.square() for s, m in zip((xx, yy), means, strict=True)]
    moving = [v > CONSTANT * s / count for v, s in zip(variances, (xx, yy), strict=True)]
    scales = [torch.where(m, v, 1.0).rsqrt() * m for v, m in zip(variances, moving, strict=True)]
    return (xy / count - torch.outer(*means)) * torch.outer(*scales)
