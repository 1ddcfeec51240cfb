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


@pytest.fixture(scope="module")
def early() -> list[dict]:
    """Of each run its fields, the top eigenvalue and the loss after ten steps, and its steps to the loss."""
    folder = ROOT / "examples" / "results" / "early-curvature-laptop"
    found: dict[str, dict] = {}
    with gzip.open(folder / "records.jsonl.gz", "rt") as lines:
        for record in map(json.loads, lines):
            labels = record["labels"]
            run = found.setdefault(record["run"], {k: labels[k] for k in EARLY_AXES})
            place = labels["name"], labels.get("moment")
            if labels["name"] == "steps_to_loss":
                run["steps"] = min(float(record["value"]), NEVER)
            elif place == ("curvature", "step 10"):
                run["curved"] = record["density"]["lambda_max"]
            elif place == ("gap", "step 10"):
                run["loss"] = record["train_loss"]
    assert len(found) == 144
    return list(found.values())


EARLY_AXES = ("model", "width", "lr", "init_scale")
NEVER = 1e9  # for infinity, where the loss was never reached
EARLY_PAGE = ROOT / "docs" / "early_curvature.md"


def tau_of(runs: list[dict]) -> float:
    return stats.kendalltau([r["curved"] for r in runs], [r["steps"] for r in runs]).statistic


def tau_along(runs: list[dict], axis: str) -> float:
    """Mean over the runs that agree in all else of tau-b of the pairs that differ in it."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault(tuple(run[k] for k in EARLY_AXES if k != axis), []).append(run)
    taus = []
    for group in groups.values():
        pairs = [(a, b) for a, b in combinations(group, 2) if a[axis] != b[axis]]
        signs = np.sign([[a[k] - b[k] for k in ("curved", "steps")] for a, b in pairs])
        squares = np.square(signs).sum(0).prod()
        if squares:
            taus.append(signs.prod(1).sum() / math.sqrt(squares))
    return float(np.mean(taus))


def test_early_curvature_ranks_steps_as_its_page_says(early):
    page = re.sub(r"\s+", " ", EARLY_PAGE.read_text()).replace("−", "-")
    said = re.search(r"goes with more steps \| τ (-[\d.]+)", page)
    assert said is not None
    assert float(said[1]) == pytest.approx(tau_of(early), abs=6e-4)
    never = [r for r in early if r["steps"] == NEVER]
    assert len(never) == 29
    said = re.search(
        r"τ is (-[\d.]+) among the runs at a rate of 0.01, and (-[\d.]+) among those at 0.3, of which are "
        r"(\d+)",
        page,
    )
    assert said is not None
    expected = [tau_of([r for r in early if r["lr"] == lr]) for lr in (0.01, 0.3)]
    assert [float(said[1]), float(said[2])] == pytest.approx(expected, abs=6e-3)
    assert int(said[3]) == sum(r["lr"] == 0.3 for r in never)


def test_what_early_curvature_ranks_is_how_far_training_has_come(early):
    page = re.sub(r"\s+", " ", EARLY_PAGE.read_text()).replace("−", "-")
    said = re.search(r"are correlated by (-[\d.]+) \(Spearman's\), and by (-[\d.]+) once", page)
    assert said is not None
    r = np.corrcoef([stats.rankdata([run[k] for run in early]) for k in ("curved", "steps", "loss")])
    given = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert [float(said[1]), float(said[2])] == pytest.approx([r[0, 1], given], abs=6e-3)
    said = re.search(
        r"τ is (-[\d.]+) \([^)]*\): (-[\d.]+) along the rate, (-[\d.]+) to (-[\d.]+) along width", page
    )
    assert said is not None
    along = {axis: tau_along(early, axis) for axis in EARLY_AXES}
    assert float(said[1]) == pytest.approx(np.mean(list(along.values())), abs=6e-4)
    rest = sorted(tau for axis, tau in along.items() if axis != "lr")
    assert [float(x) for x in said.groups()[1:]] == pytest.approx([along["lr"], rest[-1], rest[0]], abs=6e-3)


def test_what_is_said_along_the_gradient_follows_from_the_records():
    page = re.sub(r"[ \n]+", " ", (ROOT / "docs" / "along_the_gradient.md").read_text())
    found: dict[tuple, dict[str, dict[int, float]]] = {}
    with gzip.open(ROOT / "examples" / "results" / "batch-norm-along" / "records.jsonl.gz", "rt") as lines:
        for record in map(json.loads, lines):
            labels = record["labels"]
            if labels["name"] not in ("effective_smoothness", "largest_stable_rate"):
                continue
            numbers_of = {labels["name"]: record["value"]}
            for name, key in (("loss", "losses"), ("gradient", "gradient_changes")):
                if key in record:
                    rows = np.array(record[key]["tensor"])
                    numbers_of[name] = float((rows.max(1) - rows.min(1)).mean())
            for name, value in numbers_of.items():
                cell = found.setdefault((name, labels["lr"], labels["moment"]), {"bn": {}, "plain": {}})
                cell[labels["model"]][labels["seed"]] = math.log(value)

    def ratios(*cell: object) -> list[float]:
        groups = {k: np.array([v[s] for s in range(1, 7)]) for k, v in found[cell].items()}
        return [math.exp(x) for x in welch(groups)]

    rows = {
        "fresh": (0.01, "start"),
        "0.01, after one epoch": (0.01, "epoch 1"),
        "0.01, after four": (0.01, "end"),
        "0.1, after one epoch": (0.1, "epoch 1"),
        "0.1, after four": (0.1, "end"),
    }
    for title, place in rows.items():
        said = re.search(rf"\| {title} \| ([^|]*) \| ([^|]*) \| ([^|]*) \|", page)
        assert said is not None, title
        for name, text in zip(("effective_smoothness", "gradient", "loss"), said.groups(), strict=True):
            assert numbers(text) == pytest.approx(ratios(name, *place), rel=0.02), (title, name)
    said = re.search(
        r"trains up to ([\d.]+) times \([^)]*\) as large a rate with batch norm \(a median of ([\d.]+), w",
        page,
    )
    assert said is not None
    rates = found["largest_stable_rate", 0.01, "start"]
    assert float(said[1]) == pytest.approx(ratios("largest_stable_rate", 0.01, "start")[0], rel=0.01)
    assert float(said[2]) == pytest.approx(math.exp(np.median(list(rates["bn"].values()))), rel=0.06)
