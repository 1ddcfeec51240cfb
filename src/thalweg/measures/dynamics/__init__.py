"""SGD on the landscape: its noise, and how hot that keeps a minimum."""

from thalweg.measures.dynamics.constant_rate import ConstantRate, excess_loss, stationary_covariance
from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment
from thalweg.measures.dynamics.sgd_temperature import sgd_temperature
from thalweg.measures.dynamics.temperature_result import SGDTemperature

__all__ = [
    "ConstantRate",
    "GradientNoise",
    "NoiseAlignment",
    "SGDTemperature",
    "excess_loss",
    "gradient_noise",
    "sgd_temperature",
    "stationary_covariance",
]
