"""The curvature matrices by the names under which measures take them: ``of="ggn"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from thalweg.core.arguments import check_one_of
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.fisher import Fisher
from thalweg.operators.ggn import GGN
from thalweg.operators.gradient_covariance import GradientCovariance
from thalweg.operators.hessian import Hessian
from thalweg.operators.objective_operator import ObjectiveOperator

# From an objective, how to differentiate, and a seed for matrices that are drawn.
Build = Callable[[Objective, str, int], ObjectiveOperator]

OPERATORS: dict[str, Build] = {
    "hessian": lambda objective, composition, _seed: Hessian(objective, composition),
    "ggn": lambda objective, composition, _seed: GGN(objective, composition),
    "fisher": lambda objective, composition, _seed: Fisher(objective, "exact", composition=composition),
    "monte_carlo_fisher": lambda objective, composition, seed: Fisher(
        objective, "monte_carlo", seed=seed, composition=composition
    ),
    "empirical_fisher": lambda objective, composition, _seed: Fisher(
        objective, "empirical", composition=composition
    ),
    "gradient_covariance": lambda objective, composition, _seed: GradientCovariance(objective, composition),
}


def operator_named(
    of: str,
    objective: Objective,
    params: str | Sequence[str] | None = None,
    *,
    composition: str = "auto",
    seed: int,
) -> ObjectiveOperator:
    """The matrix that a measure calls `of`, over an objective.

    Parameters
    ----------
    of
        One of `OPERATORS`.
    objective
        The function and the point.
    params
        Only the block of the parameters that match, ``"layer4.*"``.
    composition
        ``"auto"``, or one of that matrix's own.
    seed
        Of what is drawn, where the matrix itself is.

    Raises
    ------
    TypeError
        If `objective` is something else, the bare network say, or `params` is.
    ValueError
        If there is none of that name, or it does not exist for this objective, or no parameter matches.
    """
    check_objective("objective", objective)
    check_one_of("of", of, OPERATORS)
    target = objective if params is None else objective.restrict(params)
    return OPERATORS[of](target, composition, seed)
