"""Training of a vision tokenizer: the 2D network on pictures, then, inflated, on films (report §2.2.1)."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
from PIL import Image
from tqdm import tqdm

from ernie5.config.vision_tokenizer import (
    VisionTokenizerConfig,
    VisionTokenizerRunConfig,
    VisionTokenizerTrainConfig,
)
from ernie5.errors import Fault, UserError
from ernie5.tokenizers.run_folder import METRICS_FILE, claim_folder, write_record
from ernie5.tokenizers.schedule import warmup_cosine
from ernie5.tokenizers.vision.evaluate import Quality, evaluate, reconstruction_sheet, scales_of
from ernie5.tokenizers.vision.folder import FOLDER
from ernie5.tokenizers.vision.objective import Objective
from ernie5.tokenizers.vision.sampler import MediaSampler, to_pixels
from ernie5.tokenizers.vision.semantic import make_teacher
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer

logger = logging.getLogger(__name__)

SHEET_FILE = "reconstructions.png"
SHEET_ROWS = 12
SHEET_SIDE = 64  # pixels that a smaller picture is enlarged to on the sheet
ADVERSARY_BETAS = (0.0, 0.99)  # arXiv:1912.04958


class Phase(NamedTuple):
    """A stretch of steps with one schedule."""

    name: str
    steps: int
    learning_rate: float  # peak
    draw: Callable[[np.random.Generator], np.ndarray]  # a batch, uint8 [batch, frames, height, width, 3]


def train_vision_tokenizer(
    config: VisionTokenizerRunConfig, media: Sequence[np.ndarray], validation: Sequence[np.ndarray]
) -> tuple[VisionTokenizer, Quality]:
    """Trains on media, uint8 [frames, height, width, 3] each, of sizes in the table; writes the output folder.

    The folder gets the tokenizer, written anew at each evaluation (a picture network inflated), `metrics.jsonl` and in
    the end a sheet of reconstructions of some validation media. Returns the tokenizer and its quality on `validation`.
    Raises UserError if the folder holds something or no film is long enough, Fault if the loss is not finite.
    """
    for medium in (*media, *validation):
        scales_of(config.tokenizer, medium)
    if not validation:
        raise UserError("data.validation holds no picture and no film: name a folder or a manifest that does")
    sampler = MediaSampler(media)
    if config.train.video_steps > 0:
        sampler.find_long(config.train.video_frames)
    paddle.seed(config.train.seed)
    objective = Objective(first_network(config), config.train)
    output = claim_folder(config.output_dir)
    with open(output / METRICS_FILE, "w", encoding="utf-8") as metrics:
        trainer = _Trainer(config.train, objective, validation, output, lambda record: write_record(metrics, record))
        trainer.run(picture_phase(config.train, sampler))
        if objective.tokenizer.temporal_kernel == 1:
            objective.tokenizer = objective.tokenizer.inflated()
        if config.train.video_steps > 0:
            trainer.run(film_phase(config.train, sampler))
    tokenizer = objective.tokenizer
    tokenizer.eval()
    save_sheet(tokenizer, validation, output / SHEET_FILE)
    return tokenizer, trainer.quality


def check_start(config: VisionTokenizerRunConfig) -> None:
    """What can be told before the media are read, which takes long: UserError as `train_vision_tokenizer`.

    Makes the output folder.
    """
    if config.init_from:
        _check_smaller(config, FOLDER.read_config(config.init_from))
    if config.train.loss.semantic.weight:
        make_teacher(config.train.loss.semantic, config.tokenizer)
    claim_folder(config.output_dir)


def first_network(config: VisionTokenizerRunConfig) -> VisionTokenizer:
    """The picture network at its start; or, with `init_from`, the video network of that tokenizer with more bits.

    On pictures the video network is a picture network too, whose weights on the past rest.
    """
    if not config.init_from:
        return VisionTokenizer(config.tokenizer, temporal_kernel=1)
    smaller = VisionTokenizer.from_pretrained(config.init_from)
    _check_smaller(config, smaller.config)
    tokenizer = VisionTokenizer(config.tokenizer)
    weights = smaller.state_dict()
    for name, target in tokenizer.state_dict().items():
        value = target.numpy()
        value[tuple(slice(size) for size in weights[name].shape)] = weights[name].numpy()
        target.set_value(value)
    return tokenizer


def _check_smaller(config: VisionTokenizerRunConfig, smaller: VisionTokenizerConfig) -> None:
    if smaller.bits > config.tokenizer.bits:
        raise UserError(
            f"init_from: {config.init_from} has {smaller.bits} bits, more than tokenizer.bits, "
            f"{config.tokenizer.bits}: name a tokenizer of no more bits"
        )
    given, wanted = asdict(smaller.encoder), asdict(config.tokenizer.encoder)
    for key in given:
        if given[key] != wanted[key]:
            raise UserError(
                f"init_from: {config.init_from} has encoder.{key} {given[key]}, but tokenizer.encoder.{key} is "
                f"{wanted[key]}: name a tokenizer of the same encoder"
            )


def picture_phase(train: VisionTokenizerTrainConfig, sampler: MediaSampler) -> Phase:
    """Single frames."""
    return Phase(
        "pictures", train.image_steps, train.learning_rate, lambda rng: sampler.pictures(rng, train.batch_size)
    )


def film_phase(train: VisionTokenizerTrainConfig, sampler: MediaSampler) -> Phase:
    """Films, and pictures in a share of the steps."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        if rng.random() < train.image_share:
            return sampler.pictures(rng, train.batch_size)
        return sampler.films(rng, train.video_batch_size, train.video_frames)

    return Phase("films", train.video_steps, train.video_learning_rate, draw)


def save_sheet(tokenizer: VisionTokenizer, media: Sequence[np.ndarray], path: Path) -> None:
    """Some of the media, evenly chosen, each beside what prefixes of its scales make of it, as a PNG."""
    every = max(1, len(media) // SHEET_ROWS)
    sheet = reconstruction_sheet(tokenizer, media[::every][:SHEET_ROWS])
    zoom = max(1, SHEET_SIDE // media[0].shape[1])
    Image.fromarray(sheet.repeat(zoom, axis=0).repeat(zoom, axis=1)).save(path)


class _Trainer:
    """The steps of the phases, and what they write."""

    def __init__(
        self,
        config: VisionTokenizerTrainConfig,
        objective: Objective,
        validation: Sequence[np.ndarray],
        output: Path,
        write: Callable[[dict], None],
    ):
        self.config, self.objective, self.validation = config, objective, validation
        self.output, self.write = output, write
        self.rng = np.random.default_rng(config.seed)
        self.steps_done, self.start = 0, time.perf_counter()
        self.quality: Quality | None = None
        self.adversary_optimizer = None
        if objective.adversary is not None:
            self.adversary_optimizer = paddle.optimizer.Adam(
                config.loss.adversarial.learning_rate,
                *ADVERSARY_BETAS,
                parameters=objective.adversary.parameters(),
            )

    def run(self, phase: Phase) -> None:
        warmup = self.config.warmup_steps
        rate = paddle.optimizer.lr.LambdaDecay(
            phase.learning_rate, lambda step: warmup_cosine(step, phase.steps, warmup)
        )
        optimizer = self._optimizer(rate)
        self.objective.train()
        bar = tqdm(range(1, phase.steps + 1), desc=phase.name, unit="step")
        for step in bar:
            pixels = paddle.to_tensor(to_pixels(phase.draw(self.rng)))
            losses = self._step(pixels, optimizer, step)
            self.steps_done += 1
            values = self._finite(phase, losses)
            if step % self.config.log_steps == 0 or step == phase.steps:
                bar.set_postfix(loss=f"{sum(values.values()):.4f}", refresh=False)
                self.write(self._record("train", phase) | {"learning_rate": rate.get_lr()} | values)
            rate.step()
            if step == phase.steps or (self.config.eval_steps and step % self.config.eval_steps == 0):
                self._log_quality(phase)
                self.objective.tokenizer.save_pretrained(self.output)

    def _step(self, pixels: paddle.Tensor, optimizer: paddle.optimizer.Optimizer, step: int) -> dict:
        """One update of the tokenizer, then one of the adversary once that has set in; the losses."""
        adversarial = self.adversary_optimizer is not None and step > self.config.loss.adversarial.start_step
        terms = self.objective(pixels, self.rng, adversarial)
        sum(terms.losses.values()).backward()
        optimizer.step()
        optimizer.clear_grad()
        if not adversarial:
            return terms.losses
        self.adversary_optimizer.clear_grad()  # the tokenizer's loss has passed through it
        loss = self.objective.adversary.loss(terms.target, terms.output)
        loss.backward()
        self.adversary_optimizer.step()
        self.adversary_optimizer.clear_grad()
        return terms.losses | {"discriminator": loss}

    def _optimizer(self, rate: paddle.optimizer.lr.LRScheduler) -> paddle.optimizer.Optimizer:
        parts = [self.objective.tokenizer, self.objective.semantic]
        parameters = [parameter for part in parts if part is not None for parameter in part.parameters()]
        decayed = {parameter.name for parameter in parameters if parameter.ndim > 1}
        return paddle.optimizer.AdamW(
            rate,
            parameters=parameters,
            weight_decay=self.config.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=paddle.nn.ClipGradByGlobalNorm(self.config.clip_norm),
        )

    def _finite(self, phase: Phase, losses: dict[str, paddle.Tensor]) -> dict[str, float]:
        """The losses as numbers. Fault if one is none."""
        values = {name: float(loss) for name, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise Fault(
                f"{phase.name}: a loss is not finite at step {self.steps_done} ({values}): lower the learning rate"
            )
        return values

    def _log_quality(self, phase: Phase) -> None:
        tokenizer = self.objective.tokenizer
        tokenizer.eval()
        self.quality = evaluate(tokenizer, self.validation)
        tokenizer.train()
        if not all(map(math.isfinite, self.quality.psnr)):  # so that it is not saved over a good one
            raise Fault(f"{phase.name}: a weight is not finite after step {self.steps_done}: lower the learning rate")
        logger.info(
            "step %d: PSNR %s dB with one scale more each up to the last, entropy of a bit %s",
            self.steps_done,
            " ".join(f"{value:.2f}" for value in self.quality.psnr),
            " ".join(f"{value:.2f}" for value in self.quality.entropy),
        )
        self.write(self._record("eval", phase) | asdict(self.quality))

    def _record(self, kind: str, phase: Phase) -> dict:
        seconds = round(time.perf_counter() - self.start, 2)
        return {"kind": kind, "step": self.steps_done, "phase": phase.name, "seconds": seconds}
