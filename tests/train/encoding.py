"""Run as a program: processes of which some have the same rows make batches of them, and write down what that took.

python encoding.py LAYOUT FOLDER, where LAYOUT is one of LAYOUTS
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from ernie5.parallel.processes import other_processes

LAYOUTS = {"tensor and data": {"tensor": 2, "data": 2}, "stages of context": {"pipeline": 2, "context": 2}}
NUM_PARTS, SEQ_LEN = 5, 16


def main(layout: str, folder: Path) -> None:
    with other_processes(4, folder):
        from ernie5.ops.runtime import start_paddle

        start_paddle(1)
        from ernie5.errors import UserError
        from ernie5.modality.batch import make_batch
        from ernie5.parallel.data_parallel import join
        from ernie5.parallel.mesh import Mesh
        from ernie5.parallel.topology import own_group
        from ernie5.train.encoding import encode_with, make_batches

        ranks, mesh = join(), Mesh(**LAYOUTS[layout])
        group = own_group(mesh, ranks.rank, lambda rank: mesh.group(rank, "pipeline", "context", "tensor"))
        parts = [rows(mesh.place(ranks.rank).data, number) for number in range(NUM_PARTS)]
        coders, counts = counting_coders()
        encode = encode_with(coders, parts)
        made = make_batches(parts, encode, group)
        found = {"encoded": dict(counts), "failed": ""}
        found["same"] = all(is_same(one, make_batch(part, coders)) for one, part in zip(made, parts, strict=True))

        def failing(number: int):
            if number == 1:
                raise UserError("part 1 is bad")
            return encode(number)

        try:
            make_batches(parts, failing, group)
        except UserError as error:
            found["failed"] = str(error)
        (folder / f"rank_{ranks.rank}.json").write_text(json.dumps(found))


def counting_coders():
    """Coders of fixed weights, and how many media each has encoded."""
    from ernie5.modality.audio_codes import AudioCoder
    from ernie5.modality.batch import Coders
    from ernie5.modality.vision_codes import VisionCoder
    from tests.audio_models import audio_tokenizer, speaker_encoder
    from tests.vision_models import vision_tokenizer

    counts = {"vision": 0, "audio": 0}

    class Vision(VisionCoder):
        def _generated(self, media, seq_len):
            counts["vision"] += len(media)
            return super()._generated(media, seq_len)

    class Audio(AudioCoder):
        def _encode(self, sounds):
            counts["audio"] += len(sounds)
            return super()._encode(sounds)

    return Coders(Vision(vision_tokenizer()), Audio(audio_tokenizer(), speaker_encoder())), counts


def rows(share: int, number: int):
    """Of micro-batch `number`: one row with a picture to see, one to draw and a sound; nothing in the last."""
    from dataclasses import replace

    import numpy as np

    from ernie5.data.packing import build_row
    from ernie5.modality.unified import SoundMedium, VisualMedium, stack

    row = build_row([], SEQ_LEN, pad_id=0)
    if number == NUM_PARTS - 1:
        return stack([row])
    rng = np.random.default_rng([share, number])
    pictures = rng.integers(0, 256, [2, 1, 4, 4, 3]).astype(np.uint8)
    sound = rng.normal(size=3 * 128).astype(np.float32)
    media = (
        VisualMedium(pixels=pictures[0], start=1, length=1),
        VisualMedium(pixels=pictures[1], start=3, length=5, scales=((1, 1), (2, 2))),
        SoundMedium(samples=sound, start=9, length=3, role="generate"),
    )
    return stack([replace(row, media=media)])


def is_same(one, other) -> bool:
    """Whether two trees of tensors are, to the bit."""
    import numpy as np
    import paddle

    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, paddle.Tensor):
        one, other = one.numpy(), other.numpy()
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
