"""Vision tokenizers: bits of pictures and films."""

import argparse
from typing import TYPE_CHECKING

from ernie5.errors import UserError
from tokenizer_kinds.run_file import add_run_file, check_sheet, start_paddle, with_progress

if TYPE_CHECKING:  # imported where it is used, so that --help answers at once
    from ernie5.tokenizers.vision.evaluate import Quality

MAX_INSPECTED = 256  # media that quality is measured on


def add_train(kinds: argparse._SubParsersAction) -> None:
    train = kinds.add_parser(
        "vision",
        help="causal multi-scale bit-wise autoencoder of pictures and films",
        description="Example: python tools/tokenizer.py train vision -c configs/tokenizer/digits.yaml "
        "-o data.train=[my_pictures/] -o train.video_steps=0 -o output_dir=runs/mine",
    )
    train.set_defaults(run=run_train)
    add_run_file(train, "tokenizer.bits=8")


def run_train(args: argparse.Namespace) -> None:
    from ernie5.config.load import load_as
    from ernie5.config.vision_tokenizer import VisionTokenizerRunConfig, check_run

    config = load_as(VisionTokenizerRunConfig, args.config, args.opt)
    check_run(config, str(args.config))
    start_paddle(config.train.threads)
    from ernie5.data.media_set import choose_evenly, find_media, read_media, split_off
    from ernie5.tokenizers.vision.train import check_start, train_vision_tokenizer

    data = config.data
    files, held_out = find_media(data.train, data.fps), find_media(data.validation, data.fps)
    if not held_out:
        files, held_out = split_off(files, data.validation_fraction, config.train.seed)
    check_start(config)  # before the media are read, which takes long
    sizes = config.tokenizer.resolutions
    media = with_progress(read_media, choose_evenly(files, data.max_media), sizes, data.max_frames)
    validation = with_progress(read_media, choose_evenly(held_out, data.max_validation_media), sizes, data.max_frames)
    tokenizer, quality = train_vision_tokenizer(config, media, validation)
    print(f"{config.output_dir}: {tokenizer.config.bits} bits, digest {tokenizer.digest[:12]}")
    show_quality(quality)


def inspect_folder(args: argparse.Namespace) -> None:
    start_paddle()
    from ernie5.data.media_set import choose_evenly, find_media, read_media
    from ernie5.tokenizers.vision.evaluate import evaluate
    from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
    from ernie5.tokenizers.vision.train import save_sheet

    check_sheet(args)
    if args.fps <= 0 or args.max_frames < 1:
        raise UserError(f"--fps is {args.fps} and --max-frames {args.max_frames}: give numbers above 0")
    tokenizer = VisionTokenizer.from_pretrained(args.folder)
    config = tokenizer.config
    print(f"bits        {config.bits}, {config.quantizer}")
    print(f"digest      {tokenizer.digest}")
    print(f"parameters  {sum(parameter.size for parameter in tokenizer.parameters())}")
    print(f"stride      {config.encoder.stride} in space, {config.encoder.temporal_stride} in time")
    for resolution in config.resolutions:
        scales = " ".join(f"{height}x{width}" for height, width in resolution.scales)
        print(f"size        {resolution.height} x {resolution.width}: scales {scales}")
    if args.media is not None:
        files = choose_evenly(find_media(args.media, args.fps), MAX_INSPECTED)
        media = with_progress(read_media, files, config.resolutions, args.max_frames)
        show_quality(evaluate(tokenizer, media))
        save_sheet(tokenizer, media, args.sheet)


def show_quality(quality: "Quality") -> None:
    """A line for each prefix of the scales: what it makes, and how evenly the bits of its last scale are used."""
    for k, (psnr, entropy) in enumerate(zip(quality.psnr, quality.entropy, strict=True), 1):
        left = len(quality.psnr) - k
        scales = f"without the last {left}" if left else "all scales"
        print(f"{scales:<18}  PSNR {psnr:.2f} dB, entropy {entropy:.3f} of a bit of its last scale")
