"""The results in the repository: what their pages say, worked out again from the records alone."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "batch_norm.md"
FOLDER = ROOT / "examples" / "results" / "batch-norm-laptop"

NAMES = {
    "top eigenvalue": "top_eigenvalue",
    "trace": "trace",
    "SAM sharpness": "sam_sharpness",
    "SAM sharpness, adaptive": "adaptive_sam_sharpness",
    "m-sharpness": "m_sharpness",
    "average sharpness": "average_sharpness",
    "basin width (sharper is smaller)": "basin_width",
    "eigenvalue, filter scales projected out": "filter_scaled_projected_eigenvalue",
    "Fisher-Rao norm": "fisher_rao_norm",
}
MODES = ("running", "recalibrated", "batch")
Groups = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def records() -> list[dict]:
    return [json.loads(line) for line in (FOLDER / "records.jsonl").read_text().splitlines()]


def values(records, name: str, mode: str, moment: str = "end", key: str = "value") -> Groups:
    """Of each model, in the order of seeds."""
    found: dict[str, dict[int, float]] = {"bn": {}, "plain": {}}
    for record in records:
        labels = record["labels"]
        if (labels["name"], labels.get("moment")) == (name, moment) and labels["mode"] in (mode, "any"):
            found[labels["model"]][labels["seed"]] = record[key]
    return {model: np.array([v[seed] for seed in sorted(v)]) for model, v in found.items()}


def left(records, name: str, mode: str, model: str, side: int) -> float:
    """How far solvers let the mean logarithm lie beyond the values, above or below."""
    beyond = []
    for record in records:
        labels = record["labels"]
        place = labels["name"], labels.get("moment"), labels["model"]
        if place == (name, "end", model) and labels["mode"] in (mode, "any"):
            bound = record["error"]["solver"] or 0.0
            if "upper_bound" in record:  # a certificate
                bound = record["upper_bound"] - record["value"] if side > 0 else 0.0
            beyond.append(abs(math.log(1 + side * bound / record["value"])))
    return float(np.mean(beyond))


def welch(groups: Groups) -> tuple[float, float, float]:
    test = stats.ttest_ind(groups["bn"], groups["plain"], equal_var=False)
    low, high = test.confidence_interval(0.95)
    return float(groups["bn"].mean() - groups["plain"].mean()), float(low), float(high)


def relabelled_p(groups: Groups) -> float:
    """Share of all relabellings that are as far on the same side, doubled."""
    both = np.concatenate([groups["bn"], groups["plain"]])
    seen = groups["bn"].mean() - groups["plain"].mean()
    total, n = both.sum(), len(groups["bn"])
    means = [both[list(c)].sum() for c in combinations(range(len(both)), n)]
    differences = [m / n - (total - m) / (len(both) - n) for m in means]
    return 2 * float(np.mean([d >= seen - 1e-12 for d in differences]))


def numbers(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"\d+(?:\.\d+)?", text)]


def test_each_number_of_the_table_follows_from_the_records(records):
    table = re.findall(r"(?m)^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text())
    rows = [row for row in table if row[0] in NAMES]
    assert [row[0] for row in rows] == list(NAMES)
    for name, *cells in rows:
        for mode, cell in zip(MODES, cells, strict=True):
            groups = {k: np.log(v) for k, v in values(records, NAMES[name], mode).items()}
            assert [len(v) for v in groups.values()] == [6, 6]
            effect, low, high = welch(groups)
            low -= left(records, NAMES[name], mode, "bn", -1) + left(records, NAMES[name], mode, "plain", 1)
            high += left(records, NAMES[name], mode, "bn", 1) + left(records, NAMES[name], mode, "plain", -1)
            expected = [math.exp(x) for x in (effect, low, high)]
            said = numbers(cell)
            assert said == pytest.approx(expected, rel=0.01), (name, mode)
            sharper = (1 / said[2], 1 / said[1]) if name.startswith("basin") else (said[1], said[2])
            mark = "✓" if sharper[0] > 1 else "✗" if sharper[1] < 1 else "?"
            assert cell.strip()[-1] == mark, (name, mode)


def test_the_primary_claims_follow_from_the_records(records):
    curved, sharp = (
        {k: np.log(v) for k, v in values(records, name, "running").items()}
        for name in ("top_eigenvalue", "sam_sharpness")
    )
    accuracy = values(records, "gap", "running", key="test_accuracy")
    assert all(welch(groups)[1] > 0 for groups in (curved, sharp, accuracy))
    p = sorted([relabelled_p(curved), relabelled_p(sharp), relabelled_p(accuracy)])
    holm = np.maximum.accumulate(np.array([*p[:1], *p]) * [4, 3, 2, 1])  # at equal loss as at the end
    assert holm == pytest.approx([0.0087] * 4, abs=5e-5)
    text = PAGE.read_text()
    said = re.search(r"test accuracy is higher \|[^|]*\| by ([\d.]+) \(([\d.]+) to ([\d.]+)\)", text)
    assert said is not None
    assert [float(x) for x in said.groups()] == pytest.approx(welch(accuracy), rel=0.01)


def test_what_is_said_of_equal_loss_follows_from_the_records(records):
    """Interpolated by hand between the two moments where the loss passes 0.26."""
    moments = ("epoch 1", "epoch 2", "epoch 4", "end")
    loss = [values(records, "gap", "running", at, "train_loss") for at in moments]
    found: dict[tuple[str, str], list[float]] = {}
    for model in ("bn", "plain"):
        for seed in range(6):
            path = [at[model][seed] for at in loss]
            after = next(i for i, x in enumerate(path) if x <= 0.26)
            share = math.log(path[after - 1] / 0.26) / math.log(path[after - 1] / path[after])
            at = moments[after - 1], moments[after]

            def between(name: str, key: str, at=at, model=model, seed=seed) -> list[float]:
                return [float(values(records, name, "running", moment, key)[model][seed]) for moment in at]

            accuracies = between("gap", "test_accuracy")
            found.setdefault(("accuracy", model), []).append(float(np.interp(share, [0, 1], accuracies)))
            curvatures = between("top_eigenvalue", "value")
            curvature = float(np.interp(share, [0, 1], np.log(curvatures)))
            found.setdefault(("curvature", model), []).append(curvature)
            above = np.subtract(between("top_eigenvalue", "upper_bound"), curvatures).max()
            found.setdefault(("above", model), []).append(math.log1p(above / math.exp(curvature)))
    text = re.sub(r"\s+", " ", PAGE.read_text())
    accuracy = {m: np.array(found["accuracy", m]) for m in ("bn", "plain")}
    said = re.search(r"have ([\d.]+) \*less\* test accuracy \(([\d.]+) to ([\d.]+)", text)
    assert said is not None
    effect, low, high = welch(accuracy)
    assert [float(x) for x in said.groups()] == pytest.approx([-effect, -high, -low], abs=3e-4)
    said = re.search(r"equal training loss, 0.26 \|[^|]*\| ([\d.]+) times \(([\d.]+) to ([\d.]+)\)", text)
    assert said is not None
    effect, low, high = welch({m: np.array(found["curvature", m]) for m in ("bn", "plain")})
    low, high = low - np.mean(found["above", "plain"]), high + np.mean(found["above", "bn"])
    expected = [math.exp(x) for x in (effect, low, high)]
    assert [float(x) for x in said.groups()] == pytest.approx(expected, rel=0.01)


def test_early_curvature_ranks_steps_as_its_page_says():
    folder = ROOT / "examples" / "results" / "early-curvature-laptop"
    steps: dict[str, float] = {}
    curved: dict[str, float] = {}
    with gzip.open(folder / "records.jsonl.gz", "rt") as lines:
        for record in map(json.loads, lines):
            labels = record["labels"]
            if labels["name"] == "steps_to_loss":
                steps[record["run"]] = min(float(record["value"]), 1e9)  # infinite: never
            elif (labels["name"], labels.get("moment")) == ("curvature", "step 10"):
                curved[record["run"]] = record["density"]["lambda_max"]
    assert len(steps) == len(curved) == 144
    tau = stats.kendalltau([curved[run] for run in steps], list(steps.values())).statistic
    page = (ROOT / "docs" / "early_curvature.md").read_text()
    said = re.search(r"goes with more steps \| τ −([\d.]+)", page)
    assert said is not None
    assert float(said[1]) == pytest.approx(-tau, abs=6e-4)
    assert sum(value == 1e9 for value in steps.values()) == 29
