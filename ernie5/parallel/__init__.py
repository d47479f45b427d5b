"""What makes the same model train within the memory and over the devices there are. The layers know nothing of it."""
