r"""What a torch optimizer does with a gradient at its present state: preconditioner and stability threshold.

With P constant and a loss of Hessian H all updates below act on the eigenvectors of :math:`P^{-1} H` one by
one, as a linear recurrence of two steps, :math:`x_{t+1} = a x_t - b x_{t-1}`. It is stable as long as
:math:`1 + a + b > 0` (and :math:`|b| < 1`), which fails first as the eigenvalue :math:`\lambda` grows:

=========================  ========================================  =====================================
update                     P                                         stable below
=========================  ========================================  =====================================
gradient descent           I                                         2 / lr
SGD, momentum, dampening   I                                         2 (1 + mu) / ((1 - dampening) lr)
SGD, Nesterov              I                                         2 (1 + mu) / ((1 + 2 mu) lr)
RMSprop                    sqrt(v) + eps                             2 (1 + mu) / lr
Adam                       (1 - beta1^t) (sqrt(v / (1 - beta2^t))    2 (1 + beta1) / ((1 - beta1) lr)
                           + eps)
AdamW, decay w             as Adam                                   (2 - lr w) (1 + beta1) / ((1 - beta1) lr)
=========================  ========================================  =====================================

after t steps. Adam's momentum is an average, hence 1 - beta1; its bias correction belongs to P. With AMSGrad
v is the largest so far. RMSprop's v is less the square of the mean gradient where it is centred.

References
----------
Cohen, Ghorbani, Krishnan, Agarwal, Medapati, Badura, Suo, Cardoze, Nado, Dahl and Gilmer (2022), Adaptive
Gradient Methods at the Edge of Stability, arXiv:2207.14484. Cohen, Kaur, Li, Kolter and Talwalkar (2021),
ICLR: gradient descent, heavy ball, Nesterov.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from thalweg.core.measurement import hash_tensors
from thalweg.measures.sharpness.optimizer_match import Held, held_parameters
from thalweg.objective.objective import Objective

Group = Mapping[str, Any]


@dataclass(frozen=True)
class OptimizerStep:
    """The linear part of an optimizer's update.

    Parameters
    ----------
    lr
        The largest of the groups'.
    preconditioner
        P ``(P,)``, float64 on the CPU, times lr over the group's own; infinite for what is not moved.
    decay
        ``(P,)``: L2 coefficients that the optimizer adds to the gradient.
    threshold
        Largest stable eigenvalue of P^-1 H.
    description
        For provenance.
    """

    lr: float
    preconditioner: Tensor
    decay: Tensor
    threshold: float
    description: dict[str, Any]


def optimizer_step(objective: Objective, optimizer: Optimizer) -> OptimizerStep:
    """Read an optimizer; it is not changed.

    Raises
    ------
    TypeError
        If it is no torch optimizer.
    ValueError
        If it is one whose update is not known here, has taken no step that its preconditioner would come
        from, or does not belong to the objective's model at the objective's point.
    """
    rule, held, lr, threshold = _read(objective, optimizer)
    size = objective.space.dim
    preconditioner, decay = torch.full((size,), math.inf).double(), torch.zeros(size).double()
    for h in held:
        here = slice(h.slot.start, h.slot.stop)
        own = rule.preconditioner(h)
        group_lr = float(h.group["lr"])
        if own is not None and group_lr > 0:
            preconditioner[here] = own.reshape(-1) * (lr / group_lr)
        decay[here] = 0.0 if _is_decoupled(optimizer, h.group) else float(h.group["weight_decay"])
    if bool(preconditioner.isinf().all()):
        raise ValueError(
            f"`optimizer` must have taken a step: this {type(optimizer).__name__} has no state yet, which "
            "its preconditioner comes from."
        )
    if not bool((preconditioner > 0).all()):
        raise ValueError(
            "`optimizer` divides by nought where no gradient has come yet, for its eps is 0; give it a "
            "positive one."
        )
    return OptimizerStep(
        lr=lr,
        preconditioner=preconditioner,
        decay=decay,
        threshold=threshold,
        description={
            "class": type(optimizer).__name__,
            "groups": [_plain(g) for g in optimizer.param_groups],
            "preconditioner": hash_tensors(preconditioner),
            "not_held": [s.name for s in objective.space if s.name not in {h.slot.name for h in held}],
        },
    )


def stability_threshold(objective: Objective, optimizer: Optimizer) -> tuple[float, bool]:
    """The threshold alone, without a preconditioner being made; and whether P is the identity and no decay
    is added, so that P^-1 H is the Hessian itself.

    Raises
    ------
    TypeError, ValueError
        As `optimizer_step`, but for want of a state.
    """
    _, held, lr, threshold = _read(objective, optimizer)
    plain = len(held) == len(objective.space.slots) and all(
        float(h.group["lr"]) == lr and not h.group["weight_decay"] for h in held
    )
    return threshold, plain and type(optimizer) is SGD


def _read(objective: Objective, optimizer: Optimizer) -> tuple[_Rule, list[Held], float, float]:
    """Its rule, what it holds, its largest learning rate and its threshold."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}; of a wrapper pass "
            "the optimizer inside."
        )
    rule = RULES.get(type(optimizer))
    if rule is None:
        raise ValueError(
            f"`optimizer` must be one of {', '.join(c.__name__ for c in RULES)}, got "
            f"{type(optimizer).__name__}, whose update and its stability are not known here; pass "
            "optimizer=None and `lr` for plain gradient descent."
        )
    held = [h for h in held_parameters(objective, optimizer) if h is not None]
    groups = [h.group for h in held]
    _check_groups(groups)
    lr = max(float(g["lr"]) for g in groups)
    if not 0 < lr < math.inf:
        raise ValueError(f"`optimizer` must have a positive learning rate, got {lr}: it takes no step.")
    decoupled = max(float(g["lr"]) * float(g["weight_decay"]) * _is_decoupled(optimizer, g) for g in groups)
    return rule, held, lr, rule.threshold(groups[0], lr, decoupled)


@dataclass(frozen=True)
class _Rule:
    """How one class of optimizers is read: P of a tensor (None if it has no state), and the threshold."""

    preconditioner: Callable[[Held], Tensor | None]
    threshold: Callable[[Group, float, float], float]


def _identity(h: Held) -> Tensor:
    return torch.ones(h.slot.shape, dtype=torch.float64)


def _adam(h: Held) -> Tensor | None:
    if "exp_avg_sq" not in h.state:
        return None
    beta1, beta2 = map(float, h.group["betas"])
    v = _wide(h.state["max_exp_avg_sq" if h.group["amsgrad"] else "exp_avg_sq"])
    t = float(h.state["step"])
    return (1 - beta1**t) * ((v / (1 - beta2**t)).sqrt() + h.group["eps"])


def _rmsprop(h: Held) -> Tensor | None:
    if "square_avg" not in h.state:
        return None
    v = _wide(h.state["square_avg"])
    if h.group["centered"]:
        v = (v - _wide(h.state["grad_avg"]).square()).clamp(min=0)
    return v.sqrt() + h.group["eps"]


def _sgd_threshold(group: Group, lr: float, _decoupled: float) -> float:
    mu = float(group["momentum"])
    if group["nesterov"]:
        return 2 * (1 + mu) / ((1 + 2 * mu) * lr)
    undamped = 1 - float(group["dampening"]) if mu else 1.0
    return 2 * (1 + mu) / (undamped * lr) if undamped > 0 else math.inf


def _adam_threshold(group: Group, lr: float, decoupled: float) -> float:
    beta = float(group["betas"][0])
    return (2 - decoupled) * (1 + beta) / ((1 - beta) * lr)


def _rmsprop_threshold(group: Group, lr: float, _decoupled: float) -> float:
    return 2 * (1 + float(group["momentum"])) / lr


# Of exactly these classes: a sub-class may do something else.
RULES: dict[type[Optimizer], _Rule] = {
    SGD: _Rule(_identity, _sgd_threshold),
    Adam: _Rule(_adam, _adam_threshold),
    AdamW: _Rule(_adam, _adam_threshold),
    RMSprop: _Rule(_rmsprop, _rmsprop_threshold),
}

# What all groups must share for there to be one threshold.
SHARED = ("betas", "momentum", "dampening", "nesterov")


def _check_groups(groups: list[Group]) -> None:
    if any(g.get("maximize") for g in groups):
        raise ValueError("`optimizer` must minimise, got maximize=True: ascent has no such threshold.")
    for key in SHARED:
        values = {str(g.get(key)) for g in groups}
        if len(values) > 1:
            raise ValueError(
                f"`optimizer` must have the same {key} in all its groups, for there to be one threshold, got "
                f"{' and '.join(sorted(values))}."
            )


def _is_decoupled(optimizer: Optimizer, group: Group) -> bool:
    return isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay"))


def _wide(t: Tensor) -> Tensor:
    return t.detach().cpu().double()


def _plain(group: Group) -> dict[str, Any]:
    """A group's numbers and flags."""
    found: dict[str, Any] = {}
    for key, value in group.items():
        if key in ("params", "param_names"):
            continue
        plain = tuple(map(float, value)) if isinstance(value, tuple | list) else value
        found[key] = float(plain) if isinstance(plain, Tensor) else plain
    return found
