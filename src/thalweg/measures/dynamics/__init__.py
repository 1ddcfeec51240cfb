"""SGD on the landscape: its noise."""

from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment

__all__ = ["GradientNoise", "NoiseAlignment", "gradient_noise"]
