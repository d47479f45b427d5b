"""A package, so that a test can start `train_toy` in a process of its own."""
