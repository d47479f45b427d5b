"""A whole run with all four modalities, small enough for tests, whose run file a tool can be given."""

import json
from dataclasses import asdict
from pathlib import Path

import yaml

from tests.audio_models import AUDIO, audio_tokenizer, noise_sound, speaker_encoder
from tests.vision_runs import vision_config

ELASTIC = {
    "depth_probability": 0.5,
    "width_probability": 0.5,
    "sparsity_probability": 0.5,
    "min_layers": 4,
    "min_experts": 4,
    "keep_last_layers": AUDIO.num_codebooks,
}


def write_run(folder: Path) -> Path:
    """Texts, pictures, films and sounds, which are taken in or made; twenty steps of ten rows; every kind of draw."""
    vision_config(folder)
    path = folder / "run.yaml"
    tree = yaml.safe_load(path.read_text())
    data = folder / "data" / "data.jsonl"
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    for i in range(12):
        role = "understand" if i % 2 else "generate"
        sound = {"type": "audio", "source": Path(noise_sound(data.parent, 3, seed=i)).name, "role": role}
        text = {"type": "text", "text": f"sound {i % 4}", "loss": role == "understand"}
        lines.append({"segments": [sound, text] if role == "understand" else [text, sound]})
        lines.append({"segments": [{"type": "text", "text": f"only the words of number {i}", "loss": True}]})
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tree["model"] |= {"audio": asdict(AUDIO), "num_hidden_layers": 5}
    tree["stages"][0] |= {"batch_tokens": 960, "num_tokens": 960 * 20, "elastic": ELASTIC}
    tree["train"] |= {"save_steps": 10, "eval_steps": 10}
    tree["members"] = [{"name": "small", "num_layers": 4, "num_experts": 4, "top_k": 1}]
    tree["tokenizer"] |= {
        "audio": str(audio_tokenizer().save_pretrained(folder / "audio_tokenizer")),
        "speaker": str(speaker_encoder().save_pretrained(folder / "speaker")),
    }
    path.write_text(yaml.safe_dump(tree))
    return path
