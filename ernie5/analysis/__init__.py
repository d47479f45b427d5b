"""Judges of what a model understands and generates. Nothing here imports a model's code to judge it."""
