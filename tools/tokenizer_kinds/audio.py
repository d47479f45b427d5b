"""Audio tokenizers: frames of codes of sounds."""

import argparse
from typing import TYPE_CHECKING

from ernie5.errors import UserError
from tokenizer_kinds.run_file import add_run_file, check_sheet, start_paddle, with_progress

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    from collections.abc import Sequence

    from ernie5.tokenizers.audio.evaluate import Quality
    from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

MAX_INSPECTED, MAX_SECONDS = 128, 30.0  # sounds that quality is measured on, and of one of them


def add_train(kinds: argparse._SubParsersAction) -> None:
    train = kinds.add_parser(
        "audio",
        help="causal codec with residual vector quantisation of sounds",
        description="Example: python tools/tokenizer.py train audio -c configs/tokenizer/digits_audio.yaml "
        "-o data.train=[my_sounds/] -o data.validation=[] -o train.loss.semantic.weight=0 -o output_dir=runs/mine. "
        "It is saved at every train.eval_steps and in the end; a training that was stopped begins anew.",
    )
    train.set_defaults(run=run_train)
    add_run_file(train, "train.steps=1000")


def run_train(args: argparse.Namespace) -> None:
    from ernie5.config.audio_tokenizer import AudioTokenizerRunConfig, check_run
    from ernie5.config.load import load_as

    config = load_as(AudioTokenizerRunConfig, args.config, args.opt)
    check_run(config, str(args.config))
    start_paddle(config.train.threads)
    from ernie5.data.media_set import choose_evenly, split_off
    from ernie5.data.sound_set import find_sounds, read_clips
    from ernie5.tokenizers.audio.train import check_start, train_audio_tokenizer

    data, rate = config.data, config.tokenizer.sample_rate
    files = find_sounds(data.train, "train")
    if data.validation:
        held_out = find_sounds(data.validation, "validation")
    else:
        files, held_out = split_off(files, data.validation_fraction, config.train.seed)
    check_start(config, [file.text for file in files])  # before the sounds are read, which takes long
    clips = with_progress(read_clips, choose_evenly(files, data.max_clips), rate, data.max_seconds)
    validation = with_progress(read_clips, choose_evenly(held_out, data.max_validation_clips), rate, data.max_seconds)
    transcripts = [(clip.samples, clip.text) for clip in clips if clip.text]
    tokenizer, quality = train_audio_tokenizer(
        config, [clip.samples for clip in clips], [clip.samples for clip in validation], transcripts
    )
    print(f"{config.output_dir}: {tokenizer.config.num_codebooks} levels, digest {tokenizer.digest[:12]}")
    show_quality(quality)


def inspect_folder(args: argparse.Namespace) -> None:
    start_paddle()
    from ernie5.tokenizers.audio.evaluate import bit_rates
    from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

    check_sheet(args)
    if args.recogniser is not None and args.media is None:
        raise UserError("--recogniser needs --media: name an index of transcribed sounds")
    tokenizer = AudioTokenizer.from_pretrained(args.folder)
    config = tokenizer.config
    print(f"levels      {config.num_codebooks} of {config.codebook_size} codes, {bit_rates(config)[-1]:g} bits/s")
    print(f"digest      {tokenizer.digest}")
    print(f"parameters  {sum(parameter.size for parameter in tokenizer.parameters())}")
    print(f"rate        {config.sample_rate} Hz, a frame of {config.frame_size} samples")
    if args.media is not None:
        measure(args, tokenizer)


def measure(args: argparse.Namespace, tokenizer: "AudioTokenizer") -> None:
    """The quality of some sounds, and their sheet."""
    from ernie5.data.media_set import choose_evenly
    from ernie5.data.sound_set import find_sounds, read_clips
    from ernie5.tokenizers.audio.evaluate import error_rates, evaluate
    from ernie5.tokenizers.audio.recogniser import Recogniser
    from ernie5.tokenizers.audio.samples import SHOWN, choose, save_sheet

    files = choose_evenly(find_sounds(args.media, args.split), MAX_INSPECTED)
    clips = with_progress(read_clips, files, tokenizer.config.sample_rate, MAX_SECONDS)
    errors: Sequence[float] = ()
    if args.recogniser is not None:
        transcripts = [(clip.samples, clip.text) for clip in clips if clip.text]
        errors = error_rates(tokenizer, Recogniser.from_pretrained(args.recogniser), transcripts)
        print(f"recogniser  {errors[0]:.1%} of the characters of the originals are wrong")
    sounds = [clip.samples for clip in clips]
    show_quality(evaluate(tokenizer, sounds), errors[1:])
    save_sheet(tokenizer, choose(sounds, SHOWN), args.sheet)


def show_quality(quality: "Quality", errors: "Sequence[float]" = ()) -> None:
    """A line for each number of levels of codes."""
    print(f"{quality.num_sounds} sounds")
    print("levels   bits/s  mel distance   SI-SDR  use of codes" + ("  errors" if errors else ""))
    for n, bits in enumerate(quality.bits_per_second):
        error = f"  {errors[n]:6.1%}" if errors else ""
        print(
            f"{n + 1:6d}  {bits:7.1f}  {quality.mel_distance[n]:9.2f} dB  {quality.si_sdr[n]:4.1f} dB"
            f"  {quality.code_use[n]:12.2f}{error}"
        )
