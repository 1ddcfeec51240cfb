"""The matrix of rank correlations: tau of every pair of columns, with its runs, or the reason why not."""

from __future__ import annotations

import math

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


def test_two_settings_have_no_order_to_see(tmp_path):
    spec = batch_norm_study(4)
    assert correlation_matrices(spec, Evidence([])) == []


def test_what_is_not_measured_says_why(tmp_path):
    spec = grid_study(2)
    store = made_up_store(tmp_path, spec, num_done=0)
    matrices = correlation_matrices(spec, Evidence(rows(Study.open(store))))
    cell = matrices[0].cells["gap", "trace"]
    assert (cell.tau, cell.num_runs) == (None, 0)
    assert "must hold" in cell.reason or "at least" in cell.reason
