"""Settings of the paper's study on real data with as little work as still passes through every stage."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "data": {"num_train": 256, "num_test": 100},
    "training": {
        "epochs": 2,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "batch_size": 64,
        "step_size": 1,
        "gamma": 0.5,
    },
    "curvature": {"num_examples": 32, "rtol": 0.3, "certify_rtol": 0.9},
    "sharpness": {
        "num_examples": 32,
        "radius": 0.05,
        "num_steps": 2,
        "num_restarts": 1,
        "spread_batch_sizes": [16],
        "spread_num_batches": 2,
    },
    "slices": {"num_examples": 70, "num_points": 3, "span": 0.5, "num_directions": 1},
    "path": {"num_examples": 64 + 20, "num_points": 3},
}
