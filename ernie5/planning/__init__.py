"""What a configuration costs, by arithmetic alone: nothing is built, and Paddle is not imported."""
