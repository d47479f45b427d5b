"""The layers of the backbone. They know numbers and tensors: no ranks, no groups, no devices."""
