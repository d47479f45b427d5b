"""Elastic training: one run, a family of sub-models (report §3.3)."""
