"""Loss and accuracy on paths from one network to another."""

from thalweg.measures.connectivity.linear_path import LinearPath, linear_path

__all__ = ["LinearPath", "linear_path"]
