"""Commands of README and guides, the README's files and links are real. Commands are dry-run, not executed in full."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest

from ernie5.config.audio_networks import SpeakerRunConfig
from ernie5.config.audio_tokenizer import AudioTokenizerRunConfig
from ernie5.config.load import load_as, load_config, load_config_or_model
from ernie5.config.refiner import RefinerRunConfig
from ernie5.config.vision_tokenizer import VisionTokenizerRunConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE_PATHS = [*sorted((ROOT / "docs" / "guides").glob("*.md")), ROOT / "custom_ops" / "README.md"]
GUIDES = [path.read_text(encoding="utf-8") for path in GUIDE_PATHS]
PROSE = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
RUN_CONFIGS = {
    "tools/tokenizer.py train vision": VisionTokenizerRunConfig,
    "tools/tokenizer.py train audio": AudioTokenizerRunConfig,
    "tools/tokenizer.py train speaker": SpeakerRunConfig,
    "tools/refiner.py train": RefinerRunConfig,
}
CHECKED_FOLDERS = ("configs/", "custom_ops/", "docs/", "ernie5/", "tests/", "tools/")


def commands() -> list[str]:
    """Every command line of the bash blocks of README and guides, continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", "".join([README, *GUIDES]), flags=re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def words(command: str) -> list[str]:
    """The command's words, leading VARIABLE=value ones left out."""
    split = shlex.split(command, comments=True)
    while split and re.match(r"[A-Z0-9_]+=", split[0]):
        split.pop(0)
    return split


def commands_of(program: str) -> list[str]:
    return [command for command in commands() if words(command)[0] == program]


@cache
def help_text(*program: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *program, "--help"]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_command_is_of_a_checked_kind():
    assert {words(command)[0] for command in commands()} <= {"make", "pip", "python"}


@pytest.mark.parametrize("command", commands_of("make"))
def test_make_target_exists(command: str):
    result = subprocess.run(["make", "-n", *words(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", [command for command in commands_of("pip") if "./custom_ops" not in command])
def test_pip_extras_exist(command: str):
    extras = re.search(r"\.\[([a-z,]+)\]", command)
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    assert extras and all(re.search(rf"^{extra} = ", declared, re.MULTILINE) for extra in extras[1].split(","))


@pytest.mark.parametrize("command", commands_of("python"))
def test_tool_accepts_the_options(command: str):
    tool, *arguments = words(command)[1:]
    if tool == "-m":
        tool = f"-m {arguments.pop(0)}"
    subcommands = list(takewhile(re.compile(r"[a-z]+").fullmatch, arguments))
    known = help_text(*tool.split(), *subcommands)
    for option in (word for word in arguments if word.startswith("-")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", known), f"{tool} has no {option}"


def overrides_in(arguments: list[str]) -> list[str]:
    return [value for option, value in zip(arguments, arguments[1:], strict=False) if option == "-o"]


@pytest.mark.parametrize("command", [command for command in commands_of("python") if " -c " in command])
def test_configuration_loads_with_the_overrides(command: str):
    arguments = words(command)
    path, overrides = ROOT / arguments[arguments.index("-c") + 1], overrides_in(arguments)
    kind = " ".join(takewhile(lambda word: word != "-c", arguments[1:]))
    if kind in RUN_CONFIGS:
        load_as(RUN_CONFIGS[kind], path, overrides)
    else:
        load_config_or_model(path, overrides)


def test_ci_overrides_load():
    (arguments,) = re.findall(r'make train ARGS="(.*)"', (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert load_config(ROOT / "configs/run/digits.yaml", overrides_in(arguments.split())).train.max_steps == 20


def missing(names: set[str]) -> str:
    return "\n".join(sorted(name for name in names if not (ROOT / name.partition(":")[0]).exists()))


def test_named_files_exist():
    in_commands = [word for command in commands() for word in words(command)]
    in_prose = re.findall(r"`([^`\s]+)`", PROSE)
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PROSE)
    named = {word for word in in_commands + in_prose if word.startswith(CHECKED_FOLDERS)} | set(links)
    assert not missing(named), missing(named)


@pytest.mark.parametrize("path", GUIDE_PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_links_of_guides_exist(path: Path):
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8"))
    broken = [link for link in links if not (path.parent / link).exists()]
    assert not broken


def test_every_native_operator_is_listed():
    index = (ROOT / "custom_ops" / "README.md").read_text(encoding="utf-8")
    operators = {path.parent.name for path in (ROOT / "custom_ops").glob("*/op.cc")}
    assert operators == set(re.findall(r"^\| \[[^]]+\]\((\w+)/", index, flags=re.MULTILINE))


def test_shipped_models_are_listed():
    shipped = {path.stem for path in (ROOT / "configs" / "model").glob("*.yaml")}
    assert shipped == set(re.findall(r"^\| `(\w+)` \|", PROSE, flags=re.MULTILINE))


def test_readme_stays_short():
    assert len(README.splitlines()) <= 200


def test_paper_index_names_only_files_that_exist():
    index = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:configs|ernie5|tests)/[^`]+)`", index))
    assert named
    assert not missing(named), missing(named)
