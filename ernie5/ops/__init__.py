"""The Python face of every operator that may be fused: each module defines one, in plain Paddle, as its reference."""
