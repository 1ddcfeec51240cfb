import pytest

from thalweg.report.names import shortened


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
