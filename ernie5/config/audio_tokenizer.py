"""The settings of an audio tokenizer, of its training, and of one run of `tools/tokenizer.py train audio`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from ernie5.config.ranges import joined, negative, not_a_share, not_positive, prefixed
from ernie5.errors import UserError

FRAMES_PER_SECOND = 12.5  # report §2.3
LARGEST_SAMPLE_RATE, MAX_CHANNELS, MAX_LEVELS, MAX_UNITS, MAX_KERNEL, MAX_DILATION = 96_000, 4096, 12, 16, 31, 729
MULTIPLE = 16  # of widths: a frame of so many floats begins at a register (ernie5/tokenizers/audio/causal_conv.py)
MAX_LATENT_SIZE, MAX_CODEBOOKS, MAX_CODEBOOK_SIZE = 4096, 64, 65_536


@dataclass(frozen=True, kw_only=True)
class AudioTokenizerConfig:
    """A causal codec with residual vector quantisation (report §2.3): what `config.json` of its folder holds."""

    sample_rate: int  # of the waveforms, Hz
    strides: tuple[int, ...]  # of each level of the encoder; their product is the samples of a frame, 80 ms
    channels: tuple[int, ...]  # of each level; the decoder mirrors the encoder
    dilations: tuple[int, ...] = (1, 3, 9)  # of the residual units of a level
    kernel_size: int = 7  # of a residual unit
    latent_size: int = 128  # what is quantised
    num_codebooks: int = 8  # levels of codes
    codebook_size: int = 2048

    @property
    def frame_size(self) -> int:
        """Samples of one frame of codes."""
        return prod(self.strides)


@dataclass(frozen=True, kw_only=True)
class AudioAdversarialConfig:
    """The discriminators' part of the loss: multi-period and multi-resolution (arXiv:2306.06546 §3.4)."""

    weight: float = 0.0  # 0: no discriminators
    feature_weight: float = 2.0  # of the distance between their features of real and decoded sound
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    resolutions: tuple[int, ...] = (2048, 1024, 512)  # window sizes of the spectrograms
    channels: int = 32
    loss: Literal["hinge", "least_squares"] = "least_squares"
    learning_rate: float = 2e-4
    start_step: int = 0  # at which it sets in


@dataclass(frozen=True, kw_only=True)
class AudioSemanticConfig:
    """The semantic level (report §2.3): level 0 is regressed to a teacher's features (arXiv:2308.16692)."""

    weight: float = 0.0  # 0: no teacher
    teacher: str = ""  # folder of a Whisper model; empty: a recogniser that is trained first, on transcribed speech


@dataclass(frozen=True, kw_only=True)
class AudioLossConfig:
    """Weights of the losses. Those of spectra are means over `windows`."""

    waveform: float = 0.1  # L1
    log_magnitude: float = 1.0  # L1 between logarithms of magnitudes
    convergence: float = 0.5  # distance of magnitudes relative to those of the target (arXiv:1910.11480)
    mel: float = 1.0  # L1 between logarithms of mel bands
    windows: tuple[int, ...] = (2048, 1024, 512, 256, 128, 64)  # samples; the hop is a quarter
    mel_bands: int = 64  # of the largest window; a smaller one has in proportion to it fewer
    commitment: float = 0.25  # distance of the residuals from their codes (arXiv:1711.00937)
    adversarial: AudioAdversarialConfig = field(default_factory=AudioAdversarialConfig)
    semantic: AudioSemanticConfig = field(default_factory=AudioSemanticConfig)


@dataclass(frozen=True, kw_only=True)
class AudioTokenizerTrainConfig:
    """How it is trained."""

    steps: int
    batch_size: int = 16  # clips
    clip_frames: int = 12  # of codes, of a clip in training
    learning_rate: float = 2e-3  # peak; a cosine down to a twentieth
    warmup_steps: int = 50  # linear
    weight_decay: float = 1e-4
    clip_norm: float = 1.0  # of the global gradient norm
    # Probability that a clip keeps only its first levels, 1 to all alike, so that each prefix of the levels is a sound.
    quantizer_dropout: float = 0.5
    loss: AudioLossConfig = field(default_factory=AudioLossConfig)
    eval_steps: int = 200  # also of saving; 0: only at the end
    log_steps: int = 20
    seed: int = 0
    threads: int = 0  # of the CPU math libraries; 0: as many as cores


@dataclass(frozen=True, kw_only=True)
class AudioTokenizerDataConfig:
    """Where sound comes from: folders, files, or manifests (JSONL) whose media segments are read."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()  # empty: cut from `train`
    validation_fraction: float = 0.05  # of the clips of `train`, when `validation` is empty
    max_clips: int = 20_000  # read into memory, evenly chosen; 0: all
    max_validation_clips: int = 64
    max_seconds: float = 30.0  # of a clip; a longer one is cut into such pieces


@dataclass(frozen=True, kw_only=True)
class AudioTokenizerRunConfig:
    """One run of the tool."""

    tokenizer: AudioTokenizerConfig
    train: AudioTokenizerTrainConfig
    data: AudioTokenizerDataConfig
    output_dir: str


def check(config: AudioTokenizerConfig, source: str) -> None:
    """Raises UserError that lists every broken rule of a tokenizer; `source` is where it came from."""
    _raise(source, list(_faults(config)))


def check_run(config: AudioTokenizerRunConfig, source: str) -> None:
    """As `check`, for the settings of a run."""
    own = [f"tokenizer.{fault}" for fault in _faults(config.tokenizer)]
    _raise(source, own + [*_train_faults(config.train), *_data_faults(config.data)])


def _raise(source: str, found: list[str]) -> None:
    if found:
        raise UserError(f"{source}: {'; '.join(found)}")


def _faults(config: AudioTokenizerConfig) -> Iterator[str]:
    positive = not_positive(
        sample_rate=config.sample_rate,
        kernel_size=config.kernel_size,
        latent_size=config.latent_size,
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
    )
    lists = {"strides": config.strides, "channels": config.channels, "dilations": config.dilations}
    empty = [name for name, values in lists.items() if not values and name != "dilations"]
    low = [
        f"{name} is {list(values)}: must be above 0" for name, values in lists.items() if values and min(values) <= 0
    ]
    yield from filter(None, [positive, *(f"{name} is empty: give a number for each level" for name in empty), *low])
    if len(config.strides) != len(config.channels):
        yield f"channels has {len(config.channels)} entries: give one for each of the {len(config.strides)} strides"
    widths = {
        "channels": config.channels,
        "latent_size": (config.latent_size,),
        "codebook_size": (config.codebook_size,),
    }
    odd = [f"{name} is {list(values)}" for name, values in widths.items() if any(value % MULTIPLE for value in values)]
    if odd:
        yield f"{', '.join(odd)}: must be multiples of {MULTIPLE}"
    yield from filter(None, [_too_large(config)])
    if config.strides and config.frame_size * FRAMES_PER_SECOND != config.sample_rate:
        yield (
            f"strides multiply to {config.frame_size}: must give {config.sample_rate / FRAMES_PER_SECOND:g}, the "
            f"samples of 80 ms at {config.sample_rate} Hz"
        )


def _too_large(config: AudioTokenizerConfig) -> str | None:
    """What no tokenizer needs, and what would fill the memory before anything else could be wrong."""
    sizes = {
        "sample_rate": (config.sample_rate, LARGEST_SAMPLE_RATE),
        "channels": (max(config.channels, default=0), MAX_CHANNELS),
        "the number of strides": (len(config.strides), MAX_LEVELS),
        "the number of dilations": (len(config.dilations), MAX_UNITS),
        "dilations": (max(config.dilations, default=0), MAX_DILATION),
        "kernel_size": (config.kernel_size, MAX_KERNEL),
        "latent_size": (config.latent_size, MAX_LATENT_SIZE),
        "num_codebooks": (config.num_codebooks, MAX_CODEBOOKS),
        "codebook_size": (config.codebook_size, MAX_CODEBOOK_SIZE),
    }
    return joined(*(f"{name} is {size}: must be at most {most}" for name, (size, most) in sizes.items() if size > most))


def _train_faults(train: AudioTokenizerTrainConfig) -> Iterator[str]:
    sizes = not_positive(
        steps=train.steps,
        batch_size=train.batch_size,
        clip_frames=train.clip_frames,
        learning_rate=train.learning_rate,
        clip_norm=train.clip_norm,
        log_steps=train.log_steps,
    )
    others = negative(
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        eval_steps=train.eval_steps,
        seed=train.seed,
        threads=train.threads,
    )
    shares = not_a_share(quantizer_dropout=train.quantizer_dropout)
    yield from filter(None, [prefixed("train", [sizes, others, shares, prefixed("loss", _loss_faults(train.loss))])])


def _loss_faults(loss: AudioLossConfig) -> Iterator[str | None]:
    yield negative(
        waveform=loss.waveform,
        log_magnitude=loss.log_magnitude,
        convergence=loss.convergence,
        mel=loss.mel,
        commitment=loss.commitment,
    )
    yield not_positive(mel_bands=loss.mel_bands)
    if not loss.windows or min(loss.windows) < 16 or any(window % 4 for window in loss.windows):
        yield f"windows is {list(loss.windows)}: give multiples of 4 from 16 on"
    adversarial = loss.adversarial
    lists = {"periods": min(adversarial.periods, default=1), "resolutions": min(adversarial.resolutions, default=1)}
    weights = negative(
        weight=adversarial.weight, feature_weight=adversarial.feature_weight, start_step=adversarial.start_step
    )
    counts = not_positive(channels=adversarial.channels, learning_rate=adversarial.learning_rate, **lists)
    yield prefixed("adversarial", [weights, counts])
    if not adversarial.periods and not adversarial.resolutions:
        yield "adversarial.periods and adversarial.resolutions are empty: give at least one of either"
    yield prefixed("semantic", [negative(weight=loss.semantic.weight)])


def _data_faults(data: AudioTokenizerDataConfig) -> Iterator[str]:
    if not data.train:
        yield "data.train is empty: name a folder, a file or a manifest"
    if not data.validation and not 0 < data.validation_fraction < 1:
        yield f"data.validation_fraction is {data.validation_fraction}: must lie inside 0 and 1"
    counts = [
        not_positive(max_validation_clips=data.max_validation_clips, max_seconds=data.max_seconds),
        negative(max_clips=data.max_clips),
    ]
    yield from filter(None, [prefixed("data", counts)])
