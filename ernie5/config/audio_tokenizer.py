"""The settings of an audio tokenizer, of its training, and of one run of `tools/tokenizer.py train audio`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ernie5.config.ranges import joined, negative, not_a_share, not_positive, prefixed
from ernie5.errors import UserError

FRAMES_PER_SECOND = 12.5  # report §2.3
LARGEST_SAMPLE_RATE, MAX_WINDOW, MAX_CHANNELS, MAX_BLOCKS, MAX_KERNEL = 96_000, 4096, 4096, 64, 31
MULTIPLE = 16  # of widths: a row of so many floats begins at a register (ernie5/tokenizers/audio/causal_layers.py)
MAX_LATENT_SIZE, MAX_CODEBOOKS, MAX_CODEBOOK_SIZE = 4096, 64, 65_536


@dataclass(frozen=True, kw_only=True)
class AudioTokenizerConfig:
    """A causal codec with residual vector quantisation (report §2.3): what `config.json` of its folder holds."""

    sample_rate: int  # of the waveforms, Hz
    hop_size: int  # samples from one spectrum to the next; divides the samples of a frame, 80 ms
    window_size: int  # samples of a spectrum, a multiple of the hop
    channels: int = 128  # of hidden states at the rate of spectra
    frame_channels: int = 128  # of those at the rate of codes
    num_blocks: int = 2  # at the rate of spectra, of the encoder and of the decoder each
    num_frame_blocks: int = 2  # at the rate of codes, likewise
    kernel_size: int = 7  # spectra that a block sees
    latent_size: int = 64  # what is quantised
    num_codebooks: int = 8  # levels of codes
    codebook_size: int = 2048

    @property
    def frame_size(self) -> int:
        """Samples of one frame of codes."""
        return int(self.sample_rate / FRAMES_PER_SECOND)

    @property
    def steps_per_frame(self) -> int:
        """Spectra in one frame of codes."""
        return self.frame_size // self.hop_size


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
    recogniser_steps: int = 400  # of that training


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
        hop_size=config.hop_size,
        window_size=config.window_size,
        channels=config.channels,
        frame_channels=config.frame_channels,
        kernel_size=config.kernel_size,
        latent_size=config.latent_size,
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
    )
    others = negative(num_blocks=config.num_blocks, num_frame_blocks=config.num_frame_blocks)
    yield from filter(None, [positive, others, _too_large(config), _uneven(config)])
    if positive:
        return
    samples = config.sample_rate / FRAMES_PER_SECOND
    if samples % config.hop_size:
        yield f"hop_size is {config.hop_size}: must divide {samples:g}, the samples of 80 ms at {config.sample_rate} Hz"
    if config.window_size % config.hop_size or config.window_size < 2 * config.hop_size:
        yield f"window_size is {config.window_size}: must be a multiple of hop_size, at least {2 * config.hop_size}"


def _uneven(config: AudioTokenizerConfig) -> str | None:
    """What would cost the codes their repeatability."""
    multiples = {
        "window_size": 2 * MULTIPLE,  # a spectrum is half a window
        **dict.fromkeys(("channels", "frame_channels", "latent_size", "codebook_size"), MULTIPLE),
    }
    sizes = {name: getattr(config, name) for name in multiples}
    return joined(
        *(f"{name} is {sizes[name]}: must be a multiple of {of}" for name, of in multiples.items() if sizes[name] % of)
    )


def _too_large(config: AudioTokenizerConfig) -> str | None:
    """What no tokenizer needs, and what would fill the memory before anything else could be wrong."""
    limits = {
        "sample_rate": LARGEST_SAMPLE_RATE,
        "window_size": MAX_WINDOW,
        "channels": MAX_CHANNELS,
        "frame_channels": MAX_CHANNELS,
        "num_blocks": MAX_BLOCKS,
        "num_frame_blocks": MAX_BLOCKS,
        "kernel_size": MAX_KERNEL,
        "latent_size": MAX_LATENT_SIZE,
        "num_codebooks": MAX_CODEBOOKS,
        "codebook_size": MAX_CODEBOOK_SIZE,
    }
    sizes = {name: getattr(config, name) for name in limits}
    return joined(
        *(f"{name} is {sizes[name]}: must be at most {most}" for name, most in limits.items() if sizes[name] > most)
    )


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
    semantic = loss.semantic
    yield prefixed(
        "semantic", [negative(weight=semantic.weight), not_positive(recogniser_steps=semantic.recogniser_steps)]
    )


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
