"""The tasks of `benchmarks/barriers.py`, each in a process of its own: train a network, measure a pair."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from processes import Result
from torch import Tensor, nn

from thalweg.data import fashion_mnist
from thalweg.measures.connectivity.bezier_path import bezier_path
from thalweg.measures.connectivity.linear_path import linear_path
from thalweg.measures.connectivity.path import Path as LossPath
from thalweg.measures.connectivity.permutation import PermutationAlignment, align_permutation
from thalweg.models.registry import seeded_model
from thalweg.models.small_cnn import HIDDEN_UNITS, IMAGE_SIZE, SmallCNN
from thalweg.objective.objective import Objective
from thalweg.training.checkpoint import load_weights
from thalweg.training.trainer import WEIGHTS_FILE, TrainConfig, train

Data = tuple[Tensor, Tensor]

PAPER_WIDTH = 32

# Of every network's training: a kill costs some seconds.
CHECKPOINT_EVERY = 200


class Setting:
    """The data, and where networks are, as the options of a task say."""

    def __init__(self, options: Result) -> None:
        self.options = options
        loaded = [fashion_mnist.load(split, options["data_root"]) for split in ("train", "test")]
        self.train, self.test = (
            (x[:n], y[:n]) for (x, y), n in zip(loaded, options["num_examples"], strict=True)
        )
        self.networks = Path(options["networks"])

    def first(self, num_examples: int) -> Data:
        """So many of the training examples."""
        return self.train[0][:num_examples], self.train[1][:num_examples]

    @property
    def calibration(self) -> Data:
        """What every recalibration is over."""
        return self.first(self.options["calibration"])

    def part(self, split: str) -> Data:
        """What barriers are over."""
        return self.first(self.options["subset"]) if split == "train" else self.test

    def folder(self, width: int, seed: int) -> Path:
        """Of one network."""
        return self.networks / f"width{width}-seed{seed}"

    def network(self, width: int, seed: int) -> nn.Module:
        """As it was trained."""
        model = build(width, seed)
        load_weights(self.folder(width, seed) / WEIGHTS_FILE, model)
        return model.eval()

    def objective(self, model: nn.Module, mode: Any, data: Data) -> Objective:
        """Cross-entropy; recalibrated statistics are of training examples whatever the data are."""
        return Objective(model, data, batch_norm=mode, batch_size=128, calibration_data=self.calibration)


def build(width: int, seed: int) -> nn.Module:
    """The paper's CNN with batch norm, every hidden layer `width` / 32 times as wide."""

    def scaled() -> nn.Module:
        model = SmallCNN(batch_norm=True, width=width)
        if width != PAPER_WIDTH:
            hidden = HIDDEN_UNITS * width // PAPER_WIDTH
            model.dense1 = nn.Linear(2 * width * (IMAGE_SIZE // 4) ** 2, hidden)
            model.dense2 = nn.Linear(hidden, 10)
        return model

    return seeded_model(scaled, seed, "model", f"width {width}")


def network(options: Result) -> Result:
    """Train one as the paper does, unless it is there; at width 1 seeds 1 and 2 are the paper's A1 and A2."""
    setting = Setting(options)
    width, seed = options["width"], options["seed"]
    history = train(
        build(width, seed),
        setting.train,
        setting.test,
        TrainConfig(seed=seed, epochs=options["epochs"]),
        checkpoint_dir=setting.folder(width, seed),
        checkpoint_every=CHECKPOINT_EVERY,
    )
    last = {name: float(getattr(history, name)[-1]) for name in ("train_loss", "test_loss", "test_accuracy")}
    return {**last, "num_params": history.provenance["objective"]["num_params"]}


def pair(options: Result) -> Result:
    """Everything of one pair of networks: lines in each mode, as they are and aligned, and a curve."""
    setting = Setting(options)
    models = [setting.network(options["width"], seed) for seed in options["seeds"]]
    a, b = (setting.objective(model, "running", setting.part("train")) for model in models)
    aligned = {
        method: align_permutation(a, b, method=method, seed=0)  # type: ignore[arg-type]
        for method in options["aligned"]["train"]
        if method != "none"
    }
    rows = []
    for split, names in options["aligned"].items():
        data = setting.part(split)
        for mode in options["modes"][split]:
            a, b = (setting.objective(model, mode, data) for model in models)
            for name in names:
                end = b.at(aligned[name].params, dict(aligned[name].buffers)) if name in aligned else b
                line = linear_path(a, end, num_points=options["num_points"], population=True)
                rows.append({"split": split, "mode": mode, "path": "line", "aligned": name, **numbers(line)})
    if options["num_steps"]:
        rows += curve(setting, models)
    return {
        "seeds": options["seeds"],
        "num_params": a.space.dim,
        "rows": rows,
        "alignments": {name: matching(found) for name, found in aligned.items()},
        "check": check(setting, models, aligned, rows) if options["check"] else None,
    }


def curve(setting: Setting, models: list[nn.Module]) -> Iterator[Result]:
    """A Bezier curve of one bend, trained on training examples and evaluated where the lines are."""
    options = setting.options
    data = setting.first(options["curve_examples"])
    ends = [setting.objective(model, "recalibrated", data) for model in models]
    found = bezier_path(*ends, num_points=3, num_steps=options["num_steps"], seed=0)
    for split in ("train", "test"):
        there = bezier_path(
            *(setting.objective(model, "recalibrated", setting.part(split)) for model in models),
            num_points=options["num_points"],
            num_steps=0,
            control_points=found.control_points,
            population=True,
            seed=0,
        )
        length = there.arc_length / there.distance
        row = {"split": split, "mode": "recalibrated", "path": "curve", "aligned": "none", "length": length}
        yield {**row, **numbers(there)}


def numbers(path: LossPath) -> Result:
    """What is kept of a path."""
    error = path.error.data
    return {
        "barrier": path.barrier,
        "missed": path.error.grid,
        "data_error": error and error.value,
        "alpha": path.barrier_alpha,
        "losses": path.losses.tolist(),
        "accuracies": path.accuracies.tolist(),
    }


def matching(found: PermutationAlignment) -> Result:
    """What is kept of an alignment."""
    return {
        "before": found.distance_before,
        "after": found.value,
        "distances": found.distances.tolist(),
        "moved": [int(found.num_moved.sum()), int(found.num_units.sum())],
    }


# -- the same numbers by other code -------------------------------------------------------------------


def check(
    setting: Setting,
    models: list[nn.Module],
    aligned: Mapping[str, PermutationAlignment],
    rows: list[Result],
) -> float:
    """Largest difference of the losses halfway from those of a plain loop, which knows nothing of ours.

    State dictionaries are averaged, units reordered layer by layer as this one network has them, statistics
    recomputed by torch's own layers in training mode; the permutations alone are taken over.
    """
    worst = 0.0
    halfway = setting.options["num_points"] // 2
    layers = ("conv1", "conv2", "dense1")
    orders = {name: [found.permutations[layer] for layer in layers] for name, found in aligned.items()}
    for row in rows:
        if row["path"] == "line":
            first, second = (copy.deepcopy(model.state_dict()) for model in models)
            if row["aligned"] in orders:
                second = reordered(second, *orders[row["aligned"]])
            middle = copy.deepcopy(models[0])
            middle.load_state_dict(
                {k: (x + second[k]) / 2 if x.is_floating_point() else x for k, x in first.items()}
            )
            plain = mean_loss(middle, setting.part(row["split"]), row["mode"], setting.calibration)
            worst = max(worst, abs(plain - row["losses"][halfway]))
    return worst


def reordered(state: dict[str, Tensor], first: Tensor, second: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    """The network with its channels and hidden units in another order."""
    state = dict(state)
    for layers, order in ((("conv1", "norm1"), first), (("conv2", "norm2"), second), (("dense1",), hidden)):
        for name in [k for k in state if k.startswith(layers) and state[k].ndim]:
            state[name] = state[name][order]
    state["conv2.weight"] = state["conv2.weight"][:, first]
    rows = state["dense1.weight"]
    state["dense1.weight"] = rows.unflatten(1, (len(second), -1))[:, second].flatten(1)
    state["dense2.weight"] = state["dense2.weight"][:, hidden]
    return state


@torch.no_grad()
def mean_loss(model: nn.Module, data: Data, mode: str, calibration: Data) -> float:
    """By torch alone."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if mode == "recalibrated":
        # One layer after the other, each with the statistics of all those before it.
        for norm in norms:
            recalibrate(model.eval(), norm, calibration[0])
    model.eval()
    for norm in norms:
        norm.train(mode == "batch")
    total = math.fsum(
        float(F.cross_entropy(model(x), y, reduction="sum"))
        for x, y in zip(*(t.split(128) for t in data), strict=True)
    )
    return total / len(data[1])


def recalibrate(model: nn.Module, norm: nn.BatchNorm2d, images: Tensor) -> None:
    """Give a layer the mean and the biased variance of what comes to it over all the images."""
    parts: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: parts.append(inputs[0].double().cpu()))
    moments = torch.zeros(2, norm.num_features, dtype=torch.float64)
    size = 0
    for x in images.split(1000):
        model(x)
        seen = parts.pop().movedim(1, 0).flatten(1)
        moments += torch.stack([seen.sum(1), seen.square().sum(1)])
        size += seen.shape[1]
    hook.remove()
    mean = moments[0] / size
    variance = moments[1] / size - mean.square()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


TASKS: dict[str, Callable[[Result], Result]] = {f.__name__: f for f in (network, pair)}
