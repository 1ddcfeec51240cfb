"""What lies between two minima, as numbers: the result, its rows, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.analyses.network_plane import corner_indices, pass_height
from thalweg.core.measurement import Measurement
from thalweg.measures.connectivity.bezier_path import BezierPath
from thalweg.measures.connectivity.linear_path import LinearPath
from thalweg.measures.connectivity.path import Path
from thalweg.measures.connectivity.permutation import PermutationAlignment
from thalweg.measures.surfaces.plane import PlaneSlice
from thalweg.measures.topology.persistence import Persistence


@dataclass(frozen=True)
class Number:
    """One number of a row: value, interval, and why there is none where it is NaN."""

    value: float
    low: float
    high: float
    reason: str = ""

    @classmethod
    def exact(cls, value: float, reason: str = "") -> Number:
        """Without error, or NaN."""
        return cls(value, value, value, reason)

    @classmethod
    def of(cls, result: Path | None, level: float, reason: str) -> Number:
        """The barrier of a path: at least nought, whatever its error."""
        if result is None:
            return cls.exact(math.nan, reason)
        low, high = result.interval(level)
        return cls(result.barrier, max(0.0, low), high)


@dataclass(frozen=True)
class ConnectivityRow:
    """One quantity in one mode: of the networks as they are, and with b aligned; None where it has none."""

    quantity: str
    mode: str | None
    before: Number | None
    aligned: Number | None


@dataclass(frozen=True, kw_only=True, repr=False)
class ModeConnectivity(Measurement):
    r"""Two minima, and what lies between them; `value` is the lowest barrier found, in the reference mode.

    The reference mode is that of the curve, the plane and the topology: ``"recalibrated"`` if the networks
    were measured in it, else the first. The error is that of the path with the lowest barrier. M = number of
    modes, T = points of a path.

    **Every barrier and every saddle is an upper bound** on the height that separates the two in parameter
    space: another path may be lower. As numbers they have intervals of their own: what a grid may have missed
    and, with ``population=True``, what the sample of the examples does.

    Parameters
    ----------
    names
        Of a and of b.
    modes
        M names; the only one is ``None`` without batch norm.
    reference_mode
        See above; ``None`` without batch norm.
    norms
        ``(2,)``: :math:`\lVert\theta_a\rVert` and :math:`\lVert\theta_b\rVert`.
    distances
        ``(2,)``: :math:`\lVert\theta_a - \theta_b\rVert`, and with the aligned b.
    angles
        ``(2,)``, degrees, between :math:`\theta_a` and :math:`\theta_b` seen from the origin, and with the
        aligned b.
    start_angle
        Degrees between :math:`\theta_a - \theta_0` and :math:`\theta_b - \theta_0`, the ways from a start
        that both were trained from; NaN where none was given. There is none after alignment, which takes b to
        the surroundings of another start.
    lines, aligned_lines
        ``(M,)``: the straight line to b and to the aligned b in each mode.
    alignment
        The permutation, found in the reference mode; one for all modes.
    curve
        From a to b as it is, in the reference mode.
    plane, plane_names
        Through three networks, and their names; see `thalweg.analyses.network_plane`. The third is the
        aligned b; where there is none of its own, the bend of the curve.
    curve_coordinates, curve_residuals
        ``(T, 2)`` and ``(T,)``: the plane's point nearest to each of the curve's, in steps along its
        directions, and how far it is off. Empty where either is missing.
    topology
        Of the plane, up to the highest loss on the straight lines.
    reasons
        Why, by the name of what is missing above (``"curve"``), of a line and its mode (``"lines batch"``),
        of a mode, or of ``"population"`` and a mode without errors for it.
    level
        Of the intervals.
    """

    measure: ClassVar[str] = "mode_connectivity"
    quantity: ClassVar[str] = "lowest barrier found"

    names: tuple[str, str]
    modes: tuple[str | None, ...]
    reference_mode: str | None
    norms: Tensor
    distances: Tensor
    angles: Tensor
    start_angle: float
    lines: tuple[LinearPath | None, ...]
    aligned_lines: tuple[LinearPath | None, ...]
    alignment: PermutationAlignment | None
    curve: BezierPath | None
    plane: PlaneSlice | None
    plane_names: tuple[str, ...]
    curve_coordinates: Tensor
    curve_residuals: Tensor
    topology: Persistence | None
    reasons: Mapping[str, str]
    level: float

    @property
    def paths(self) -> dict[str, Path]:
        """Those in the reference mode, by what they are."""
        i = self.modes.index(self.reference_mode)
        named = {
            "straight line": self.lines[i],
            "straight line, aligned": self.aligned_lines[i],
            "curve": self.curve,
        }
        return {name: path for name, path in named.items() if path is not None}

    @property
    def lowest(self) -> str | None:
        """The path with the lowest barrier; None if none has a finite loss."""
        return min(self.paths, key=lambda name: self.paths[name].barrier, default=None)

    @property
    def saddles(self) -> Tensor:
        """``(2,)``: loss at the lowest pass of the plane from a to b, and to the aligned b; NaN if none."""
        found = torch.full((2,), math.nan, dtype=torch.float64)
        if self.plane is not None and self.plane.losses is not None:
            first, *others = corner_indices(len(self.plane.alphas))
            shown = others if self.is_plane_of_aligned else others[:1]
            for i, other in enumerate(shown):
                found[i] = pass_height(self.plane.losses, first, other)
        return found

    @property
    def is_plane_of_aligned(self) -> bool:
        """Whether the third network of the plane is the aligned b."""
        return self.alignment is not None and self.plane_names[2:] == (aligned_name(self.names[1]),)

    @property
    def rows(self) -> list[ConnectivityRow]:
        """The table."""
        reasons = self.reasons
        unaligned = reasons.get("alignment", "")
        rows = [
            ConnectivityRow(
                quantity,
                None,
                Number.exact(float(pair[0])),
                Number.exact(float(pair[1]), unaligned),
            )
            for quantity, pair in (("distance", self.distances), ("angle at the origin (°)", self.angles))
        ]
        if not math.isnan(self.start_angle):
            rows.append(ConnectivityRow("angle at the start (°)", None, Number.exact(self.start_angle), None))
        for mode, line, aligned in zip(self.modes, self.lines, self.aligned_lines, strict=True):
            sides = (
                Number.of(path, self.level, reasons.get(line_key(name, mode), ""))
                for name, path in (("lines", line), ("aligned_lines", aligned))
            )
            rows.append(ConnectivityRow("barrier, straight line", mode, *sides))
        of_curve = Number.of(self.curve, self.level, reasons.get("curve", ""))
        rows.append(ConnectivityRow("barrier, curve", self.reference_mode, of_curve, None))
        return [*rows, *self._rows_of_plane()]

    def _rows_of_plane(self) -> list[ConnectivityRow]:
        mode, missing = self.reference_mode, self.reasons.get("plane", "")
        sides: list[Number | None] = [None, None]
        # Between the points of the way, and for other examples, it may be higher or lower by that.
        margin = 0.0 if self.topology is None else self.topology.margin
        for i, height in enumerate(self.saddles.tolist()):
            if i == 0 or self.is_plane_of_aligned:
                low = max(height - margin, self._higher_end(i)) if margin else height
                sides[i] = Number(height, low, height + margin, missing)
        topology = Number.exact(math.nan, self.reasons.get("topology", ""))
        if self.topology is not None:
            topology = Number(self.topology.value, *self.topology.interval(self.level))
        return [
            ConnectivityRow("saddle on the plane (loss)", mode, *sides),
            ConnectivityRow("minima of the plane, significant", mode, topology, None),
        ]

    def _higher_end(self, i: int) -> float:
        """Loss of the higher of the two networks of a saddle, which is no lower."""
        if self.plane is None or self.plane.losses is None:
            return -math.inf
        corners = corner_indices(len(self.plane.alphas))
        return max(float(self.plane.losses[corners[0]]), float(self.plane.losses[corners[i + 1]]))

    @property
    def remarks(self) -> list[str]:
        """What the rows add up to, in sentences."""
        found = []
        if self.lowest is not None:
            low, high = self.paths[self.lowest].interval(self.level)
            nought = "not to be told from none; " if low <= 0 <= high else ""
            found.append(
                f"Lowest barrier found: {self.value:.3g} on the {self.lowest}{self._in_mode()}, {nought}an "
                "upper bound on what separates the two, as all barriers and saddles are: another path may be "
                "lower."
            )
        else:
            found.append(f"No path has a finite loss everywhere{self._in_mode()}.")
        if self.alignment is not None:
            moved, units = (int(n.sum()) for n in (self.alignment.num_moved, self.alignment.num_units))
            found.append(
                f"Alignment moves {moved} of {units} hidden units of {self.names[1]}, whose function stays; "
                f"of the distance {float(self.distances[1] / self.distances[0]):.3g} is left."
                if self.distances[0] > 0
                else "The two are one point."
            )
        if "running" in self.modes and "recalibrated" in self.modes:
            found.append(
                "Running statistics between two networks are interpolated, and belong to no network there; "
                "recalibrated ones are each point's own, which is what REPAIR comes to with batch norm."
            )
        if self.plane is not None:
            found.append(
                f"The plane goes through {'; '.join(self.plane_names)}. That it parts them proves nothing."
            )
        if self.topology is not None and self.topology.num_significant_at_edge:
            found.append(
                f"Of the plane's minima {self.topology.num_significant_at_edge} lie at its edge, where the "
                "loss may go on falling."
            )
        if self.curve is not None:
            found.append(
                "The curve was trained on the very examples it is measured on: on others its loss is higher."
            )
        off = float(self.curve_residuals.max()) if len(self.curve_residuals) else 0.0
        if off > 1e-3 * float(self.distances[0]):
            found.append(
                f"The curve leaves the plane by up to {off:.3g} in parameter space, where the networks are "
                f"{float(self.distances[0]):.3g} apart: its shadow on it is not the curve."
            )
        return found

    def _in_mode(self) -> str:
        return f" ({self.reference_mode})" if self.reference_mode else ""

    def _circumstances(self) -> list[str]:
        return [f"on the {self.lowest}", *super()._circumstances()]

    def __repr__(self) -> str:
        if self.lowest is None:
            return f"ModeConnectivity(no path of finite loss{self._in_mode()})"
        return super().__repr__()


def aligned_name(name: str) -> str:
    """What the network `name` is called once its units are reordered."""
    return f"{name}, aligned"


def line_key(name: str, mode: str | None) -> str:
    """What a line of `lines` or `aligned_lines` is called among the reasons."""
    return f"{name} {mode}" if mode else name
