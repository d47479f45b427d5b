"""The ERNIE 5.0 model. Read `ernie5.py` first."""
