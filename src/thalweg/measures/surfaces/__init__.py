"""Loss and accuracy along lines through one point."""

from thalweg.measures.surfaces.line import LineSlice, line_slice

__all__ = ["LineSlice", "line_slice"]
