"""Claims of a study file: what is said of its runs, and how it is asked of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from thalweg.objective.batch_norm import BatchNormMode
from thalweg.study.validation import Table


class _Claim(Table):
    name: str
    text: str = ""
    mode: BatchNormMode = "running"
    moment: str | None = None
    matched_loss: PositiveFloat | None = None
    where: dict[str, bool | int | float | str] = Field(default_factory=dict)
    primary: bool = False
    margin: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> _Claim:
        if self.moment is not None and self.matched_loss is not None:
            raise ValueError("give moment or matched_loss, not both")
        return self

    @property
    def matching(self) -> str:
        """Where the networks are compared: at a moment, or where their training losses agree."""
        return self.moment or "end" if self.matched_loss is None else f"loss = {self.matched_loss:g}"


class ContrastClaim(_Claim):
    """Of two groups of runs: the first one's values are larger, smaller, or the same within `margin`.

    `by` is the field that tells the groups apart, `groups` two of its values. On the scale ``log`` the effect
    is the ratio of geometric means and `margin` a ratio above 1; on ``linear`` a difference, in the unit of
    the measure. `paired` sets runs of one seed and setting against each other.
    """

    kind: Literal["contrast"] = "contrast"
    measure: str
    by: str
    groups: list[bool | int | float | str] = Field(min_length=2, max_length=2)
    expect: Literal["larger", "smaller", "equivalent"]
    scale: Literal["log", "linear"] = "log"
    paired: bool = False

    @model_validator(mode="after")
    def _margin_fits(self) -> ContrastClaim:
        if self.expect == "equivalent" and self.margin is None:
            raise ValueError("a claim of equivalence needs a margin")
        if self.scale == "log" and self.margin is not None and not self.margin > 1:
            raise ValueError(f"margin is a ratio on the log scale and must be above 1, got {self.margin}")
        return self


class CorrelationClaim(_Claim):
    """Over all runs: the measure ranks `ranks` (the gap, say) positively, negatively, or not at all.

    Either may be a quantity of the whole run (`thalweg.study.quantities`). An infinite value, a loss that was
    never reached say, ranks as the largest.

    The statistic is Kendall's tau over all runs, its mean over pairs that differ in one hyperparameter alone
    (``granulated``), or Spearman's rho with the covariates `given` held fixed (``partial``).
    With `than`, another measure, the claim is that the granulated tau is above that one's (``positive``),
    each in the sense that sharper minima have a larger `ranks`: see `thalweg.stats.rank_difference`.
    """

    kind: Literal["correlation"] = "correlation"
    measure: str
    ranks: str = "gap"
    expect: Literal["positive", "negative", "none"]
    statistic: Literal["kendall", "granulated", "partial"] = "kendall"
    given: list[str] = Field(default_factory=list)
    than: str | None = None

    @model_validator(mode="after")
    def _statistic_fits(self) -> CorrelationClaim:
        if (self.statistic == "partial") != bool(self.given):
            what = (
                "partial needs given, the covariates that are"
                if not self.given
                else "given is what partial has"
            )
            raise ValueError(f"statistic: {what} held fixed")
        if self.than is not None and self.statistic != "granulated":
            raise ValueError("than: two measures are compared by the statistic granulated")
        if self.expect == "none" and self.margin is None:
            raise ValueError("a claim of no relation needs a margin")
        if self.margin is not None and not self.margin < 1:
            raise ValueError(f"margin is of a correlation and must be below 1, got {self.margin}")
        return self


class PredictionClaim(_Claim):
    """Over all runs: the features foretell `outcome` of settings that were left out, or they do not.

    The error of predicting it from the hyperparameters and the features is set against that of the
    hyperparameters alone: see `thalweg.stats.held_out_prediction`. ``helps`` claims that it is smaller,
    ``nothing`` that it is not by more than `margin`, a ratio above 1. With `beside` false the features stand
    in the place of the hyperparameters.
    """

    kind: Literal["prediction"] = "prediction"
    features: list[str] = Field(min_length=1)
    outcome: str
    expect: Literal["helps", "nothing"]
    beside: bool = True

    @model_validator(mode="after")
    def _margin_fits(self) -> PredictionClaim:
        if self.expect == "nothing" and self.margin is None:
            raise ValueError("a claim of nothing needs a margin")
        if self.margin is not None and not self.margin > 1:
            raise ValueError(f"margin is a ratio of errors and must be above 1, got {self.margin}")
        if len(set(self.features)) < len(self.features):
            raise ValueError("features: one stands here twice")
        return self

    @property
    def measure(self) -> str:
        """All features as one name, that of the claim's own place among its cells."""
        return " + ".join(self.features)


Claim = ContrastClaim | CorrelationClaim | PredictionClaim
