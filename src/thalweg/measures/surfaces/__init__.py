"""Loss and accuracy on lines, planes and volumes through one point."""

from thalweg.measures.surfaces.line import LineSlice, line_slice
from thalweg.measures.surfaces.plane import PlaneSlice, plane_slice
from thalweg.measures.surfaces.volume import VolumeSlice, volume_slice

__all__ = ["LineSlice", "PlaneSlice", "VolumeSlice", "line_slice", "plane_slice", "volume_slice"]
