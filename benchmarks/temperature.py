"""SGD's temperature on trained networks: the paper's, and a small one over a grid of rates and batch sizes.

Both on Fashion-MNIST's first training images, with an L2 term of 1e-3, without which cross-entropy has no
minimum, and brought to one by L-BFGS over all of them.

- `paper`: A1 from its checkpoint (`--checkpoint`), 2,048 images, single precision, running statistics; 400
  evaluations, so that it is nearly one. Then one run with the paper's momentum, at 1.6 times its lr / B, in
  batches of 8, whose steps cost least.
- `grid`: 196 inputs (images pooled by 2), 16 tanh units, 10 classes, P = 3,322, 2,000 images, double
  precision; to a gradient of 1e-8, and a Hessian without an eigenvalue below nought. Then fifteen runs.

    python benchmarks/temperature.py --checkpoint runs/paper/checkpoints/A1-.../model.safetensors
    python benchmarks/temperature.py grid --figures docs/images
    python benchmarks/temperature.py --smoke          # every stage on next to nothing: supports no conclusion

Results and minima are kept in `--out`: what is there is not done again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from processes import parser_of
from scipy.optimize import minimize
from torch import Tensor, nn

from thalweg.analyses.temperature_scaling import temperature_scaling
from thalweg.analyses.temperature_scaling_result import TemperatureScaling
from thalweg.core.measurement import Measurement
from thalweg.data import fashion_mnist
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.measures.dynamics.sgd_temperature import sgd_temperature
from thalweg.models.small_cnn import SmallCNN
from thalweg.objective.objective import Objective
from thalweg.report.plot import plot
from thalweg.training.checkpoint import load_weights

SECTIONS = ("paper", "grid")
WEIGHT_DECAY = 1e-3
FIGURES = {"paper": "temperature.png", "grid": "temperature_scaling.png"}

# Evaluations on the way to the minimum, and the arguments of the runs.
EVALUATIONS = {"paper": 400, "grid": 20_000}
PAPER: dict[str, Any] = {
    "lr": 0.001, "momentum": 0.9, "batch_size": 8, "num_directions": 3, "num_steps": 2400, "burn_in": 200,
    "loss_every": 120, "rtol": 2e-2,
}  # fmt: skip
GRID: dict[str, Any] = {
    "lrs": [0.005, 0.01, 0.02, 0.04, 0.08], "batch_sizes": [8, 32, 128], "num_steps": 6000, "burn_in": 600,
    "loss_every": 40,
}  # fmt: skip
SMOKE: dict[str, Any] = {"num_steps": 40, "burn_in": 5, "min_effective_size": 1.0, "drift_level": 1e-6}


def paper_objective(data: tuple[Tensor, Tensor], checkpoint: Path | None) -> Objective:
    """The paper's network with batch norm as it was trained, or as it is at the start."""
    model = SmallCNN(batch_norm=True)
    if checkpoint:
        load_weights(checkpoint, model)
    return Objective(model.eval(), data, batch_norm="running", weight_decay=WEIGHT_DECAY)


def grid_objective(data: tuple[Tensor, Tensor]) -> Objective:
    """A network so small that its minimum can be had to rounding."""
    images = nn.functional.avg_pool2d(data[0].double(), 2).flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(196, 16), nn.Tanh(), nn.Linear(16, 10))
    return Objective(model.double(), (images, data[1]), weight_decay=WEIGHT_DECAY, micro_batch=500)


def minimised(objective: Objective, evaluations: int) -> Objective:
    """At the point that L-BFGS comes to."""

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        at = objective.at(torch.from_numpy(point))
        return at.value(), at.gradient().double().numpy()

    options = {"maxcor": 20 if objective.dtype == torch.float32 else 50, "maxfun": evaluations}
    options |= {"maxiter": evaluations, "ftol": 0, "gtol": 1e-8}
    start = objective.params.double().numpy()
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return objective.at(torch.from_numpy(found.x))


def section(name: str, options: Any) -> Measurement:
    """The result of one, from its file if it is there."""
    kept = options.out / f"{name}.json"
    if kept.exists():
        return Measurement.from_dict(json.loads(kept.read_text()), options.out)
    num_examples = 200 if options.smoke else {"paper": 2048, "grid": 2000}[name]
    x, y = fashion_mnist.load("train", options.data_root)
    data = (x[:num_examples], y[:num_examples])
    objective = paper_objective(data, options.checkpoint) if name == "paper" else grid_objective(data)
    point = options.out / f"{name}-minimum.pt"
    if not point.exists():
        torch.save(minimised(objective, 5 if options.smoke else EVALUATIONS[name]).params, point)
    objective = objective.at(torch.load(point, weights_only=True))
    few = SMOKE if options.smoke else {}
    if name == "paper":
        found: Measurement = sgd_temperature(objective, **PAPER | few, seed=0)
    else:
        found = temperature_scaling(objective, **GRID | few, seed=0)
    print(objective.evaluate(), f"gradient {float(objective.gradient().norm()):.2g}")
    if name == "grid":
        print("smallest eigenvalue", top_eigenvalues(objective, which="bottom", seed=0))
    kept.write_text(json.dumps(found.to_dict(options.out)))
    return found


def table(found: Any) -> None:
    """What the page states."""
    print(found)
    for run in found.runs if isinstance(found, TemperatureScaling) else [found]:
        predicted, (low, high) = run.predicted_value, run.interval(0.95)
        least, most = run.excess_interval(0.95)
        print(f"lr {run.lr:g}, B {run.batch_size}, {run.outcome}")
        print(f"  T {run.value:.4g}, predicted {predicted:.4g}")
        print(f"  ratio {run.value / predicted:.3g}, {low / predicted:.3g} to {high / predicted:.3g}")
        print(f"  noise grown {float(run.noise_growth.mean()):.3g}; loss {run.excess_outcome}")
        print(f"  excess {run.excess_loss:.4g}, {least:.4g} to {most:.4g}")
        print(f"  predicted {run.excess_low:.4g} to {run.excess_high:.4g}")
    if isinstance(found, TemperatureScaling):
        low, high = found.exponent_intervals(0.95)
        print("exponents of lr and 1 / B", found.exponents.tolist(), low.tolist(), high.tolist())
        print("holds up to", found.holds_up_to, "p", found.p_value, found.interval(0.95))


def main() -> None:
    """Measure, print, draw."""
    parser = parser_of(__doc__, SECTIONS, "runs/benchmark-temperature")
    parser.add_argument("--checkpoint", type=Path, help="of A1: model.safetensors")
    parser.add_argument("--figures", type=Path, help="folder of the pictures")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.sections or SECTIONS:
        found = section(name, options)
        table(found)
        if options.figures:
            plot(found, options.figures / FIGURES[name])


if __name__ == "__main__":
    main()
