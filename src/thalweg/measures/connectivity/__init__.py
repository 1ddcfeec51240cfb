"""Loss and accuracy on paths from one network to another, and the permutations that bring them closer."""

from thalweg.measures.connectivity.bezier_path import BezierPath, bezier_path
from thalweg.measures.connectivity.linear_path import LinearPath, linear_path
from thalweg.measures.connectivity.permutation import PermutationAlignment, align_permutation

__all__ = [
    "BezierPath",
    "LinearPath",
    "PermutationAlignment",
    "align_permutation",
    "bezier_path",
    "linear_path",
]
