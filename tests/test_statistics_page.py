"""The example and the table of coverage of `docs/statistics.md`."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy import stats
from tests.docs_page import DOCS, run_example

PAGE = DOCS / "statistics.md"
TEXT = PAGE.read_text(encoding="utf-8")
NUM = 4000

# How the values are drawn, and their mean and that of their logarithms.
EULER = 0.5772156649015329
DRAWS = {
    "normal, 10 ± 1": (lambda rng, shape: 10 + rng.normal(size=shape), 10.0, None),
    "log-normal, 0.5": (lambda rng, shape: np.exp(0.5 * rng.normal(size=shape)), math.exp(0.125), 0.0),
    "log-normal, 1": (lambda rng, shape: np.exp(rng.normal(size=shape)), math.exp(0.5), 0.0),
    "gamma, shape 2": (lambda rng, shape: rng.gamma(2, size=shape), 2.0, 1 - EULER),
    "exponential": (lambda rng, shape: rng.exponential(size=shape), 1.0, -EULER),
}
ROWS = [[c.strip() for c in line.split("|")[1:-1]] for line in TEXT.splitlines() if line.count("|") == 10]


def test_the_example_prints_a_verdict_of_each_kind(tmp_path):
    lines = run_example(PAGE, tmp_path).splitlines()
    assert re.fullmatch(r"seeds a group to find a ratio of 1.5: \d+", lines[0])
    assert lines[1].startswith("supported (larger): 2.19 times")
    assert lines[2].startswith("refuted (equivalent): 1.00 times")


def covers(low, high, truth):
    return float(((low <= truth) & (truth <= high)).mean())


def welch(a, b, truth=0.0):
    ends = stats.ttest_ind(a, b, axis=1, equal_var=False).confidence_interval(0.95)
    return covers(ends.low, ends.high, truth)


def student(d):
    ends = stats.ttest_1samp(d, 0, axis=1).confidence_interval(0.95)
    return covers(ends.low, ends.high, 0.0)


@pytest.mark.parametrize("row", ROWS[2:], ids=lambda row: f"{row[0]}, n = {row[1]}")
def test_the_intervals_cover_as_the_table_says(row):
    draw, mean, log_mean = DRAWS[row[0]]
    rng = np.random.default_rng(int(row[1]))
    a, b = draw(rng, (NUM, int(row[1]))), draw(rng, (NUM, int(row[1])))
    log_a, log_b = np.log(a), np.log(b)
    if log_mean is None:
        log_mean = float(np.log(draw(rng, 10**6)).mean())
    counted = [
        welch(a, b),
        welch(log_a, log_b),
        welch(mean + 4 * (a - mean), b),
        welch(log_mean + 4 * (log_a - log_mean), log_b),
        student(a - b),
        student(a - mean),
        student(log_a - log_mean),
    ]
    for stated, found in zip(row[2:], counted, strict=True):
        p = float(stated) / 100
        assert abs(found - p) < 4.5 * math.sqrt(p * (1 - p) / NUM) + 0.001


def test_the_table_is_whole():
    assert len(ROWS) - 2 == 20
    assert {row[0] for row in ROWS[2:]} == set(DRAWS)
