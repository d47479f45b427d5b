"""The speaker encoder, which gives a model the voice of a reference clip."""

import argparse

from ernie5.errors import UserError
from tokenizer_kinds.run_file import add_run_file, start_paddle, with_progress


def add_train(kinds: argparse._SubParsersAction) -> None:
    train = kinds.add_parser(
        "speaker",
        help="encoder of voices, for speech generation",
        description="Example: python tools/tokenizer.py train speaker -c configs/tokenizer/digits_speaker.yaml "
        "-o data.train=[my_sounds.jsonl] -o data.validation=[] -o output_dir=runs/mine",
    )
    train.set_defaults(run=run_train)
    add_run_file(train, "train.steps=500")


def run_train(args: argparse.Namespace) -> None:
    from ernie5.config.audio_networks import SpeakerRunConfig, check_speaker_run
    from ernie5.config.load import load_as

    config = load_as(SpeakerRunConfig, args.config, args.opt)
    check_speaker_run(config, str(args.config))
    start_paddle(config.threads)
    import numpy as np
    import paddle

    from ernie5.data.media_set import choose_evenly
    from ernie5.data.sound_set import find_sounds, read_clips
    from ernie5.tokenizers.audio.speaker import equal_error_rate, train_speaker_encoder
    from ernie5.tokenizers.run_folder import claim_folder

    data, rate = config.data, config.encoder.network.sample_rate
    files = [file for file in find_sounds(data.train, "train") if file.speaker]
    if not files:
        raise UserError(f"{', '.join(data.train)}: no sound has a speaker: name an index whose lines do")
    held_out = [file for file in find_sounds(data.validation, "validation") if file.speaker]
    output = claim_folder(config.output_dir)
    clips = with_progress(read_clips, choose_evenly(files, data.max_clips), rate, data.max_seconds)
    validation = with_progress(read_clips, choose_evenly(held_out, data.max_validation_clips), rate, data.max_seconds)
    paddle.seed(config.train.seed)
    encoder = train_speaker_encoder([(clip.samples, clip.speaker) for clip in clips], config.encoder, config.train)
    encoder.save_pretrained(output)
    print(f"{output}: {config.encoder.dim} numbers a voice, {len({clip.speaker for clip in clips})} speakers learned")
    if validation:
        vectors = np.stack([encoder.embed(clip.samples) for clip in validation])
        rate = equal_error_rate(vectors, [clip.speaker for clip in validation])
        print(f"equal error rate {rate:.1%} on {len(validation)} clips of other speakers")
