"""Training: the loop, its schedule, balance, checkpoints, metrics and report."""
