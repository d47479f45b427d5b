"""The settings of a refiner, of its training, and of one run of `tools/refiner.py train`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ernie5.config.ranges import joined, negative, not_a_share, not_positive, outside, prefixed
from ernie5.errors import UserError

SCALES = (2, 4)
MAX_LEVELS, MAX_WIDTH, MAX_BLOCKS = 8, 4096, 64  # of a U-Net: a damaged config.json must not fill the memory
MAX_JPEG_QUALITY = 95  # above it Pillow's files grow without looking better


@dataclass(frozen=True, kw_only=True)
class DegradationConfig:
    """What happens to a picture on the way to low resolution, at strength 1; strength 0 only averages areas.

    The strength of a sample scales all of it, and is told to the network.
    """

    blur: float = 1.5  # standard deviation, pixels of the original
    block_share: float = 0.1  # of the cells of `block_size` low-resolution pixels that take a wrong colour
    block_size: int = 4  # as wrong bits of a visual token do: the stride of the vision tokenizer
    block_offset: float = 48.0  # largest error of such a colour, of 255
    noise: float = 12.0  # standard deviation, of 255
    jpeg_quality: int = 30  # lowest; 0: no JPEG


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """A cascaded diffusion refiner (report §2.2.3): what `config.json` of its folder holds."""

    scale: int = 2  # of height and width: 2 or 4
    channels: tuple[int, ...] = (32, 64)  # of each level of the U-Net; every level after the first halves the size
    blocks_per_level: int = 2
    embedding_size: int = 64  # of time and strength
    detail_std: float = 0.0  # of (original - upsampled) with pixels in [-1, 1]; 0: measured when training begins
    degradation: DegradationConfig = field(default_factory=DegradationConfig)

    @property
    def stride(self) -> int:
        """Height and width of a refined picture are multiples of it."""
        return max(self.scale, 2 ** (len(self.channels) - 1))


@dataclass(frozen=True, kw_only=True)
class RefinerTrainConfig:
    """Pictures and films are cut at random places; each step sees one of both kinds."""

    steps: int
    batch_size: int = 32  # pictures; a step on films has as many frames, rounded up to whole films
    crop: int = 32  # pixels, side of the square that is learned from
    film_share: float = 0.0  # of the steps
    film_frames: int = 4  # of a film in training
    mirror: bool = False  # left and right are swapped at random
    learning_rate: float = 2e-3  # peak; a cosine down to a twentieth
    warmup_steps: int = 50  # linear
    weight_decay: float = 1e-4
    clip_norm: float = 1.0  # of the global gradient norm
    ema_decay: float = 0.999  # of the averaged weights, which are those that are saved
    eval_steps: int = 0  # 0: only at the end
    log_steps: int = 20
    sample_steps: int = 8  # of the Euler method, in evaluation
    seed: int = 0
    threads: int = 0  # of the CPU math libraries; 0: as many as cores


@dataclass(frozen=True, kw_only=True)
class RefinerDataConfig:
    """Where originals come from: folders, files, manifests (JSONL), or `digits`, scikit-learn's scans drawn large."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()  # empty: cut from `train`
    validation_fraction: float = 0.1  # of the media of `train`, when `validation` is empty
    short_side: int = 256  # pixels to which larger originals are brought, smaller ones stay; 0: as they are
    fps: float = 8.0  # at which films are read
    max_frames: int = 64  # of a film
    max_media: int = 5000  # evenly chosen; 0: all
    max_bytes: int = 4_000_000_000  # of pixels that are held in memory, of either list; more is refused
    max_validation_media: int = 32


@dataclass(frozen=True, kw_only=True)
class RefinerRunConfig:
    """One run of the tool."""

    refiner: RefinerConfig
    train: RefinerTrainConfig
    data: RefinerDataConfig
    output_dir: str


def check(config: RefinerConfig, source: str) -> None:
    """Raises UserError that lists every broken rule of a refiner; `source` is where it came from."""
    _raise(source, _refiner_faults(config))


def check_run(config: RefinerRunConfig, source: str) -> None:
    """As `check`, for the settings of a run."""
    own = [f"refiner.{fault}" for fault in _refiner_faults(config.refiner)]
    _raise(source, [*own, *_train_faults(config), *_data_faults(config)])


def _raise(source: str, faults: Iterator[str] | list[str]) -> None:
    if found := list(faults):
        raise UserError(f"{source}: {'; '.join(found)}")


def _refiner_faults(config: RefinerConfig) -> Iterator[str]:
    degradation = config.degradation
    sizes = not_positive(
        channels=min(config.channels, default=0),
        blocks_per_level=config.blocks_per_level,
        embedding_size=config.embedding_size,
    )
    scale = None if config.scale in SCALES else f"scale is {config.scale}: must be 2 or 4"
    even = f"embedding_size is {config.embedding_size}: must be a multiple of 4" if config.embedding_size % 4 else None
    limits = [
        ("len(channels)", len(config.channels), MAX_LEVELS),
        ("channels", max(config.channels, default=0), MAX_WIDTH),
        ("embedding_size", config.embedding_size, MAX_WIDTH),
        ("blocks_per_level", config.blocks_per_level, MAX_BLOCKS),
    ]
    large = joined(*(f"{name} is {found}: must be at most {most}" for name, found, most in limits if found > most))
    std = outside({"detail_std": config.detail_std}, lambda x: 0 <= x <= 2, "must lie between 0 and 2")
    nested = joined(
        negative(blur=degradation.blur, block_offset=degradation.block_offset, noise=degradation.noise),
        not_positive(block_size=degradation.block_size),
        not_a_share(block_share=degradation.block_share),
    )
    quality = degradation.jpeg_quality
    if not 0 <= quality <= MAX_JPEG_QUALITY:
        nested = joined(nested, f"jpeg_quality is {quality}: must lie between 0 (none) and {MAX_JPEG_QUALITY}")
    yield from filter(None, [scale, sizes, large, even, std, prefixed("degradation", [nested])])


def _train_faults(config: RefinerRunConfig) -> Iterator[str]:
    train = config.train
    sizes = not_positive(
        steps=train.steps,
        batch_size=train.batch_size,
        crop=train.crop,
        film_frames=train.film_frames,
        learning_rate=train.learning_rate,
        clip_norm=train.clip_norm,
        log_steps=train.log_steps,
        sample_steps=train.sample_steps,
    )
    others = negative(
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        eval_steps=train.eval_steps,
        threads=train.threads,
        seed=train.seed,
    )
    shares = not_a_share(film_share=train.film_share, ema_decay=train.ema_decay)
    yield from filter(None, [prefixed("train", [sizes, others, shares])])
    if train.crop % config.refiner.stride:
        yield f"train.crop is {train.crop}: must be a multiple of {config.refiner.stride}, the stride of the refiner"


def _data_faults(config: RefinerRunConfig) -> Iterator[str]:
    data = config.data
    if not data.train:
        yield "data.train is empty: name a folder, a file, a manifest, or digits"
    if not data.validation and not 0 < data.validation_fraction < 1:
        yield f"data.validation_fraction is {data.validation_fraction}: must lie inside 0 and 1"
    positive = not_positive(
        max_validation_media=data.max_validation_media,
        fps=data.fps,
        max_frames=data.max_frames,
        max_bytes=data.max_bytes,
    )
    if 0 < data.short_side < config.train.crop:
        yield f"data.short_side is {data.short_side}: must be at least train.crop, {config.train.crop}"
    yield from filter(
        None, [prefixed("data", [positive, negative(max_media=data.max_media, short_side=data.short_side)])]
    )
