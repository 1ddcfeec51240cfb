"""From where to look at a surface first: from where most of what lies on it is in sight."""

from __future__ import annotations

import numpy as np
import scipy

# Where one may stand, best loved first of those that see as much: so many ways around from the first, in
# degrees, at a distance from the middle of a cube with sides of one, at such angles above the ground.
FIRST, NUM_AROUND, DISTANCE, ANGLES = 45.0, 16, 2.4, (37.0, 55.0)

# Looks along a line of sight, as far as it is within the cube.
NUM_LOOKS = 60


def eye(x: np.ndarray, y: np.ndarray, heights: np.ndarray, points: np.ndarray) -> tuple[float, float, float]:
    """The place, of a fixed ring around the surface, that most of the points can be seen from.

    Parameters
    ----------
    x, y, heights
        ``(A,)``, ``(B,)`` and ``(A, B)``, as drawn: logarithms on a logarithmic axis. Where a height is not
        finite nothing is in the way.
    points
        ``(T, 3)``, above the surface; those that are not finite are left out.

    Returns
    -------
    tuple
        In sides of the cube that the picture fills, from its middle.
    """
    finite = heights[np.isfinite(heights)]
    low = np.array([x[0], y[0], finite.min()])
    size = np.array([x[-1], y[-1], finite.max()]) - low
    size[size == 0] = 1.0
    grid = ((x - low[0]) / size[0] - 0.5, (y - low[1]) / size[1] - 0.5)
    surface = (heights - low[2]) / size[2] - 0.5
    shown = (points[np.isfinite(points).all(1)] - low) / size - 0.5
    places = _places()
    if not len(shown):
        return _floats(places[0])
    seen = [int(_in_sight(grid, surface, shown, place).sum()) for place in places]
    return _floats(places[int(np.argmax(seen))])


def _places() -> np.ndarray:
    """``(K, 3)``: lower ones before higher ones, and on each ring outwards from the first to either side."""
    turns = np.arange(NUM_AROUND)
    turns = np.where(turns % 2, (turns + 1) // 2, -(turns // 2)) * (360 / NUM_AROUND)
    around = np.radians(FIRST + turns)
    rings = []
    for angle in np.radians(ANGLES):
        flat = np.cos(angle) * np.stack([np.cos(around), np.sin(around)], 1)
        rings.append(DISTANCE * np.column_stack([flat, np.full(NUM_AROUND, np.sin(angle))]))
    return np.concatenate(rings)


def _in_sight(
    grid: tuple[np.ndarray, np.ndarray], surface: np.ndarray, points: np.ndarray, place: np.ndarray
) -> np.ndarray:
    """``(T,)``: whether the surface keeps below the line from each point to the place."""
    share = np.linspace(0, 1, NUM_LOOKS + 1)[1:, None, None]  # (L, 1, 1)
    # Over the cube nothing is in the way.
    ways = (place - points) * np.minimum(1.0, (0.5 - points[:, 2:]).clip(0) / (place[2] - points[:, 2:]))
    line = points + share * ways  # (L, T, 3)
    below = scipy.interpolate.interpn(grid, surface, line[..., :2], bounds_error=False, fill_value=np.nan)
    return ~(below > line[..., 2]).any(0)


def _floats(place: np.ndarray) -> tuple[float, float, float]:
    return float(place[0]), float(place[1]), float(place[2])
