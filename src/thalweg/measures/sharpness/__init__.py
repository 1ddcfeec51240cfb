"""How much the loss rises within a small distance."""

from thalweg.measures.sharpness.average_sharpness import AverageSharpness, average_sharpness
from thalweg.measures.sharpness.basin_width import BasinWidth, basin_width
from thalweg.measures.sharpness.critical_sharpness import CriticalSharpness, critical_sharpness
from thalweg.measures.sharpness.keskar_sharpness import KeskarSharpness, keskar_sharpness
from thalweg.measures.sharpness.pac_bayes_sigma import PacBayesSigma, pac_bayes_sigma
from thalweg.measures.sharpness.sam_sharpness import SamSharpness, sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread, sam_sharpness_spread

__all__ = [
    "AverageSharpness",
    "BasinWidth",
    "CriticalSharpness",
    "KeskarSharpness",
    "PacBayesSigma",
    "SamSharpness",
    "SamSharpnessSpread",
    "average_sharpness",
    "basin_width",
    "critical_sharpness",
    "keskar_sharpness",
    "pac_bayes_sigma",
    "sam_sharpness",
    "sam_sharpness_spread",
]
