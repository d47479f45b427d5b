"""Runs an exported model with Paddle Inference (docs/guides/export.md)."""

from ernie5.inference.predictor.predictor import Predictor

__all__ = ["Predictor"]
