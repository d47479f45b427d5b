"""ERNIE 5.0 on PaddlePaddle: one ultra-sparse mixture-of-experts backbone for text, images, video and audio."""

__version__ = "0.1.0"
