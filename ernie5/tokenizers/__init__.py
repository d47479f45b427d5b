"""Tokenizers, each a trained model of its own."""
