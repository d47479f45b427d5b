"""A program that decodes media of strangers, so that a server does not: `python -m ernie5.serving.examiner`.

It says `ready`. Then, a line of JSON in, `{"kind": "image" | "video" | "audio", "path": ..., ...}`, a line out:
`{"error": null}`, or what is wrong. Its memory is limited; who asks it ends it when it takes too long. What it has
decoded whole, the same decoders read again in the engine's process.
"""

import json
import sys
from typing import Any

from ernie5.data.media import read_image, read_video
from ernie5.data.sounds import read_sound
from ernie5.errors import UserError

MEMORY = 4 << 30  # bytes of address space


def examine(question: dict[str, Any]) -> str | None:
    """What is wrong with a file, or None."""
    path = question["path"]
    try:
        if question["kind"] == "image":
            read_image(path, question["max_pixels"])
        elif question["kind"] == "video":
            read_video(path, question["fps"], question["max_frames"])
        else:
            read_sound(path, question["sample_rate"], question["max_seconds"])
    except UserError as error:
        return str(error)
    except MemoryError:
        return f"{path}: takes too much memory to decode: make it smaller"
    return None


def main() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError):  # no such limit here; time is limited all the same
        pass
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps({"error": examine(json.loads(line))}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
