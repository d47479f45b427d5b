"""Writes a model as programs that Paddle Inference runs (docs/guides/export.md)."""
