"""The matrix of rank correlations: tau of every pair of columns, with its runs, or the reason why not."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats
from tests.report.made_up_studies import batch_norm_study, grid_study, made_up_store

from thalweg.study.correlations import correlation_matrices
from thalweg.study.evidence import Evidence
from thalweg.study.study import Study
from thalweg.study.table import rows


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> Evidence:
    store = made_up_store(tmp_path_factory.mktemp("grid"), grid_study(2), diverged=(("bn", 2),))
    return Evidence(rows(Study.open(store)))


def test_each_tau_is_that_of_the_two_columns(evidence):
    spec = grid_study(2)
    matrices = correlation_matrices(spec, evidence)
    assert [(m.mode, m.matching) for m in matrices] == [
        (mode, "end") for mode in ("running", "recalibrated", "batch")
    ]
    matrix = matrices[2]
    assert matrix.names == ("gap", *spec.measures)
    assert len(matrix.cells) == 10
    for (a, b), cell in matrix.cells.items():
        columns = [{v.run: v.value for v in evidence.values(name, "batch", "end")} for name in (a, b)]
        both = [(columns[0][run], columns[1][run]) for run in columns[0] if run in columns[1]]
        both = [pair for pair in both if all(map(math.isfinite, pair))]
        assert cell.num_runs == len(both) == 18, "six of the 24 runs diverged"
        assert cell.tau is not None
        known = stats.kendalltau([x for x, _ in both], [y for _, y in both])
        assert cell.tau.value == pytest.approx(known[0])
        assert cell.tau.low < cell.tau.value < cell.tau.high
    taus = {pair: cell.tau.value for pair, cell in matrix.cells.items() if cell.tau}
    assert taus["gap", "sam_sharpness"] > 0.3
    assert taus["gap", "top_eigenvalue"] < -0.3


def test_two_settings_are_compared_from_seed_to_seed(tmp_path):
    """What they differ in themselves is no part of it: the sum over both of what SciPy finds in each."""
    spec = batch_norm_study(8)
    shown = Evidence(rows(Study.open(made_up_store(tmp_path, spec))))
    matrix = correlation_matrices(spec, shown)[0]
    assert matrix.is_within
    for pair in (("gap", "top_eigenvalue"), ("trace", "sam_sharpness")):
        a, b = ({v.run: v for v in shown.values(name, matrix.mode, "end")} for name in pair)
        scores: list[Any] = [
            stats.kendalltau(*([c[run].value for run in a if a[run].fields["model"] == m] for c in (a, b)))[0]
            for m in spec.models
        ]
        tau = matrix.cells[pair].tau
        assert tau is not None
        assert tau.value == pytest.approx(sum(scores) / 2), "as many pairs in each"
        assert tau.low < tau.value < tau.high
        assert 0 < tau.p_value <= 1
    few = correlation_matrices(batch_norm_study(2), shown_of(tmp_path / "few", batch_norm_study(2)))[0]
    assert "at least one of 3 runs" in few.cells["gap", "trace"].reason


def shown_of(folder, spec) -> Evidence:
    return Evidence(rows(Study.open(made_up_store(folder, spec))))


def test_what_is_not_measured_says_why(tmp_path):
    spec = grid_study(2)
    store = made_up_store(tmp_path, spec, num_done=0)
    matrices = correlation_matrices(spec, Evidence(rows(Study.open(store))))
    cell = matrices[0].cells["gap", "trace"]
    assert (cell.tau, cell.num_runs) == (None, 0)
    assert "must hold" in cell.reason or "at least" in cell.reason
