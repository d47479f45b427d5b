"""What an exported folder says is what the model says."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest

from ernie5.config.schema import GenerationConfig, MemberConfig
from ernie5.data.sample import Text
from ernie5.elastic.sampler import member_subnet
from ernie5.errors import UserError
from ernie5.inference.engine import Engine, EngineSettings
from ernie5.inference.export.export_folder import export_folder, narrow
from ernie5.inference.predictor import Predictor
from ernie5.inference.predictor.exported import ExportedModel
from ernie5.inference.reading import Piece, Read, Reader, Words
from ernie5.inference.request import Finished, Request
from ernie5.inference.task import Task
from ernie5.model.folder import from_pretrained
from ernie5.model.subnet import full_subnet
from ernie5.ops import backend
from ernie5.tokenizers.text import TextTokenizer
from tests.audio_models import audio_model
from tests.inference.export.kinds import KINDS

GREEDY = GenerationConfig(max_new_tokens=24, temperature=0.0)
PROMPTS = ("Draw a seven.", "What is it? " * 14, "")
NATIVE = pytest.mark.skipif(backend._register() != "", reason="not compiled")
OPS = ["none", pytest.param("native", marks=NATIVE)]


def logits_of(engine: Engine, ids, chunks) -> np.ndarray:
    """float32 [chunks, vocab]: what the model says behind each chunk of a text."""
    task = Task(engine.model, None, engine.coders, Request(prompt=()), engine.pool)
    sequence, found, start = task.open_sequence(), [], 0
    for size in chunks:
        read = Read(sequence, Words(ids[start : start + size]), sequence.word_places(size))
        sequence.reserve(size)
        (answer,) = engine.reader.run([Piece(read, size)])
        found.append(answer.values[0])
        start += size
    task.close()
    return np.stack(found)


def texts(engine: Engine, prompts=PROMPTS, config=GREEDY) -> list[str]:
    found = {engine.submit(Request(prompt=(Text(prompt),), config=config, seed=3)): "" for prompt in prompts}
    for number, what in engine.run():
        assert not isinstance(what, Finished) or what.reason != "failed", what
        if isinstance(what, str):
            found[number] += what
    return list(found.values())


def engines(folder, exported, subnet=None, **settings) -> tuple[Engine, Engine]:
    model, tokenizer = from_pretrained(folder).eval(), TextTokenizer.from_pretrained(folder)
    subnet = member_subnet(model.config, subnet) if subnet is not None else full_subnet(model.config)
    settings = EngineSettings(**settings)
    return Engine(model, tokenizer, settings=settings, subnet=subnet), Predictor(exported, settings).engine


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_text_are_the_models(tiny_model_config, make_folder, export, kind, ops):
    folder = make_folder(tiny_model_config, kind)
    ours, theirs = engines(folder, export(folder, ops))
    ids = np.random.default_rng(0).integers(0, ours.model.config.vocab_size, 150)
    chunks = [90, 1, 1, 50, 1, 7]
    expected = logits_of(ours, ids, chunks)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits_of(theirs, ids, chunks), expected, atol=1e-4, rtol=0)
    assert texts(theirs) == texts(ours)
    drawn = dataclasses.replace(GREEDY, temperature=1.0)
    assert texts(theirs, config=drawn) == texts(ours, config=drawn)


@pytest.mark.parametrize("ops", OPS)
def test_a_member_of_the_family_is_exported_with_its_own_layers_and_top_k(tiny_model_config, make_folder, export, ops):
    folder = make_folder(tiny_model_config)
    member = MemberConfig(name="small", num_layers=2, num_experts=5, top_k=1)
    subnet = member_subnet(from_pretrained(folder).config, member)
    ours, theirs = engines(folder, export(folder, ops, subnet=subnet), member)
    ids = np.random.default_rng(0).integers(0, 300, 40)
    expected = logits_of(ours, ids, [30, 1, 9])
    np.testing.assert_allclose(logits_of(theirs, ids, [30, 1, 9]), expected, atol=1e-4, rtol=0)
    assert texts(theirs) == texts(ours) != texts(engines(folder, export(folder, ops))[1])


@pytest.mark.parametrize("ops", OPS)
def test_the_prediction_block_guesses_as_the_models(tiny_model_config, make_folder, export, ops):
    folder = make_folder(tiny_model_config, num_nextn_predict_layers=1)
    ours, theirs = engines(folder, export(folder, ops), speculate=True)
    assert texts(theirs) == texts(ours) == texts(engines(folder, export(folder, ops))[1])
    assert theirs.statistics().drafted == ours.statistics().drafted > 20
    assert theirs.statistics().accepted == ours.statistics().accepted


@NATIVE
def test_bfloat16_is_the_model_with_rounded_weights(tiny_model_config, make_folder, export):
    """As the same model rounded in this process says it, and near what float32 says."""
    folder = make_folder(tiny_model_config, "shared experts behind a dense layer", num_nextn_predict_layers=1)
    exported = export(folder, "native", dtype="bfloat16")
    ours, theirs = engines(folder, exported, speculate=True)
    ids = np.random.default_rng(0).integers(0, 300, 120)
    exact = logits_of(ours, ids, [110, 1, 9])
    narrow(ours.model)
    rounded = Engine(ours.model, ours.tokenizer, settings=ours.settings)
    with backend.using("native"):
        expected = logits_of(rounded, ids, [110, 1, 9])
        found = logits_of(theirs, ids, [110, 1, 9])
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max(), rtol=0)
        assert 1e-4 < np.abs(found - exact).std() / exact.std() < 0.1
        assert texts(theirs) == texts(rounded)
    assert sum(path.stat().st_size for path in exported.glob("*.pdiparams")) < 0.6 * sum(
        path.stat().st_size for path in folder.glob("*.safetensors")
    )


def test_bfloat16_without_compiled_operators_is_refused(tiny_model_config, make_folder, tmp_path):
    folder = make_folder(tiny_model_config)
    with pytest.raises(UserError, match="bfloat16 needs --ops native"):
        export_folder(from_pretrained(folder), folder, tmp_path / "new", "none", dtype="bfloat16")


@NATIVE
def test_experts_that_native_programs_ask_are_counted(tiny_model_config, make_folder, export):
    folder = make_folder(tiny_model_config, "shared experts behind a dense layer")
    ours, theirs = engines(folder, export(folder, "native"))
    texts(ours), texts(theirs)
    np.testing.assert_equal(theirs.statistics().expert_use, ours.statistics().expert_use)


def test_weights_are_there_once(tiny_model_config, make_folder, export):
    folder = make_folder(tiny_model_config, tie_word_embeddings=True)
    exported = export(folder)
    in_folder = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    in_export = sum(path.stat().st_size for path in exported.glob("*.pdiparams"))
    assert 0.9 * in_folder < in_export < 1.1 * in_folder


def test_run_py_runs_with_its_own_sources_and_nothing_else_of_ours(tiny_model_config, make_folder, export, tmp_path):
    folder = make_folder(tiny_model_config)
    exported = shutil.copytree(export(folder), tmp_path / "elsewhere" / "folder")
    blocked = "yaml", "sentencepiece", "tqdm", "soundfile", "av", "jieba", "ernie5_ops"
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nfor name in {blocked}: sys.modules[name] = None\n")
    program = [sys.executable, str(exported / "run.py"), "--prompt", PROMPTS[0], "--temperature", "0"]
    result = subprocess.run(
        [*program, "--max-new-tokens", "24"],
        capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with backend.using("reference"):
        (expected,) = texts(engines(folder, exported)[0], PROMPTS[:1])
    assert result.stdout == PROMPTS[0] + expected.encode("utf-8", "replace").decode() + "\n"


def test_what_cannot_be_exported_is_refused(tiny_model_config, tmp_path, make_folder, export):
    with pytest.raises(UserError, match="has vision or audio: only text is exported so far"):
        export_folder(audio_model(tiny_model_config), tmp_path, tmp_path / "new")
    folder = make_folder(tiny_model_config)
    with pytest.raises(UserError, match="is not empty: give the name of a new folder"):
        export_folder(from_pretrained(folder), folder, folder)


DAMAGE = {
    "a file is missing": (lambda folder: (folder / "words.pdiparams").unlink(), "words.pdiparams: is missing"),
    "a file was changed": (
        lambda folder: (folder / "words.pdiparams").write_bytes(b"x"), "words.pdiparams: is not the file that was exp"
    ),
    "no manifest": (lambda folder: (folder / "export.json").unlink(), "export.json: cannot be read"),
    "no JSON": (lambda folder: (folder / "export.json").write_text("{"), "export.json: is not JSON"),
    "another format": (lambda folder: change(folder, format=2), "format is 2, not 1"),
    "a way out": (lambda folder: change(folder, sha256={"../x": "0"}), "names '../x', which is not inside the folder"),
    "no parts": (lambda folder: change(folder, parts=[]), "is not what tools/export.py writes"),
    "a part without its files": (
        lambda folder: change(folder, parts={"thing": {"weights": "a", "inputs": []}}), "has no whole part 'thing'"
    ),
}  # fmt: skip


def change(folder, **values) -> None:
    path = folder / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_folder_that_is_not_what_was_written_is_refused_in_a_sentence(whole, tmp_path, name):
    damage, sentence = DAMAGE[name]
    folder = shutil.copytree(whole, tmp_path / "folder")
    damage(folder)
    with pytest.raises(UserError, match=sentence):
        ExportedModel(folder)


def test_a_program_with_another_operator_is_not_run(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "folder")
    path = folder / "words.json"
    path.write_text(path.read_text().replace('"1.embedding"', '"1.load_combine"'))
    with pytest.raises(UserError, match=r"has operators that no exported model has \(1.load_combine\)"):
        ExportedModel(folder, verify=False)


def test_native_programs_without_the_operators_are_refused(whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "folder")
    change(folder, ops="native")
    monkeypatch.setattr(backend, "_register", lambda: "ernie5_ops is not installed")
    with pytest.raises(UserError, match=r"was exported with compiled operators: .* \(or export with --ops none\)"):
        ExportedModel(folder)


def test_a_reader_takes_an_exported_model_as_it_takes_a_model(whole):
    model = ExportedModel(whole)
    assert isinstance(Engine(model, None).reader, Reader) and model.eval() is model and model.training is False
    assert model.text.embed(paddle.to_tensor([1, 2])).shape == [2, model.config.hidden_size]


@NATIVE
def test_prompts_and_words_of_native_text_are_one_program(tiny_model_config, make_folder, export):
    """So a step calls Paddle once, and what it needs of itself does not change what it says."""
    folder = make_folder(tiny_model_config)
    exported = export(folder, "native")
    assert {path.name for path in exported.glob("*.pdiparams")} <= {"step.pdiparams", "prediction.pdiparams"}
    ours, theirs = engines(folder, exported)
    states = np.random.default_rng(0).normal(size=[3, ours.model.config.hidden_size]).astype(np.float32)
    with paddle.no_grad():
        expected = ours.model.logits(paddle.to_tensor(states)).numpy()
        embedded = ours.model.text.embed(paddle.to_tensor([5, 7])).numpy()
    np.testing.assert_allclose(theirs.model.logits(paddle.to_tensor(states)).numpy(), expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(theirs.model.text.embed(paddle.to_tensor([5, 7])).numpy(), embedded)


@pytest.mark.parametrize("ops", OPS)
@pytest.mark.parametrize("tied", [False, True], ids=["two ends", "tied"])
def test_int8_is_the_model_with_its_matrices_rounded(tiny_model_config, make_folder, export, ops, tied):
    """As NumPy rounds them, by output; of words, by word."""
    changes = {"tie_word_embeddings": tied, "num_nextn_predict_layers": 1}
    folder = make_folder(tiny_model_config, "shared experts behind a dense layer", **changes)
    exported = export(folder, ops, dtype="int8")
    ours, theirs = engines(folder, exported, speculate=True)
    ids = np.random.default_rng(0).integers(0, 300, 120)
    exact = logits_of(ours, ids, [110, 1, 9])
    for name, tensor in ours.model.state_dict().items():
        if tensor.ndim < 2 or ".gate.weight" in name:
            continue
        weight = tensor.numpy()
        scale = np.abs(weight).max(-1 if "embed_tokens" in name else -2, keepdims=True) / 127
        tensor.set_value(np.rint(weight / scale) * scale)
    expected = logits_of(ours, ids, [110, 1, 9])
    np.testing.assert_allclose(logits_of(theirs, ids, [110, 1, 9]), expected, atol=1e-4, rtol=0)
    assert 1e-3 < np.abs(expected - exact).std() / exact.std() < 0.1
    assert texts(theirs) == texts(ours)
    sizes = [sum(path.stat().st_size for path in one.glob(end)) for one, end in
             ((exported, "*.pdiparams"), (folder, "*.safetensors"))]  # fmt: skip
    assert sizes[0] < 0.4 * sizes[1]  # of tiny matrices the scales and the routers are a good part
