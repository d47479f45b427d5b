"""The settings of the small networks beside the audio codec: the recogniser and the speaker encoder."""

from collections.abc import Iterator
from dataclasses import dataclass

from ernie5.config.audio_tokenizer import LARGEST_SAMPLE_RATE
from ernie5.config.ranges import negative, not_a_share, not_positive, outside, prefixed
from ernie5.errors import UserError

MAX_BANDS, MAX_WIDTH, MAX_UNITS, MAX_DIM = 256, 4096, 64, 4096
RATE_STEP = 100  # the spectrogram's hop is 10 ms, a whole number of samples


@dataclass(frozen=True, kw_only=True)
class MelNetworkConfig:
    """Convolutions over log-mel frames at 50 Hz."""

    sample_rate: int  # of the waveforms, Hz
    bands: int = 40  # of the spectrogram
    width: int = 96
    units: int = 4  # residual


@dataclass(frozen=True, kw_only=True)
class RecogniserConfig:
    """A recogniser of speech: what `config.json` of its folder holds."""

    network: MelNetworkConfig
    symbols: tuple[str, ...]  # single characters that it writes


@dataclass(frozen=True, kw_only=True)
class SpeakerConfig:
    """A speaker encoder: what `config.json` of its folder holds."""

    network: MelNetworkConfig
    dim: int = 64  # of a speaker's vector


@dataclass(frozen=True, kw_only=True)
class MelTrainConfig:
    """How either is trained."""

    steps: int = 400
    batch_size: int = 16  # clips
    learning_rate: float = 2e-3  # peak; a cosine down to a twentieth
    warmup_steps: int = 30  # linear
    weight_decay: float = 1e-2
    clip_norm: float = 1.0  # of the global gradient norm
    dropout: float = 0.1  # of hidden values
    log_steps: int = 50
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class RecogniserTrainConfig(MelTrainConfig):
    """As above, with clips varied so that other voices are understood."""

    learning_rate: float = 5e-3  # better than 2e-3 after 500 steps (docs/log.md)
    speeds: tuple[float, float] = (0.8, 1.25)  # range of how fast a clip is played, its pitch with it
    formants: float = 0.1  # largest change of the frequencies of its bands, as a share, which a throat's length makes
    tilt: float = 0.5  # largest change of its highest band against the middle one, in deviations of speech
    noise: float = 0.1  # largest noise, as a share of its loudness
    hidden_bands: float = 0.1  # largest share of neighbouring bands that are blanked


@dataclass(frozen=True, kw_only=True)
class SpeakerDataConfig:
    """Clips of labelled speakers: indexes (JSONL) whose lines have a `speaker`."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()  # of other speakers, to measure on; may be empty
    max_clips: int = 5000  # read into memory, evenly chosen; 0: all
    max_validation_clips: int = 200
    max_seconds: float = 10.0  # of a clip; a longer one is cut into such pieces


@dataclass(frozen=True, kw_only=True)
class SpeakerRunConfig:
    """One run of `tools/tokenizer.py train speaker`."""

    encoder: SpeakerConfig
    train: MelTrainConfig
    data: SpeakerDataConfig
    output_dir: str
    threads: int = 0  # of the CPU math libraries; 0: as many as cores


def check_recogniser(config: RecogniserConfig, source: str) -> None:
    """Raises UserError that lists every broken rule; `source` is where the settings came from."""
    faults = list(_network_faults(config.network))
    if not config.symbols:
        faults.append("symbols is empty: give the characters of the transcripts")
    odd = [symbol for symbol in config.symbols if len(symbol) != 1]
    if odd or len(set(config.symbols)) != len(config.symbols):
        faults.append(f"symbols is {list(config.symbols)}: give single characters, each once")
    _raise(source, faults)


def check_speaker(config: SpeakerConfig, source: str) -> None:
    """As `check_recogniser`."""
    _raise(source, [*_network_faults(config.network), *_sizes(dim=(config.dim, MAX_DIM))])


def check_speaker_run(config: SpeakerRunConfig, source: str) -> None:
    """As `check_recogniser`, for a run."""
    check_speaker(config.encoder, f"{source}: encoder")
    check_training(config.train, f"{source}: train")
    data = config.data
    counts = not_positive(max_validation_clips=data.max_validation_clips, max_seconds=data.max_seconds)
    faults = [prefixed("data", [counts, negative(max_clips=data.max_clips)]), negative(threads=config.threads)]
    if not data.train:
        faults.append("data.train is empty: name an index of sounds with speakers")
    _raise(source, [fault for fault in faults if fault])


def check_training(config: MelTrainConfig, source: str) -> None:
    """As `check_recogniser`, for the settings of a training."""
    faults = [
        not_positive(
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            clip_norm=config.clip_norm,
            log_steps=config.log_steps,
        ),
        negative(warmup_steps=config.warmup_steps, weight_decay=config.weight_decay, seed=config.seed),
        not_a_share(dropout=config.dropout),
    ]
    if isinstance(config, RecogniserTrainConfig):
        faults.append(not_a_share(hidden_bands=config.hidden_bands, formants=config.formants))
        faults.append(negative(tilt=config.tilt, noise=config.noise))
        if not 0.25 <= config.speeds[0] <= config.speeds[1] <= 4:
            faults.append(f"speeds is {list(config.speeds)}: give two from 0.25 to 4, the slower one first")
    _raise(source, [fault for fault in faults if fault])


def _network_faults(network: MelNetworkConfig) -> Iterator[str]:
    sizes = {
        "network.sample_rate": (network.sample_rate, LARGEST_SAMPLE_RATE),
        "network.bands": (network.bands, MAX_BANDS),
        "network.width": (network.width, MAX_WIDTH),
        "network.units": (network.units, MAX_UNITS),
    }
    yield from _sizes(**sizes)
    if network.sample_rate % RATE_STEP:
        yield f"network.sample_rate is {network.sample_rate}: must be a multiple of {RATE_STEP}"


def _sizes(**sizes: tuple[int, int]) -> Iterator[str]:
    """What is wrong with sizes that must be above 0 and at most the number beside them."""
    for name, (size, most) in sizes.items():
        yield from filter(
            None, [outside({name: size}, lambda value, most=most: 0 < value <= most, f"must be 1 to {most}")]
        )


def _raise(source: str, found: list[str]) -> None:
    if found:
        raise UserError(f"{source}: {'; '.join(found)}")
