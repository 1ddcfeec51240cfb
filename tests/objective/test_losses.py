"""Losses per example, by name and by callable, in each shape that networks give."""

import functools

import pytest
import torch
import torch.nn.functional as F
from tests.networks import Outputs, attention, images, mlp, tokens, vectors
from torch import nn

from thalweg.objective.losses import cross_entropy, mse
from thalweg.objective.objective import Objective


def per_example(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


class OwnLoss(nn.Module):
    """A loss module with class weights, which follow the objective's dtype."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))

    def forward(self, outputs, targets):
        return F.cross_entropy(outputs, targets, weight=self.weight, reduction="none")


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        per_example,
        functools.partial(F.cross_entropy, reduction="none"),
        nn.CrossEntropyLoss(reduction="none"),
        lambda model, batch: per_example(model(batch[0]), batch[1]),
        lambda net, b: per_example(net(b[0]), b[1]),
    ],
)
def test_every_way_to_say_cross_entropy(loss):
    model, (x, y) = mlp(), vectors(21)
    objective = Objective(model, (x, y), loss=loss, micro_batch=5)
    assert objective.value() == pytest.approx(float(F.cross_entropy(model(x), y).detach()), rel=1e-13)
    named = Objective(model, (x, y), micro_batch=5)
    assert torch.allclose(objective.gradient(), named.gradient(), rtol=1e-12, atol=1e-15)
    assert (objective.evaluate().accuracy is not None) == (loss == "cross_entropy")


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), F.cross_entropy, F.mse_loss, nn.MSELoss()])
def test_a_loss_that_is_a_mean_already_is_refused_with_the_remedy(loss):
    x, y = vectors(21)
    if loss is F.mse_loss or isinstance(loss, nn.MSELoss):
        y = F.one_hot(y, 3).double()
    message = r"must return one loss per example, shape \(21,\), got shape \(\) .*reduction='none'"
    with pytest.raises(ValueError, match=message):
        Objective(mlp(), (x, y), loss=loss)


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda outputs, targets: outputs, r"shape \(21, 3\)"),
        (lambda outputs, targets: outputs[:, :1], r"shape \(21, 1\)"),
        (lambda outputs, targets: outputs[:-1, 0], r"shape \(20,\)"),
        (lambda outputs, targets: 1.0, "float"),
        (lambda outputs, targets: None, "NoneType"),
        (lambda model, batch: model(batch[0]).sum(), r"shape \(\)"),
    ],
)
def test_losses_of_another_shape_are_refused(loss, got):
    with pytest.raises(ValueError, match=rf"one loss per example, shape \(21,\), got {got}"):
        Objective(mlp(), vectors(21), loss=loss)


def test_a_mean_over_a_single_example_is_refused_too():
    with pytest.raises(ValueError, match=r"shape \(1,\), got shape \(\)"):
        Objective(mlp(), vectors(1), loss=nn.CrossEntropyLoss())


@pytest.mark.parametrize(("loss", "error"), [("hinge", ValueError), (3, TypeError), (None, TypeError)])
def test_unknown_losses_are_refused(loss, error):
    with pytest.raises(error, match="`loss` must be"):
        Objective(mlp(), vectors(21), loss=loss)


def test_mse_is_the_mean_over_the_outputs_of_an_example():
    model, (x, y) = mlp(), vectors(21)
    targets = F.one_hot(y, 3).double()
    objective = Objective(model, (x, targets), loss="mse", micro_batch=5)
    assert objective.value() == pytest.approx(float(F.mse_loss(model(x), targets).detach()), rel=1e-13)
    scalar = nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)).double()
    value = Objective(scalar, (x, x[:, 0]), loss="mse", micro_batch=5).value()
    assert value == pytest.approx(float(F.mse_loss(scalar(x), x[:, 0]).detach()), rel=1e-13)
    image = nn.Conv2d(1, 2, 3, padding=1).double()
    pictures = images(21)[0]
    wanted = torch.cat([pictures, -pictures], dim=1)
    value = Objective(image, (pictures, wanted), loss="mse", micro_batch=5).value()
    assert value == pytest.approx(float(F.mse_loss(image(pictures), wanted).detach()), rel=1e-13)


def test_mse_never_broadcasts():
    x, _ = vectors(21)
    with pytest.raises(ValueError, match=r"one shape, got \(21, 3\) and \(21,\); reshape the targets"):
        Objective(mlp(), (x, x[:, 0]), loss="mse")


def test_soft_labels():
    model, (x, _) = mlp(), vectors(21)
    soft = torch.softmax(torch.randn(21, 3, dtype=torch.float64), 1)
    objective = Objective(model, (x, soft), micro_batch=5)
    assert objective.value() == pytest.approx(float(F.cross_entropy(model(x), soft).detach()), rel=1e-13)
    right = (model(x).argmax(1) == soft.argmax(1)).double().mean()
    assert objective.evaluate().accuracy == pytest.approx(float(right))
    assert objective.to_dtype(torch.float32).value() == pytest.approx(objective.value(), rel=1e-5)


def segmentation():
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3, padding=1).double()
    return model, images(21)[0], torch.randint(3, (21, 6, 6))


def test_segmentation_is_the_mean_over_pixels():
    model, x, y = segmentation()
    objective = Objective(model, (x, y), micro_batch=5)
    assert objective.value() == pytest.approx(float(F.cross_entropy(model(x), y).detach()), rel=1e-13)
    assert objective.evaluate().accuracy == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


def test_soft_segmentation():
    model, x, y = segmentation()
    soft = F.one_hot(y, 3).movedim(-1, 1).double() * 0.9 + 0.1 / 3
    objective = Objective(model, (x, soft), micro_batch=5)
    assert objective.value() == pytest.approx(float(F.cross_entropy(model(x), soft).detach()), rel=1e-13)
    assert objective.evaluate().accuracy == pytest.approx(float((model(x).argmax(1) == y).double().mean()))


def test_positions_that_are_ignored_do_not_dilute_an_example():
    model, x, y = segmentation()
    y[:, :3] = -100  # half of each image
    y[4] = -100  # all of one
    objective = Objective(model, (x, y), micro_batch=5)
    losses = objective.evaluate_points([(objective.params, None)]).example_losses[0]
    outputs = model(x).detach()
    for i in range(21):
        alone = 0.0 if i == 4 else float(F.cross_entropy(outputs[i : i + 1], y[i : i + 1]))
        assert float(losses[i]) == pytest.approx(alone, rel=1e-12)
    right = (outputs.argmax(1) == y)[:, 3:].double().mean((1, 2))
    right[4] = 0
    assert objective.evaluate().accuracy == pytest.approx(float(right.mean()), rel=1e-6)


class PerToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def forward(self, ids):
        return Outputs(self.head(self.embed(ids)).movedim(-1, 1))


def test_tokens_and_outputs_with_logits():
    torch.manual_seed(0)
    model, (ids, _) = PerToken().double(), tokens(21)
    objective = Objective(model, (ids, ids.roll(1, 1)), micro_batch=5)
    expected = F.cross_entropy(model(ids).logits, ids.roll(1, 1))
    assert objective.value() == pytest.approx(float(expected.detach()), rel=1e-13)


def test_a_loss_module_follows_the_dtype_and_is_not_changed(unchanged):
    loss, data = OwnLoss(), vectors(21)
    with unchanged(loss, *data):
        objective = Objective(mlp(), data, loss=loss, micro_batch=5)
        single = objective.to_dtype(torch.float32)
        assert single.value() == pytest.approx(objective.value(), rel=1e-5)
        objective.gradient()


def test_three_tensors_are_two_inputs_and_targets():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, a, b):
            return self.linear(a) - 2 * self.linear(b)

    model, (x, y) = TwoInputs().double(), vectors(21)
    objective = Objective(model, (x, x.flip(1), y), micro_batch=5)
    expected = F.cross_entropy(model(x, x.flip(1)), y)
    assert objective.value() == pytest.approx(float(expected.detach()), rel=1e-13)


@pytest.mark.parametrize("key", ["labels", "targets", "target", "label", "y"])
def test_dictionaries_name_their_targets(key):
    model, (ids, y) = attention(), tokens(21)
    named = Objective(model, {key: y, "ids": ids}, micro_batch=5)
    assert named.value() == pytest.approx(Objective(model, (ids, y), micro_batch=5).value(), rel=1e-14)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(reduction="none"), per_example])
def test_a_torch_loss_takes_outputs_and_targets_of_dictionaries_too(loss):
    model, (ids, y) = attention(), tokens(21)
    value = Objective(model, {"ids": ids, "labels": y}, loss=loss, micro_batch=5).value()
    assert value == pytest.approx(Objective(model, (ids, y), micro_batch=5).value(), rel=1e-14)


@pytest.mark.parametrize("extra", [{}, {"labels": 0, "y": 0}])
def test_dictionaries_without_one_target_are_refused(extra):
    ids, y = tokens(21)
    data = {"ids": ids, **dict.fromkeys(extra, y)}
    with pytest.raises(ValueError, match="needs exactly one of the keys labels, targets"):
        Objective(attention(), data)


def test_a_single_tensor_needs_a_loss_of_the_model():
    x, _ = vectors(21)
    with pytest.raises(ValueError, match=r"needs inputs and targets, got one tensor; or pass a loss"):
        Objective(mlp(), x)
    objective = Objective(
        mlp(), x, loss=lambda model, batch: (model(batch[0])).square().sum(1), micro_batch=5
    )
    assert objective.value() == pytest.approx(float(mlp()(x).square().sum(1).mean().detach()), rel=1e-13)


@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 4), (7, 3, 4, 2)])
def test_cross_entropy_per_example_against_torch(shape):
    torch.manual_seed(0)
    outputs, targets = torch.randn(shape), torch.randint(3, shape[:1] + shape[2:])
    ours = cross_entropy(outputs, targets)
    assert ours.shape == (7,)
    for i in range(7):
        assert float(ours[i]) == pytest.approx(float(F.cross_entropy(outputs[i : i + 1], targets[i : i + 1])))


@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 3, 4)])
def test_mse_per_example_against_torch(shape):
    torch.manual_seed(0)
    outputs, targets = torch.randn(shape), torch.randn(shape)
    ours = mse(outputs, targets)
    assert ours.shape == (7,)
    for i in range(7):
        assert float(ours[i]) == pytest.approx(float(F.mse_loss(outputs[i], targets[i])))


def picky(outputs, targets):
    if len(targets) < 5:
        raise KeyError("a short batch")
    return per_example(outputs, targets)


def wrong_shape(outputs, targets):
    return outputs @ outputs


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda outputs, targets: 1 / 0, r"`loss` .*:.*<lambda> raised ZeroDivisionError: division by zero"),
        (
            lambda model, batch: model.nothing,
            r"`loss` .*<lambda> raised AttributeError: .*no attribute 'nothing'",
        ),
        (
            wrong_shape,
            r"`data` must fit `model` and `loss`, but .* and .*:wrong_shape gave RuntimeError: mat1",
        ),
    ],
)
def test_what_an_own_loss_raises_names_it(loss, message):
    with pytest.raises(ValueError, match=message) as caught:
        Objective(mlp(), vectors(21), loss=loss)
    assert caught.value.__cause__ is not None


def test_what_an_own_loss_raises_on_the_last_batch_names_it_too():
    with pytest.raises(ValueError, match=r"`loss` .*:picky raised KeyError: 'a short batch'"):
        Objective(mlp(), vectors(21), loss=picky, micro_batch=6)


def late(outputs, targets):
    if bool((targets == 2).any()):
        raise KeyError("a third class")
    return per_example(outputs, targets)


def test_what_an_own_loss_raises_later_names_it_too():
    x, y = vectors(21)
    y = torch.where(torch.arange(21) == 10, 2, y.clamp(max=1))
    objective = Objective(mlp(), (x, y), loss=late, micro_batch=6)
    with pytest.raises(ValueError, match=r"`loss` .*:late raised KeyError: 'a third class'"):
        objective.value()


def test_cross_entropy_without_classes_is_refused():
    x, _ = vectors(21)
    single = torch.nn.Linear(5, 1).double()
    with pytest.raises(ValueError, match=r"needs a model with two outputs or more, got 1, .*loss='mse'"):
        Objective(single, (x, torch.randn(21, 1, dtype=torch.float64)))
    with pytest.raises(ValueError, match="class probabilities that are not negative and sum to 1"):
        Objective(mlp(), (x, torch.randn(21, 3, dtype=torch.float64)))
    Objective(mlp(), (x, torch.full((21, 3), 1 / 3, dtype=torch.float64)))


@pytest.mark.parametrize("wrong", [3, -1])
def test_classes_the_model_does_not_have_are_refused_at_once(wrong):
    x, y = vectors(21)
    y[17] = wrong
    with pytest.raises(
        ValueError, match=f"`data` must have classes from 0 to 2, .*, but example 17 has {wrong}"
    ):
        Objective(mlp(), (x, y), micro_batch=6)
    y[17] = -100
    Objective(mlp(), (x, y), micro_batch=6).value()


def test_named_losses_are_known_to_be_convex():
    convex = [
        Objective(mlp(), vectors(21), loss=loss).loss.is_convex_in_outputs
        for loss in ("cross_entropy", per_example)
    ]
    assert convex == [True, False]
