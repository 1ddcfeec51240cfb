"""What the parts of a study file say of each other, checked: names, places, and what can be asked of what."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from thalweg.analyses import ANALYSES
from thalweg.core.arguments import check_one_of
from thalweg.measures import MEASURES
from thalweg.study.claims import Claim, ContrastClaim, CorrelationClaim, PredictionClaim
from thalweg.study.moments import START, parsed
from thalweg.study.table import PERFORMANCE

if TYPE_CHECKING:
    from thalweg.study.spec import StudySpec

PAIR_MEASURES = ("linear_path", "bezier_path", "align_permutation", "mode_connectivity")

# What a study gives a measure of two networks by itself.
OWN_ARGUMENTS = ("seed", "progress")


def check_where(place: str, where: Mapping[str, Any], fields: Mapping[str, list[Any]]) -> None:
    """That a filter names fields and values of them."""
    for field, value in where.items():
        check_one_of(f"{place}.where", field, fields)
        check_one_of(f"{place}.where.{field}", value, fields[field])


def check_known(place: str, names: Iterable[str], known: set[str]) -> None:
    """That moments are the study's."""
    for name in names:
        check_one_of(place, parsed(name).name, known, some=True)


def check_pair_measure(place: str, measure: str, arguments: Mapping[str, Any]) -> None:
    """That a measure of two networks is one, and takes the arguments."""
    check_one_of(f"{place}.measure", measure, PAIR_MEASURES)
    taken = list(inspect.signature({**MEASURES, **ANALYSES}[measure]).parameters)[2:]
    for argument in arguments:
        check_one_of(f"{place}.arguments", argument, [n for n in taken if n not in OWN_ARGUMENTS], some=True)


def check_claim(spec: StudySpec, claim: Claim, own: set[str]) -> None:
    """That a claim can be asked, whatever the values turn out to be.

    Parameters
    ----------
    spec
        The study; its measures, pairs and quantities are checked.
    claim
        One of its claims.
    own
        Moments of the study, and the start.
    """
    place = f"claims.{claim.name}"
    of_networks = [*PERFORMANCE, *spec.columns, *spec.quantities]
    check_one_of(f"{place}.mode", claim.mode, spec.objective.modes)
    if claim.moment is not None:
        check_one_of(f"{place}.moment", claim.moment, own)
    check_where(place, claim.where, spec.fields)
    if isinstance(claim, ContrastClaim):
        _check_contrast(spec, claim, place)
        names = [claim.measure]
    elif isinstance(claim, PredictionClaim):
        check_one_of(f"{place}.outcome", claim.outcome, of_networks)
        for feature in claim.features:
            check_one_of(f"{place}.features", feature, of_networks, some=True)
            if feature == claim.outcome:
                raise ValueError(f"{place}.features: {feature} is the outcome itself")
        names = [*claim.features, claim.outcome]
    else:
        _check_correlation(claim, place, of_networks)
        names = [claim.measure, claim.ranks, *claim.given, *([claim.than] if claim.than else [])]
    for name in names:
        _check_is_measured(spec, claim, place, name)


def _check_contrast(spec: StudySpec, claim: ContrastClaim, place: str) -> None:
    of_all = [*PERFORMANCE, *spec.columns, *spec.quantities, *spec.pairs]
    check_one_of(f"{place}.measure", claim.measure, of_all)
    check_one_of(f"{place}.by", claim.by, spec.fields)
    for group in claim.groups:
        check_one_of(f"{place}.groups", group, spec.fields[claim.by])
    if claim.groups[0] == claim.groups[1]:
        raise ValueError(f"{place}.groups: the two are the same")
    pair = spec.pairs.get(claim.measure)
    if pair and pair.across == claim.by:
        raise ValueError(
            f"{place}.by: {claim.measure} is of two networks that differ in {claim.by} themselves"
        )
    if pair and claim.scale == "log" and claim.margin is not None:
        raise ValueError(
            f"{place}.margin: {claim.measure} may be nought and is compared by differences, of which "
            'a factor is no margin; set scale = "linear" and a margin in its unit'
        )


def _check_correlation(claim: CorrelationClaim, place: str, of_networks: list[str]) -> None:
    # Of two networks there is no one run to rank.
    check_one_of(f"{place}.measure", claim.measure, of_networks)
    check_one_of(f"{place}.ranks", claim.ranks, of_networks)
    if claim.measure == claim.ranks:
        raise ValueError(f"{place}.ranks: {claim.ranks} is the measure itself")
    if claim.than is not None:
        check_one_of(f"{place}.than", claim.than, of_networks)
        if claim.than in (claim.measure, claim.ranks):
            raise ValueError(f"{place}.than: {claim.than} is in the claim already")
    for covariate in claim.given:
        check_one_of(f"{place}.given", covariate, of_networks)
        if covariate in (claim.measure, claim.ranks):
            raise ValueError(f"{place}.given: {covariate} is one of the two that are correlated")


def _check_is_measured(spec: StudySpec, claim: Claim, place: str, name: str) -> None:
    """That it has values in the claim's mode, at its moment."""
    quantity, part = spec.quantities.get(name), spec.pairs.get(name)
    if quantity and quantity.is_of_runs:
        return
    if name in spec.columns:
        part = spec.measures[spec.columns[name]]
    modes = spec.objective.modes if part is None or part.modes is None else part.modes
    if name in spec.pairs and spec.pairs[name].fold_batch_norm:
        modes = ["running"]
    moments = [m.name for m in spec.moments_of(None if part is None else part.moments)]
    if quantity:  # a drop is from the start
        moments = [moment for moment in moments if moment != START]
    if claim.mode not in modes:
        raise ValueError(f"{place}.mode: {name} is measured in {', '.join(modes)}, not {claim.mode}")
    if claim.matched_loss is None:
        at = claim.matching
        if at not in moments:
            raise ValueError(f"{place}.moment: {name} is measured at {', '.join(moments)}, not at {at}")
        return
    if name in spec.pairs:
        raise ValueError(f"{place}.matched_loss: {name} is of two networks, which have no one training loss")
    # Training losses are known at the study's moments alone.
    matched = [parsed(moment) for moment in moments if moment in spec.moments]
    if len(matched) < 2:
        raise ValueError(
            f"{place}.matched_loss: {name} is measured at {', '.join(moments)}; a value between takes two "
            "moments"
        )
    if len({m.kind for m in matched if m.kind != "loss" and m.number}) > 1:
        raise ValueError(
            f"{place}.matched_loss: of epochs and steps together the order is not known; measure {name} at "
            "either"
        )
