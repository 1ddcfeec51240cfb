"""Training against the loop anyone would write: the same tensors, initialisation and batches.

The plain loop is the textbook's: NCHW tensors; convolution, batch norm, ReLU, pooling in that order; an index
a batch (no DataLoader, which would be slower still); evaluation of the training and the test set in batches
of 1,000 after each epoch. A third column gives the plain loop our model, which pools before the ReLU, so that
the share of that single change shows.

    python benchmarks/training.py            # real data, three alternating repeats of one epoch: 4 minutes
    python benchmarks/training.py --quick    # a tenth of the data
    python benchmarks/training.py --epochs 6 # the whole of the paper's training, each repeat another seed

Where the time goes (torch's profiler, A1, one step): convolutions 51 per cent, at the machine's fp32 GEMM
rate; dense layers 5; batch norm 24; pooling 12; the optimiser, ReLU and indexing the rest. So half is at the
limit of arithmetic and the other half, batch norm and pooling, at that of memory, where only fusing the
layers would help. `torch.compile` could, but it needs a C++ compiler on the user's machine and half a minute
a graph, a fifth of the whole run, so the trainer does not use it. The optimiser is 1 per cent: a fused one
gains nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.core.rng import generator
from thalweg.data import fashion_mnist
from thalweg.models.registry import build_model
from thalweg.models.small_cnn import SmallCNN
from thalweg.training.trainer import TrainConfig, train

Data = tuple[Tensor, Tensor]
EVALUATION_BATCH = 1000
FLOAT64_STEPS = 50
# Roundings of 1e-16 have grown to some 1e-13 by then; a learning rate off by 1e-4 shows at 1e-6.
FLOAT64_TOLERANCE = 1e-9
PAPER_EPOCHS = 6
FORWARD_FLOPS = 8.5e6  # of one example, either network


class Textbook(SmallCNN):
    """The same network in the order in which the paper names its layers."""

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(images))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.dense2(F.relu(self.dense1(x.flatten(1))))


@dataclass
class Run:
    """Seconds of one epoch of training and of one evaluation of both sets, and the final test accuracy."""

    training: float
    evaluation: float
    accuracy: float

    @property
    def paper(self) -> float:
        """Seconds of the paper's six epochs: seven evaluations, the first at initialisation."""
        return PAPER_EPOCHS * self.training + (PAPER_EPOCHS + 1) * self.evaluation


def evaluate_plainly(model: nn.Module, data: Data) -> tuple[float, float]:
    """Mean loss and accuracy."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for x, y in zip(*(t.split(EVALUATION_BATCH) for t in data), strict=True):
            outputs = model(x)
            loss += float(F.cross_entropy(outputs, y, reduction="sum"))
            correct += int((outputs.argmax(1) == y).sum())
    return loss / len(data[1]), correct / len(data[1])


def train_plainly(model: nn.Module, train_data: Data, test_data: Data, config: TrainConfig) -> Run:
    """The loop anyone would write."""
    x, y = train_data
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, config.step_size, config.gamma)
    training, evaluation = 0.0, 0.0
    accuracy = 0.0
    for epoch in range(config.epochs + 1):
        if epoch:
            start = time.perf_counter()
            model.train()
            order = torch.randperm(len(y), generator=generator(config.seed, "order", epoch))
            for i in range(0, len(y), config.batch_size):
                index = order[i : i + config.batch_size]
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
            scheduler.step()
            training += time.perf_counter() - start
        start = time.perf_counter()
        evaluate_plainly(model, train_data)
        accuracy = evaluate_plainly(model, test_data)[1]
        evaluation += time.perf_counter() - start
    return Run(training / config.epochs, evaluation / (config.epochs + 1), accuracy)


def train_with_thalweg(model: nn.Module, train_data: Data, test_data: Data, config: TrainConfig) -> Run:
    """Ours; whatever is not a step of training counts as evaluation, set-up and hashing too."""
    steps_per_epoch = -(-len(train_data[1]) // config.batch_size)
    begun, training = time.perf_counter(), 0.0
    epoch_begun = 0.0

    def progress(step: int, num_steps: int) -> None:
        nonlocal training, epoch_begun
        if step % steps_per_epoch == 1:
            epoch_begun = time.perf_counter()
        if step % steps_per_epoch == 0:
            # The clock of an epoch starts after its first step.
            training += (time.perf_counter() - epoch_begun) * steps_per_epoch / (steps_per_epoch - 1)

    history = train(model, train_data, test_data, config, progress=progress)
    rest = time.perf_counter() - begun - training
    return Run(training / config.epochs, rest / (config.epochs + 1), history.value)


def float64_difference(data: Data, width: int) -> tuple[float, int]:
    """Largest difference of a parameter after some steps in float64, ours against the textbook's; the steps.

    They are `FLOAT64_STEPS`, or as many as an epoch of the data has.
    """
    config = TrainConfig(seed=1, epochs=1)
    x, y = (t[: FLOAT64_STEPS * config.batch_size] for t in data)
    x = x.double()
    torch.manual_seed(1)
    ours, plain = (
        SmallCNN(batch_norm=True, width=width).double(),
        Textbook(batch_norm=True, width=width).double(),
    )
    plain.load_state_dict(ours.state_dict())
    tiny = (x[:1], y[:1])
    train(ours, (x, y), tiny, config)
    train_plainly(plain, (x, y), tiny, config)
    pairs = zip(ours.parameters(), plain.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs), -(-len(y) // config.batch_size)


def gemm_rate() -> float:
    """Flop a second of a float32 matrix product: the best of ten."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def main() -> None:
    """Print the table; exit with 1 if the two train differently, by parameters or by accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, a narrow float64 check")
    parser.add_argument("--repeats", type=int, default=3, help="alternating repeats, each with its own seed")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--model", choices=["small_cnn_bn", "small_cnn"], default="small_cnn_bn")
    parser.add_argument("--data-root")
    options = parser.parse_args()

    train_data = fashion_mnist.load("train", options.data_root)
    test_data = fashion_mnist.load("test", options.data_root)
    if options.quick:
        train_data, test_data = ((x[: len(x) // 10], y[: len(y) // 10]) for x, y in (train_data, test_data))
    difference, num_steps = float64_difference(train_data, width=8 if options.quick else 32)
    # First of all: how fast something else is computed is of no interest.
    if not difference <= FLOAT64_TOLERANCE:
        raise SystemExit(
            f"thalweg trains another network than the plain loop: after {num_steps} float64 steps a "
            f"parameter differs by {difference:.1e}, and {FLOAT64_TOLERANCE:.0e} is allowed"
        )

    def textbook(seed: int) -> nn.Module:
        model = Textbook(batch_norm=options.model == "small_cnn_bn")
        model.load_state_dict(build_model(options.model, seed).state_dict())
        return model

    contenders: dict[str, Callable[[int, TrainConfig], Run]] = {
        "plain": lambda seed, c: train_plainly(textbook(seed), train_data, test_data, c),
        "plain, our model": lambda seed, c: train_plainly(
            build_model(options.model, seed), train_data, test_data, c
        ),
        "thalweg": lambda seed, c: train_with_thalweg(
            build_model(options.model, seed), train_data, test_data, c
        ),
    }
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for seed in range(1, options.repeats + 1):
        config = TrainConfig(seed=seed, epochs=options.epochs)
        for name, contender in contenders.items():
            runs[name].append(contender(seed, config))

    num_train, num_test = len(train_data[1]), len(test_data[1])
    print(
        f"{options.model}, {num_train:,} + {num_test:,} examples, float32, batch 128, "
        f"{torch.get_num_threads()} threads, median of {options.repeats} alternating repeats"
    )
    row = "{:<34}" + "{:>18}" * len(runs)
    print(row.format("", *runs))

    def line(label: str, number: Callable[[Run], float], form: str) -> None:
        print(
            row.format(
                label, *(form.format(statistics.median(map(number, column))) for column in runs.values())
            )
        )

    line("training, s an epoch", lambda r: r.training, "{:.2f}")
    line("evaluation of both sets, s", lambda r: r.evaluation, "{:.2f}")
    line("six epochs, seven evaluations, s", lambda r: r.paper, "{:.1f}")
    ratios = {
        name: statistics.median(p.paper / r.paper for p, r in zip(runs["plain"], column, strict=True))
        for name, column in runs.items()
    }
    print(row.format("times faster than plain", *(f"{ratio:.2f}" for ratio in ratios.values())))
    line(f"test accuracy after {options.epochs} epoch(s)", lambda r: r.accuracy, "{:.4f}")
    spread = {name: [r.accuracy for r in column] for name, column in runs.items()}
    print(row.format("its range over the seeds", *(f"{min(a):.4f} to {max(a):.4f}" for a in spread.values())))
    medians = {name: statistics.median(accuracies) for name, accuracies in spread.items()}
    apart, allowed = abs(medians["thalweg"] - medians["plain"]), max(spread["plain"]) - min(spread["plain"])
    print(f"medians {apart:.4f} apart; the plain loop's seeds spread over {allowed:.4f}")
    print(f"largest parameter difference after {num_steps} float64 steps: {difference:.1e}")
    rate = gemm_rate()
    floor = 3 * FORWARD_FLOPS * num_train / rate
    share = floor / statistics.median(r.training for r in runs["thalweg"])
    print(
        f"fp32 GEMM {rate / 1e9:.0f} Gflop/s, so an epoch's floor is {floor:.2f} s; "
        f"thalweg trains at {share:.0%} of that rate"
    )
    if options.repeats > 1 and apart > allowed:
        raise SystemExit("thalweg's networks are not as accurate as the plain loop's: see the medians above")


if __name__ == "__main__":
    main()
