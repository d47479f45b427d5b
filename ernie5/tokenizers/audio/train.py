"""Training of an audio tokenizer: first its teacher, then the codec (report §2.3)."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from ernie5.config.audio_tokenizer import AudioTokenizerRunConfig, AudioTokenizerTrainConfig
from ernie5.errors import Fault, UserError
from ernie5.tokenizers.audio.evaluate import Quality, evaluate
from ernie5.tokenizers.audio.objective import Objective, Terms
from ernie5.tokenizers.audio.quantizer import draw_levels
from ernie5.tokenizers.audio.sampler import ClipSampler, leveled
from ernie5.tokenizers.audio.samples import SHOWN, choose, save_sheet, save_wavs
from ernie5.tokenizers.audio.semantic import check_transcripts, make_teacher
from ernie5.tokenizers.audio.teacher import Teacher
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer
from ernie5.tokenizers.audio.whisper import WhisperEncoder
from ernie5.tokenizers.run_folder import METRICS_FILE, claim_folder, write_record
from ernie5.tokenizers.schedule import warmup_cosine

logger = logging.getLogger(__name__)

RECOGNISER_FOLDER, SAMPLES_FOLDER, SHEET_FILE = "recogniser", "samples", "reconstructions.png"
BETAS, ADVERSARY_BETAS = (0.9, 0.99), (0.8, 0.99)  # the latter: arXiv:2306.06546 §4.2
VECTORS_PER_CODE = 4  # latents that k-means sees


def train_audio_tokenizer(
    config: AudioTokenizerRunConfig,
    sounds: Sequence[np.ndarray],
    validation_sounds: Sequence[np.ndarray],
    transcripts: Sequence[tuple[np.ndarray, str]] = (),
) -> tuple[AudioTokenizer, Quality]:
    """Trains on sounds, float32 [samples] each at the tokenizer's rate; writes the output folder.

    The folder gets the tokenizer, written anew at each evaluation, the recogniser if one is trained (on `transcripts`,
    sounds with what is said in them), `metrics.jsonl`, and in the end a sheet of spectrograms and WAV files of some
    validation sounds. Returns the tokenizer and its quality on the latter. Raises UserError if the folder holds
    something, there is no sound, or no teacher can be made; Fault if a loss is not finite.
    """
    if not any(np.any(sound) for sound in validation_sounds):
        raise UserError("data.validation holds no sound but silence: name a folder or an index that does")
    train, frame_size = config.train, config.tokenizer.frame_size
    sampler = ClipSampler(sounds, train.clip_frames * frame_size)
    output = claim_folder(config.output_dir)
    paddle.seed(train.seed)
    teacher = _teacher(config, transcripts, output) if train.loss.semantic.weight else None
    objective = Objective(AudioTokenizer(config.tokenizer), train.loss, teacher)
    with open(output / METRICS_FILE, "w", encoding="utf-8") as metrics:
        trainer = _Trainer(train, objective, sampler, validation_sounds, output)
        quality = trainer.run(lambda record: write_record(metrics, record))
    shown = choose(validation_sounds, SHOWN)
    save_sheet(objective.tokenizer, shown, output / SHEET_FILE)
    save_wavs(objective.tokenizer, shown, output / SAMPLES_FOLDER)
    return objective.tokenizer, quality


def check_start(config: AudioTokenizerRunConfig, texts: Sequence[str]) -> None:
    """What can be told before the sounds are read, which takes long: UserError as `train_audio_tokenizer`.

    texts: of the sounds of `data.train`, "" for those that have none. Makes the output folder.
    """
    semantic = config.train.loss.semantic
    check_transcripts(semantic, texts)
    if semantic.weight and semantic.teacher:
        WhisperEncoder(semantic.teacher, config.tokenizer.sample_rate)
    claim_folder(config.output_dir)


def _teacher(config: AudioTokenizerRunConfig, transcripts: Sequence[tuple[np.ndarray, str]], output: Path) -> Teacher:
    rate, seed = config.tokenizer.sample_rate, config.train.seed
    return make_teacher(config.train.loss.semantic, rate, transcripts, seed, output / RECOGNISER_FOLDER)


class _Trainer:
    """The steps, and what they write."""

    def __init__(
        self,
        config: AudioTokenizerTrainConfig,
        objective: Objective,
        sampler: ClipSampler,
        validation: Sequence[np.ndarray],
        output: Path,
    ):
        self.config, self.objective, self.tokenizer = config, objective, objective.tokenizer
        self.sampler, self.validation, self.output = sampler, validation, output
        self.rng, self.start = np.random.default_rng(config.seed), time.perf_counter()
        self.optimizer = self._optimizer()
        self.adversary_optimizer = None
        if objective.adversary is not None:
            self.adversary_optimizer = paddle.optimizer.AdamW(
                config.loss.adversarial.learning_rate, *ADVERSARY_BETAS, parameters=objective.adversary.parameters()
            )

    def run(self, write: Callable[[dict], None]) -> Quality:
        """All steps; the quality after the last one."""
        config, quality = self.config, None
        self.objective.train()
        self._find_codebooks()
        bar = tqdm(range(1, config.steps + 1), desc="codec", unit="step")
        for step in bar:
            self.optimizer.set_lr(config.learning_rate * warmup_cosine(step - 1, config.steps, config.warmup_steps))
            values = self._finite(self._step(step), step)
            if step % config.log_steps == 0 or step == config.steps:
                bar.set_postfix(loss=f"{sum(values.values()):.4f}", refresh=False)
                write(self._record("train", step) | {"learning_rate": self.optimizer.get_lr()} | values)
            due = config.eval_steps and step % config.eval_steps == 0
            if step == config.steps or due:
                quality = self._log_quality(step)
                write(self._record("eval", step) | asdict(quality))
                self.tokenizer.save_pretrained(self.output)
        self.tokenizer.eval()
        return quality

    def _step(self, step: int) -> dict[str, paddle.Tensor]:
        """One update of the tokenizer, then one of the adversary once that has set in; the losses."""
        config = self.config
        waveform = self._draw()
        num_codebooks = self.tokenizer.config.num_codebooks
        levels = draw_levels(config.batch_size, num_codebooks, config.quantizer_dropout, self.rng)
        adversarial = self.adversary_optimizer is not None and step > config.loss.adversarial.start_step
        terms = self.objective(waveform, levels, adversarial)
        sum(terms.losses.values()).backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        self.tokenizer.quantizer.learn(terms.quantized, self.rng)
        return terms.losses | (self._adversary_step(waveform, terms) if adversarial else {})

    def _adversary_step(self, waveform: paddle.Tensor, terms: Terms) -> dict[str, paddle.Tensor]:
        self.adversary_optimizer.clear_grad()  # the tokenizer's loss has passed through it
        loss = self.objective.adversary.loss(waveform, terms.output)
        loss.backward()
        self.adversary_optimizer.step()
        self.adversary_optimizer.clear_grad()
        return {"discriminator": loss}

    def _draw(self) -> paddle.Tensor:
        """Clips, float32 [batch, clip samples]."""
        return paddle.to_tensor(leveled(self.sampler.clips(self.rng, self.config.batch_size), self.rng))

    @paddle.no_grad()
    def _find_codebooks(self) -> None:
        """By k-means of the latents of some batches. First steps without a quantiser did not help (docs/log.md)."""
        wanted = VECTORS_PER_CODE * self.tokenizer.config.codebook_size
        batches = -(-wanted // (self.config.batch_size * self.config.clip_frames))
        latents = paddle.concat([self.tokenizer.latents(self._draw()) for _ in range(batches)])
        self.tokenizer.quantizer.initialise(latents, self.rng, batches)

    def _optimizer(self) -> paddle.optimizer.Optimizer:
        parts = [self.tokenizer, self.objective.semantic]
        parameters = [parameter for part in parts if part is not None for parameter in part.parameters()]
        decayed = {parameter.name for parameter in parameters if parameter.ndim > 1}
        return paddle.optimizer.AdamW(
            self.config.learning_rate,
            *BETAS,
            parameters=parameters,
            weight_decay=self.config.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
            grad_clip=nn.ClipGradByGlobalNorm(self.config.clip_norm),
        )

    def _finite(self, losses: dict[str, paddle.Tensor], step: int) -> dict[str, float]:
        """The losses as numbers. Fault if one is none."""
        values = {name: float(loss) for name, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise Fault(f"a loss is not finite at step {step} ({values}): lower the learning rate")
        return values

    def _log_quality(self, step: int) -> Quality:
        self.tokenizer.eval()
        quality = evaluate(self.tokenizer, self.validation)
        self.tokenizer.train()
        if not all(map(math.isfinite, quality.mel_distance)):  # so that it is not saved over a good one
            raise Fault(f"a weight is not finite after step {step}: lower the learning rate")
        logger.info(
            "step %d: mel distance %s dB, SI-SDR %s dB with one level of codes more each, use of codes %s",
            step,
            " ".join(f"{value:.2f}" for value in quality.mel_distance),
            " ".join(f"{value:.1f}" for value in quality.si_sdr),
            " ".join(f"{value:.2f}" for value in quality.code_use),
        )
        return quality

    def _record(self, kind: str, step: int) -> dict:
        return {"kind": kind, "step": step, "seconds": round(time.perf_counter() - self.start, 2)}
