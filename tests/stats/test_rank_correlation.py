"""Rank correlation on a grid: SciPy's tau, Jiang's definition by hand, exact nulls, coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from thalweg.stats.rank_correlation import rank_correlation


def grid(levels: tuple[int, ...], num_seeds: int) -> dict[str, list[int]]:
    rows = [row for row in itertools.product(*map(range, levels)) for _ in range(num_seeds)]
    return {name: [row[i] for row in rows] for i, name in enumerate(("lr", "width", "decay")[: len(levels)])}


def psi_by_hand(m, g, columns, axis):
    """Jiang et al., section 2.2.2: fix all but one hyperparameter, average the taus."""
    rest = [name for name in columns if name != axis]
    taus = []
    for key in sorted({tuple(columns[r][i] for r in rest) for i in range(len(m))}):
        runs = [i for i in range(len(m)) if tuple(columns[r][i] for r in rest) == key]
        taus.append(stats.kendalltau(m[runs], g[runs]).statistic)
    return float(np.nanmean(taus))


@pytest.mark.parametrize("ties", [False, True])
def test_one_seed_a_cell_is_scipys_tau_and_jiangs_psi(ties):
    rng = np.random.default_rng(0)
    columns = grid((3, 4, 2), 1)
    m, g = rng.normal(size=24), rng.normal(size=24)
    if ties:
        m, g = np.round(2 * m), np.round(2 * g)
    found = rank_correlation(m, g, columns, seed=0, num_resamples=100)
    assert found.overall.value == pytest.approx(stats.kendalltau(m, g).statistic)
    psis = [psi_by_hand(m, g, columns, name) for name in columns]
    assert [a.tau.value for a in found.axes] == pytest.approx(psis)
    assert found.granulated.value == pytest.approx(np.mean(psis))
    assert (found.num_cells, found.num_fixed_cells) == (24, 24)
    assert math.isnan(found.overall.low)  # nothing says how uncertain they are
    assert [a.num_pairs for a in found.axes if not ties] == ([] if ties else [24, 36, 12])


def test_many_seeds_overall_is_scipys_and_groups_take_pairs_of_levels():
    rng = np.random.default_rng(1)
    columns = grid((2, 3), 3)
    m, g = rng.normal(size=18), rng.normal(size=18)
    found = rank_correlation(m, g, columns, seed=0, num_resamples=100)
    assert found.overall.value == pytest.approx(stats.kendalltau(m, g).statistic)
    by_hand = []
    for width in range(3):
        low, high = (
            [i for i in range(18) if columns["width"][i] == width and columns["lr"][i] == v] for v in (0, 1)
        )
        by_hand.append(np.mean([np.sign((m[i] - m[j]) * (g[i] - g[j])) for i in low for j in high]))
    assert found.axes[0].tau.value == pytest.approx(np.mean(by_hand))
    assert found.axes[0].num_pairs == 27


def test_a_hyperparameter_that_moves_both_counts_overall_and_not_granulated():
    """Width drives both, which at one width have nothing to do with each other: the point of Jiang et al."""
    rng = np.random.default_rng(2)
    columns = grid((6, 6), 2)
    width = np.array(columns["width"])
    m, g = 10 * width + rng.normal(size=72), 10 * width + rng.normal(size=72)
    found = rank_correlation(m, g, columns, seed=0)
    assert found.overall.value > 0.7
    by_name = {a.name: a.tau for a in found.axes}
    assert by_name["width"].value > 0.95
    assert abs(by_name["lr"].value) < 0.3


def test_runs_that_differ_in_more_than_one_thing_make_no_group():
    m = [1.0, 2.0, 3.0, 4.0]
    found = rank_correlation(m, m, {"lr": [0, 1, 2, 3], "width": [0, 1, 2, 3]}, seed=0)
    assert found.overall.value == 1
    assert [a.num_groups for a in found.axes] == [0, 0]
    assert math.isnan(found.granulated.value)
    assert math.isnan(found.granulated.p_value)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_p_values_against_all_exchanges_of_cells_by_hand(num_seeds):
    rng = np.random.default_rng(3)
    columns = grid((5,), num_seeds)
    m, g = rng.normal(size=5 * num_seeds), rng.normal(size=5 * num_seeds)
    found = rank_correlation(m, g, columns, seed=0, num_resamples=100)

    def order(v, c, d):
        a, b = (v[num_seeds * k : num_seeds * (k + 1)] for k in (c, d))
        return np.mean(np.sign(np.subtract.outer(a, b)))

    pairs = list(itertools.combinations(range(5), 2))
    sums = np.array(
        [
            sum(order(m, c, d) * order(g, e[c], e[d]) for c, d in pairs)
            for e in itertools.permutations(range(5))
        ]
    )
    tails = (sums >= sums[0] - 1e-12).mean(), (sums <= sums[0] + 1e-12).mean()
    assert found.overall.p_value == pytest.approx(min(1.0, 2 * min(tails)))
    if num_seeds == 1:
        assert found.overall.p_value == pytest.approx(stats.kendalltau(m, g, method="exact").pvalue)
    assert found.smallest_p == pytest.approx(2 / 120)
    best = rank_correlation(np.arange(5.0), np.arange(5.0), grid((5,), 1), seed=0)
    assert best.overall.p_value == pytest.approx(best.smallest_p)


def test_the_null_is_rejected_at_its_level():
    """Cells that vary, gaps that do, and no relation; runs as units would reject it far too often."""
    rng = np.random.default_rng(4)
    columns, p, naive = grid((3, 4), 3), [], []
    for i in range(300):
        m, g = (np.repeat(rng.normal(size=12), 3) + 0.1 * rng.normal(size=36) for _ in range(2))
        found = rank_correlation(m, g, columns, seed=i, num_resamples=199)
        p.append((found.overall.p_value, found.granulated.p_value))
        naive.append(stats.kendalltau(m, g).pvalue)
    rejected = (np.array(p) <= 0.1).mean(0)
    assert (np.abs(rejected - 0.1) < 4 * math.sqrt(0.09 / 300)).all()
    assert np.mean(np.array(naive) <= 0.1) > 0.3


def by_main_effects(rng, columns):
    """A sum of random effects, one a level, and the noise of seeds: cells share levels."""
    levels = np.array(list(columns.values()))
    effects = [rng.normal(size=int(axis.max()) + 1) for axis in levels]
    value = sum(effect[axis] for effect, axis in zip(effects, levels, strict=True))
    return value + 0.3 * rng.normal(size=levels.shape[1])


def product_grid(sizes, num_seeds):
    cells = [c for c in itertools.product(*map(range, sizes)) for _ in range(num_seeds)]
    return {f"axis {a}": [c[a] for c in cells] for a in range(len(sizes))}


@pytest.mark.parametrize(("sizes", "repeats"), [((3, 3, 2), 200), ((2, 2, 2, 2, 2, 2), 40)])
def test_unrelated_effects_of_levels_are_no_relation(sizes, repeats):
    """Cells share levels; exchanging cells finds a relation in 62 to 75 % of these on six axes of two."""
    rng = np.random.default_rng(11)
    columns, p = product_grid(sizes, 2), []
    for i in range(repeats):
        m, g = by_main_effects(rng, columns), by_main_effects(rng, columns)
        found = rank_correlation(m, g, columns, seed=i, num_resamples=100)
        p.append((found.overall.p_value, found.granulated.p_value))
    for false in (np.array(p) <= 0.05).sum(0):
        assert stats.binomtest(int(false), repeats, 0.05, alternative="greater").pvalue > 1e-3


def test_levels_are_exchanged_axis_by_axis():
    columns = product_grid((2, 2, 2, 2, 2, 2), 1)
    heat = np.array(list(columns.values())).T @ 2.0 ** np.arange(6)
    found = rank_correlation(heat, heat, columns, seed=0)
    assert found.overall.p_value == found.smallest_p == 2 / 64
    # One axis against the others: two orders in 64 reach as much each way, this and one more.
    other = np.array(list(columns.values())).T @ (2.0 ** np.arange(6) * [-1, 1, 1, 1, 1, 1])
    assert rank_correlation(heat, other, columns, seed=0).overall.p_value == pytest.approx(4 / 64)
    twice = np.repeat(heat, 2)
    mixed = rank_correlation(twice, twice, product_grid((2,) * 6, 2), seed=0)
    assert mixed.smallest_p == 2 / 64
    along = rank_correlation(np.arange(5.0), np.arange(5.0), {"a": range(5), "b": range(5)}, seed=0)
    assert along.smallest_p == 2 / 120, "side by side: no grid"


def test_along_an_axis_that_moves_only_one_of_the_two_nothing_is_exchanged():
    """A temperature of rates and batch sizes is that of both models: 4! x 3! orders, not twice as many."""
    columns = product_grid((4, 3, 2), 2)
    rate, batch, model = (np.array(axis) for axis in columns.values())
    heat = 2.0 * rate - batch
    curved = -heat + 100.0 * model + 0.01 * np.arange(len(heat))
    found = rank_correlation(curved, heat, columns, seed=0)
    assert found.smallest_p == 2 / 144
    assert found.overall.p_value == pytest.approx(2 / 144)
    assert rank_correlation(heat, curved, columns, seed=0).smallest_p == 2 / 144
    # Not of each, for other cells have other numbers of runs.
    kept = np.delete(np.arange(len(heat)), [0, 7, 20])
    labels = {name: [axis[i] for i in kept] for name, axis in columns.items()}
    assert rank_correlation(curved[kept], heat[kept], labels, seed=0).smallest_p == 2 / 144
    # One run of all makes the temperature of the models differ: then its levels are exchanged, too.
    heat[3] += 0.5
    assert rank_correlation(curved, heat, columns, seed=0).smallest_p == 2 / 288


def test_a_cell_that_is_missing_takes_no_part():
    columns = product_grid((3, 3, 2), 1)
    rng = np.random.default_rng(12)
    m, g = by_main_effects(rng, columns), by_main_effects(rng, columns)
    kept = [i for i in range(18) if i != 4]
    found = rank_correlation(m[kept], g[kept], {k: [v[i] for i in kept] for k, v in columns.items()}, seed=0)
    cells = list(zip(*columns.values(), strict=True))
    orders = itertools.product(*(itertools.permutations(range(size)) for size in (3, 3, 2)))
    taus = []
    for order in orders:
        moved = [cells.index(tuple(o[level] for o, level in zip(order, cells[i], strict=True))) for i in kept]
        there = [(m[i], g[j]) for i, j in zip(kept, moved, strict=True) if j != 4]
        taus.append(stats.kendalltau(*zip(*there, strict=True)).statistic)
    taus = np.array(taus)
    tails = (taus >= taus[0] - 1e-12).mean(), (taus <= taus[0] + 1e-12).mean()
    assert found.overall.p_value == pytest.approx(2 * min(tails))


def independent(rng, mean_m, mean_g):
    return mean_m + rng.normal(size=mean_m.shape), mean_g + rng.normal(size=mean_g.shape)


def skewed_and_related(rng, mean_m, mean_g):
    shared = rng.exponential(size=mean_m.shape)
    return mean_m + shared, mean_g + 0.7 * shared + 0.5 * rng.exponential(size=mean_g.shape)


def true_coefficients(rng, mean_m, mean_g, columns, noise):
    """Overall and granulated, the means over seeds: concordance of pairs over 8,000 draws of all runs."""
    concordance = np.zeros((len(mean_m), len(mean_m)))
    for _ in range(8):
        m, g = noise(rng, np.tile(mean_m, (1000, 1)), np.tile(mean_g, (1000, 1)))
        signs = [np.sign(v[:, :, None] - v[:, None, :]) for v in (m, g)]
        concordance += (signs[0] * signs[1]).mean(0) / 8
    overall = concordance[~np.eye(len(mean_m), dtype=bool)].mean()
    lr, width = (np.array(columns[name]) for name in ("lr", "width"))
    psis = []
    for along, other in ((lr, width), (width, lr)):
        groups = [(other == v)[:, None] & (other == v) & (along[:, None] != along) for v in np.unique(other)]
        psis.append(np.mean([concordance[k].mean() for k in groups]))
    if noise is independent:  # the closed form: what `true` means, and that the count is right
        by_erf = [special.erf((v[:, None] - v) / 2) for v in (mean_m, mean_g)]
        exact = (by_erf[0] * by_erf[1]).sum() / (len(mean_m) * (len(mean_m) - 1))
        assert overall == pytest.approx(exact, abs=0.01)
    return np.array([overall, np.mean(psis)])


def coverage(num_seeds, relation, noise, repeats):
    columns = grid((3, 4), num_seeds)
    cells = np.random.default_rng(5).normal(size=(2, 12))
    related = relation * cells[0] + (1 - relation) * cells[1]
    mean_m, mean_g = (2 * np.repeat(c, num_seeds) for c in (cells[0], related))
    rng = np.random.default_rng(6)
    truth = true_coefficients(rng, mean_m, mean_g, columns, noise)
    hits = np.zeros(2)
    for i in range(repeats):
        found = rank_correlation(*noise(rng, mean_m, mean_g), columns, seed=i, num_resamples=200)
        for j, c in enumerate((found.overall, found.granulated)):
            hits[j] += c.low <= truth[j] <= c.high
    return hits / repeats


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_seeds", "relation", "noise"),
    [
        (2, 0.8, independent),
        (3, 0.8, skewed_and_related),
        (6, 0.0, independent),
    ],
)
def test_intervals_cover(num_seeds, relation, noise):
    covered = coverage(num_seeds, relation, noise, 2000)
    print(num_seeds, relation, noise.__name__, covered)
    assert (covered > 0.93).all()
    assert (covered < 0.995).all()


def test_intervals_cover_few_times():
    assert (coverage(3, 0.8, independent, 200) > 0.89).all()


def test_errors_of_measuring_are_not_counted_twice():
    """Of several seeds the interval is the same with errors given and without; of single runs theirs."""
    rng = np.random.default_rng(7)
    columns = grid((3, 4), 2)
    m, g = rng.normal(size=24), rng.normal(size=24)
    plain = rank_correlation(m, g, columns, seed=0)
    told = rank_correlation(m, g, columns, errors=np.full(24, 0.5), seed=0)
    assert (told.overall, told.granulated) == (plain.overall, plain.granulated)
    assert math.isnan(plain.measurement_loss)

    one = grid((3, 4), 1)
    truth, e = rng.normal(size=(2, 12)), 0.4
    taus, errors = [], []
    for i in range(60):
        found = rank_correlation(
            truth[0] + e * rng.normal(size=12),
            truth[1],
            one,
            errors=np.full(12, e),
            seed=i,
            num_resamples=100,
        )
        taus.append(found.overall.value)
        errors.append(found.overall.standard_error)
    assert found.num_fixed_cells == 0
    assert 0.75 < math.sqrt(np.mean(np.square(errors))) / np.std(taus) < 1.45


def test_measurement_loss_is_what_errors_take():
    rng = np.random.default_rng(8)
    columns = {"run": list(range(60))}
    m = rng.normal(size=60)
    g = m + 0.5 * rng.normal(size=60)
    exact = stats.kendalltau(m, g).statistic
    drawn = []
    for i in range(40):
        found = rank_correlation(
            m + 0.2 * rng.normal(size=60), g, columns, errors=[0.2] * 60, seed=i, num_resamples=100
        )
        drawn.append((found.overall.value, found.measurement_loss))
    (mean, loss), error = np.mean(drawn, axis=0), np.std(drawn, axis=0) / math.sqrt(40)
    assert exact - mean > 5 * error[0]
    assert mean + loss == pytest.approx(exact, abs=0.4 * (exact - mean) + 3 * error[0])
    # The closed form against drawing the noise.
    noisy = [stats.kendalltau(m + 0.2 * rng.normal(size=60), g).statistic for _ in range(3000)]
    found = rank_correlation(m, g, columns, errors=[0.2] * 60, seed=0, num_resamples=100)
    assert exact - found.measurement_loss == pytest.approx(
        np.mean(noisy), abs=4 * np.std(noisy) / math.sqrt(3000)
    )


@pytest.mark.parametrize(
    ("m", "columns", "more", "words"),
    [
        ([1.0, 2, math.nan], {"lr": [0, 1, 2]}, {}, r"`measure` must hold one finite value a run"),
        ([1.0, 2, 3], {"lr": [0, 1]}, {}, r"`hyperparameters\['lr'\]` must hold one label for each of the 3"),
        ([1.0, 2, 3], {}, {}, "`hyperparameters` must hold at least one column"),
        ([1.0, 2, 3], {"lr": [0, 0, 1]}, {}, "`hyperparameters` must make at least three cells, got 2"),
        ([1.0, 1, 1], {"lr": [0, 1, 2]}, {}, "`measure` must not be constant, got 1.0"),
        (
            [1.0, 2, 3],
            {"lr": [0, 1, 2]},
            {"errors": [0.1, -1, 0]},
            "`errors` must be standard errors >= 0, got -1",
        ),
        (
            [1.0, 2, 3],
            {"lr": [0, 1, 2]},
            {"num_resamples": 5},
            "`num_resamples` must be a whole number of at least",
        ),
    ],
)
def test_bad_input(m, columns, more, words):
    with pytest.raises(ValueError, match=words):
        rank_correlation(m, [1.0, 3, 2], columns, seed=0, **more)
