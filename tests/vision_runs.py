"""A whole run with pictures and films, small enough for tests: its data, its tokenizers of two widths, its run file."""

import json
from pathlib import Path

import numpy as np
import paddle
import yaml
from PIL import Image as Picture

from ernie5.config.load import load_config
from ernie5.config.schema import Config, ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_tokenizer import VisionTokenizerConfig
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from tests.vision_models import stirred

ENCODER = {"channels": [4, 8], "num_res_blocks": 1, "temporal_stride": 1}
RESOLUTION = {"height": 8, "width": 8, "scales": [[1, 1], [2, 2], [4, 4]]}
VISION = {
    "encoder": ENCODER,
    "max_bits": 6,
    "resolutions": [RESOLUTION],
    "vit": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "merger_heads": 2,
    "temporal_window": 1,
}


def save_tokenizer(folder: Path, bits: int, seed: int = 0) -> Path:
    """A vision tokenizer with random weights."""
    paddle.seed(seed)
    config = VisionTokenizerConfig(
        encoder=VisionEncoderConfig(channels=(4, 8)),
        bits=bits,
        resolutions=(ResolutionConfig(height=8, width=8, scales=((1, 1), (2, 2), (4, 4))),),
    )
    return stirred(VisionTokenizer(config)).save_pretrained(folder)


def write_data(folder: Path, num_samples: int = 24) -> Path:
    """A manifest of pictures that are read, pictures that are drawn and films that are drawn."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for i in range(num_samples):
        frames = [Picture.fromarray(rng.integers(0, 256, [8, 8, 3]).astype(np.uint8)) for _ in range(3)]
        frames[0].save(folder / f"{i}.png")
        frames[0].save(folder / f"{i}.gif", save_all=True, append_images=frames[1:], duration=250)
        image = {"type": "image", "source": f"{i}.png", "role": "understand" if i % 3 == 0 else "generate"}
        film = {"type": "video", "source": f"{i}.gif", "fps": 4, "role": "generate"}
        text = {"type": "text", "text": f"number {i % 5}", "loss": i % 3 == 0}
        medium = film if i % 3 == 2 else image
        lines.append({"segments": [image, text] if i % 3 == 0 else [text, medium]})
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def vision_config(folder: Path, *overrides: str) -> Config:
    """The run file of `folder`, written when it is first asked for."""
    path = folder / "run.yaml"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        root = Path(__file__).parents[1] / "configs"
        model = yaml.safe_load((root / "model" / "tiny.yaml").read_text())["model"]
        stage = yaml.safe_load((root / "stage" / "tiny.yaml").read_text())["stages"][0]
        stage |= {"max_seq_len": 96, "batch_tokens": 192, "num_tokens": 192 * 6, "micro_batch_rows": 1}
        tokenizers = [str(save_tokenizer(folder / f"tokenizer_{bits}", bits)) for bits in (4, 6)]
        tree = {
            "model": model | {"vision": VISION},
            "stages": [stage],
            "data": {
                "train": [{"name": "media", "path": str(write_data(folder / "data"))}],
                "num_workers": 0,
                "validation_fraction": 0.3,
            },
            "tokenizer": {"vision": tokenizers},
            "train": {"output_dir": str(folder / "run"), "log_steps": 1, "eval_steps": 0, "sample_steps": 0}
            | {"save_steps": 3, "visualdl": False},
        }
        path.write_text(yaml.safe_dump(tree))
    return load_config(path, overrides)
