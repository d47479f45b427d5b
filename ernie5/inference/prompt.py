"""Prompts of text and media: the same tokens as in training, and the texts that a model answers with."""

from collections.abc import Sequence

import numpy as np
import paddle

from ernie5.config.schema import GenerationConfig
from ernie5.data.media_settings import MediaSettings
from ernie5.data.sample import Audio, Message, Sample, Segment, Text
from ernie5.data.sequence import EncodedSample, encode_sample
from ernie5.errors import UserError
from ernie5.inference.coders import SIGHT, require_audio, require_speaker_encoder
from ernie5.inference.decoding import Decoding, evaluating
from ernie5.inference.generate import continue_ids
from ernie5.modality.batch import Coders
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet
from ernie5.tokenizers.text import TextTokenizer


def encode_prompt(
    model: Ernie5ForCausalLM, tokenizer: TextTokenizer, prompt: Sequence[Segment] | Sequence[Message]
) -> EncodedSample:
    """The beginning of a document, as training encodes it but with nothing dropped, masked or flipped.

    Behind the messages of a chat the assistant's turn begins. Raises UserError for media that cannot be read, that the
    model does not take, or that are to be generated.
    """
    sample = Sample(
        segments=tuple(part for part in prompt if not isinstance(part, Message)),
        messages=tuple(part for part in prompt if isinstance(part, Message)),
        origin="prompt",
        ends=False,
    )
    for segment in sample.all_segments():
        if not isinstance(segment, Text) and segment.role == "generate":
            raise UserError(f"{segment.source}: media of a prompt are taken in: give it the role understand")
    return encode_sample(sample, tokenizer, media=MediaSettings.uncorrupted(model.config))


def read_prompts(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    prompts: Sequence[Sequence[Segment]],
    subnet: Subnet | None,
    coders: Coders,
) -> tuple[Decoding, paddle.Tensor]:
    """The prompts, read side by side; and [prompts, hidden] of their last tokens.

    Raises UserError as `encode_prompt` does, and for sounds that `coders` cannot encode.
    """
    encoded = [encode_prompt(model, tokenizer, prompt) for prompt in prompts]
    sounds = [segment for prompt in prompts for segment in prompt if isinstance(segment, Audio)]
    if sounds:
        require_audio(coders, model)
    if any(sound.role == "speaker" for sound in sounds):
        require_speaker_encoder(coders)
    decoding = Decoding(model, subnet)
    return decoding, decoding.read_prompts(encoded, coders)


def answer(
    model: Ernie5ForCausalLM,
    tokenizer: TextTokenizer,
    prompts: Sequence[Sequence[Segment]],
    config: GenerationConfig,
    seed: int = 0,
    subnet: Subnet | None = None,
    coders: Coders = SIGHT,
) -> list[str]:
    """The text that the model writes behind each prompt, all together; to hear, it needs `coders` with audio.

    Raises UserError as `read_prompts` does.
    """
    if not prompts:
        return []
    streams = [tokenizer.stream() for _ in prompts]
    texts = ["" for _ in prompts]
    with evaluating(model):
        decoding, hidden = read_prompts(model, tokenizer, prompts, subnet, coders)
        for next_ids in continue_ids(decoding, hidden, config, tokenizer.eos_id, np.random.default_rng(seed)):
            texts = [text + stream.push(int(i)) for text, stream, i in zip(texts, streams, next_ids, strict=True)]
    return [text + stream.finish() for text, stream in zip(texts, streams, strict=True)]
