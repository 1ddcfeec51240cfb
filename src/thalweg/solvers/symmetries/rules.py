"""Which rule an operation has."""

from __future__ import annotations

from thalweg.solvers.symmetries import shape_rules  # noqa: F401 - registers its rules
from thalweg.solvers.symmetries.arithmetic_rules import pointwise
from thalweg.solvers.symmetries.flow import Call
from thalweg.solvers.symmetries.layer_rules import attention, pooling
from thalweg.solvers.symmetries.rulebook import RULES

POOLING = (*(f"{kind}{n}d" for kind in ("pool", "pad") for n in (1, 2, 3)), "d_with_indices")


def apply_rule(call: Call) -> None:
    """Note what one operation does; one without a rule tells all units apart."""
    if not call.outputs:
        return
    if call.name in RULES:
        RULES[call.name](call)
    elif call.name.startswith("_scaled_dot_product"):
        attention(call)
    elif call.name.endswith(POOLING) or call.name.startswith("upsample_"):
        pooling(call)
    elif call.is_pointwise:
        pointwise(call)
    else:
        call.give_up()
