"""Thalweg: the geometry of neural-network loss landscapes, with error bars."""

from importlib.metadata import version as _version

from thalweg.analyses import ANALYSES
from thalweg.analyses.compare import Comparison, compare
from thalweg.analyses.contrast import contrast
from thalweg.analyses.contrast_result import Contrast
from thalweg.analyses.curvature_profile import CurvatureProfile, curvature_profile
from thalweg.analyses.generalization_gap import GeneralizationGap, generalization_gap
from thalweg.analyses.instability import Instability, instability
from thalweg.analyses.invariance_audit import InvarianceAudit, invariance_audit
from thalweg.analyses.mode_connectivity import mode_connectivity
from thalweg.analyses.mode_connectivity_result import ModeConnectivity
from thalweg.analyses.monitor import Monitor
from thalweg.analyses.monitored_run import MonitoredRun
from thalweg.analyses.runs import Run, Runs
from thalweg.analyses.seed_spread import SeedSpread, seed_spread
from thalweg.analyses.temperature_scaling import temperature_scaling
from thalweg.analyses.temperature_scaling_result import TemperatureScaling
from thalweg.core.array_store import ArrayStore
from thalweg.core.errors import (
    ConvergenceError,
    DataError,
    DerivativeError,
    NondeterminismError,
    NonFiniteLossError,
    ThalwegError,
)
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.param_space import ParamSpace
from thalweg.measures import MEASURES
from thalweg.measures.connectivity.bezier_path import BezierPath, bezier_path
from thalweg.measures.connectivity.linear_path import LinearPath, linear_path
from thalweg.measures.connectivity.permutation import PermutationAlignment, align_permutation
from thalweg.measures.curvature.block_curvature import BlockCurvature, block_curvature
from thalweg.measures.curvature.hessian_trace import HessianTrace, hessian_trace
from thalweg.measures.curvature.spectral_density import SpectralDensity, spectral_density
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues, top_eigenvalues
from thalweg.measures.dynamics.basin_mass import BasinMass, basin_mass
from thalweg.measures.dynamics.batch_sharpness import BatchSharpness, batch_sharpness
from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.dynamics.gradient_predictiveness import (
    GradientPredictiveness,
    gradient_predictiveness,
)
from thalweg.measures.dynamics.largest_stable_learning_rate import (
    LargestStableLearningRate,
    largest_stable_learning_rate,
)
from thalweg.measures.dynamics.local_learning_coefficient import (
    LocalLearningCoefficient,
    local_learning_coefficient,
)
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment
from thalweg.measures.dynamics.sgd_temperature import sgd_temperature
from thalweg.measures.dynamics.stationary_law import stationary_law
from thalweg.measures.dynamics.stationary_law_result import StationaryLaw
from thalweg.measures.dynamics.temperature_result import SGDTemperature
from thalweg.measures.sharpness.average_sharpness import AverageSharpness, average_sharpness
from thalweg.measures.sharpness.basin_width import BasinWidth, basin_width
from thalweg.measures.sharpness.critical_sharpness import CriticalSharpness, critical_sharpness
from thalweg.measures.sharpness.fisher_rao_norm import FisherRaoNorm, fisher_rao_norm
from thalweg.measures.sharpness.keskar_sharpness import KeskarSharpness, keskar_sharpness
from thalweg.measures.sharpness.normalized_curvature import NormalizedCurvature, normalized_curvature
from thalweg.measures.sharpness.pac_bayes_sigma import PacBayesSigma, pac_bayes_sigma
from thalweg.measures.sharpness.preconditioned_sharpness import (
    PreconditionedSharpness,
    preconditioned_sharpness,
)
from thalweg.measures.sharpness.relative_flatness import RelativeFlatness, relative_flatness
from thalweg.measures.sharpness.sam_sharpness import SamSharpness, sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread, sam_sharpness_spread
from thalweg.measures.surfaces.line import LineSlice, line_slice
from thalweg.measures.surfaces.plane import PlaneSlice, plane_slice
from thalweg.measures.surfaces.volume import VolumeSlice, volume_slice
from thalweg.measures.topology.merge_tree import MergeTree
from thalweg.measures.topology.persistence import Persistence, persistence
from thalweg.models.registry import build_model, register_model
from thalweg.models.small_cnn import SmallCNN
from thalweg.objective.objective import Objective
from thalweg.report.arrays import export_arrays
from thalweg.report.order_page import page
from thalweg.report.plot import plot
from thalweg.study.study import Study
from thalweg.training.config import TrainConfig
from thalweg.training.trainer import train
from thalweg.training.trajectory import TrainingHistory

__version__ = _version("thalweg")

__all__ = [
    "ANALYSES",
    "MEASURES",
    "ArrayStore",
    "AverageSharpness",
    "BasinMass",
    "BasinWidth",
    "BatchSharpness",
    "BezierPath",
    "BlockCurvature",
    "Comparison",
    "Contrast",
    "ConvergenceError",
    "CriticalSharpness",
    "CurvatureProfile",
    "DataError",
    "DerivativeError",
    "ErrorBudget",
    "FisherRaoNorm",
    "GeneralizationGap",
    "GradientNoise",
    "GradientPredictiveness",
    "HessianTrace",
    "Instability",
    "InvarianceAudit",
    "KeskarSharpness",
    "LargestStableLearningRate",
    "LineSlice",
    "LinearPath",
    "LocalLearningCoefficient",
    "Measurement",
    "MergeTree",
    "ModeConnectivity",
    "Monitor",
    "MonitoredRun",
    "NoiseAlignment",
    "NonFiniteLossError",
    "NondeterminismError",
    "NormalizedCurvature",
    "Objective",
    "PacBayesSigma",
    "ParamSpace",
    "PermutationAlignment",
    "Persistence",
    "PlaneSlice",
    "PreconditionedSharpness",
    "RelativeFlatness",
    "Run",
    "Runs",
    "SGDTemperature",
    "SamSharpness",
    "SamSharpnessSpread",
    "SeedSpread",
    "SmallCNN",
    "SpectralDensity",
    "StandardError",
    "StationaryLaw",
    "Study",
    "TemperatureScaling",
    "ThalwegError",
    "TopEigenvalues",
    "TrainConfig",
    "TrainingHistory",
    "VolumeSlice",
    "align_permutation",
    "average_sharpness",
    "basin_mass",
    "basin_width",
    "batch_sharpness",
    "bezier_path",
    "block_curvature",
    "build_model",
    "compare",
    "contrast",
    "critical_sharpness",
    "curvature_profile",
    "export_arrays",
    "fisher_rao_norm",
    "generalization_gap",
    "gradient_noise",
    "gradient_predictiveness",
    "hessian_trace",
    "instability",
    "invariance_audit",
    "keskar_sharpness",
    "largest_stable_learning_rate",
    "line_slice",
    "linear_path",
    "local_learning_coefficient",
    "mode_connectivity",
    "normalized_curvature",
    "pac_bayes_sigma",
    "page",
    "persistence",
    "plane_slice",
    "plot",
    "preconditioned_sharpness",
    "register_model",
    "relative_flatness",
    "sam_sharpness",
    "sam_sharpness_spread",
    "seed_spread",
    "sgd_temperature",
    "spectral_density",
    "stationary_law",
    "temperature_scaling",
    "top_eigenvalues",
    "train",
    "volume_slice",
]
