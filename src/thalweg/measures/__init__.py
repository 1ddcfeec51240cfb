"""All measures by name: what ``thalweg measure`` offers and what the contract test runs."""

from __future__ import annotations

from collections.abc import Callable

from thalweg.core.measurement import Measurement
from thalweg.measures.connectivity.bezier_path import bezier_path
from thalweg.measures.connectivity.linear_path import linear_path
from thalweg.measures.connectivity.permutation import align_permutation
from thalweg.measures.curvature.block_curvature import block_curvature
from thalweg.measures.curvature.hessian_trace import hessian_trace
from thalweg.measures.curvature.spectral_density import spectral_density
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.measures.dynamics.basin_mass import basin_mass
from thalweg.measures.dynamics.batch_sharpness import batch_sharpness
from thalweg.measures.dynamics.gradient_noise import gradient_noise
from thalweg.measures.dynamics.gradient_predictiveness import gradient_predictiveness
from thalweg.measures.dynamics.largest_stable_learning_rate import largest_stable_learning_rate
from thalweg.measures.dynamics.local_learning_coefficient import local_learning_coefficient
from thalweg.measures.dynamics.sgd_temperature import sgd_temperature
from thalweg.measures.sharpness.average_sharpness import average_sharpness
from thalweg.measures.sharpness.basin_width import basin_width
from thalweg.measures.sharpness.critical_sharpness import critical_sharpness
from thalweg.measures.sharpness.fisher_rao_norm import fisher_rao_norm
from thalweg.measures.sharpness.keskar_sharpness import keskar_sharpness
from thalweg.measures.sharpness.normalized_curvature import normalized_curvature
from thalweg.measures.sharpness.pac_bayes_sigma import pac_bayes_sigma
from thalweg.measures.sharpness.preconditioned_sharpness import preconditioned_sharpness
from thalweg.measures.sharpness.relative_flatness import relative_flatness
from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import sam_sharpness_spread
from thalweg.measures.surfaces.line import line_slice
from thalweg.measures.surfaces.plane import plane_slice
from thalweg.measures.surfaces.volume import volume_slice

MEASURES: dict[str, Callable[..., Measurement]] = {
    "top_eigenvalues": top_eigenvalues,
    "hessian_trace": hessian_trace,
    "spectral_density": spectral_density,
    "block_curvature": block_curvature,
    "sam_sharpness": sam_sharpness,
    "sam_sharpness_spread": sam_sharpness_spread,
    "keskar_sharpness": keskar_sharpness,
    "average_sharpness": average_sharpness,
    "pac_bayes_sigma": pac_bayes_sigma,
    "basin_width": basin_width,
    "critical_sharpness": critical_sharpness,
    "normalized_curvature": normalized_curvature,
    "relative_flatness": relative_flatness,
    "fisher_rao_norm": fisher_rao_norm,
    "preconditioned_sharpness": preconditioned_sharpness,
    "line_slice": line_slice,
    "plane_slice": plane_slice,
    "volume_slice": volume_slice,
    "linear_path": linear_path,
    "bezier_path": bezier_path,
    "align_permutation": align_permutation,
    "gradient_noise": gradient_noise,
    "sgd_temperature": sgd_temperature,
    "batch_sharpness": batch_sharpness,
    "gradient_predictiveness": gradient_predictiveness,
    "largest_stable_learning_rate": largest_stable_learning_rate,
    "basin_mass": basin_mass,
    "local_learning_coefficient": local_learning_coefficient,
}
