"""One run from its configuration: builds what it names, trains, and leaves a run folder."""

import fcntl
import logging
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import paddle
from tqdm import tqdm

import ernie5
from ernie5.config.load import dump
from ernie5.config.parallel_rules import uneven_draws
from ernie5.config.schema import Config, GenerationConfig
from ernie5.data.corpus import Corpus
from ernie5.data.loader import PIECE_BYTES_PER_TOKEN, Loader
from ernie5.data.manifest import BadLine
from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import is_too_long, pack_all
from ernie5.data.pieces import Pieces
from ernie5.data.prompts import prompt_segments
from ernie5.data.sample import Sample, Text
from ernie5.data.sequence import EncodedSample, encode_sample
from ernie5.data.shuffle import derive_key, permute
from ernie5.data.split import open_splits
from ernie5.errors import UserError
from ernie5.modality.batch import Coders
from ernie5.modality.vision_codes import VisionCoder
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.folder import save_folder
from ernie5.model.undrawn import undrawn
from ernie5.model.weights import assign, load_tensors
from ernie5.ops import backend
from ernie5.parallel.cutting import Elsewhere
from ernie5.parallel.data_parallel import Ranks, check_same, join
from ernie5.parallel.deep_ep import choose_dispatcher
from ernie5.parallel.initial import draw
from ernie5.parallel.mesh import Mesh, make_mesh
from ernie5.parallel.parallelize import ParallelModel
from ernie5.parallel.pieces import gather_to_first, own_pieces
from ernie5.parallel.recompute import recompute_blocks
from ernie5.parallel.supervisor import RESTART
from ernie5.planning.parameters import count_parameters
from ernie5.planning.stages import layer_counts
from ernie5.services.cluster import connected
from ernie5.services.pool import EncodingPool
from ernie5.services.worker import WorkerSetup, identity
from ernie5.tokenizers.text import TextTokenizer, train_tokenizer
from ernie5.train.audio_tokenizer import RunAudio
from ernie5.train.begin import begin_with, check_begin, tokenizer_of
from ernie5.train.checkpoint import Checkpoint, CheckpointStore
from ernie5.train.evaluate import ValidationSet
from ernie5.train.journal import Shown
from ernie5.train.manifest import folder_name
from ernie5.train.metrics import MetricsLog, read_metrics
from ernie5.train.optimizer import build_optimizer
from ernie5.train.optimizer_state import export_optimizer, import_optimizer, state_cuts
from ernie5.train.precision import cast_parameters, set_device
from ernie5.train.report import write_report
from ernie5.train.rng import get_rng_states, set_rng_states
from ernie5.train.saving import Part, Saver
from ernie5.train.schedule import check_batches
from ernie5.train.state import TrainState
from ernie5.train.trainer import Services, Trainer
from ernie5.train.vision_tokenizers import VisionTokenizers

logger = logging.getLogger(__name__)

TEXT_BYTES = 2**16  # of a long plain text that are held, or scored, at once

# (model, tokenizer, coders, config, seed, run folder, name) -> what to show of a run, the media of which are written to
# files of the run folder that begin with the name; given by the tool, because generation lies above training
Show = Callable[[Ernie5ForCausalLM, TextTokenizer, Coders, GenerationConfig, int, Path, str], list[Shown]]


def run(config: Config, resume: str, show: Show) -> bool:
    """Trains. `resume` is "", "auto" or a checkpoint's folder. False: stopped by a signal, and saved.

    Raises UserError before anything is built or overwritten where that can be known, Fault for what breaks on the way.
    """
    run_dir, ranks = Path(config.train.output_dir), join()
    check_same(ranks, dump(config))
    mesh = make_mesh(ranks.size, config.parallel)
    for sentence in uneven_draws(config) if ranks.is_first else ():
        logger.warning(sentence)
    with _claim(run_dir) if ranks.is_first else nullcontext(), ExitStack() as stack:
        return _run(config, run_dir, resume, show, ranks, mesh, stack)


def _run(config: Config, run_dir: Path, resume: str, show: Show, ranks: Ranks, mesh: Mesh, stack: ExitStack) -> bool:
    """`stack` holds what must be ended with the run."""
    check_batches(config, mesh)
    store, checkpoint = open_checkpoint(run_dir, config, resume, ranks)
    source = config.train.init_from if checkpoint is None else ""  # whose weights the run begins with
    if source:
        check_begin(source, config.model)
    precision = set_device(config.train)
    hidden_size, wanted = config.model.hidden_size, config.parallel.dispatcher
    dispatcher, said = choose_dispatcher(wanted, mesh.expert, hidden_size, precision)
    if mesh.expert > 1 and ranks.is_first:
        logger.info("tokens travel to experts by %s", said)
    train, validation = open_splits(config.data, config.train.seed)
    tokenizer_dir = run_dir / "tokenizer"
    ranks.on_first(lambda: _tokenizer(config, train, tokenizer_dir, checkpoint))
    tokenizer = TextTokenizer.from_pretrained(tokenizer_dir)
    digests = checkpoint.state.get("vision_tokenizers", {}) if checkpoint is not None else None
    vision = VisionTokenizers(config, run_dir, digests, ranks.is_first) if config.model.vision else None
    audio = RunAudio(config, run_dir, checkpoint is not None, ranks.is_first) if config.model.audio else None
    audio_coder = audio.coder() if audio else None  # one, because it remembers codes
    pool = _encoding_pool(config, vision, audio, ranks, stack) if config.services.num_workers else None
    model = undrawn(lambda: Ernie5ForCausalLM(config.model))
    recompute_blocks(model, config.train.recompute)
    counts = layer_counts(config.model, mesh.pipeline * config.parallel.virtual_stages, config.stages[0].max_seq_len)
    parallel = ParallelModel(model, ranks, mesh, counts, dispatcher)
    if source:
        begin_with(source, parallel)
    draw(model, config.train.seed, parallel.cuts)
    cast_parameters(model, precision)
    if (
        vision is not None
        and checkpoint is None
        and not source
        and not isinstance(model.vision_understanding, Elsewhere)
    ):
        model.vision_understanding.load_cnn(vision.by_bits[vision.most_bits].encoder.state_dict())
    optimizer = build_optimizer(model, config.optimizer, parallel.stepped)

    def whole_model() -> Ernie5ForCausalLM | None:
        if not mesh.is_model_shared:
            return model
        tensors = gather_to_first(ranks, model.state_dict(), parallel.cuts)
        if tensors is None:
            return None
        whole = undrawn(lambda: Ernie5ForCausalLM(config.model))
        draw(whole, config.train.seed, {})
        cast_parameters(whole, precision)
        assign(whole.state_dict().items(), tensors, "the processes of this run")
        return whole

    saver = Saver(store, ranks, config.train.async_save, checkpoint.step if checkpoint is not None else None)

    def checkpoint_of(state: TrainState, loader_state: dict, score: float | None = None) -> dict:
        tensors = export_optimizer(optimizer, parallel.stepped)
        return dict(
            step=state.step,
            model=Part(model.state_dict(), parallel.cuts),
            optimizer=Part(tensors, state_cuts(tensors, parallel.stepped_cuts)),
            state={
                "train": asdict(state),
                "loader": loader_state,
                "rng": get_rng_states(),
                "vision_tokenizers": vision.digests if vision else {},
                "audio_tokenizers": audio.digests if audio else {},
            },
            config_text=dump(config),
            tokenizer_dir=tokenizer_dir,
            tokenizer_digest=tokenizer.digest,
            score=score,
            measure=f"{state.vision_bits} visual bits" if vision else "",
        )

    on_all = {
        "save": lambda *of: saver.save(**checkpoint_of(*of)),
        "save_alone": lambda *of: saver.save_alone(**checkpoint_of(*of)),
        "poll": saver.poll,
        "finish": saver.finish,
        "whole_model": whole_model,
    }
    if not ranks.is_first:
        services = Services(**on_all)
        trainer = Trainer(config, parallel, optimizer, None, services, vision, audio_coder, pool)
        if checkpoint is not None:
            _restore(trainer, checkpoint, audio)
        finished = trainer.fit()
        saver.finish()
        return finished
    validation_set = _Validation(validation, tokenizer, config)
    # What is wrong with them shows now, not after hours.
    validation_set(config.stages[0].max_seq_len, False)
    _check_prompts(config, tokenizer)
    loader = Loader(
        train,
        tokenizer,
        config.data,
        max_seq_len=config.stages[0].max_seq_len,
        longest_seq_len=max(stage.max_seq_len for stage in config.stages),
        seed=config.train.seed,
        bpe_dropout=config.tokenizer.bpe_dropout,
        media=MediaSettings.of(config.model, config.data),
    )
    with closing(MetricsLog(run_dir, config.train.visualdl)) as metrics, loader:

        def show_samples(whole: Ernie5ForCausalLM, step: int, vision_bits: int) -> list[Shown]:
            sight = VisionCoder(vision.by_bits[vision_bits or vision.most_bits]) if vision else None
            name, seed = f"samples/step_{step:08d}", config.train.seed + step
            (run_dir / "samples").mkdir(exist_ok=True)
            shown = show(whole, tokenizer, Coders(sight, audio_coder), config.generation, seed, run_dir, name)
            lines = "\n\n".join(f"--- {s.prompt!r}\n{s.prompt}{s.text}{s.output_file}" for s in shown)
            _write_text(run_dir / f"{name}.txt", lines + "\n")
            return shown

        services = Services(
            **on_all,
            metrics=metrics,
            show_samples=show_samples,
            validation=validation_set,
        )
        trainer = Trainer(config, parallel, optimizer, loader, services, vision, audio_coder, pool)
        if checkpoint is None:
            metrics.truncate_after(-1)  # what a run that died before its first checkpoint wrote
        else:
            _restore(trainer, checkpoint, audio)
            metrics.truncate_after(checkpoint.step)
        _write_text(run_dir / "config.yaml", dump(config))
        if not any(record["kind"] == "run" for record in read_metrics(metrics.path)):
            experts_by = {"dispatcher": said} if mesh.expert > 1 else {}
            metrics.write({"kind": "run", **_describe(config, tokenizer, precision), **experts_by})
        if checkpoint is not None:
            metrics.write({"kind": "event", "step": checkpoint.step, "text": f"resumed from {checkpoint.path.name}"})
            logger.info("resumed from %s", checkpoint.path)
        if RESTART in os.environ:
            metrics.write({"kind": "event", "step": trainer.state.step, "text": os.environ[RESTART]})
        logger.info("operators: %s", backend.described())
        try:
            finished = trainer.fit()
            saver.finish()
        finally:
            _report(run_dir)
    vision_dir = vision.folders[trainer.state.vision_bits or vision.most_bits] if vision else None
    audio_dirs = (audio.folder, audio.speaker_folder) if audio else ()
    saved = store.root / folder_name(trainer.state.step)
    if saved.exists():  # it was stopped before the first step, or the weights are there
        tensors = load_tensors(saved, "model")
        save_folder(config.model, tensors, run_dir / "model", tokenizer_dir, vision_dir, *audio_dirs)
    if not finished:
        logger.info("stopped at step %d and saved: go on with --resume auto", trainer.state.step)
    return finished


@contextmanager
def _claim(run_dir: Path) -> Iterator[None]:
    """Makes the run folder and holds it: two processes in one would delete each other's checkpoints."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = open(run_dir / ".lock", "w")
    except OSError as error:
        raise UserError(
            f"{run_dir}: cannot be written to ({error.strerror}); give train.output_dir another folder"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{run_dir}: another process trains in this folder; wait for it, or give train.output_dir another one"
            ) from None
        yield


def _report(run_dir: Path) -> None:
    """The report is a service: what is wrong with it must not hide what ended the run."""
    try:
        logger.info("report: %s", write_report(run_dir))
    except (OSError, ValueError, KeyError) as error:
        logger.warning("no report: %s", error)


def _encoding_pool(
    config: Config, vision: VisionTokenizers | None, audio: RunAudio | None, ranks: Ranks, stack: ExitStack
) -> EncodingPool:
    """Workers of this process. Ray is started by the first process, where no cluster is named, and ends with it."""
    services, address = config.services, config.services.address
    if ranks.is_first:
        cpus, gpus = (ranks.size * services.num_workers * n for n in (1, services.gpus_per_worker))
        address = stack.enter_context(connected(address, cpus, gpus))
    address = ranks.from_first(address if ranks.is_first else None)
    if not ranks.is_first:
        stack.enter_context(connected(address))
    setup = WorkerSetup(
        vision={bits: str(folder.resolve()) for bits, folder in vision.folders.items()} if vision else {},
        audio=str(audio.folder.resolve()) if audio else "",
        speaker=str(audio.speaker_folder.resolve()) if audio and audio.speaker else "",
        device="gpu" if services.gpus_per_worker else "cpu",
        ops=config.ops,
    )
    expected = identity(vision.by_bits if vision else {}, audio.coder() if audio else None)
    pool = EncodingPool(setup, expected, services.num_workers, services.gpus_per_worker)
    stack.callback(pool.close)
    return pool


def open_checkpoint(
    run_dir: Path, config: Config, resume: str, ranks: Ranks
) -> tuple[CheckpointStore, Checkpoint | None]:
    """The checkpoints of a run folder and the one that `resume` names; all processes call it together."""
    store = CheckpointStore(run_dir / "checkpoints", config.train.keep_checkpoints, ranks)
    if not resume:
        if store.newest_first():
            raise UserError(
                f"{run_dir}: holds a run already; go on with --resume auto, or give train.output_dir another folder"
            )
        return store, None
    checkpoint = store.open(resume)
    if store.newest_first() and checkpoint.path.resolve().parent != store.root.resolve():
        raise UserError(
            f"{checkpoint.path}: belongs to another run than {run_dir}, which has checkpoints of its own; "
            "give train.output_dir a new folder"
        )
    checkpoint.require_model(dump(config))
    return store, checkpoint


def _tokenizer(config: Config, train: Sequence[Corpus], folder: Path, checkpoint: Checkpoint | None) -> None:
    """Into `folder`: the one named, that of the checkpoint which is resumed or of the weights that the run begins with,
    or one learned from the training split.
    """
    if config.tokenizer.path:
        tokenizer = TextTokenizer.from_pretrained(config.tokenizer.path)
    elif checkpoint is not None:
        tokenizer = TextTokenizer.from_pretrained(checkpoint.tokenizer_dir)
    elif config.train.init_from and (found := tokenizer_of(config.train.init_from)) is not None:
        tokenizer = TextTokenizer.from_pretrained(found)
    else:
        size = config.tokenizer.vocab_size or config.model.vocab_size
        texts = tqdm(
            _texts(train, config.data.bad_line == "skip"), "tokenizer: reading", unit=" texts", dynamic_ncols=True
        )
        tokenizer = train_tokenizer(texts, size, max_bytes=config.tokenizer.max_train_bytes)
    if tokenizer.vocab_size > config.model.vocab_size:
        raise UserError(
            f"{config.tokenizer.path}: the tokenizer has {tokenizer.vocab_size} ids, but model.vocab_size is "
            f"{config.model.vocab_size}: raise it, or take a smaller tokenizer"
        )
    if checkpoint is not None:
        checkpoint.require_tokenizer(tokenizer.digest)
    tokenizer.save_pretrained(folder)


def _check_prompts(config: Config, tokenizer: TextTokenizer) -> None:
    """UserError for a medium of the prompts that cannot be read."""
    settings = MediaSettings.uncorrupted(config.model)
    for i, prompt in enumerate(config.generation.media_prompts):
        sample = Sample(segments=prompt_segments(prompt), origin=f"generation.media_prompts.{i}")
        encode_sample(sample, tokenizer, media=settings)


def _texts(corpora: Sequence[Corpus], skip_bad_lines: bool) -> Iterator[str]:
    """The text of the corpora, at most TEXT_BYTES of it at a time."""
    for corpus in corpora:
        for sample in Pieces(corpus, TEXT_BYTES, seed=0).samples(skip_bad_lines):
            yield from (segment.text for segment in sample.all_segments() if isinstance(segment, Text))
            yield from (message.reasoning for message in sample.messages if message.reasoning)


def _restore(trainer: Trainer, checkpoint: Checkpoint, audio: RunAudio | None) -> None:
    parallel = trainer.parallel
    tensors, state = checkpoint.model_tensors(), checkpoint.optimizer_tensors()
    if parallel.mesh.is_divided:
        held = trainer.model.state_dict().keys()
        tensors = own_pieces({name: tensors[name] for name in held if name in tensors}, parallel.cuts)
        state = {name: array for name, array in state.items() if name.rpartition("/")[0] in parallel.stepped}
        state = own_pieces(state, state_cuts(state, parallel.stepped_cuts))
    assign(trainer.model.state_dict().items(), tensors, checkpoint.path)
    import_optimizer(trainer.optimizer, parallel.stepped, state, checkpoint.path)
    try:
        state = TrainState(**checkpoint.state["train"])
        set_rng_states(checkpoint.state["rng"])
        loader_state = checkpoint.state["loader"]
        vision_digests, audio_digests = (checkpoint.state[f"{name}_tokenizers"] for name in ("vision", "audio"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path / 'state.json'}: written by another version of ernie5 ({error}); resume with that one"
        ) from None
    if trainer.vision is not None:
        trainer.vision.require(vision_digests, checkpoint.path)
    if audio is not None:
        audio.require(audio_digests, checkpoint.path)
    trainer.restore(state, loader_state)


class _Validation:
    """The validation sets of a run, encoded when they are first asked for."""

    def __init__(self, corpora: Sequence[Corpus], tokenizer: TextTokenizer, config: Config):
        self._corpora, self._tokenizer, self._config = corpora, tokenizer, config
        self._sets: dict[tuple[int, bool], ValidationSet] = {}

    def __call__(self, max_seq_len: int, complete: bool) -> ValidationSet:
        """complete: all documents; otherwise those that fit into `max_eval_tokens`, in a shuffled order.

        A plain text of twice TEXT_BYTES or more is scored in pieces, each as a document of its own, so that a quick
        evaluation of one long text is quick.
        """
        key = (max_seq_len, complete)
        if key not in self._sets:
            self._sets[key] = self._pack(max_seq_len, 0 if complete else self._config.train.max_eval_tokens)
        return self._sets[key]

    def _pack(self, max_seq_len: int, max_tokens: int) -> ValidationSet:
        encoded = self._encoded(MediaSettings.uncorrupted(self._config.model), max_seq_len)
        packed = list(pack_all(encoded, max_seq_len, self._tokenizer.pad_id, max_tokens))
        num_bytes = sum(row.num_bytes for row in packed)
        if not num_bytes and not any(medium.is_generated for row in packed for medium in row.row.media):
            raise UserError(
                "nothing of the validation data carries loss: name data.validation, or raise data.validation_fraction"
            )
        return ValidationSet([row.row for row in packed], num_bytes)

    def _encoded(self, media: MediaSettings, max_seq_len: int) -> Iterator[EncodedSample]:
        for sample in self._shuffled():
            try:
                encoded = encode_sample(sample, self._tokenizer, media=media)
            except BadLine:
                if self._config.data.bad_line != "skip":
                    raise
                continue
            if self._config.data.bad_line != "skip" or not is_too_long(encoded, max_seq_len):
                yield encoded

    def _shuffled(self) -> Iterator[Sample]:
        seed, skip_bad_lines = self._config.train.seed, self._config.data.bad_line == "skip"
        longest = max(stage.max_seq_len for stage in self._config.stages)
        piece_bytes = max(TEXT_BYTES, PIECE_BYTES_PER_TOKEN * longest)  # a row of any stage can be one text
        all_pieces = [Pieces(corpus, piece_bytes, seed) for corpus in self._corpora]
        places = [(pieces, i) for pieces in all_pieces for i in range(len(pieces))]
        key = derive_key(seed, "validation")
        for number in range(len(places)):
            pieces, index = places[permute(number, len(places), key)]
            yield from (replace(sample, begins=True) for sample in pieces.samples(skip_bad_lines, [index]))


def _describe(config: Config, tokenizer: TextTokenizer, precision: str) -> dict:
    count = count_parameters(config.model)
    versions = {"ernie5": ernie5.__version__, "paddle": paddle.__version__, "python": platform.python_version()}
    return {
        "parameters": {"total": count.total, "active": count.active, "share": count.share},
        "versions": versions,
        "device": paddle.device.get_device(),
        "operators": backend.described(),
        "precision": precision,
        "vocabulary": tokenizer.vocab_size,
    }


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
