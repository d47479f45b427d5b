"""Training a refiner: flow matching on drawn pairs, averaged weights, scores on held-out media, one output folder."""

import json
import logging
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from ernie5.config.refiner import RefinerConfig, RefinerRunConfig, RefinerTrainConfig
from ernie5.config.yaml_text import to_text
from ernie5.errors import Fault, UserError
from ernie5.refiner import flow
from ernie5.refiner.evaluation import Evaluation, evaluate, write_sheet
from ernie5.refiner.pairs import draw_pairs, measure_detail
from ernie5.refiner.refiner import Refiner, draw_noise

logger = logging.getLogger(__name__)

MODEL_FOLDER, METRICS_FILE, SHEET_FILE = "model", "metrics.jsonl", "samples.png"
LAST_RATE = 0.05  # of the peak learning rate
EMA_WARMUP = 10  # steps after which the average forgets its random beginning: decay (1 + step) / (10 + step) at first


def train(config: RefinerRunConfig, originals: Iterable[np.ndarray], held_out: Iterable[np.ndarray]) -> Refiner:
    """Trains on originals, uint8 [frames, height, width, 3] of at least `train.crop` pixels a side, and saves.

    Leaves in `output_dir` `config.yaml`, `metrics.jsonl`, `samples.png` (of held-out media, never learned from) and
    `model/`. The same settings, media and machine give the same weights. Raises UserError for an output folder that is
    in use and for media that do not fit, Fault if the loss is not finite.
    """
    originals, held_out = list(originals), list(held_out)
    films = check_media(config, originals, held_out)
    output = new_folder(config)
    (output / "config.yaml").write_text(to_text(asdict(config)), encoding="utf-8")
    trainer = Trainer(config.refiner, config.train, originals, films)
    with open(output / METRICS_FILE, "a", encoding="utf-8") as file:
        _record(file, kind="run", **trainer.facts(), held_out=len(held_out))
        scores, rows = _run(config.train, trainer, held_out, file)
    write_sheet(output / SHEET_FILE, rows)
    trainer.average.save_pretrained(output / MODEL_FOLDER)
    logger.info("%s: %s", output, ", ".join(f"{name} {score:.4g}" for name, score in scores.items()))
    return trainer.average


class Trainer:
    """The network, its averaged copy, and the optimizer. What a step draws is a function of (seed, step)."""

    def __init__(
        self,
        refiner: RefinerConfig,
        train: RefinerTrainConfig,
        originals: Sequence[np.ndarray],
        films: Sequence[np.ndarray],
    ):
        self.config, self.originals, self.films = train, originals, films
        if refiner.detail_std == 0:
            detail_std = measure_detail(originals, refiner, train, np.random.default_rng((train.seed, 0)))
            refiner = replace(refiner, detail_std=detail_std)
        paddle.seed(train.seed)
        self.refiner, self.average = Refiner(refiner), Refiner(refiner)
        self.average.set_state_dict(self.refiner.state_dict())
        self.average.eval()
        matrices = {parameter.name for parameter in self.refiner.parameters() if parameter.ndim > 1}
        self.optimizer = paddle.optimizer.AdamW(
            learning_rate=0.0,
            parameters=self.refiner.parameters(),
            weight_decay=train.weight_decay,
            apply_decay_param_fun=matrices.__contains__,
            grad_clip=nn.ClipGradByGlobalNorm(train.clip_norm),
        )

    def step(self, step: int) -> float:
        """One optimizer step, counted from 0; returns its loss. Raises Fault if that is not finite."""
        rng = np.random.default_rng((self.config.seed, 1, step))
        on_films = bool(self.films) and rng.random() < self.config.film_share
        media, num_frames = (self.films, self.config.film_frames) if on_films else (self.originals, 1)
        pairs = draw_pairs(media, self.refiner.config, self.config, num_frames, rng)
        batch, _, height, width, _ = pairs.original.shape
        noise, times = draw_noise(rng, batch, height, width), flow.draw_times(batch, rng)
        original, upsampled, strength, t = map(paddle.to_tensor, (*pairs, times))
        loss = self.refiner.loss(original, upsampled, strength, noise, t)
        value = float(loss)
        if not math.isfinite(value):
            raise Fault(f"the loss of step {step} is {value}: lower train.learning_rate")
        loss.backward()
        self.optimizer.set_lr(learning_rate(self.config, step))
        self.optimizer.step()
        self.optimizer.clear_grad()
        self._update_average(min(self.config.ema_decay, (1 + step) / (EMA_WARMUP + step)))
        return value

    def facts(self) -> dict[str, Any]:
        """What a run's first record holds."""
        return {
            "parameters": sum(math.prod(parameter.shape) for parameter in self.refiner.parameters()),
            "detail_std": self.refiner.config.detail_std,
            "media": len(self.originals),
            "films": len(self.films),
            "paddle": paddle.__version__,
        }

    @paddle.no_grad()
    def _update_average(self, decay: float) -> None:
        for mean, parameter in zip(self.average.parameters(), self.refiner.parameters(), strict=True):
            mean.lerp_(parameter, paddle.full([], 1 - decay))


def learning_rate(config: RefinerTrainConfig, step: int) -> float:
    """Of one optimizer step, counted from 0: linear up over `warmup_steps`, then a cosine to a twentieth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


def check_media(
    config: RefinerRunConfig, originals: Sequence[np.ndarray], held_out: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The originals that are films; UserError if the media do not fit the settings."""
    train, crop, stride = config.train, config.train.crop, config.refiner.stride
    if not originals or not held_out:
        raise UserError(f"{len(originals)} media to learn from and {len(held_out)} held out: give at least one of each")
    small = [media.shape[1:3] for media in originals if min(media.shape[1:3]) < crop]
    if small:
        raise UserError(
            f"{len(small)} of {len(originals)} originals are smaller than train.crop, {crop}, such as one of "
            f"{small[0][0]} x {small[0][1]}: lower train.crop or leave them out"
        )
    if any(min(media.shape[1:3]) < stride for media in held_out):
        raise UserError(f"a held-out medium is smaller than {stride}, the stride of the refiner: leave it out")
    films = [media for media in originals if len(media) >= train.film_frames] if train.film_share else []
    if train.film_share and not films:
        raise UserError(
            f"train.film_share is {train.film_share}, but no original has train.film_frames = {train.film_frames} "
            "frames: give films, or set film_share to 0"
        )
    return films


def _run(config: RefinerTrainConfig, trainer: Trainer, held_out: Sequence[np.ndarray], file: Any) -> Evaluation:
    """All steps, with their records; returns the last evaluation."""
    losses: list[float] = []
    started = time.perf_counter()
    with tqdm(total=config.steps, unit="step", desc="refiner", leave=False) as bar:
        for step in range(config.steps):
            losses.append(trainer.step(step))
            bar.update()
            done = step + 1
            if done % config.log_steps == 0 or done == config.steps:
                loss, rate = sum(losses) / len(losses), learning_rate(config, step)
                seconds = time.perf_counter() - started
                _record(file, kind="train", step=done, loss=loss, learning_rate=rate, seconds=round(seconds, 2))
                bar.set_postfix(loss=f"{loss:.4f}")
                losses.clear()
            if done == config.steps or (config.eval_steps and done % config.eval_steps == 0):
                last = evaluate(trainer.average, held_out, config.sample_steps, config.seed)
                _record(file, kind="eval", step=done, **last.scores)
    return last


def _record(file: Any, **values: Any) -> None:
    file.write(json.dumps(values) + "\n")
    file.flush()


def new_folder(config: RefinerRunConfig) -> Path:
    """The run's folder, empty. UserError: it is in use or cannot be made."""
    folder = Path(config.output_dir)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder}: is in use, and no run is written over: name a new output_dir, or remove it")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir: {folder} cannot be made ({error.strerror}): name another folder") from None
    return folder
