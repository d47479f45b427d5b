"""A model that answers while it is being trained."""

from collections.abc import Iterator
from contextlib import contextmanager

from ernie5.model.ernie5 import Ernie5ForCausalLM


@contextmanager
def evaluating(model: Ernie5ForCausalLM) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in the mode it was in."""
    if not model.training:  # to say it again to every layer would take as long as a tenth of a word
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
