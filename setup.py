"""Builds and installs `ernie5`. The metadata stands in pyproject.toml; here is only what depends on the machine.

`ERNIE5_PADDLE` says which PaddlePaddle the package requires:

    cpu   (default) the CPU build from PyPI
    gpu   `paddlepaddle-gpu`, which only Paddle's own index carries: add
          `--extra-index-url https://www.paddlepaddle.org.cn/packages/stable/cu126/`
    none  neither: a build for another device, or one compiled here, is installed already
"""

import os

from setuptools import setup

PADDLE_VERSION = "3.3.1"
PADDLE_REQUIREMENT = {
    "cpu": [f"paddlepaddle=={PADDLE_VERSION}"],
    "gpu": [f"paddlepaddle-gpu=={PADDLE_VERSION}"],
    "none": [],
}
CORE_REQUIREMENTS = [
    "numpy>=1.26",
    "pillow>=11.3",
    "pyyaml>=6.0",
    "safetensors>=0.4.5",
    "sentencepiece>=0.2.0",
    "tqdm>=4.66",
]


def requirements() -> list[str]:
    """The core requirements, with the PaddlePaddle build that `ERNIE5_PADDLE` names."""
    build = os.environ.get("ERNIE5_PADDLE", "cpu")
    if build not in PADDLE_REQUIREMENT:
        raise SystemExit(f"ERNIE5_PADDLE is {build!r}: set it to one of {', '.join(PADDLE_REQUIREMENT)}")
    return PADDLE_REQUIREMENT[build] + CORE_REQUIREMENTS


setup(install_requires=requirements())
