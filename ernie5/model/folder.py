"""The model folder: `config.json`, safetensors, `generation_config.json`, the tokenizer's files; nothing is pickled."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie5.config.load import dump, model_from_dict
from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
from ernie5.errors import UserError
from ernie5.model.checkpoint_names import to_folder_name
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.safetensors_file import dtype_tag
from ernie5.model.undrawn import undrawn
from ernie5.model.weights import assign, check_fit, load_tensors, save_tensors
from ernie5.tokenizers.audio.speaker import SpeakerEncoder
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

if TYPE_CHECKING:
    import numpy as np

    from ernie5.model.safetensors_file import Storable

ARCHITECTURE, MODEL_TYPE = "Ernie5ForCausalLM", "ernie5"
CONFIG_FILE, GENERATION_FILE = "config.json", "generation_config.json"
MODEL_YAML = "model.yaml"  # the settings of config.json, for the `include:` of a run that begins with the weights
VISION_TOKENIZER, AUDIO_TOKENIZER, SPEAKER_ENCODER = "vision_tokenizer", "audio_tokenizer", "speaker_encoder"  # folders
_SECTIONS = {"attention": AttentionConfig, "moe": MoEConfig}
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
# written for the ecosystem's loaders; not settings of the model
_ABOUT = {"architectures", "model_type", "dtype", "bos_token_id", "eos_token_id", "pad_token_id"}


def save_pretrained(
    model: Ernie5ForCausalLM,
    folder: Path | str,
    tokenizer_dir: Path | None = None,
    vision_tokenizer_dir: Path | None = None,
    audio_tokenizer_dir: Path | None = None,
    speaker_encoder_dir: Path | None = None,
) -> Path:
    """Writes a folder that `from_pretrained` and the ecosystem's loaders read; the tokenizers' files are copied in."""
    tokenizers = tokenizer_dir, vision_tokenizer_dir, audio_tokenizer_dir, speaker_encoder_dir
    return save_folder(model.config, model.state_dict(), folder, *tokenizers)


def save_folder(
    config: ModelConfig,
    tensors: "Mapping[str, Storable]",
    folder: Path | str,
    tokenizer_dir: Path | None = None,
    vision_tokenizer_dir: Path | None = None,
    audio_tokenizer_dir: Path | None = None,
    speaker_encoder_dir: Path | None = None,
) -> Path:
    """As `save_pretrained`, of a model's tensors by name: they may lie in the files of a checkpoint."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors({to_folder_name(name): tensor for name, tensor in tensors.items()}, folder)
    dtype = DTYPES[dtype_tag(tensors["text.embed_tokens.weight"])]
    token_ids = copy_tokenizer(tokenizer_dir, folder) if tokenizer_dir is not None else {}
    if vision_tokenizer_dir is not None:
        VisionTokenizer.from_pretrained(vision_tokenizer_dir).save_pretrained(folder / VISION_TOKENIZER)
    if audio_tokenizer_dir is not None:
        AudioTokenizer.from_pretrained(audio_tokenizer_dir).save_pretrained(folder / AUDIO_TOKENIZER)
    if speaker_encoder_dir is not None:
        SpeakerEncoder.from_pretrained(speaker_encoder_dir).save_pretrained(folder / SPEAKER_ENCODER)
    (folder / MODEL_YAML).write_text(dump(config), encoding="utf-8")
    write_config(config, folder, dtype, token_ids)
    _write_json(folder / GENERATION_FILE, {"do_sample": True, "temperature": 0.8, "top_p": 0.95} | token_ids)
    return folder


def write_config(config: ModelConfig, folder: Path, dtype: str, token_ids: Mapping[str, int]) -> None:
    """Writes `config.json`."""
    about: dict[str, Any] = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE, "dtype": dtype}
    _write_json(folder / CONFIG_FILE, about | dict(token_ids) | flat_config(config))


def from_pretrained(folder: Path | str) -> Ernie5ForCausalLM:
    """The model of a folder, in float32. UserError: not such a folder, an unknown setting, weights that do not fit."""
    folder = Path(folder)
    model = Ernie5ForCausalLM(read_config(folder))
    named = ((to_folder_name(name), tensor) for name, tensor in model.state_dict().items())
    assign(named, load_tensors(folder), folder, cast=True)
    return model


def load_weights(folder: Path | str, config: ModelConfig) -> "dict[str, np.ndarray]":
    """A folder's tensors by their names in the model of `config`, over mapped files; bfloat16 as bits in `uint16`.

    Raises UserError where they are not those of that model.
    """
    tensors = load_tensors(Path(folder))
    parameters = undrawn(lambda: Ernie5ForCausalLM(config)).state_dict()
    check_fit({to_folder_name(name): parameter for name, parameter in parameters.items()}, tensors, folder, cast=True)
    return {name: tensors[to_folder_name(name)] for name in parameters}


def read_config(folder: Path | str) -> ModelConfig:
    """The ModelConfig in a folder's `config.json`."""
    values, path = read_settings(folder), Path(folder) / CONFIG_FILE
    if values.get("model_type") != MODEL_TYPE:
        found = values.get("model_type")
        raise UserError(f"{path}: model_type is {found!r}, not {MODEL_TYPE!r}; name the folder of an ernie5 model")
    return model_from_dict(nested_config({k: v for k, v in values.items() if k not in _ABOUT}), str(path))


def read_settings(folder: Path | str) -> dict[str, Any]:
    """What stands in the `config.json` of a folder, whosever it is."""
    path = Path(folder) / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the folder of a model") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); save or copy the folder again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is no object of settings; save or copy the folder again")
    return values


def require_new(folder: Path | str) -> Path:
    """The folder, which is made if it is not there; UserError if there is something in it."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: holds something already; name a new folder, or empty this one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def tokenizers_in(folder: Path | str) -> dict[str, Path]:
    """What `save_folder` takes of the tokenizers that lie in a model folder, by the names of its parameters."""
    folder = Path(folder)
    found = {
        "tokenizer_dir": folder if (folder / "tokenizer_config.json").exists() else None,
        "vision_tokenizer_dir": folder / VISION_TOKENIZER,
        "audio_tokenizer_dir": folder / AUDIO_TOKENIZER,
        "speaker_encoder_dir": folder / SPEAKER_ENCODER,
    }
    return {name: path for name, path in found.items() if path is not None and path.is_dir()}


def flat_config(config: ModelConfig) -> dict[str, Any]:
    """The settings as `config.json` has them: on one level, under the ecosystem's names."""
    values = dataclasses.asdict(config)
    for section in _SECTIONS:
        values |= values.pop(section)
    return values


def nested_config(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flat_config`; keys it does not know stay on the top level, for the strict reader to refuse."""
    values = dict(values)
    for section, kind in _SECTIONS.items():
        names = [field.name for field in dataclasses.fields(kind) if field.name in values]
        values[section] = {name: values.pop(name) for name in names}
    return values


def copy_tokenizer(source: Path, folder: Path) -> dict[str, int]:
    """Writes the tokenizer's own files, whatever else its folder holds; returns its ids for config.json."""
    from ernie5.tokenizers.text import TextTokenizer

    tokenizer = TextTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(folder)
    return {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
