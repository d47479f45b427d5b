"""The audio tokenizer and the speaker encoder of a run (report §2.3)."""

import shutil
from pathlib import Path

from ernie5.config.schema import AudioConfig, Config
from ernie5.errors import UserError
from ernie5.layers.network_folder import digest
from ernie5.modality.audio_codes import AudioCoder
from ernie5.tokenizers.audio.speaker import SpeakerEncoder
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

FOLDER, SPEAKER_FOLDER = "audio_tokenizer", "speaker_encoder"  # in the run folder


class RunAudio:
    """Copied into the run folder, from which a resumed run takes them."""

    def __init__(self, config: Config, run_dir: Path, is_resumed: bool, copies_them: bool = True):
        """Raises UserError for folders that hold none, or ones that do not fit the model.

        Of the processes of a run, one `copies_them`.
        """
        self.folder, speaker_folder = run_dir / FOLDER, run_dir / SPEAKER_FOLDER
        self.speaker_folder = speaker_folder if config.tokenizer.speaker else None
        if copies_them and not is_resumed:  # of a run that died before its first checkpoint
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(speaker_folder, ignore_errors=True)
        source = _source(self.folder, config.tokenizer.audio, is_resumed)
        self.tokenizer = AudioTokenizer.from_pretrained(source)
        check_tokenizer(self.tokenizer, config.model.audio, source)
        if copies_them and source != self.folder:
            self.tokenizer.save_pretrained(self.folder)
        self.speaker = None
        if self.speaker_folder is not None:
            source = _source(speaker_folder, config.tokenizer.speaker, is_resumed)
            self.speaker = SpeakerEncoder.from_pretrained(source)
            check_speaker(self.speaker, config.model.audio, source)
            if copies_them and source != speaker_folder:
                self.speaker.save_pretrained(speaker_folder)

    @property
    def digests(self) -> dict[str, str]:
        """What decides the codes and the voices."""
        digests = {"audio": self.tokenizer.digest}
        return digests | ({"speaker": digest(self.speaker.config, self.speaker)} if self.speaker is not None else {})

    def coder(self) -> AudioCoder:
        return AudioCoder(self.tokenizer, self.speaker)

    def require(self, digests: dict[str, str], where: Path) -> None:
        """UserError unless these are the networks that a checkpoint was trained with."""
        if digests != self.digests:
            raise UserError(
                f"{where}: was trained with another audio tokenizer or speaker encoder than {self.folder}: restore "
                "that folder, or start a new run"
            )


def _source(copy: Path, named: str, is_resumed: bool) -> Path:
    """Of a run that goes on its own copy, else what the configuration names."""
    return copy if is_resumed and copy.exists() else Path(named)


def check_tokenizer(tokenizer: AudioTokenizer, audio: AudioConfig, folder: Path | str) -> None:
    """UserError if the backbone was not made for this tokenizer."""
    for name in ("sample_rate", "num_codebooks", "codebook_size"):
        found, expected = getattr(tokenizer.config, name), getattr(audio, name)
        if found != expected:
            raise UserError(
                f"{folder}: the audio tokenizer's {name} is {found}, but model.audio.{name} is {expected}: make them "
                "equal"
            )


def check_speaker(speaker: SpeakerEncoder, audio: AudioConfig, folder: Path | str) -> None:
    """UserError if the backbone was not made for this speaker encoder."""
    found = {"dim": speaker.config.dim, "network.sample_rate": speaker.config.network.sample_rate}
    expected = {"speaker_dim": audio.speaker_dim, "sample_rate": audio.sample_rate}
    for (name, value), (setting, wanted) in zip(found.items(), expected.items(), strict=True):
        if value != wanted:
            raise UserError(
                f"{folder}: the speaker encoder's {name} is {value}, but model.audio.{setting} is {wanted}: make them "
                "equal"
            )
