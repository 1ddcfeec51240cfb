"""Words of verdicts say what the cells hold, and where in a table each answer stands."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.report.made_up_studies import batch_norm_study

from thalweg.report.study_dependence import dependence
from thalweg.report.study_power import power_rows
from thalweg.report.study_words import VerdictRow, gone_words, missing_words, verdict_rows, warning_words
from thalweg.stats.verdicts import Answer
from thalweg.study.evidence import Value
from thalweg.study.foresight import Foresight
from thalweg.study.spec import ContrastClaim, CorrelationClaim
from thalweg.study.verdicts import Cell, Verdict

CLAIM = ContrastClaim(
    name="flatter",
    text="Flatter <it> is.",
    measure="trace",
    by="model",
    groups=["bn", "plain"],
    expect="smaller",
    margin=1.2,
    primary=True,
)
CELL = Cell(
    measure="trace",
    mode="running",
    matching="end",
    expects="smaller",
    is_normalised=False,
    answer="supported",
    basis="smaller",
    effect=0.6234,
    low=0.5512,
    high=0.7049,
    is_ratio=True,
    size=-2.31,
    size_low=-4.0,
    size_high=-0.6,
    p_support=0.0022,
    p_refute=1.0,
    smallest_p=0.0022,
    values_a=tuple(Value(f"a{i}", {"model": "bn"}, 1.0) for i in range(6)),
    values_b=tuple(Value(f"b{i}", {"model": "plain"}, 2.0) for i in range(6)),
)


def row(
    cell: Cell = CELL, answer: Answer | None = None, claim: ContrastClaim | CorrelationClaim = CLAIM
) -> VerdictRow:
    verdict = Verdict(claim, answer or cell.answer, cell.p_support, cell.p_refute, cell, (cell,))
    return verdict_rows([verdict], 0.95)[0]


def test_a_supported_claim_has_its_numbers_with_the_digits_they_support():
    shown = row()
    assert (shown.state, shown.answer, shown.why) == (
        "supported",
        "supported at 95 %",
        "bn is smaller than plain",
    )
    assert (shown.what, shown.effect, shown.interval) == ("bn / plain", "0.623", "0.551 to 0.705")
    assert (shown.p, shown.p_note) == ("0.0022", "for the claim, Holm")
    assert (shown.size, shown.size_interval, shown.runs) == ("−2.31", "−4.0 to −0.6", "6 against 6")
    assert shown.claim == "“Flatter <it> is.”"
    assert (
        shown.detail
        == "trace of bn is smaller than of plain, running statistics, at end, margin a factor of 1.2"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"basis": "larger"}, "bn is larger than plain"),
        ({"basis": "equivalent"}, "the two are the same within a factor of 1.2"),
        ({"basis": "beyond"}, "the two differ by more than a factor of 1.2"),
    ],
)
def test_a_refuted_claim_says_by_which_finding(change, why):
    shown = row(replace(CELL, answer="refuted", **change))
    assert (shown.answer, shown.why) == ("refuted at 95 %", why)


def test_undecided_for_too_few_runs_is_told_from_undecided_by_the_values():
    few = replace(CELL, answer="undecided", basis="", smallest_p=0.1, p_support=0.1)
    few = replace(few, values_a=few.values_a[:3], values_b=few.values_b[:3])
    assert row(few).why == "3 against 3 cannot go below p = 0.1"
    unclear = replace(CELL, answer="undecided", basis="", p_support=0.21)
    assert row(unclear).why == "for it p = 0.21, against it p = 1.00; needed is 0.05"


def test_undecided_for_the_number_of_claims_says_so():
    """Ten claims of which each could reach 0.0022: 0.022; thirty could reach 0.066 and decide nothing."""
    other = replace(CELL, answer="undecided", basis="", p_support=0.5)
    claims = [CLAIM.model_copy(update={"name": f"c{i}"}) for i in range(30)]
    alone = replace(CELL, p_support=0.03)
    ten = [Verdict(claims[0], "undecided", 0.3, 1.0, alone, ())]
    ten += [Verdict(claim, "undecided", 1.0, 1.0, other, ()) for claim in claims[1:10]]
    shown = verdict_rows(ten, 0.95)[0]
    assert shown.why == "alone it would be supported (p = 0.030), not among 10 primary claims"
    thirty = [Verdict(claim, "undecided", 1.0, 1.0, other, ()) for claim in claims]
    shown = verdict_rows(thirty, 0.95)[0]
    assert shown.why == "6 against 6, corrected over 30 claims, cannot go below p = 0.066"


def test_nothing_measured_is_told_from_nothing_to_be_had():
    empty = replace(
        CELL, values_a=(), values_b=(), answer="undecided", effect=math.nan, reason="too few runs"
    )
    gone = Value("a", {}, math.nan, reason="not measured yet")
    shown = row(replace(empty, missing=(gone, gone)))
    assert (shown.state, shown.answer, shown.effect, shown.p) == ("missing", "not measured yet", "", "")
    failed = row(replace(empty, missing=(gone, replace(gone, reason="training diverged"))))
    assert (failed.answer, failed.why) == ("no answer", "too few runs")
    assert failed.left_out == "2 runs have no value: not measured yet (1); training diverged (1)"
    assert missing_words(()) == ""
    three = [replace(gone, reason=f"for reason {i}") for i in range(3)]
    assert missing_words(three, most=2).endswith("for reason 1 (1); 1 for other reasons, listed below")


def test_settings_of_which_nothing_is_left_are_named():
    """What is dropped by its outcome is said: single runs are one thing, whole settings another."""

    def of(lr, seed, value=math.nan, reason="the loss never reaches 0.4"):
        return Value(f"{lr}{seed}", {"model": "bn", "lr": lr, "seed": seed}, value, reason=reason)

    lost = (of(0.1, 1), of(0.01, 1), of(0.01, 2), of(0.001, 1), of(0.001, 2))
    cell = replace(CELL, values_a=(of(0.1, 2, 1.0, ""),), values_b=(), missing=lost)
    assert missing_words(cell.missing) == "5 runs have no value: the loss never reaches 0.4 (5)"
    assert gone_words(cell) == "no run is left of bn · lr 0.01, bn · lr 0.001"
    assert gone_words(cell, most=1) == "no run is left of bn · lr 0.01 and 1 more"
    assert "5 runs have no value: the loss never reaches 0.4 (5); no run is left of" in row(cell).left_out
    # Of a study that is under way nothing is lost yet.
    assert gone_words(replace(cell, missing=(of(0.01, 1, reason="not measured yet"),))) == ""


def test_values_with_a_warning_are_counted():
    """A number whose own chains had not settled is ranked like any other: it is said how many are such."""
    sure = [Value(str(i), {"model": "bn", "seed": i}, 1.0) for i in range(3)]
    unsure = [replace(v, warning="too short: give more steps") for v in sure[:2]]
    cell = replace(CELL, values_a=(*unsure, sure[2]), values_b=tuple(sure), missing=())
    assert warning_words(cell) == "2 of 3 values with a warning, which stands with the run"
    assert row(cell).left_out == warning_words(cell)
    assert warning_words(replace(cell, values_a=tuple(sure))) == ""


def test_a_wide_ratio_keeps_the_digits_that_tell_it_from_one():
    assert row(replace(CELL, effect=8.23, low=1.04, high=37.2)).interval == "1.04 to 37.2"
    assert row(replace(CELL, effect=19.4, low=0.1871, high=1017.6)).interval == "0.187 to 1018"
    assert row(replace(CELL, effect=2.0, low=0.0, high=math.inf)).interval == "0 to ∞"
    difference = replace(CELL, is_ratio=False, effect=8.23, low=-1.04, high=17.5)
    assert (row(difference).effect, row(difference).interval) == ("8.2", "−1.1 to 17.5")


def test_exploratory_claims_come_last_and_are_not_corrected():
    exploratory = CLAIM.model_copy(update={"name": "e", "primary": False, "text": ""})
    found = [Verdict(c, "supported", 0.0022, 1.0, CELL, ()) for c in (exploratory, CLAIM)]
    first, second = verdict_rows(found, 0.95)
    assert (first.name, second.name) == ("flatter", "e")
    assert (second.is_primary, second.p_note) == (False, "for the claim, uncorrected")
    assert second.claim == "trace of bn is smaller than of plain", "no quotation marks: the words are ours"


def test_a_correlation_speaks_of_tau():
    claim = CorrelationClaim(name="c", measure="trace", expect="positive", margin=0.2, statistic="granulated")
    cell = replace(
        CELL, expects="positive", basis="equivalent", answer="refuted", effect=0.02, low=-0.1, high=0.14
    )
    shown = row(replace(cell, is_ratio=False, size=math.nan, values_b=()), claim=claim)
    assert (shown.what, shown.why, shown.size) == ("granulated τ", "granulated τ lies within ± 0.2", "")
    assert shown.runs == "6"


# -- on what it hangs ---------------------------------------------------------------------------------


def table_of(*cells: Cell):
    return dependence(Verdict(CLAIM, "supported", 0.01, 1.0, cells[0], cells), batch_norm_study(6))


def test_the_table_has_each_cell_at_its_place():
    batch = replace(CELL, mode="batch", answer="refuted", basis="larger", effect=1.5, low=1.2, high=1.9)
    late = replace(CELL, matching="loss = 0.3", answer="undecided", reason="too few", effect=math.nan)
    width = replace(
        CELL, measure="width", is_normalised=True, expects="larger", answer="refuted", basis="equivalent"
    )
    found = table_of(CELL, batch, late, width)
    assert found.modes == ("running", "batch")
    trace, basin = found.measures
    assert [at for at, _ in trace.rows] == ["end", "loss = 0.3"]
    assert trace.rows[1][1][1] is None, "nobody asked for it there"
    first, second, third, same = found.cells
    assert (first.is_own, second.is_own) == (True, False)
    assert (second.state, second.effect, second.is_same) == ("refuted", "1.50", False)
    assert (third.state, third.effect, third.note) == ("missing", "", "too few")
    assert same.is_same
    assert (basin.is_normalised, basin.is_turned) == (True, True)
    assert basin.claim == "width of bn is larger than of plain"
    assert dict(found.tally) == {"supported": 1, "refuted": 2, "missing": 1}
    assert found.num_cells == len(found.cells) == 4


def test_an_answer_hangs_on_what_turns_it_round():
    batch = replace(CELL, mode="batch", answer="refuted", basis="larger")
    late = replace(CELL, matching="loss = 0.3", answer="undecided", basis="")
    width = replace(CELL, measure="width", is_normalised=True)
    far = replace(CELL, measure="width", is_normalised=True, matching="loss = 0.3", answer="refuted")
    hinges = {h.name: h for h in table_of(CELL, batch, late, width, far).hinges}
    assert hinges["Batch-norm mode"].answers == (("supported", ("running",)), ("refuted", ("batch",)))
    assert {name: h.is_opposed for name, h in hinges.items()} == {
        "Batch-norm mode": True,
        "Matching rule": False,
        "Raw measure": False,
        "Normalised measure": False,
    }
    assert hinges["Normalised measure"].answers == (("supported", ("width",)),), (
        "the one in two ways off is left out"
    )


def test_how_networks_were_paired_is_told_and_what_so_few_pairs_can_decide():
    barrier = replace(CELL, measure="barrier", is_ratio=False, answer="undecided", smallest_p=0.1)
    few = replace(barrier, values_a=CELL.values_a[:3], values_b=CELL.values_b[:3])
    spec = batch_norm_study(6)
    disjoint = batch_norm_study(6, pairs={"barrier": {"measure": "linear_path"}})

    def note(cell, spec):
        shown = dependence(Verdict(CLAIM, "supported", 0.01, 1.0, CELL, (CELL, cell)), spec)
        return [m.note for m in shown.measures]

    assert note(barrier, spec) == [
        "",
        "mean over all pairs of networks, its error by the jackknife over networks: approximate",
    ]
    assert note(few, disjoint)[1] == (
        "disjoint pairs of networks: 3 against 3 cannot go below p = 0.1, which takes 8 seeds of each, or "
        "all pairs"
    )
    assert note(replace(few, smallest_p=0.03), disjoint)[1] == "disjoint pairs of networks"


# -- what so many seeds can show ----------------------------------------------------------------------


def test_power_is_told_in_deviations_and_in_the_unit_of_the_effect():
    known = Foresight("c", 6, 6, 0.0087, 1.796, 0.95, spread=0.1, margin=1.2, seeds=7, seeds_equivalent=9)
    (shown,) = power_rows([known])
    assert (shown.runs, shown.smallest_p, shown.is_hopeless) == ("6 against 6", "0.0087", False)
    assert (shown.detectable, shown.at_spread) == ("1.8 s.d.", "a factor of 1.20")
    assert (shown.seeds, shown.seeds_equivalent) == ("7", "9")
    (linear,) = power_rows([replace(known, is_ratio=False, spread=0.00223)])
    assert linear.at_spread == "0.00401"


def test_runs_too_few_for_any_answer_are_told():
    (shown,) = power_rows([Foresight("c", 3, 3, 0.4, 3.0, 0.95, spread=0.1)])
    assert (shown.is_hopeless, shown.detectable, shown.at_spread) == (True, "", "")
    (single,) = power_rows([Foresight("c", 1, 1, 1.0, math.inf, 0.95)])
    assert (single.is_hopeless, single.detectable, single.seeds) == (True, "", "")
