"""The exported model of a folder, to be asked (docs/guides/export.md)."""

from collections.abc import Iterator
from pathlib import Path

from ernie5.config.schema import GenerationConfig
from ernie5.data.sample import Text
from ernie5.errors import Fault
from ernie5.inference.engine import Engine, EngineSettings
from ernie5.inference.predictor.exported import ExportedModel
from ernie5.inference.request import Finished, Request
from ernie5.tokenizers.text import TextTokenizer


class Predictor:
    """Runs on Paddle Inference alone. `engine` answers many requests at once; `generate` and `stream` ask for one."""

    def __init__(
        self, folder: Path | str, settings: EngineSettings | None = None, threads: int = 1, verify: bool = True
    ):
        """Raises UserError as `ExportedModel` does."""
        self.model = ExportedModel(folder, threads, verify)
        self.tokenizer = TextTokenizer.from_pretrained(folder)
        self.engine = Engine(self.model, self.tokenizer, settings=settings)

    def generate(self, prompt: str, seed: int = 0, **config: object) -> str:
        """The text behind a prompt. `config`: fields of `GenerationConfig`, such as `temperature=0`."""
        return "".join(self.stream(prompt, seed, **config))

    def stream(self, prompt: str, seed: int = 0, **config: object) -> Iterator[str]:
        """As `generate`, piece by piece."""
        request = Request(prompt=(Text(prompt),), config=GenerationConfig(**config), speaks=False, seed=seed)
        own = self.engine.submit(request)
        while not self.engine.is_idle:
            for number, what in self.engine.step():
                if number != own:
                    continue
                if not isinstance(what, Finished):
                    yield what
                elif what.reason == "failed":
                    raise Fault(what.message)
