"""A worker: holds the tokenizers of a run and encodes what it is asked. It knows nothing of how it is called."""

from collections.abc import Mapping
from typing import NamedTuple

import paddle

import ernie5
from ernie5.config.schema import OpsConfig
from ernie5.errors import UserError
from ernie5.layers.network_folder import digest
from ernie5.modality.audio_codes import AudioCoder
from ernie5.modality.batch import Coders
from ernie5.modality.vision_codes import VisionCoder
from ernie5.ops.runtime import configure, start_paddle
from ernie5.services.media import EncodedMedia, EncodeRequest, described, encode_media, to_arrays
from ernie5.tokenizers.audio.speaker import SpeakerEncoder
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer


class WorkerSetup(NamedTuple):
    """What a worker loads and how it computes. Folders are absolute: a worker may run on another machine."""

    vision: dict[int, str]  # folder of the vision tokenizer of so many bits
    audio: str = ""  # folder of the audio tokenizer; empty: none
    speaker: str = ""  # folder of the speaker encoder; empty: none
    device: str = "cpu"
    ops: OpsConfig = OpsConfig()


class EncodingWorker:
    """One process with its own copy of the networks."""

    def __init__(self, setup: WorkerSetup):
        self.setup = setup
        self.vision: dict[int, VisionTokenizer] = {}
        self.audio: AudioCoder | None = None

    def load(self) -> dict[str, str]:
        """Loads the networks and gives their `identity`. UserError for a folder that holds none."""
        setup = self.setup
        start_paddle()
        paddle.set_device(setup.device)
        configure(setup.ops)
        self.vision = {bits: VisionTokenizer.from_pretrained(folder) for bits, folder in setup.vision.items()}
        speaker = SpeakerEncoder.from_pretrained(setup.speaker) if setup.speaker else None
        self.audio = AudioCoder(AudioTokenizer.from_pretrained(setup.audio), speaker) if setup.audio else None
        return identity(self.vision, self.audio)

    def encode(self, request: EncodeRequest) -> EncodedMedia:
        """The codes, with arrays for tensors. RuntimeError names the medium that cannot be encoded."""
        try:
            return self._encode(request)
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(f"{self._culprit(request)}: {type(error).__name__}: {error}") from None

    def _encode(self, request: EncodeRequest) -> EncodedMedia:
        tokenizer = self.vision[request.vision_bits] if request.drawn else None
        coders = Coders(VisionCoder(tokenizer, request.scale_weight_power), self.audio)
        return to_arrays(encode_media(request, coders))

    def _culprit(self, request: EncodeRequest) -> str:
        """The first medium that fails alone, or all where none does."""
        for medium in request.media:
            try:
                self._encode(request.alone(medium))
            except Exception:
                return described(medium)
        return ", ".join(map(described, request.media))


def identity(vision: Mapping[int, VisionTokenizer], audio: AudioCoder | None) -> dict[str, str]:
    """What decides the codes, by name: the digests of the networks and the versions of the programs."""
    found = {"ernie5": ernie5.__version__, "paddle": paddle.__version__}
    found |= {f"vision tokenizer of {bits} bits": tokenizer.digest for bits, tokenizer in vision.items()}
    if audio is not None:
        found["audio tokenizer"] = audio.tokenizer.digest
        if audio.speaker is not None:
            found["speaker encoder"] = digest(audio.speaker.config, audio.speaker)
    return found
