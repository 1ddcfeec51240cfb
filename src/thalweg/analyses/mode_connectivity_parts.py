"""The parts of `mode_connectivity`, one after the other: one that cannot be had is a reason, and no end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from thalweg.analyses.mode_connectivity_result import aligned_name, line_key
from thalweg.analyses.network_plane import are_apart, middle, through
from thalweg.core.array_store import Store
from thalweg.core.errors import DataError, ThalwegError
from thalweg.core.progress import STEPS, Work
from thalweg.measures.connectivity.bezier_path import BezierPath, bezier_path
from thalweg.measures.connectivity.linear_path import LinearPath, linear_path
from thalweg.measures.connectivity.permutation import Method, PermutationAlignment, align_permutation
from thalweg.measures.surfaces.plane import PlaneSlice
from thalweg.measures.topology.persistence import Persistence, persistence
from thalweg.objective.batch_norm import BatchNormMode
from thalweg.objective.evaluation import independent_unit
from thalweg.objective.objective import Objective
from thalweg.objective.value_and_gradient import GRADIENT_PASSES
from thalweg.solvers.projection import project

T = TypeVar("T")
Watch = Callable[[int, int], None]
Pair = tuple[Objective, Objective]

# The bend of the curve, as a network of the plane.
BEND = "bend of the curve"


def expected_passes(
    num_examples: int,
    modes: Sequence[str],
    *,
    num_norms: int,
    num_points: int,
    num_steps: int,
    batch_size: int,
    plane_points: int,
) -> dict[str, int]:
    """About how many passes forward of an example each part takes.

    A gradient counts as three, recalibration as one half for each batch-norm layer and another half, since
    the pass of a layer ends there; what needs no passes as next to nothing.

    Parameters
    ----------
    num_examples, batch_size
        Of the objectives.
    modes
        Of the lines.
    num_norms
        Batch-norm layers of the network.
    num_points, num_steps, plane_points
        As in `mode_connectivity`.
    """
    points = {mode: a_point(mode, num_norms, num_examples) for mode in modes}
    reference = points.get("recalibrated", num_examples)
    on_lines = (num_points + 1) * sum(points.values())
    training = num_steps * GRADIENT_PASSES * min(batch_size, num_examples)
    return {
        "alignment": 3 * STEPS,
        "lines": on_lines,
        "aligned_lines": on_lines,
        "curve": (training + (num_points + 5) * reference) if num_steps else 0,
        "plane": plane_points**2 * reference,
        "topology": STEPS,
    }


def a_point(mode: str, num_norms: int, num_examples: int) -> int:
    """Passes forward of an example to evaluate one point."""
    recalibrating = num_norms + 1 if mode == "recalibrated" and num_norms else 0
    return num_examples * (2 + recalibrating) // 2


@dataclass
class Parts:
    """Takes the parts in turn.

    Parameters
    ----------
    pairs
        a and b in each mode that both can be measured in.
    reference
        The mode of alignment, curve, plane and topology.
    names
        Of a and of b.
    population, seed, store
        Of all that take them.
    work, expected
        Counts; what of it each part is, by name.
    reasons
        Why a part is missing, by name; why a mode is, by the name of the mode.
    """

    pairs: Mapping[BatchNormMode, Pair]
    reference: BatchNormMode
    names: tuple[str, str]
    population: bool
    seed: int
    store: Store | None
    work: Work
    expected: Mapping[str, int]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def pair(self) -> Pair:
        """In the reference mode."""
        return self.pairs[self.reference]

    def alignment(self, method: Method, num_restarts: int) -> PermutationAlignment | None:
        """The units of b in the order of a's."""
        return self._had(
            "alignment",
            lambda watch: align_permutation(
                *self.pair,
                method=method,
                num_restarts=num_restarts,
                seed=self.seed,
                store=self.store,
                progress=watch,
            ),
            # Its arguments were looked at before: what is wrong here is that units may not trade places.
            but=(ValueError, ThalwegError),
        )

    def line(self, mode: BatchNormMode, label: str | None, num_points: int) -> LinearPath | None:
        """From a to b as it is."""
        return self._line("lines", mode, label, num_points, lambda b: b)

    def aligned_line(
        self, mode: BatchNormMode, label: str | None, num_points: int, alignment: PermutationAlignment | None
    ) -> LinearPath | None:
        """From a to the aligned b."""
        if alignment is None:
            self.reasons[line_key("aligned_lines", label)] = self.reasons["alignment"]
            return None
        return self._line("aligned_lines", mode, label, num_points, lambda b: aligned(b, alignment))

    def _line(
        self,
        name: str,
        mode: BatchNormMode,
        label: str | None,
        num_points: int,
        end: Callable[[Objective], Objective],
    ) -> LinearPath | None:
        pair = self.pairs.get(mode)

        def take(watch: Watch) -> LinearPath:
            assert pair is not None
            return linear_path(
                pair[0],
                end(pair[1]),
                num_points=num_points,
                population=self._population(mode),
                store=self.store,
                progress=watch,
            )

        unless = "" if pair else self.reasons[mode]
        unit = self._a_point(mode)
        return self._had(line_key(name, label), take, unit=unit, share=(num_points + 1) * unit, unless=unless)

    def curve(self, num_points: int, num_steps: int, learning_rate: float) -> BezierPath | None:
        """A trained curve from a to b as it is."""
        return self._had(
            "curve",
            lambda watch: bezier_path(
                *self.pair,
                num_points=num_points,
                num_steps=num_steps,
                learning_rate=learning_rate,
                population=self._population(self.reference),
                seed=self.seed,
                store=self.store,
                progress=watch,
            ),
            unless="" if num_steps else "not asked for (num_steps=0)",
        )

    def corners(
        self, alignment: PermutationAlignment | None, curve: BezierPath | None
    ) -> dict[str, Objective]:
        """a, b and a third network that spans a plane with them, by name; none if there is no such.

        The third is the aligned b; if that is none of its own, the bend of the curve, whose plane holds the
        whole curve.
        """
        a, b = self.pair
        if alignment is not None and are_apart((a, b, there := aligned(b, alignment))):
            return {self.names[0]: a, self.names[1]: b, aligned_name(self.names[1]): there}
        if curve is not None:
            # Statistics of a curve go straight from a to b, so that a bend's are halfway.
            bend = a.at(curve.control_points[:, 1], middle((a, b)).buffers)
            if are_apart((a, b, bend)):
                return {self.names[0]: a, self.names[1]: b, BEND: bend}
        return {}

    def plane(self, corners: Mapping[str, Objective], num_points: int) -> PlaneSlice | None:
        """Through the `corners`."""
        unless = "" if num_points else "not asked for (plane_points=0)"
        if not corners:
            unless = unless or "there is no third network beside the line through the two"
        return self._had(
            "plane",
            lambda watch: through(
                list(corners.values()),
                num_points=num_points,
                population=self._population(self.reference),
                seed=self.seed,
                store=self.store,
                progress=watch,
            ),
            unit=self._a_point(self.reference),
            but=(ValueError, ThalwegError),  # a single batch has no slice
            unless=unless,
        )

    def topology(self, plane: PlaneSlice | None, ceiling: float, level: float) -> Persistence | None:
        """Of the plane."""

        def take(watch: Watch) -> Persistence:
            assert plane is not None
            losses = plane.losses[plane.losses.isfinite()]
            top = ceiling if float(losses.min()) < ceiling < float(losses.max()) else None
            return persistence(plane, ceiling=top, level=level, seed=self.seed, progress=watch)

        unless = self.reasons["plane"] if plane is None else ""
        return self._had("topology", take, but=(ImportError, ThalwegError), unless=unless)

    def _a_point(self, mode: BatchNormMode) -> int:
        a = self.pair[0]
        return a_point(mode, num_norms_of(a), a.num_examples)

    def _population(self, mode: BatchNormMode) -> bool:
        """Whether errors for the population can be had in a mode: with one unit there is no spread to see."""
        try:
            independent_unit(self.pairs[mode][0], self.population)
        except ValueError as error:
            self.reasons[line_key("population", mode)] = str(error)
            return False
        return self.population

    def _had(
        self,
        name: str,
        take: Callable[[Watch], T],
        *,
        unit: int = 1,
        share: int | None = None,
        but: tuple[type[Exception], ...] = (ThalwegError,),
        unless: str = "",
    ) -> T | None:
        """What `take` gives, or None and a reason: `unless`, or what it raised among `but`."""
        done = self.work.done + (self.expected[name] if share is None else share)
        result = None
        if unless:
            self.reasons[name] = unless
        else:
            try:
                result = take(self.work.part(unit, after=max(0, sum(self.expected.values()) - done)))
            except DataError:
                raise  # a store that cannot be read says nothing of the networks
            except but as error:
                self.reasons[name] = str(error)
        self.work.add(max(0, done - self.work.done))  # whatever was left out or gave up
        return result


def num_norms_of(objective: Objective) -> int:
    """Its batch-norm layers."""
    return len(objective._network.norm_layers)


def aligned(b: Objective, alignment: PermutationAlignment) -> Objective:
    """`b`, in whatever mode, with its units in another order: some modes have no use for statistics."""
    return b.at(alignment.params, {k: v for k, v in alignment.buffers.items() if k in b.buffers})


def shadow(
    plane: PlaneSlice | None, corners: Mapping[str, Objective], curve: BezierPath | None
) -> tuple[Tensor, Tensor]:
    """Where the curve lies in the plane ``(T, 2)``, and how far from it ``(T,)``; empty without either."""
    if plane is None or curve is None:
        return torch.empty(0, 2, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
    centre = middle(list(corners.values())[1:]).params.cpu()
    points = (curve.params_at(float(t)) for t in curve.alphas)
    found = project(points, centre, plane.directions)
    return found.coordinates, found.residual_norms
