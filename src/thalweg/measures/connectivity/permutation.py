"""A network's units in the order of another's: what is left of the distance once permutations are undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag, check_one_of
from thalweg.core.array_store import Store
from thalweg.core.errors import NonFiniteLossError, ThalwegError
from thalweg.core.measurement import Measurement
from thalweg.core.progress import STEPS, Progress, part_of
from thalweg.core.rng import stream_seed
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import check_store_for
from thalweg.solvers.comparable import check_comparable
from thalweg.solvers.matching import match
from thalweg.solvers.symmetries.transformations import (
    Agreement,
    Symmetries,
    agreement,
    find_symmetries,
    in_float64,
)
from thalweg.solvers.symmetries.units import Layer, layers_of
from thalweg.solvers.unit_similarity import activation_terms, weight_terms

Method = Literal["weights", "activations"]

# Most that the aligned network may differ from `b`, of the largest output; in float64 it is far less.
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True, repr=False)
class PermutationAlignment(Measurement):
    r"""`b` with its units in the order of `a`'s; `value` is :math:`\lVert\theta_a - \pi(\theta_b)\rVert`.

    P = number of parameters, R = number of runs, G = number of layers of units. The error budget is empty:
    the distance at these permutations is exact. The least over all permutations may be lower; `distances`
    shows how the runs differ.

    Parameters
    ----------
    distance_before
        :math:`\lVert\theta_a - \theta_b\rVert`, over all trainable parameters.
    distances
        ``(R,)``: what each run ended with. The best run is the one of the largest similarity; with
        ``"activations"`` that need not be the one of the least distance.
    similarities, start_similarities
        ``(R,)``: what is maximised, in [-1, 1], at the end and at the start of each run; the first starts
        from `b` as it is. With ``"weights"`` the cosine of :math:`\theta_a` and :math:`\pi(\theta_b)`, with
        ``"activations"`` the mean correlation of matched units.
    num_sweeps
        ``(R,)``: times that each run went through all layers.
    permutations
        By layer ``(n,)``: unit i of the aligned network is unit ``permutations[layer][i]`` of `b`.
    layers, num_units, num_moved
        The G layers' names, their units, and how many of these have moved.
    tensors
        By layer, the names of the parameters and statistics that move with its units.
    left_alone
        By layer, why its units could not be permuted; only with ``partial=True`` are there any.
    params, buffers
        The point of the aligned network: ``(P,)``, and floating buffers by name.
    largest_change
        Largest difference of the aligned network's outputs or losses from `b`'s, over the largest of these:
        rounding.
    """

    measure: ClassVar[str] = "align_permutation"
    quantity: ClassVar[str] = "distance after alignment"
    per_part: ClassVar[tuple[str, ...]] = ("layers", "num_units", "num_moved")

    distance_before: float
    distances: Tensor
    similarities: Tensor
    start_similarities: Tensor
    num_sweeps: Tensor
    permutations: Mapping[str, Tensor]
    layers: tuple[str, ...]
    num_units: Tensor
    num_moved: Tensor
    tensors: Mapping[str, tuple[str, ...]]
    left_alone: Mapping[str, str]
    params: Tensor
    buffers: Mapping[str, Tensor]
    largest_change: float
    # Not a field: a network has no place in a file.
    aligned: InitVar[Objective | None] = None

    def __post_init__(self, aligned: Objective | None) -> None:
        object.__setattr__(self, "_objective", aligned)

    @property
    def objective(self) -> Objective:
        """`b` in the coordinates of `a`: the same data, loss and mode, and the same function.

        Raises
        ------
        AttributeError
            Of a result that was read from a file, which knows the point and not the network.
        """
        found = vars(self).get("_objective")
        if found is None:
            raise AttributeError(
                "a result read from a file has no `objective`, only its point: make that of `b` anew and use "
                "b.at(result.params, result.buffers)."
            )
        return found


def align_permutation(
    a: Objective,
    b: Objective,
    *,
    method: Method = "weights",
    num_restarts: int = 5,
    partial: bool = False,
    num_checked: int = 256,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> PermutationAlignment:
    r"""Reorder the hidden units of `b` so that they go with those of `a`; `b` keeps its function.

    The layers of units are found by tracing a forward pass (see `find_symmetries`): dense and convolutional
    layers, residual streams, which all their layers share, the step from channels to a flattened layer, heads
    of attention and the features in them (alike in all heads). All that belongs to a unit moves with it,
    batch norm's parameters and running statistics too.

    ``"weights"`` minimises :math:`\lVert\theta_a - \pi(\theta_b)\rVert^2` over all trainable parameters,
    biases and those of norms included, each entry counting once; statistics do not count.
    ``"activations"`` maximises the sum of correlations of matched units' values over the data, wherever a
    product takes them, which is after the activation function; units that never change on these data are
    like none, and stay where they happen to be. Both by coordinate ascent, see
    `thalweg.solvers.matching`: the optimum for each layer when the others are held, and no more than that.

    Parameters
    ----------
    a, b
        Two points of one function: same architecture, frozen parameters, loss, data, mode, L2 term.
    method
        ``"weights"`` looks at no data but to check; ``"activations"`` takes one pass for each network.
    num_restarts
        R: the first run starts from `b` as it is, each further one from random orders. With
        ``"activations"`` they differ only where layers share values, as heads and their features do.
    partial
        Whether layers whose units cannot be permuted may stay as they are, named in `left_alone`; else they
        are an error.
    num_checked
        Examples on which the aligned network is held against `b`; in ``"batch"`` mode whole batches, at least
        one. In float64 where the model allows. Recalibrated statistics are held and permuted for it.
    seed
        Of the starts, and of the order in which layers take turns.
    store
        Keeps the correlations of activations and the runs that are done, an `ArrayStore` say: a killed call,
        made again, goes on from there and gives the same bits.
    progress
        Called as ``progress(done, total)``.

    Raises
    ------
    TypeError, ValueError
        If the two are not points of one function, naming what differs; if no units can be permuted, or some
        cannot without ``partial=True``, naming the layer.
    NonFiniteLossError
        If a parameter, or the loss on the examples checked, is not finite.
    ThalwegError
        If the aligned network is not the same function as `b`, to 1e-5 (2e-10 in float64).

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), Git Re-Basin: Merging Models modulo Permutation Symmetries, ICLR.
    Li, Yosinski, Clune, Lipson and Hopcroft (2015), Convergent Learning: Do different neural networks learn
    the same representations?, NeurIPS workshop. Entezari, Sedghi, Saukh and Neyshabur (2022), The Role of
    Permutation Invariance in Linear Mode Connectivity of Neural Networks, ICLR.
    """
    check_comparable(a, b)
    check_one_of("method", method, get_args(Method))
    check_count("num_restarts", num_restarts)
    check_flag("partial", partial)
    check_count("num_checked", num_checked)
    stream_seed(seed)
    check_store_for(store, a, b)

    held = a.frozen(), b.frozen()
    for name, objective in zip("ab", held, strict=True):
        _check_finite(name, objective)
    symmetries = find_symmetries(held[1], ("permutation",))
    layers = _layers(symmetries, partial)
    if method == "weights":
        terms = weight_terms(a, b, layers)
    else:
        terms = activation_terms(*held, layers, store, part_of(progress, 0, 3))
    found = match(
        terms,
        sizes := [layer.size for layer in layers],
        num_restarts=num_restarts,
        seed=seed,
        store=store,
        progress=part_of(progress, 1, 3),
    )
    aligned = symmetries.reordered(b, found.orders)
    proof = _proved(symmetries, held[0], found.orders, num_checked)
    if progress:
        progress(3 * STEPS, 3 * STEPS)

    ends, starts = (
        torch.tensor([run.similarities[i] for run in found.runs], dtype=torch.float64) for i in (-1, 0)
    )
    if method == "weights":
        # The cosine is over all parameters, those that no order moves too.
        first, second = a.params.cpu().double(), b.params.cpu().double()
        fixed = float(first @ second) - float(starts[0])
        ends, starts = ((s + fixed) / (first.norm() * second.norm()) for s in (ends, starts))
    else:
        num_pairs = sum(len(term.start) for term in terms)
        ends, starts = ends / num_pairs, starts / num_pairs
    moved = [int((order != torch.arange(len(order))).sum()) for order in found.orders]
    return PermutationAlignment(
        value=_distance(a, aligned),
        provenance={
            "function": "align_permutation",
            "arguments": {
                "method": method,
                "num_restarts": num_restarts,
                "partial": partial,
                "num_checked": num_checked,
                "seed": seed,
            },
            "objective": a.describe(),
            "objective_b": b.describe(),
            "proof": {
                "of": "the aligned network, through the model of `a`, as the function that `b` is",
                "num_examples": proof.num_examples,
                "dtype": str(proof.agreement.dtype).removeprefix("torch."),
                "tolerance": proof.tolerance,
            },
        },
        distance_before=_distance(a, b),
        distances=torch.tensor(
            [_distance(a, symmetries.reordered(b, run.orders)) for run in found.runs], dtype=torch.float64
        ),
        similarities=ends,
        start_similarities=starts,
        num_sweeps=torch.tensor([run.num_sweeps for run in found.runs]),
        permutations={layer.name: order for layer, order in zip(layers, found.orders, strict=True)},
        layers=tuple(layer.name for layer in layers),
        num_units=torch.tensor(sizes),
        num_moved=torch.tensor(moved),
        tensors={layer.name: layer.tensors for layer in layers},
        left_alone=dict(symmetries.told_apart),
        params=aligned.params.cpu(),
        buffers={name: buffer.cpu() for name, buffer in aligned.buffers.items()},
        largest_change=proof.agreement.worst,
        aligned=aligned,
    )


def _check_finite(name: str, objective: Objective) -> None:
    bad = [k for k, t in objective.named_params.items() if not bool(t.isfinite().all())]
    # A buffer may be a mask of infinities.
    bad += [k for k, t in objective.buffers.items() if bool(t.isnan().any())]
    if bad:
        raise NonFiniteLossError(
            f"`{name}` has no units to match: {', '.join(bad)} {'is' if len(bad) == 1 else 'are'} not finite."
        )


def _layers(symmetries: Symmetries, partial: bool) -> list[Layer]:
    """The layers of units that may trade places, where all may or `partial` says that some will do."""
    places = symmetries.places.get("permutation", ())
    apart = "; ".join(f"{layer}: they {reason}" for layer, reason in symmetries.told_apart.items())
    if not places:
        reason = apart or symmetries.refused["permutation"]
        raise ValueError(f"`b` must have hidden units that may trade places, but it has none ({reason}).")
    if apart and not partial:
        raise ValueError(
            f"`b` must have hidden units that may trade places in every layer, but some may not ({apart}); "
            "partial=True aligns the other layers and leaves these as they are."
        )
    return layers_of(places, symmetries.roots)


@dataclass(frozen=True)
class _Proof:
    """How far the aligned network is from `b`'s function, on how many examples, and how far it may be."""

    agreement: Agreement
    num_examples: int

    @property
    def tolerance(self) -> float:
        return min(self.agreement.tolerance, TOLERANCE)


def _proved(symmetries: Symmetries, a: Objective, orders: Sequence[Tensor], num_checked: int) -> _Proof:
    """Hold the aligned network, through the model of `a`, against `b` as it is."""
    b = symmetries.objective
    unit = b.batch_size if b.batch_norm == "batch" and b.has_batch_norm else 1
    size = min(b.num_examples, max(1, num_checked // unit) * unit)
    b, a = (o.select(torch.arange(size)) for o in (b, in_float64(a)))
    own = symmetries.reordered(b, orders)
    proof = _Proof(agreement(b, a.at(own.params, own.buffers)), size)
    if not proof.agreement.worst <= proof.tolerance:
        b.value()  # names the batch, where it is the loss that is at fault
        if agreement(b, own).worst <= proof.tolerance:
            raise ValueError(
                "`a` and `b` must be points of one function, but the aligned `b` gives other outputs through "
                f"the model of `a`, by {proof.agreement.worst:.3g} of the largest; the models differ "
                "in something that is neither parameter nor floating buffer, such as an activation, a mask "
                "or an epsilon."
            )
        raise ThalwegError(
            f"the aligned network is not the function that `b` is: on {size} examples they differ by "
            f"{proof.agreement.worst:.3g} of the largest output; rounding allows {proof.tolerance:.1g}. "
            "Something in the network tells units apart in a way that no trace of its operations shows."
        )
    return proof


def _distance(a: Objective, b: Objective) -> float:
    return float((a.params.cpu().double() - b.params.cpu().double()).norm())
