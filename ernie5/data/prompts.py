"""The prompts of a run file as segments."""

from ernie5.config.schema import MediaPromptConfig
from ernie5.data.sample import Audio, Image, Segment, Text, Video


def prompt_segments(prompt: MediaPromptConfig) -> tuple[Segment, ...]:
    """What is seen and heard, and whose voice is taken, then the text."""
    media = [Image(prompt.image, "understand")] if prompt.image else []
    media += [Video(prompt.video, prompt.fps, "understand")] if prompt.video else []
    media += [Audio(prompt.audio, "understand")] if prompt.audio else []
    media += [Audio(prompt.speaker, "speaker")] if prompt.speaker else []
    return (*media, *([Text(prompt.text, loss=False)] if prompt.text else []))
