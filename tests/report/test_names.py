from dataclasses import dataclass, replace

import pytest
from tests.report.test_connectivity_page import bare  # noqa: F401

from thalweg.report.names import shortened, with_short_names

RUNS = [
    f"experiments/2026-11/batch-norm/seed-00000{i}/checkpoints/epoch-0006/model.safetensors" for i in (1, 2)
]


@dataclass(frozen=True)
class Sliced:
    direction_names: tuple[str, ...]


def test_short_names_stay_as_they_are():
    assert shortened(["a", "second <2>"], 10) == ["a", "second <2>"]


@pytest.mark.parametrize("most", [8, 9, 20])
def test_long_names_keep_both_ends(most):
    (name,) = shortened(["runs/a/long/way/down/epoch-9.pt"], most)
    assert len(name) == most
    start, end = name.split("…")
    assert "runs/a/long/way/down/epoch-9.pt".startswith(start)
    assert "runs/a/long/way/down/epoch-9.pt".endswith(end)


def test_different_names_stay_different():
    long = [f"folder/seed-{i}/epochs-of-the-run/final.pt" for i in (1, 2)]
    first, second = shortened(long, 12)
    assert first != second
    assert len(first) < len(long[0])
    assert shortened([long[0]] * 2, 12) == shortened(long[:1], 12) * 2


def test_names_that_differ_in_the_middle_keep_what_tells_them_apart():
    assert shortened([*RUNS, "b"], 24) == ["…seed-000001…", "…seed-000002…", "b"]
    alike = [f"{'a' * 40}{i}{'b' * 40}" for i in (1, 2)]
    first, second = shortened(alike, 20)
    assert "1" in first
    assert "2" in second
    assert max(len(first), len(second)) <= 24


def test_directions_keep_where_they_lead():
    short, full = with_short_names(Sliced((f"to {RUNS[0]}", f"to {RUNS[1]}", "gradient")))
    assert short.direction_names == ("to …seed-000001…", "to …seed-000002…", "gradient")
    assert full == {"…seed-000001…": RUNS[0], "…seed-000002…": RUNS[1]}
    kept = Sliced(("to network 1", "random 0"))
    assert with_short_names(kept) == (kept, {})


def test_all_that_is_said_of_two_networks_takes_the_short_names(bare):  # noqa: F811
    plane_names = (*RUNS, f"{RUNS[1]}, aligned")
    short, full = with_short_names(replace(bare, names=tuple(RUNS), plane_names=plane_names))
    assert short.names == ("…seed-000001…", "…seed-000002…")
    assert short.plane_names == (*short.names, "…seed-000002…, aligned")
    assert list(full.values()) == RUNS
