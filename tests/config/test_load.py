import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ernie5.config.load import dump, load_config, load_config_or_model, load_model_config, model_from_dict
from ernie5.config.schema import Config, ModelConfig
from ernie5.errors import UserError

MODEL = """
model:
  name: m
  vocab_size: 300
  hidden_size: 32
  num_hidden_layers: 2
  attention: {num_attention_heads: 4, num_key_value_heads: 2, head_dim: 8}
  moe: {num_experts: 8, num_experts_per_tok: 2, moe_intermediate_size: 16}
"""
STAGES = """
stages:
  - {name: s, max_seq_len: 64, num_tokens: 1_280, batch_tokens: 128}
"""
DATA = """
data:
  train: [{name: a, path: b.txt}]
"""
RUN = MODEL + STAGES + DATA


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path, "run.yaml", RUN)


def test_values_and_defaults_are_typed(run: Path):
    config = load_config(run)
    assert config.model.moe.num_experts == 8
    assert config.stages[0].num_tokens == 1280
    assert isinstance(config.stages, tuple) and isinstance(config.data.train, tuple)
    assert config.optimizer.beta2 == 0.95


@pytest.mark.parametrize(
    "text, value", [("1e-4", 1e-4), ("2E+3", 2e3), ("1.e-5", 1e-5), (".5", 0.5), ("3", 3.0), ("5_0.0", 50.0)]
)
def test_numbers_are_floats_where_a_float_is_meant(run: Path, text: str, value: float):
    learning_rate = load_config(run, [f"stages.0.learning_rate={text}", "stages.0.min_learning_rate=0"]).stages[0]
    assert learning_rate.learning_rate == value and type(learning_rate.learning_rate) is float


def test_a_leading_zero_is_not_octal(run: Path):
    assert load_config(run, ["train.seed=010"]).train.seed == 10


def test_no_and_dates_are_text(tmp_path: Path):
    path = write(tmp_path, "run.yaml", RUN + "generation: {prompts: [no, off, 2026-02-04, 12:30]}")
    assert load_config(path).generation.prompts == ("no", "off", "2026-02-04", "12:30")


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.seed=1.0", "train.seed must be a whole number, but is the number 1.0"),
        ("train.seed=true", "train.seed must be a whole number, but is the truth value true"),
        ("train.visualdl=1", "train.visualdl must be true or false, but is the number 1"),
        ("train.visualdl=yes", "train.visualdl must be true or false, but is the text 'yes'"),
        ("stages.0.learning_rate='1'", "stages.0.learning_rate must be a number, but is the text '1'"),
        ("stages.0.learning_rate=.nan", "stages.0.learning_rate must be a finite number"),
        ("stages.0.learning_rate=1" + "0" * 400, "stages.0.learning_rate must be a finite number"),
        ("generation.prompts=hello", "generation.prompts must be a list, but is the text 'hello'"),
        ("generation.prompts=[1]", "generation.prompts.0 must be a text"),
        ("model.moe=null", "model.moe must be a mapping of settings, but is nothing"),
        ("train.device=tpu", "train.device must be one of auto, cpu, gpu, but is the text 'tpu'"),
    ],
)
def test_wrong_type_names_option_key_and_value(run: Path, override: str, expected: str):
    message = refusal(run, override)
    assert message.startswith(f"-o {override}: ") and expected in message


def test_wrong_type_in_a_file_names_the_file_that_holds_it(tmp_path: Path):
    model = write(tmp_path, "model.yaml", MODEL.replace("hidden_size: 32", "hidden_size: wide"))
    path = write(tmp_path, "run.yaml", "include: [model.yaml]" + STAGES + DATA)
    assert refusal(path) == f"{model}: model.hidden_size must be a whole number, but is the text 'wide'"


def test_a_number_for_a_text_in_a_file_asks_for_quotes(tmp_path: Path):
    assert 'put it in quotes: "..."' in refusal(write(tmp_path, "run.yaml", RUN.replace("name: m", "name: 7")))


def test_unknown_key_names_path_and_nearest(tmp_path: Path):
    path = write(tmp_path, "run.yaml", RUN.replace("num_tokens", "num_token"))
    message = refusal(path)
    assert message == f"{path}: stages.0.num_token is not a known setting: did you mean stages.0.num_tokens?"


def test_unknown_key_without_a_neighbour_lists_what_is_known(run: Path):
    assert refusal(run, "optimizer.zzz=1").endswith(
        "known here are beta1, beta2, epsilon, weight_decay, clip_norm, router_lr_scale"
    )


def test_missing_settings_are_all_named(tmp_path: Path):
    path = write(tmp_path, "run.yaml", RUN.replace("vocab_size: 300\n", "\n").replace("name: m\n", "\n"))
    assert refusal(path) == f"{path}: model.name, model.vocab_size are missing and must be set"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- a\n- b\n", "the file holds a list"),
        ("just words", "the file holds the text 'just words'"),
        ("model:\n  name: [m\n", "line 3, column 1: "),
        ("train:\n  seed: 1\n  seed: 2\n", "line 3, column 3: the key 'seed' stands twice, first at line 2"),
        ("a: &x {b: 1}\nc: *x\n", "line 2, column 4: tags and aliases are not allowed"),
        ("a: !!python/name:os.system\n", "line 1, column 4: tags and aliases are not allowed"),
        ("[a, b]: 1\n", "line 1, column 1: a key must be a word"),
        (b"\xff\xfe\x00", "not UTF-8 text at byte 0"),
        (b"a: \x00", "special characters are not allowed"),
        ("[" * 100_000, "nested too deeply"),
        ("seed: " + "1" * 5000, "unreadable number"),
        ("#" * (1 << 20) + "\n", "larger than 1048576 bytes"),
    ],
)
def test_an_unfit_file_is_one_sentence_with_its_name(tmp_path: Path, text: str | bytes, expected: str):
    path = write(tmp_path, "run.yaml", text)
    message = refusal(path)
    assert message.startswith(f"{path}: ") and expected in message and "\n" not in message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    assert refusal(tmp_path / "no.yaml") == f"{tmp_path / 'no.yaml'}: there is no such configuration file"
    assert refusal(tmp_path).startswith(f"{tmp_path}: the configuration cannot be read: ")


def test_the_file_wins_over_its_includes_key_by_key(tmp_path: Path):
    write(tmp_path, "model.yaml", MODEL)
    path = write(tmp_path, "run.yaml", "include: [model.yaml]\nmodel: {moe: {num_experts: 4}}" + STAGES + DATA)
    moe = load_config(path).model.moe
    assert (moe.num_experts, moe.num_experts_per_tok) == (4, 2)


def test_includes_are_relative_to_the_including_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "run").mkdir()
    write(tmp_path / "model", "m.yaml", MODEL)
    path = write(tmp_path / "run", "r.yaml", "include: [../model/m.yaml]" + STAGES + DATA)
    monkeypatch.chdir(tmp_path)
    assert load_config(os.path.relpath(path)).model.name == "m"


def test_two_includes_with_one_key_are_refused_by_both_names(tmp_path: Path):
    one, two = write(tmp_path, "one.yaml", MODEL), write(tmp_path, "two.yaml", "model: {vocab_size: 9}")
    message = refusal(write(tmp_path, "run.yaml", "include: [one.yaml, two.yaml]" + STAGES + DATA))
    assert f"both {one} and {two} set model.vocab_size" in message


def test_two_includes_may_fill_one_section(tmp_path: Path):
    write(tmp_path, "one.yaml", MODEL.replace("vocab_size: 300\n", "\n"))
    write(tmp_path, "two.yaml", "model: {vocab_size: 301}")
    path = write(tmp_path, "run.yaml", "include: [one.yaml, two.yaml]" + STAGES + DATA)
    assert load_config(path).model.vocab_size == 301


def test_an_included_file_may_not_include(tmp_path: Path):
    write(tmp_path, "one.yaml", "include: [two.yaml]" + MODEL)
    assert "an included file may not include others" in refusal(write(tmp_path, "run.yaml", "include: [one.yaml]"))


def test_an_include_that_does_not_exist_is_named_with_its_includer(tmp_path: Path):
    path = write(tmp_path, "run.yaml", "include: [nowhere.yaml]" + RUN)
    assert refusal(path) == f"{path}: include names nowhere.yaml, but there is no file {tmp_path / 'nowhere.yaml'}"


def test_include_must_be_a_list(tmp_path: Path):
    assert "include must be a list of files" in refusal(write(tmp_path, "run.yaml", "include: model.yaml" + RUN))


def test_overrides_reach_lists_defaults_and_whole_values(run: Path):
    overrides = [
        "stages.0.num_tokens=1000",
        "train.max_steps=3",
        "generation.prompts=[a, b]",
        "model.moe.num_experts=4",
    ]
    config = load_config(run, overrides)
    assert config.stages[0].num_tokens == 1000
    assert config.train.max_steps == 3
    assert config.generation.prompts == ("a", "b")
    assert config.model.moe.num_experts == 4


def test_the_last_override_of_a_key_holds(run: Path):
    assert load_config(run, ["train.seed=1", "train.seed=2"]).train.seed == 2


@pytest.mark.parametrize("text", ["2024", "null", "true", "a: b", "[x", "x=y", "", "with space"])
def test_an_override_of_a_text_is_taken_as_typed(run: Path, text: str):
    assert load_config(run, [f"tokenizer.path={text}"]).tokenizer.path == text


def test_an_override_of_a_text_may_be_quoted(run: Path):
    assert load_config(run, ["tokenizer.path='2024'"]).tokenizer.path == "2024"


@pytest.mark.parametrize(
    "override, expected",
    [
        ("train.max_step=1", "did you mean train.max_steps?"),
        ("trian.max_steps=1", "trian is not a known setting: did you mean train?"),
        ("stages.1.num_tokens=1", "stages.1 names no entry of stages: it has 1, counted from 0"),
        ("stages.-1.num_tokens=1", "stages.-1 names no entry of stages"),
        ("stages.x.num_tokens=1", "stages.x names no entry of stages"),
        ("members.0.name=a", "members.0 names no entry of members: it has none"),
        ("train.seed.x=1", "train.seed holds a single value, so train.seed.x does not exist"),
        ("train.seed", "write an override as key=value"),
        ("=1", "write an override as key=value"),
        ("train.seed=[", "'[' is not a YAML value: line 1"),
    ],
)
def test_a_bad_override_is_refused_by_its_text(run: Path, override: str, expected: str):
    message = refusal(run, override)
    assert message.startswith(f"-o {override}: ") and expected in message


def test_dump_loads_back_equal_with_texts_that_look_like_something_else(run: Path, tmp_path: Path):
    config = load_config(run, ["stages.0.learning_rate=0.1", "stages.0.min_learning_rate=1e-05"])
    prompts = (
        "1e-4",
        "010",
        "no",
        "null",
        "",
        "~",
        "a: b",
        "two\nlines\n",
        " x",
        "# c",
        "é中",
        "\ud800",
        "[",
        "=",
        "<<",
    )
    config = replace(
        config, generation=replace(config.generation, prompts=prompts, temperature=1e300, top_p=math.pi / 4)
    )
    path = tmp_path / "dumped.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load_config(path) == config


def test_dump_of_a_model_loads_back_equal(run: Path, tmp_path: Path):
    model = load_config(run).model
    assert load_model_config(write(tmp_path, "model.yaml", dump(model))) == model


def test_a_model_is_read_from_a_model_file_and_from_a_run(run: Path, tmp_path: Path):
    assert load_model_config(write(tmp_path, "model.yaml", MODEL)) == load_model_config(run) == load_config(run).model


def test_a_model_file_takes_overrides(tmp_path: Path):
    assert load_model_config(write(tmp_path, "model.yaml", MODEL), ["model.moe.num_experts=16"]).moe.num_experts == 16


def test_a_file_without_a_model_is_refused_as_one(tmp_path: Path):
    with pytest.raises(UserError, match="there is no `model:` section"):
        load_model_config(write(tmp_path, "stage.yaml", STAGES))


def test_bare_model_and_run_are_told_apart(run: Path, tmp_path: Path):
    assert isinstance(load_config_or_model(run), Config)
    assert isinstance(load_config_or_model(write(tmp_path, "model.yaml", MODEL)), ModelConfig)


def test_a_model_is_built_back_from_its_dict(run: Path):
    model = load_config(run).model
    assert model_from_dict(asdict(model)) == model


def test_a_dict_with_an_unknown_field_is_refused_with_its_source(run: Path):
    values = asdict(load_config(run).model) | {"hiden_size": 1}
    with pytest.raises(UserError, match=r"folder/config.json: hiden_size .* did you mean hidden_size\?"):
        model_from_dict(values, "folder/config.json")


def test_a_dict_that_breaks_a_rule_is_refused(run: Path):
    with pytest.raises(UserError, match="vocab_size is 0"):
        model_from_dict(asdict(load_config(run).model) | {"vocab_size": 0})
