"""Loss and accuracy on paths from one network to another."""

from thalweg.measures.connectivity.bezier_path import BezierPath, bezier_path
from thalweg.measures.connectivity.linear_path import LinearPath, linear_path

__all__ = ["BezierPath", "LinearPath", "bezier_path", "linear_path"]
