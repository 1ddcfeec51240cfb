"""The example and the numbers of `docs/comparing.md`."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.docs_page import DOCS, run_example

from thalweg.stats.permutation import relabelled

PAGE = DOCS / "comparing.md"
TEXT = PAGE.read_text(encoding="utf-8")
NUM = 2000

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def normal(spread: float) -> Draw:
    return lambda rng, shape: spread * rng.normal(size=shape)


def lognormal(scale: float) -> Draw:
    """Mean nought, the logarithm's spread one."""
    return lambda rng, shape: scale * (np.exp(rng.normal(size=shape)) - math.exp(0.5))


CASES: dict[str, tuple[Draw, Draw]] = {
    "normal, one spread": (normal(1), normal(1)),
    "normal, spreads 1 and 4": (normal(1), normal(4)),
    "lognormal, one spread": (lognormal(1), lognormal(1)),
    "lognormal, spreads 1 and 4": (lognormal(1), lognormal(4)),
}


def welch(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ends = stats.ttest_ind(x, y, axis=1, equal_var=False).confidence_interval(0.95)
    return (ends.low <= 0) & (ends.high >= 0)


def shifted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The permutation test of the means, inverted: does the test at nought accept?"""
    n, m = x.shape[1], y.shape[1]
    together = np.concatenate([x, y], 1)
    chosen = np.zeros((math.comb(n + m, n), n + m))
    for row, index in zip(chosen, itertools.combinations(range(n + m), n), strict=True):
        row[list(index)] = 1
    sums = together @ chosen.T
    means = sums / n - (together.sum(1, keepdims=True) - sums) / m
    seen = x.mean(1) - y.mean(1)
    shares = [(s * means >= s * seen[:, None] - 1e-12).mean(1) for s in (1, -1)]
    return 2 * np.minimum(*shares) > 0.05


def accelerated(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """BCa's interval, of the first three hundred."""
    few = (x[:300], y[:300])
    found = stats.bootstrap(
        few,
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        axis=1,
        n_resamples=999,
        method="BCa",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return (found.low <= 0) & (found.high >= 0)


def rule(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Nothing is decided: interval or p-value say so."""
    return welch(x, y) | (relabelled(x, y).p_values > 0.05)


METHODS = {"Welch": welch, "shift": shifted, "BCa": accelerated, "rule": rule}
COLUMNS = [
    ("Welch", 3, 3),
    ("Welch", 5, 5),
    ("Welch", 8, 3),
    ("shift", 5, 5),
    ("shift", 8, 3),
    ("BCa", 5, 5),
    ("rule", 5, 5),
    ("rule", 8, 3),
]


def covered(case: str, method: str, n: int, m: int) -> float:
    rng = np.random.default_rng(0)
    draw_a, draw_b = CASES[case]
    return float(METHODS[method](draw_a(rng, (NUM, n)), draw_b(rng, (NUM, m))).mean())


@pytest.mark.parametrize("case", CASES)
def test_coverage(case: str) -> None:
    (line,) = re.findall(rf"^\| {case} \|(.*)\|$", TEXT, re.M)
    stated = [float(cell) for cell in line.split("|")]
    found = [100 * covered(case, *column) for column in COLUMNS]
    assert found == pytest.approx(stated, abs=2)


def test_the_example_runs(tmp_path: Path) -> None:
    printed = run_example(PAGE, tmp_path)
    assert "Runs(8; recipe: large, small; seed: 0, 1, 2, 3)" in printed
    assert "Contrast(recipe: 4 large against 4 small; " in printed
    assert "Comparison(a and b: " in printed
    assert (tmp_path / "contrast.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "page" / "index.html").exists()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert links
    assert all((PAGE.parent / link).exists() for link in links)
