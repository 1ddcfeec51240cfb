"""SGD on the landscape: its noise, how hot that keeps a minimum, and the curvature its batches meet."""

from thalweg.measures.dynamics.batch_sharpness import BatchSharpness, batch_sharpness
from thalweg.measures.dynamics.constant_rate import ConstantRate, excess_loss, stationary_covariance
from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment
from thalweg.measures.dynamics.sgd_temperature import sgd_temperature
from thalweg.measures.dynamics.temperature_result import SGDTemperature

__all__ = [
    "BatchSharpness",
    "ConstantRate",
    "GradientNoise",
    "NoiseAlignment",
    "SGDTemperature",
    "batch_sharpness",
    "excess_loss",
    "gradient_noise",
    "sgd_temperature",
    "stationary_covariance",
]
