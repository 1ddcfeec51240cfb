"""All analyses by name: what combines measures, offered by ``thalweg measure`` beside them."""

from __future__ import annotations

from collections.abc import Callable

from thalweg.analyses.curvature_profile import curvature_profile
from thalweg.analyses.invariance_audit import invariance_audit
from thalweg.analyses.mode_connectivity import mode_connectivity
from thalweg.analyses.temperature_scaling import temperature_scaling
from thalweg.core.measurement import Measurement

ANALYSES: dict[str, Callable[..., Measurement]] = {
    "curvature_profile": curvature_profile,
    "invariance_audit": invariance_audit,
    "mode_connectivity": mode_connectivity,
    "temperature_scaling": temperature_scaling,
}
