"""What the corrected p-values of so many runs can reach at all, known before anything is measured."""

from __future__ import annotations

from thalweg.stats.permutation import smallest_p_value


def smallest_corrected_p(num_a: int, num_b: int, *, paired: bool, correction: str, num_rows: int) -> float:
    """What the smallest of the corrected p-values of `num_rows` rows can be at best, whatever the values.

    Relabelling all rows at once can leave the clearest one's p-value as it is; Holm multiplies it by their
    number.
    """
    smallest = smallest_p_value(num_a, num_b, paired=paired)
    return smallest * num_rows if correction == "holm" else smallest


def nothing_decidable(
    num_a: int, num_b: int, *, paired: bool, correction: str, num_rows: int, level: float
) -> str:
    """That no row can be decided, in words, with what would help; empty where one can."""
    smallest = smallest_corrected_p(num_a, num_b, paired=paired, correction=correction, num_rows=num_rows)
    if smallest <= 1 - level + 1e-12:  # in the last digit 1 - 0.95 is not 0.05
        return ""
    units = f"{num_a} pairs" if paired else f"{num_a} runs against {num_b}"
    more = "More runs"
    if correction == "holm":
        units, more = f"{units} and {num_rows} rows", "More runs, or fewer measures and modes,"
    return (
        f"Nothing can be decided: with {units} no corrected p-value can be below {smallest:.2g}. "
        f"{more} are needed."
    )
