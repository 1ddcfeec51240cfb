"""What lies between every two networks, as a value of each: all there, some missing, several settings."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from tests.report.made_up_studies import batch_norm_study, made_up_store

from thalweg.study.evidence import Value
from thalweg.study.foresight import foresight
from thalweg.study.pair_values import by_network
from thalweg.study.spec import StudySpec
from thalweg.study.study import Study
from thalweg.study.validation import validated

CLAIM = {
    "name": "higher",
    "measure": "barrier",
    "by": "model",
    "groups": ["bn", "plain"],
    "expect": "larger",
    "scale": "linear",
    "primary": True,
}


def pairs(setting: str, n: int, offset: float = 0.0, **gone: str) -> list[Value]:
    """Of seeds 1 to n the sum of both and an offset; none, with the reason, of those that are gone."""
    found = []
    for a, b in itertools.combinations(range(1, n + 1), 2):
        reason = gone.get(f"_{a}") or gone.get(f"_{b}") or ""
        fields = {"model": setting, "seed": f"{a}-{b}"}
        value = math.nan if reason else a + b + offset
        found.append(Value(f"{setting}{a}-{b}", fields, value, 0.3, 0.01 * a, 0.02, reason))
    return found


def test_each_network_has_its_own_in_its_setting():
    found = by_network([*pairs("bn", 4), *pairs("plain", 5, offset=10)])
    assert [(v.fields["model"], v.fields["seed"]) for v in found] == [
        *(("bn", str(i)) for i in (1, 2, 3, 4)),
        *(("plain", str(i)) for i in (1, 2, 3, 4, 5)),
    ]
    assert [v.value for v in found] == pytest.approx([2, 4, 6, 8, 12, 14, 16, 18, 20])
    # The mean of the networks has the error of the mean of the pairs, six of them.
    four = found[:4]
    error = math.sqrt(sum(v.standard_error**2 for v in four)) / 4
    assert error == pytest.approx(0.3 / math.sqrt(6))
    assert [v.below for v in four] == pytest.approx([0.01 * (1 + 1 + 1 + 2 + 2 + 3) / 6] * 4)
    assert [v.above for v in four] == pytest.approx([0.02] * 4)


def test_a_network_without_its_pairs_is_left_out_and_says_why():
    found = by_network(pairs("bn", 5, _2="training diverged"))
    gone = [v for v in found if math.isnan(v.value)]
    assert [(v.fields["seed"], v.reason) for v in gone] == [("2", "training diverged")]
    assert [v.value for v in found if v.value == v.value] == pytest.approx([2, 6, 8, 10])
    unplanned = by_network([v for v in pairs("bn", 4) if v.fields["seed"] != "3-4"])
    assert [v.reason for v in unplanned if v.reason] == ["not planned"]
    few = by_network(pairs("bn", 3, _1="crashed"))
    assert all(math.isnan(v.value) for v in few)
    assert {v.reason for v in few} == {
        "crashed",
        "all pairs of 2 networks are there, and at least 3 are needed",
    }
    assert by_network([]) == []


def study(num_seeds: int, tmp_path: Any, pairing: str) -> Study:
    barrier = {"measure": "linear_path", "pairing": pairing}
    made = batch_norm_study(num_seeds, pairs={"barrier": barrier}, claims=[CLAIM])
    return Study.open(made_up_store(tmp_path / pairing, made))


def test_a_contrast_of_all_pairs_is_of_networks(tmp_path):
    every, disjoint = (study(6, tmp_path, pairing) for pairing in ("all", "disjoint"))
    (verdict,), (hopeless,) = every.verdicts, disjoint.verdicts
    assert (verdict.cell.num_a, hopeless.cell.num_a) == (6, 3)
    values = {
        model: np.mean([r["value"] for r in every.rows if r["name"] == "barrier" and r["model"] == model
                        and r["mode"] in ("running", "any")])
        for model in ("bn", "plain")
    }  # fmt: skip
    assert verdict.cell.effect == pytest.approx(values["bn"] - values["plain"])
    assert verdict.answer == "supported"
    assert hopeless.answer == "undecided"
    told = [str(foresight(s.spec, s.evidence)[0]) for s in (every, disjoint)]
    assert told[0].startswith("higher: 6 runs against 6 find a difference of")
    assert told[1].endswith("can be below 0.1; that takes 8 seeds of each.")


def test_all_pairs_are_of_seeds_alone():
    between = {"measure": "linear_path", "across": "model", "pairing": "all"}
    content = {**batch_norm_study(2).frozen(), "pairs": {"between": between}}
    with pytest.raises(ValueError, match=r"pairs\.between\.pairing: only across seeds are all pairs alike"):
        validated(StudySpec, content, "made-up")
