"""SGD on the landscape: its noise, how hot that keeps a minimum, and the curvature its batches meet."""

from thalweg.measures.dynamics.batch_sharpness import BatchSharpness, batch_sharpness
from thalweg.measures.dynamics.constant_rate import ConstantRate, excess_loss, stationary_covariance
from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.dynamics.gradient_predictiveness import (
    GradientPredictiveness,
    gradient_predictiveness,
)
from thalweg.measures.dynamics.largest_stable_learning_rate import (
    LargestStableLearningRate,
    largest_stable_learning_rate,
)
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment
from thalweg.measures.dynamics.sgd_temperature import sgd_temperature
from thalweg.measures.dynamics.temperature_result import SGDTemperature

__all__ = [
    "BatchSharpness",
    "ConstantRate",
    "GradientNoise",
    "GradientPredictiveness",
    "LargestStableLearningRate",
    "NoiseAlignment",
    "SGDTemperature",
    "batch_sharpness",
    "excess_loss",
    "gradient_noise",
    "gradient_predictiveness",
    "largest_stable_learning_rate",
    "sgd_temperature",
    "stationary_covariance",
]
