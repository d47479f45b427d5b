"""The settings of a vision tokenizer, of its training, and of one run of `tools/tokenizer.py train vision`."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ernie5.config.ranges import joined, negative, not_a_share, not_positive, prefixed
from ernie5.config.schema import ResolutionConfig, VisionEncoderConfig
from ernie5.config.vision_rules import encoder_fault, resolutions_fault
from ernie5.errors import UserError

MAX_BITS, MAX_CHANNELS, MAX_LEVELS, MAX_RES_BLOCKS = 256, 4096, 8, 64


@dataclass(frozen=True, kw_only=True)
class VisionTokenizerConfig:
    """A causal multi-scale bit-wise autoencoder (report §2.2.1): what `config.json` of its folder holds."""

    encoder: VisionEncoderConfig  # the decoder mirrors it
    bits: int  # of a visual token
    quantizer: Literal["bsq", "lfq"] = "bsq"  # binary spherical (arXiv:2406.07548) or lookup-free (arXiv:2310.05737)
    resolutions: tuple[ResolutionConfig, ...]  # sizes that it is trained at, with their scales


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """The discriminator's part of the loss (report §2.2.1): a residual network on single frames (arXiv:1912.04958)."""

    weight: float = 0.0  # 0: no discriminator
    channels: tuple[int, ...] = (32, 64, 128)  # of each level; every level after the first halves height and width
    loss: Literal["hinge", "non_saturating"] = "hinge"
    learning_rate: float = 2e-4
    start_step: int = 0  # step of each phase at which it sets in
    r1_weight: float = 0.0  # of the squared gradient at real pictures (arXiv:1801.04406)
    lecam_weight: float = 0.0  # of the distance from running means of its scores (arXiv:2104.03310 eq. 4)


@dataclass(frozen=True, kw_only=True)
class SemanticConfig:
    """The semantic branch (report §2.2.1): features of the encoder are regressed to those of a teacher."""

    weight: float = 0.0  # 0: no branch
    teacher: str = "gradients"  # oriented gradients, computed here; or path of a network saved with `paddle.jit.save`


@dataclass(frozen=True, kw_only=True)
class VisionLossConfig:
    """Weights of the losses. None needs a downloaded network."""

    l1: float = 1.0
    l2: float = 1.0
    gradient: float = 0.5  # L1 between differences of neighbouring pixels: edges
    coarse: float = 0.5  # L1 at half and quarter size
    commitment: float = 0.05  # distance between the residuals and their quantised form
    entropy: float = 0.1  # of the penalty E[H(q)] - H[E q] (arXiv:2406.07548)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)


@dataclass(frozen=True, kw_only=True)
class VisionTokenizerTrainConfig:
    """The two phases: the 2D network on pictures, then the inflated one on films mixed with pictures."""

    image_steps: int
    video_steps: int = 0  # 0: the tokenizer is inflated, not trained further
    batch_size: int = 32  # pictures
    video_batch_size: int = 4  # films
    video_frames: int = 5  # of a film in training; one more than a multiple of the temporal stride
    image_share: float = 0.25  # of the steps of the second phase that see pictures
    learning_rate: float = 4e-3  # peak; a cosine down to a twentieth in each phase
    video_learning_rate: float = 1e-3
    warmup_steps: int = 50  # linear, in each phase
    weight_decay: float = 1e-4
    clip_norm: float = 1.0  # of the global gradient norm
    # Probability that only the first scales of a batch are summed, so that each prefix of the scales is a picture.
    scale_dropout: float = 0.2
    loss: VisionLossConfig = field(default_factory=VisionLossConfig)
    eval_steps: int = 200  # also of saving; 0: only at the end of a phase
    log_steps: int = 20
    seed: int = 0
    threads: int = 0  # of the CPU math libraries; 0: as many as cores


@dataclass(frozen=True, kw_only=True)
class VisionTokenizerDataConfig:
    """Where pictures and films come from: folders, files, or manifests (JSONL) whose media segments are read."""

    train: tuple[str, ...]
    validation: tuple[str, ...] = ()  # empty: cut from `train`
    validation_fraction: float = 0.05  # of the media of `train`, when `validation` is empty
    max_media: int = 20_000  # read into memory, evenly chosen; 0: all
    max_validation_media: int = 256
    fps: float = 4.0  # frames a second of films that no manifest describes
    max_frames: int = 64  # of a film; a longer one is an error


@dataclass(frozen=True, kw_only=True)
class VisionTokenizerRunConfig:
    """One run of the tool."""

    tokenizer: VisionTokenizerConfig
    train: VisionTokenizerTrainConfig
    data: VisionTokenizerDataConfig
    output_dir: str
    init_from: str = ""  # folder of a tokenizer, mostly of fewer bits, whose weights this one starts from


def check(config: VisionTokenizerConfig, source: str) -> None:
    """Raises UserError that lists every broken rule of a tokenizer; `source` is where it came from."""
    _raise(source, list(_faults(config)))


def check_run(config: VisionTokenizerRunConfig, source: str) -> None:
    """As `check`, for the settings of a run."""
    own = [f"tokenizer.{fault}" for fault in _faults(config.tokenizer)]
    _raise(source, own + [*_train_faults(config), *_data_faults(config.data)])


def _raise(source: str, found: list[str]) -> None:
    if found:
        raise UserError(f"{source}: {'; '.join(found)}")


def _faults(config: VisionTokenizerConfig) -> Iterator[str]:
    encoder = config.encoder
    yield from filter(None, [prefixed("encoder", [encoder_fault(encoder)]), not_positive(bits=config.bits)])
    yield from filter(None, [_too_large(config)])
    if not config.resolutions:
        yield "resolutions is empty: give at least one size with its scales"
    yield from filter(None, [resolutions_fault(config.resolutions, encoder.stride)])


def _too_large(config: VisionTokenizerConfig) -> str | None:
    """What no tokenizer needs, and what would fill the memory before anything else could be wrong."""
    encoder = config.encoder
    sizes = {
        "bits": (config.bits, MAX_BITS),
        "encoder.channels": (max(encoder.channels, default=0), MAX_CHANNELS),
        "the number of encoder.channels": (len(encoder.channels), MAX_LEVELS),
        "encoder.num_res_blocks": (encoder.num_res_blocks, MAX_RES_BLOCKS),
    }
    return joined(*(f"{name} is {size}: must be at most {most}" for name, (size, most) in sizes.items() if size > most))


def _train_faults(config: VisionTokenizerRunConfig) -> Iterator[str]:
    train, loss = config.train, config.train.loss
    sizes = not_positive(
        image_steps=train.image_steps,
        batch_size=train.batch_size,
        video_batch_size=train.video_batch_size,
        video_frames=train.video_frames,
        learning_rate=train.learning_rate,
        video_learning_rate=train.video_learning_rate,
        clip_norm=train.clip_norm,
        log_steps=train.log_steps,
    )
    others = negative(
        video_steps=train.video_steps,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        eval_steps=train.eval_steps,
        threads=train.threads,
        seed=train.seed,
    )
    shares = not_a_share(image_share=train.image_share, scale_dropout=train.scale_dropout)
    weights = negative(
        l1=loss.l1,
        l2=loss.l2,
        gradient=loss.gradient,
        coarse=loss.coarse,
        commitment=loss.commitment,
        entropy=loss.entropy,
    )
    adversarial = joined(
        negative(
            weight=loss.adversarial.weight,
            start_step=loss.adversarial.start_step,
            r1_weight=loss.adversarial.r1_weight,
            lecam_weight=loss.adversarial.lecam_weight,
        ),
        not_positive(learning_rate=loss.adversarial.learning_rate, channels=min(loss.adversarial.channels, default=0)),
    )
    nested = prefixed(
        "loss",
        [
            weights,
            prefixed("adversarial", [adversarial]),
            prefixed("semantic", [negative(weight=loss.semantic.weight)]),
        ],
    )
    yield from filter(None, [prefixed("train", [sizes, others, shares, nested])])
    stride = config.tokenizer.encoder.temporal_stride
    if train.video_steps > 0 and stride > 0 and (train.video_frames - 1) % stride:
        yield f"train.video_frames is {train.video_frames}: must be one more than a multiple of {stride}"


def _data_faults(data: VisionTokenizerDataConfig) -> Iterator[str]:
    if not data.train:
        yield "data.train is empty: name a folder, a file or a manifest"
    if not data.validation and not 0 < data.validation_fraction < 1:
        yield f"data.validation_fraction is {data.validation_fraction}: must lie inside 0 and 1"
    counts = [
        not_positive(max_validation_media=data.max_validation_media, fps=data.fps, max_frames=data.max_frames),
        negative(max_media=data.max_media),
    ]
    yield from filter(None, [prefixed("data", counts)])
