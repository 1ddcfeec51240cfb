"""Samples by importance: unbiased, independent, of whole batches where batches share statistics."""

from __future__ import annotations

import pytest
import torch
from tests.networks import cnn, images, mlp, vectors
from tests.solvers.curved_logits import hessian as curved_hessian
from tests.solvers.curved_logits import noisy_labels
from tests.solvers.planted import planted, scattered
from tests.solvers.softmax_regression import examples, hessian, regression

from thalweg.core.rng import generator
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers import sampling_design
from thalweg.solvers.sampling_design import FLOOR, PROXY, SamplingDesign


def test_scores_are_the_curvature_of_the_loss_in_the_outputs() -> None:
    """The trace of the loss's second derivative in the logits, the norm of the first, a tenth of the mean."""
    model, (x, y) = mlp(0), vectors(21)
    design = SamplingDesign.of(Objective(model, (x, y)))
    curvature = torch.func.vmap(torch.func.hessian(torch.nn.functional.cross_entropy))
    logits = model(x).detach()
    slope = torch.func.vmap(torch.func.grad(torch.nn.functional.cross_entropy))(logits, y)
    scores = curvature(logits, y).diagonal(dim1=1, dim2=2).sum(1) + slope.norm(dim=1)
    expected = scores + FLOOR * scores.mean()
    torch.testing.assert_close(design.probabilities, expected / expected.sum())
    assert design.proxy == PROXY


def test_examples_lie_by_class_then_runner_up_then_score() -> None:
    x, y = examples(300)
    objective = regression(x, y)
    design = SamplingDesign.of(objective)
    p = (x @ objective.params.view(3, -1).T).softmax(1)
    first, second = p.topk(2, 1).indices.T
    keys = [(int(first[i]), int(second[i]), round(float(design.probabilities[i]), 12)) for i in design.order]
    assert keys == sorted(keys)


@pytest.mark.parametrize("kind", ["regression", "curved"])
def test_a_group_is_unbiased_for_the_matrix(kind: str) -> None:
    """The mean of 4,000 groups lies within its own standard error of the matrix, entry by entry."""
    if kind == "regression":
        objective, matrix = regression(*examples(700)), hessian
    else:
        objective, matrix = noisy_labels(700, wrong=0.1), curved_hessian
    design, rng = SamplingDesign.of(objective), generator(1, "test")
    samples = torch.stack([matrix(design.group(rng)) for _ in range(4000)])
    error = samples.std(0) / len(samples) ** 0.5
    z = ((samples.mean(0) - matrix(objective)) / error).abs()
    assert float(z.max()) < 4.5
    assert float(z.square().mean()) < 2  # a bias would lift all of them


@pytest.mark.parametrize("wrong", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["regression", "curved"])
def test_importance_beats_uniform_sampling_with_right_and_with_wrong_labels(kind: str, wrong: float) -> None:
    """The variance of the top Rayleigh quotient, also where the Hessian hangs on the labels."""
    if kind == "regression":
        objective, matrix = regression(*examples(3000, wrong=wrong)), hessian
    else:
        objective, matrix = noisy_labels(3000, wrong), curved_hessian
    v = torch.linalg.eigh(matrix(objective)).eigenvectors[:, -1]
    by_score = SamplingDesign.of(objective)
    even = torch.full((3000,), 1 / 3000, dtype=torch.float64)
    uniform = SamplingDesign(objective, even, torch.randperm(3000), 1, "uniform")
    spreads = [
        float(torch.stack([v @ matrix(d.group(rng)) @ v for _ in range(400)]).var())
        for d, rng in ((by_score, generator(0, "a")), (uniform, generator(0, "b")))
    ]
    assert spreads[0] < 0.6 * spreads[1]


def test_products_of_a_group_are_those_of_its_weighted_mean() -> None:
    objective = regression(*examples(500))
    group = SamplingDesign.of(objective).group(generator(0, "test"))
    v = torch.randn(objective.space.dim, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(Hessian(objective).over(group) @ v, hessian(group) @ v)


def test_groups_repeat_with_the_seed_and_differ_within_a_stream() -> None:
    design = SamplingDesign.of(regression(*examples(500)))
    one, two = (design.groups(generator(0, "test"), 2) for _ in range(2))
    assert [g.describe() for g in one] == [g.describe() for g in two]
    assert one[0].describe()["data"] != one[1].describe()["data"]


def test_an_example_that_outweighs_a_stratum_comes_in_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stratum of one: three quarters of the curvature in one example, and the group stays unbiased."""
    monkeypatch.setattr(sampling_design, "GROUP_SIZE", 8)
    objective = regression(*examples(40))
    probabilities = torch.full((40,), 0.25 / 39, dtype=torch.float64)
    probabilities[7] = 0.75
    design = SamplingDesign(objective, probabilities, torch.arange(40), 1, "by hand")
    rng = generator(0, "test")
    drawn = [
        int((group._examples.batch[0] == objective._examples.batch[0][7]).all(1).sum())
        for group in design.groups(rng, 400)
    ]  # type: ignore[index]
    assert min(drawn) >= 5
    assert max(drawn) <= 7
    assert sum(drawn) / 400 == pytest.approx(6, abs=0.1)


def test_batches_are_drawn_whole_and_unbiased() -> None:
    """Batches of 8, 8 and 5: 3,000 draws give the gradient of the whole partition."""
    objective = Objective(cnn(), images(21), batch_norm="batch", batch_size=8)
    design, rng = SamplingDesign.of(objective), generator(0, "test")
    groups = design.groups(rng, 3000)
    assert {g.num_examples for g in groups} == {8, 5}
    kinds: dict[str, tuple[int, torch.Tensor]] = {}
    for group in groups:
        key = str(group.describe()["data"])
        count, gradient = kinds.get(key, (0, None))
        kinds[key] = (count + 1, group.gradient() if gradient is None else gradient)
    mean = sum(count * gradient for count, gradient in kinds.values()) / len(groups)
    assert len(kinds) == 3
    torch.testing.assert_close(mean, objective.gradient(), rtol=0.05, atol=0.05 * float(mean.abs().max()))
    shares = sorted(count / 3000 for count, _ in kinds.values())
    assert shares == pytest.approx(sorted(design.probabilities.tolist()), abs=0.03)


@pytest.mark.parametrize("kind", ["mse", "callable", "certain"])
def test_without_a_proxy_draws_are_uniform(kind: str) -> None:
    x, y = vectors(21)
    if kind == "callable":
        objective = planted(scattered(torch.ones(4).double(), 21))
    elif kind == "mse":
        objective = Objective(mlp(0), (x, torch.nn.functional.one_hot(y, 3).double()), loss="mse")
    else:
        model = torch.nn.Linear(5, 3).double()
        with torch.no_grad():
            model.weight.zero_()
            model.bias.copy_(torch.tensor([2000.0, 0.0, 0.0]))
        objective = Objective(model, (x, torch.zeros_like(y)))
    design = SamplingDesign.of(objective)
    assert design.proxy == "uniform"
    assert design.probabilities.tolist() == pytest.approx([1 / 21] * 21)
