"""The stationary law on a loss with a flat and a sharp minimum of one height: numbers and pictures.

Isotropic noise of one parameter and of two; SGD's noise, larger where the well is sharp, and
one of the same size everywhere. Sections can be run side by side, each in a process of its own.

    python benchmarks/stationary_law.py --out runs/benchmark-law --figures docs/images
    python benchmarks/stationary_law.py sgd --smoke       # next to no steps: supports no conclusion

Results are kept in `--out`: what is there is not done again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from processes import parser_of
from tests.measures.dynamics.wells import MINIMA_1, MINIMA_2, one_parameter, two_parameters

from thalweg.core.measurement import Measurement
from thalweg.measures.dynamics.stationary_law import stationary_law
from thalweg.report.plot import plot

# Objective, minima and arguments; examples only matter to SGD.
SECTIONS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "isotropic": (lambda: one_parameter(2), MINIMA_1, {"temperature": 0.1}),
    "two": (lambda: two_parameters(2), MINIMA_2, {"temperature": 0.1}),
    "sgd": (lambda: one_parameter(8, noise=3.0), MINIMA_1, {"temperature": 0.1, "noise": "sgd"}),
    "sgd-two": (lambda: two_parameters(8, noise=3.0), MINIMA_2, {"temperature": 0.1, "noise": "sgd"}),
    "even": (
        lambda: one_parameter(8, noise=3.0, growth=1e-3),
        MINIMA_1,
        {"temperature": 0.1, "noise": "sgd"},
    ),
}
FIGURES = {"isotropic": "stationary_law.png", "sgd": "stationary_law_sgd.png"}
SMOKE = {"num_chains": 32, "burn_in": 5, "num_steps": 20}


def section(name: str, options: Any) -> Any:
    """The result of one, from its file if it is there."""
    kept = options.out / f"{name}.json"
    if kept.exists():
        return Measurement.from_dict(json.loads(kept.read_text()), options.out)
    build, minima, arguments = SECTIONS[name]
    few: dict[str, Any] = SMOKE if options.smoke else {"num_chains": 2000}
    found = stationary_law(build(), minima=minima, **arguments | few, seed=0)
    kept.write_text(json.dumps(found.to_dict(options.out)))
    return found


def table(found: Any) -> None:
    """What the page states."""
    print(found)
    print(f"  {found.notes[0]}; burn-in {found.burn_in:,}, then {found.num_steps:,} steps")
    print("  det H", found.determinants.tolist(), "T", found.well_temperatures.tolist())
    print("  escapes", found.num_escapes.tolist(), "drifts", found.drifts.tolist())
    for name in (*found.predictions, *found.time_predictions):
        ratio, low, high = found.departure(name)
        ends = ", ".join(f"{r:.3f} ({a:.3f} to {b:.3f})" for r, a, b in zip(ratio, low, high, strict=True))
        p = found.p_value(name).tolist()
        print(f"  {name}: {found.prediction(name).tolist()} measured over it {ends}, p {p}")


def main() -> None:
    """Measure, print, draw."""
    parser = parser_of(__doc__, tuple(SECTIONS), "runs/benchmark-law")
    parser.add_argument("--figures", type=Path, help="folder of the pictures")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sections or SECTIONS:
        found = section(name, options)
        table(found)
        if options.figures and name in FIGURES:
            plot(found, options.figures / FIGURES[name])


if __name__ == "__main__":
    main()
