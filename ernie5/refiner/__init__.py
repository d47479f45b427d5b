"""The cascaded diffusion refiner: from a degraded low resolution to detail, trained apart (report §2.2.3)."""
