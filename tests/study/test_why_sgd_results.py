"""The results of `why-sgd`: what their page says, worked out again from the records alone."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "results" / "why-sgd-laptop"

# Model, rate, batch size, factor of the decay, seed; and by name and moment what was measured of such a run.
Key = tuple[str, float, int, float, int]
Runs = dict[Key, dict[tuple[str, str], float]]

KINDS, RATES, SEEDS, ALL = ("plain", "bn"), (0.01, 0.02, 0.04, 0.08), (1, 2, 3), 5000
TABLE = {
    "top eigenvalue": "lambda_max",
    "trace": "curvature",
    "SAM sharpness": "sam_sharpness",
    "SAM sharpness, adaptive": "adaptive_sam_sharpness",
    "Fisher-Rao norm": "fisher_rao_norm",
    "trace of the gradient's covariance": "noise",
    "noise scale": "noise_scale",
    "free energy of the basin, without batch norm": "basin_mass",
    "local learning coefficient, without batch norm": "local_learning_coefficient",
    "test loss": "test_loss",
}


@pytest.fixture(scope="module")
def page() -> str:
    text = (ROOT / "docs" / "why_sgd.md").read_text().replace("−", "-")
    return re.sub(r"[ \n]+", " ", text[text.index("## Results") :].replace("\n|", " \0|"))


@pytest.fixture(scope="module")
def runs() -> Runs:
    found: Runs = {}
    with gzip.open(FOLDER / "records.jsonl.gz", "rt") as lines:
        records = [json.loads(line) for line in lines]
    assert len(records) == 2988
    for record in records:
        labels = record["labels"]
        key = tuple(labels[k] for k in ("model", "lr", "batch_size", "gamma", "seed"))
        run = found.setdefault(key, {})
        name, moment = labels["name"], labels.get("moment", "")
        if record.get("failure") or name == "train":  # a loss that was never reached
            continue
        run[name, moment] = record["value"]
        if name == "gap":
            run["train_loss", moment], run["test_loss", moment] = record["train_loss"], record["test_loss"]
            run["accuracy", moment] = record["test_accuracy"]
        elif name == "curvature":
            run["lambda_max", moment] = record["density"]["lambda_max"]
        elif name == "noise":
            run["noise_scale", moment] = record["value"] / record["gradient_square"]
        elif name == "local_learning_coefficient":
            run["settled", moment] = float(record["outcome"] == "stationary")
    assert len(found) == 144
    return found


def temperature(key: Key) -> float:
    _, lr, size, _, _ = key
    return 0.0 if size == ALL else lr / (size * (1 - 0.9))


def at_equal_loss(run: dict[tuple[str, str], float], name: str, target: float = 0.4) -> float:
    """Between the two moments where the training loss passes it; NaN if it never does, or begins below."""
    path = [
        (run["train_loss", moment], run[name, moment])
        for moment in ("loss 0.5", "loss 0.3", "end")
        if (name, moment) in run
    ]
    after = next((i for i, (loss, _) in enumerate(path) if loss <= target), 0)
    if not after:
        return math.nan
    (l0, v0), (l1, v1) = path[after - 1], path[after]
    share = math.log(l0 / target) / math.log(l0 / l1)
    if name == "basin_mass":  # it has both signs
        return v0 + share * (v1 - v0)
    return math.exp((1 - share) * math.log(v0) + share * math.log(v1))


def values(runs: Runs, name: str, keys: Iterable[Key]) -> tuple[list[Key], np.ndarray]:
    """At equal loss, of the runs that have one."""
    both = [(key, at_equal_loss(runs[key], name)) for key in keys]
    return [k for k, v in both if math.isfinite(v)], np.array([v for _, v in both if math.isfinite(v)])


def where(runs: Runs, gamma: float, **fields: object) -> list[Key]:
    places = {"model": 0, "lr": 1, "size": 2}
    return [k for k in runs if k[3] == gamma and all(k[places[f]] == v for f, v in fields.items())]


def tau(runs: Runs, name: str, keys: Iterable[Key], by: Callable[[Key], float] = temperature) -> float:
    keys, found = values(runs, name, keys)
    return float(stats.kendalltau([by(k) for k in keys], found).statistic)


def partial(runs: Runs, name: str) -> float:
    """Of ranks at the end of a decay, the training loss held equal."""
    keys = [k for k in where(runs, 0.1) if (name, "end") in runs[k]]
    columns = [
        [temperature(k) for k in keys],
        *([runs[k][n, "end"] for k in keys] for n in (name, "train_loss")),
    ]
    r = np.corrcoef([stats.rankdata(c) for c in columns])
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))


def ratio(logs: list[float]) -> list[float]:
    """Geometric mean, with Student's interval."""
    found = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    return [math.exp(x) for x in (np.mean(logs), found.low, found.high)]


def numbers(pattern: str, page: str) -> list[float]:
    """What the groups of a sentence say."""
    found = re.search(pattern.replace("#", r"(-?[\d.]*\d)"), page)
    assert found, pattern
    return [float(x) for x in found.groups()]


def test_each_row_of_the_table_follows_from_the_records(runs: Runs, page: str) -> None:
    rows = {row[0]: row[1:] for row in re.findall(r"\0\| ([^|]+) \| ([^|]*)\| ([^|]+) \|", page)}
    assert set(TABLE) < set(rows)
    for title, name in TABLE.items():
        at_loss, after_decay = (re.findall(r"-?\d+\.\d+", cell) for cell in rows[title])
        assert float(after_decay[0]) == pytest.approx(partial(runs, name), abs=6e-4), title
        if name == "local_learning_coefficient":
            assert not at_loss  # measured at the end alone
        else:
            assert float(at_loss[0]) == pytest.approx(tau(runs, name, where(runs, 1.0)), abs=6e-4), title
        for value, low, high in filter(None, (at_loss, after_decay)):
            assert float(low) < float(value) < float(high)


def test_the_primary_claims_follow_from_the_records(runs: Runs, page: str) -> None:
    said = numbers(
        r"smaller top eigenvalue \| τ #.*given the training loss, it has \| ρ #.*smaller test loss \| τ #",
        page,
    )
    hot = where(runs, 1.0)
    expected = [tau(runs, "lambda_max", hot), partial(runs, "lambda_max"), tau(runs, "test_loss", hot)]
    assert said == pytest.approx(expected, abs=6e-4)
    assert len(values(runs, "lambda_max", hot)[0]) == 72 - 3
    # The least that exchanges of four rates and three batch sizes can say, two-sided and thrice.
    assert 3 * 2 / (math.factorial(4) * math.factorial(3)) == pytest.approx(0.0417, abs=1e-4)


def test_what_is_said_of_rate_and_batch_size_follows_from_the_records(runs: Runs, page: str) -> None:
    def log(*key: object) -> float:
        return math.log(at_equal_loss(runs[key], "lambda_max"))  # type: ignore[index]

    pairs = [log(m, r, 32, 1.0, s) - log(m, r, ALL, 1.0, s) for m in KINDS for r in RATES for s in SEEDS]
    pairs = [x for x in pairs if math.isfinite(x)]
    said = numbers(r"have a top eigenvalue # times \(# to #\) that of all the data at once, # pairs", page)
    assert said == pytest.approx([*ratio(pairs), len(pairs)], rel=0.01)
    said = numbers(r"with batch norm τ is #, without #\.", page)
    assert said == pytest.approx(
        [tau(runs, "lambda_max", where(runs, 1.0, model=m)) for m in ("bn", "plain")], abs=6e-4
    )
    said = numbers(
        r"is made of # without batch norm and # with it, .* it grows with the rate, τ # to #\.", page
    )
    name = "adaptive_sam_sharpness"
    kinds = [tau(runs, name, where(runs, 1.0, model=m)) for m in KINDS]
    cells = [where(runs, 1.0, model=m, size=size) for m in KINDS for size in (32, 256, ALL)]
    grown = [tau(runs, name, cell, lambda k: k[1]) for cell in cells]
    assert said == pytest.approx([*kinds, min(grown), max(grown)], abs=6e-3)
    noisy = [k for k in where(runs, 1.0) if k[2] != ALL]
    said = numbers(r"without them τ is # of the top eigenvalue and # of the test loss", page)
    assert said == pytest.approx([tau(runs, n, noisy) for n in ("lambda_max", "test_loss")], abs=6e-4)
    full = {m: where(runs, 1.0, model=m, size=ALL) for m in KINDS}
    said = numbers(
        r"eigenvalue is # without batch norm, .* it # times smaller and it lies, on 512 of the images, "
        r"at # to # .* and # with\.",
        page,
    )
    keys, found = values(runs, "lambda_max", full["plain"])
    means = [
        float(np.mean([math.log(v) for k, v in zip(keys, found, strict=True) if k[1] == r])) for r in RATES
    ]
    shares = [math.exp(mean) * r / (2 * 1.9) for mean, r in zip(means, RATES, strict=True)]
    by_rate = [tau(runs, "lambda_max", full[m], lambda k: k[1]) for m in KINDS]
    expected = [by_rate[0], math.exp(means[0] - means[-1]), min(shares), max(shares), by_rate[1]]
    assert said == pytest.approx(expected, rel=0.05)
    alike = [log(m, 0.01, 32, 1.0, s) - log(m, 0.08, 256, 1.0, s) for m in KINDS for s in SEEDS]
    said = numbers(r"in batches of 32 has # times \(# to #, six pairs\)", page)
    assert said == pytest.approx(ratio(alike), rel=0.01)


def test_what_is_said_of_the_test_loss_follows_from_the_records(runs: Runs, page: str) -> None:
    said = numbers(r"is # in batches of 32, # of 256 and # of all the data", page)
    means = [values(runs, "test_loss", where(runs, 1.0, size=size))[1].mean() for size in (32, 256, ALL)]
    assert said == pytest.approx(means, abs=6e-4)
    said = numbers(r"the accuracy #, # and #, τ #\.", page)
    means = [values(runs, "accuracy", where(runs, 1.0, size=size))[1].mean() for size in (32, 256, ALL)]
    assert said == pytest.approx([*means, tau(runs, "accuracy", where(runs, 1.0))], abs=6e-4)
    caught: dict[Key, dict[tuple[str, str], float]] = {}
    for line in (FOLDER / "selection.jsonl").read_text().splitlines():
        row = json.loads(line)
        run = caught.setdefault(tuple(row[k] for k in ("model", "lr", "batch_size", "gamma", "seed")), {})
        run["train_loss", row["moment"]], run["test", row["moment"]] = row["other_training"], row["test"]
    assert len(caught) == 72
    said = numbers(r"the 512\), the test losses are #, # and #, and τ is # of # runs", page)
    means = [values(caught, "test", where(caught, 1.0, size=size))[1].mean() for size in (32, 256, ALL)]
    num = len(values(caught, "test", caught)[0])
    assert said == pytest.approx([*means, tau(caught, "test", caught), num], abs=6e-4)
    said = numbers(r"Mean accuracies are #, # and #,", page)
    ends = [
        np.mean([runs[k]["accuracy", "end"] for k in where(runs, 0.1, size=size)]) for size in (32, 256, ALL)
    ]
    assert said == pytest.approx(ends, abs=6e-4)
    said = numbers(
        r"Of the # runs between # and # ρ of the top eigenvalue is #, .* but # of the test loss and # of",
        page,
    )
    both = [k for k in where(runs, 0.1) if said[1] <= runs[k]["train_loss", "end"] <= said[2]]
    some = {k: runs[k] for k in both}
    expected = [partial(some, name) for name in ("lambda_max", "test_loss", "adaptive_sam_sharpness")]
    assert [said[0], *said[3:]] == pytest.approx([len(both), *expected], abs=6e-3)
    said = numbers(r"lie between # and # in batches of 32 and between # and # of all the data", page)
    ends = [[runs[k]["train_loss", "end"] for k in where(runs, 0.1, size=size)] for size in (32, ALL)]
    assert said == pytest.approx([f(losses) for losses in ends for f in (min, max)], abs=6e-3)
    best = sorted(where(runs, 0.1), key=lambda k: runs[k]["test_loss", "end"])[:3]
    said = numbers(r"The best three test losses, # to #, had a rate of # in batches of #:", page)
    assert said == pytest.approx([*(runs[best[i]]["test_loss", "end"] for i in (0, 2)), 0.01, 32], abs=6e-4)
    assert all(k[1:3] == (0.01, 32) for k in best)
    fitted = [k for k in where(runs, 0.1) if runs[k]["train_loss", "end"] <= 0.0105]
    tested = [runs[k]["test_loss", "end"] for k in fitted]
    said = numbers(r"came down to 0\.01 and less end at # to #\.", page)
    assert said == pytest.approx([min(tested), max(tested)], abs=6e-3)


def test_what_is_said_of_decay_and_mass_follows_from_the_records(runs: Runs, page: str) -> None:
    pairs = [(k, (*k[:3], 0.1, k[4])) for k in where(runs, 1.0)]
    logs = [math.log(runs[b]["lambda_max", "end"] / runs[a]["lambda_max", "end"]) for a, b in pairs]
    said = numbers(
        r"after one is # times \(# to #\) that of .* In batches of 32, .* it is # times \(# to #\)", page
    )
    small = [log for (a, _), log in zip(pairs, logs, strict=True) if a[2] == 32]
    assert said == pytest.approx([*ratio(logs), *ratio(small)], rel=0.02)
    again, first = [], []
    for a, b in pairs:
        for moment in ("loss 0.5", "loss 0.3"):
            both = [runs[k].get(("basin_mass", moment)) for k in (a, b)]
            if None not in both and runs[a]["train_loss", moment] == runs[b]["train_loss", moment]:
                first.append(both[0])
                again.append(both[1])
    repeat = math.sqrt(np.mean(np.square(np.subtract(first, again))) / 2)
    said = numbers(r"standard error of # where networks spread by #", page)
    assert said == pytest.approx([repeat, np.std(first)], abs=0.06)
    settled = [runs[k]["settled", "end"] for k in where(runs, 0.1, model="plain")]
    said = numbers(r"; # of the # estimates \(two chains each\) of the learning coefficient", page)
    assert said == [settled.count(0.0), len(settled)]
