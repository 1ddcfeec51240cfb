"""How much the loss rises within a small distance."""

from thalweg.measures.sharpness.sam_sharpness import SamSharpness, sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread, sam_sharpness_spread

__all__ = ["SamSharpness", "SamSharpnessSpread", "sam_sharpness", "sam_sharpness_spread"]
