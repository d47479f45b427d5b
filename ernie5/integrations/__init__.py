"""Adapters to toolkits of the Paddle ecosystem, each behind an extra and imported only when asked for."""
