"""Native operators of ernie5, compiled against the installed PaddlePaddle. `ernie5.ops` loads and calls them.

Importing this package registers nothing and needs no Paddle: it only says where the library is and how it was built.
"""

import json
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).with_name("libernie5_ops.so")
_BUILD = Path(__file__).with_name("build.json")


def build() -> dict[str, Any]:
    """How the library was built: `paddle` (version), `cuda` (kernels for it), `march`, `cpu_flags` (needed)."""
    return json.loads(_BUILD.read_text(encoding="utf-8"))
