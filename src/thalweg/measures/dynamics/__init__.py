"""SGD on the landscape: its noise, and the curvature its batches meet."""

from thalweg.measures.dynamics.batch_sharpness import BatchSharpness, batch_sharpness
from thalweg.measures.dynamics.gradient_noise import GradientNoise, gradient_noise
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment

__all__ = ["BatchSharpness", "GradientNoise", "NoiseAlignment", "batch_sharpness", "gradient_noise"]
