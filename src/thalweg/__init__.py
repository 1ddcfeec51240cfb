"""Thalweg: the geometry of neural-network loss landscapes, with error bars."""

from importlib.metadata import version as _version

from thalweg.analyses import ANALYSES
from thalweg.analyses.compare import Comparison, compare
from thalweg.analyses.contrast import contrast
from thalweg.analyses.contrast_result import Contrast
from thalweg.analyses.curvature_profile import CurvatureProfile, curvature_profile
from thalweg.analyses.runs import Run, Runs
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
from thalweg.measures.connectivity.linear_path import LinearPath, linear_path
from thalweg.measures.curvature.block_curvature import BlockCurvature, block_curvature
from thalweg.measures.curvature.hessian_trace import HessianTrace, hessian_trace
from thalweg.measures.curvature.spectral_density import SpectralDensity, spectral_density
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues, top_eigenvalues
from thalweg.measures.sharpness.sam_sharpness import SamSharpness, sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread, sam_sharpness_spread
from thalweg.measures.surfaces.line import LineSlice, line_slice
from thalweg.models.registry import build_model, register_model
from thalweg.models.small_cnn import SmallCNN
from thalweg.objective.objective import Objective
from thalweg.report.order_page import page
from thalweg.report.plot import plot
from thalweg.training.trainer import TrainConfig, train
from thalweg.training.trajectory import TrainingHistory

__version__ = _version("thalweg")

__all__ = [
    "ANALYSES",
    "MEASURES",
    "BlockCurvature",
    "Comparison",
    "Contrast",
    "ConvergenceError",
    "CurvatureProfile",
    "DataError",
    "DerivativeError",
    "ErrorBudget",
    "HessianTrace",
    "LineSlice",
    "LinearPath",
    "Measurement",
    "NonFiniteLossError",
    "NondeterminismError",
    "Objective",
    "ParamSpace",
    "Run",
    "Runs",
    "SamSharpness",
    "SamSharpnessSpread",
    "SmallCNN",
    "SpectralDensity",
    "StandardError",
    "ThalwegError",
    "TopEigenvalues",
    "TrainConfig",
    "TrainingHistory",
    "block_curvature",
    "build_model",
    "compare",
    "contrast",
    "curvature_profile",
    "hessian_trace",
    "line_slice",
    "linear_path",
    "page",
    "plot",
    "register_model",
    "sam_sharpness",
    "sam_sharpness_spread",
    "spectral_density",
    "top_eigenvalues",
    "train",
]
