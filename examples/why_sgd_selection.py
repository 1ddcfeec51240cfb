"""How much of the test loss at an equal training loss comes of catching networks at a dip of that loss?

Networks of `why-sgd` are measured when the loss on 512 training images first comes down to a value. Of noisy
iterates that is a chance low: on other images, seen in training as often, the loss is higher. This evaluates
every network of a constant rate on the 512, on the other training images and on the test images, from the
checkpoints that ``thalweg study run why-sgd --preset laptop`` leaves in its folder; in a minute:

    python examples/why_sgd_selection.py runs/why-sgd-laptop > selection.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from thalweg.objective.examples import Examples
from thalweg.objective.objective import Objective
from thalweg.study.networks import first_examples
from thalweg.study.plan import StudyPlan
from thalweg.study.study import Study


def main(folder: Path) -> None:
    """Print a line for each network."""
    plan = StudyPlan(Study.open(folder).spec, folder)
    for run in plan.runs:
        if run.labels["gamma"] != 1.0:
            continue  # the same networks until the decay
        train = plan.train_data(run.settings)
        looked_at = first_examples(train, plan.num_examples(run, None))
        parts = {
            "looked_at": looked_at,
            "other_training": Examples(train.slice(looked_at.num_examples, train.num_examples)),
            "test": plan.test_data,
        }
        for moment in plan.moments:
            if moment.kind != "loss" or not plan.has(run, moment):
                continue
            network = plan.network(run, moment)
            mode = "recalibrated" if run.has_batch_norm else "running"
            losses = {
                name: Objective(
                    network,
                    data,
                    plan.loss,
                    batch_norm=mode,
                    calibration_data=looked_at if run.has_batch_norm else None,
                )
                .evaluate()
                .loss
                for name, data in parts.items()
            }
            print(json.dumps({**run.labels, "moment": moment.name, **losses}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
