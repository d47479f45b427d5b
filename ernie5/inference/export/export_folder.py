"""A model as a folder of programs for Paddle Inference, with all that running them takes."""

import contextlib
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import paddle

import ernie5
from ernie5.errors import UserError
from ernie5.inference.export.columns_mask import attend_under_columns
from ernie5.inference.export.decoder_part import decoder_parts
from ernie5.inference.export.expert_mixing import MixingDispatcher
from ernie5.inference.export.int8 import quantise
from ernie5.inference.export.part import Part, write_part
from ernie5.inference.export.readme import RUN_PY, readme_of
from ernie5.inference.export.step_part import step_part
from ernie5.inference.export.text_parts import prediction_parts, words_part
from ernie5.inference.predictor.folder import write_manifest
from ernie5.layers.router import Router
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import GENERATION_FILE, copy_tokenizer, write_config
from ernie5.model.subnet import Subnet, full_subnet
from ernie5.ops import backend

Ops = Literal["none", "native"]
Dtype = Literal["float32", "bfloat16", "int8"]  # of weights; but for int8, of what goes from layer to layer too
SOURCES = "ernie5.zip"  # the package, from which run.py imports


def export_folder(
    model: Ernie5ForCausalLM,
    source: Path,
    folder: Path,
    ops: Ops = "none",
    subnet: Subnet | None = None,
    dtype: Dtype = "float32",
    progress: Callable[[str], None] = lambda name: None,
) -> None:
    """Writes `folder`, which must be new, from a model and the tokenizer files in `source`; tells each part's name.

    The model is changed on the way: use it no longer. Raises UserError for a model whose parts cannot all be written,
    and for compiled operators that are not installed.
    """
    if model.config.vision is not None or model.config.audio is not None:
        raise UserError(f"{source}: has vision or audio: only text is exported so far; serve it with tools/serve.py")
    if dtype == "bfloat16" and ops != "native":
        raise UserError("bfloat16 needs --ops native: Paddle has no kernels of its own for it on a CPU")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty: give the name of a new folder")
    native, subnet = ops == "native", subnet or full_subnet(model.config)
    with _operators(ops), paddle.no_grad():
        if not native:
            _make_plain(model.eval())
        if dtype == "bfloat16":
            narrow(model)
        if dtype == "int8":
            quantise(model)
        parts = [*_text_parts(model, subnet, native), *prediction_parts(model, subnet, native)]
        folder.mkdir(parents=True, exist_ok=True)
        for part in parts:
            progress(part.name)
            write_part(part, folder)
    token_ids = copy_tokenizer(source, folder)
    write_config(model.config, folder, "float32" if dtype == "int8" else dtype, token_ids)
    shutil.copyfile(source / GENERATION_FILE, folder / GENERATION_FILE)
    _write_sources(folder / SOURCES)
    (folder / "run.py").write_text(RUN_PY, encoding="utf-8")
    (folder / "README.md").write_text(readme_of(model.config, ops, dtype), encoding="utf-8")
    write_manifest(folder, ops, _described(parts), _about(model, dtype))


def _text_parts(model: Ernie5ForCausalLM, subnet: Subnet, native: bool) -> list[Part]:
    """One program where nothing has to be done between its parts."""
    if native and model.audio is None:
        return [step_part(model, subnet)]
    return [words_part(model, native), *decoder_parts(model, subnet, native)]


def _described(parts: list[Part]) -> dict:
    return {part.name: part.described() for part in parts}


def _about(model: Ernie5ForCausalLM, dtype: Dtype) -> dict:
    return {
        "ernie5": ernie5.__version__,
        "paddle": paddle.__version__,
        "model": model.config.name,
        "dtype": dtype,
    }


@contextlib.contextmanager
def _operators(ops: Ops) -> Iterator[None]:
    with backend.using("native" if ops == "native" else "reference"):
        yield


def _make_plain(model: Ernie5ForCausalLM) -> None:
    """What depends on numbers that a program does not know yet is done in the way that does not."""
    for block in model.blocks().values():
        block.self_attn.attend = attend_under_columns
        if block.routes:
            block.mlp.dispatcher = MixingDispatcher()


def narrow(model: Ernie5ForCausalLM) -> None:
    """Rounds the weights to bfloat16, but for those of the routers, whose scores decide who is asked, and for the one
    matrix that no compiled operator reads."""
    kept = None if model.mtp is None else model.mtp.eh_proj
    for layer in model.sublayers():
        if not layer.sublayers() and not isinstance(layer, Router) and layer is not kept:
            layer.to(dtype="bfloat16")


def _write_sources(path: Path) -> None:
    """The package as it is installed here, Python files only; the same bytes each time."""
    package = Path(ernie5.__file__).parent
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(package.rglob("*.py")):
            entry = zipfile.ZipInfo(f"ernie5/{file.relative_to(package).as_posix()}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes())
