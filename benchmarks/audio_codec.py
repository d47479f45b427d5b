"""The audio tokenizer beside real speech codecs, on recorded speech it never heard: bits, distances, digits heard.

    pip install -e ".[data,train]"
    python benchmarks/audio_codec.py --tokenizer runs/audio_tokenizer --speech fsdd/ --hold-out george \
        [--judge data/digits/speech_judge] [--images docs/images] [--output FILE.md]

Each tokenizer is measured with its first, its first two, ... all levels of codes. The codecs are those of
`speech_codecs.py`. All are heard at the tokenizers' sample rate.
"""

import argparse
import datetime
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import speech_codecs
from codec_pictures import Point, save_curves, save_spectrograms

from ernie5.errors import UserError, exit_cleanly
from ernie5.ops import runtime

if TYPE_CHECKING:
    from ernie5.analysis.spoken_digits import SpeechJudge
    from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

ABSENT = "not measured"


@dataclass(frozen=True, kw_only=True)
class Speech:
    """Recorded speech at one rate."""

    clips: list[np.ndarray]  # float32 [samples] each
    digits: list[str]  # what each says, "" if it says anything but digits
    sample_rate: int

    @property
    def seconds(self) -> float:
        return sum(map(len, self.clips)) / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class Version:
    """What became of the speech somewhere, and what that costs."""

    name: str
    maker: str  # whose versions make one curve
    bits_per_second: float
    outputs: list[np.ndarray]
    delay: float = 0.0  # seconds that were taken out


def main() -> None:
    args = parse_arguments()
    runtime.start_paddle()
    from ernie5.analysis.spoken_digits import SpeechJudge
    from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

    start, commit = time.process_time(), current_commit()
    tokenizers = {str(folder): AudioTokenizer.from_pretrained(folder) for folder in args.tokenizer}
    judge = SpeechJudge.load(args.judge) if args.judge else None
    speech = read_speech(args, common_rate(tokenizers))
    versions = [version for name, tokenizer in tokenizers.items() for version in levels(name, tokenizer, speech)]
    codecs = [codec for codec in speech_codecs.CODECS if speech_codecs.is_installed(codec)]
    versions += [transmitted(codec, speech) for codec in codecs]
    points = [measure(version, speech, judge) for version in versions]
    original = digits_wrong(judge, speech.clips, speech)
    cpu_seconds = time.process_time() - start
    silence = measure(silent(speech), speech, judge)
    parts = [header(commit, cpu_seconds, speech), method(args, versions), table(points, original, silence)]
    parts += [trust(original, speech)] if original is not None else []
    if args.images:
        pictures = draw(args.images, points, original, versions, speech)
        parts += [f"![{name}]({relative(path, args.output)})" for name, path in pictures.items()]
    page = "\n\n".join(parts)
    if args.output:
        args.output.write_text(page + "\n", encoding="utf-8")
    else:
        print(page)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, nargs="+", required=True, metavar="DIR", help="one or several")
    parser.add_argument(
        "--speech", required=True, metavar="PATH", help="Free Spoken Digit Dataset, or sounds.jsonl of a digit world"
    )
    parser.add_argument(
        "--hold-out", default="", metavar="SPEAKER", help="of the dataset, whom none heard (default: first by name)"
    )
    parser.add_argument("--split", default="test", help="of sounds.jsonl (default %(default)s)")
    parser.add_argument("--source", default="recorded", help="of sounds.jsonl (default %(default)s)")
    parser.add_argument("--judge", type=Path, metavar="DIR", help="made by tools/speech_judge.py")
    parser.add_argument("--num", type=int, default=100, help="clips, evenly spread; 0: all (default %(default)s)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where to draw curves and spectrograms")
    parser.add_argument("--output", type=Path, help="Markdown file; default: standard output")
    args = parser.parse_args()
    if args.num < 0:
        raise UserError(f"--num is {args.num}: give a number of clips, or 0 for all")
    return args


def common_rate(tokenizers: "dict[str, AudioTokenizer]") -> int:
    rates = {name: tokenizer.config.sample_rate for name, tokenizer in tokenizers.items()}
    if len(set(rates.values())) > 1:
        told = ", ".join(f"{name} {rate} Hz" for name, rate in rates.items())
        raise UserError(f"--tokenizer names codecs of several rates ({told}): compare those of one rate")
    return next(iter(rates.values()))


def read_speech(args: argparse.Namespace, sample_rate: int) -> Speech:
    """The clips that are asked for, but for silent ones."""
    from ernie5.data.digits.bank import MAX_SECONDS
    from ernie5.data.media_set import choose_evenly
    from ernie5.data.sounds import read_sound

    found = of_index(args) if is_index(args) else of_dataset(args)
    said = [(read_sound(path, sample_rate, MAX_SECONDS), digits) for path, digits in choose_evenly(found, args.num)]
    said = [(clip, digits) for clip, digits in said if np.ptp(clip)]
    if not said:
        raise UserError(f"{args.speech}: holds silence alone: give recorded speech")
    return Speech(clips=[clip for clip, _ in said], digits=[digits for _, digits in said], sample_rate=sample_rate)


def is_index(args: argparse.Namespace) -> bool:
    return Path(args.speech).name == "sounds.jsonl"


def of_dataset(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Paths and digits of the speaker who is held out."""
    from ernie5.data.digits.recordings import read_fsdd, split_recordings

    recordings = read_fsdd(args.speech)
    args.hold_out = args.hold_out or min(recording.speaker for recording in recordings)
    test = split_recordings(recordings, args.hold_out)["test"]
    return [(recording.path, str(recording.digit)) for recording in test]


def of_index(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Paths and digits of the rows of a digit world's index that are asked for."""
    from ernie5.analysis.spoken_digits import as_digits
    from ernie5.analysis.utterances import read_sounds

    world = Path(args.speech).parent
    rows = [row for row in read_sounds(world) if row["split"] == args.split and row["source"] == args.source]
    if not rows:
        raise UserError(
            f'{args.speech}: has no sound of the split "{args.split}" and the source "{args.source}": '
            "name others (--split, --source)"
        )
    return [(str(world / row["sound"]), as_digits(row["text"]) if row["language"] == "en" else "") for row in rows]


def levels(name: str, tokenizer: "AudioTokenizer", speech: Speech) -> list[Version]:
    """What the first, the first two, ... all levels make of the speech. They need no alignment."""
    import paddle

    number, codebook = tokenizer.config.num_codebooks, tokenizer.config.codebook_size
    outputs: list[list[np.ndarray]] = [[] for _ in range(number)]
    frames = 0
    for clip in speech.clips:
        codes = tokenizer.encode(paddle.to_tensor(clip[None]))
        frames += codes.shape[1]
        for level, made in enumerate(outputs):
            made.append(tokenizer.decode(codes[..., : level + 1]).numpy()[0, : len(clip)])
    bits = frames * np.log2(codebook) / speech.seconds
    return [
        Version(name=f"{name}, {level} of {number}", maker=name, bits_per_second=level * bits, outputs=made)
        for level, made in enumerate(outputs, start=1)
    ]


def transmitted(codec: speech_codecs.Codec, speech: Speech) -> Version:
    sent = speech_codecs.transmit(codec, speech.clips, speech.sample_rate)
    return Version(
        name=codec.name,
        maker=codec.maker,
        bits_per_second=sent.bits / speech.seconds,
        outputs=sent.outputs,
        delay=sent.delay,
    )


def silent(speech: Speech) -> Version:
    """What no bits make of the speech: how far a distance can be."""
    return Version(
        name="silence", maker="silence", bits_per_second=0.0, outputs=[np.zeros_like(clip) for clip in speech.clips]
    )


def measure(version: Version, speech: Speech, judge: "SpeechJudge | None") -> Point:
    import paddle

    from ernie5.tokenizers.audio.losses import MEASURE_WINDOW, mel_distance, scale_invariant_ratio

    ratios, distances = [], []
    for clip, output in zip(speech.clips, version.outputs, strict=True):
        length = max(len(clip), MEASURE_WINDOW)
        target, found = (paddle.to_tensor(speech_codecs.fit(sound, length)[None]) for sound in (clip, output))
        ratios.append(scale_invariant_ratio(found, target).item())
        distances.append(mel_distance(found, target, speech.sample_rate).item())
    wrong = digits_wrong(judge, version.outputs, speech)
    return Point(
        name=version.name,
        maker=version.maker,
        bits_per_second=version.bits_per_second,
        si_sdr=float(np.mean(ratios)),
        mel_distance=float(np.mean(distances)),
        wrong=wrong,
    )


def digits_wrong(judge: "SpeechJudge | None", sounds: Sequence[np.ndarray], speech: Speech) -> float | None:
    """Of the sounds that should say digits; None without a judge."""
    if judge is None:
        return None
    import soxr

    from ernie5.analysis.spoken_digits import SAMPLE_RATE, spoken_digit_error

    judged = [
        (soxr.resample(sound, speech.sample_rate, SAMPLE_RATE), digits)
        for sound, digits in zip(sounds, speech.digits, strict=True)
        if digits
    ]
    return spoken_digit_error(judge, [sound for sound, _ in judged], [digits for _, digits in judged]).digits


def table(points: Sequence[Point], original: float | None, silence: Point) -> str:
    lines = [
        "| | bits per second | SI-SDR, dB | mel distance, dB | digits wrong |",
        "|---|---:|---:|---:|---:|",
        f"| the originals | | | 0.00 | {share(original)} |",
        f"| silence | 0 | | {silence.mel_distance:.2f} | {share(silence.wrong)} |",
    ]
    for point in points:
        quality = f"{point.si_sdr:.2f} | {point.mel_distance:.2f} | {share(point.wrong)}"
        lines.append(f"| {point.name} | {point.bits_per_second:,.0f} | {quality} |")
    return "\n".join(lines)


def trust(original: float, speech: Speech) -> str:
    number = sum(map(len, speech.digits))
    error = np.sqrt(original * max(0, 1 - original) / number)
    return f"Of {number} digits, {original:.1%} wrong has a standard error of {100 * error:.1f} points."


def share(wrong: float | None) -> str:
    return ABSENT if wrong is None else f"{wrong:.1%}"


def draw(
    folder: Path, points: Sequence[Point], original: float | None, versions: Sequence[Version], speech: Speech
) -> dict[str, Path]:
    """Curves; and the middle clip as the levels of the first tokenizer and the first version of each codec make it."""
    folder.mkdir(parents=True, exist_ok=True)
    curves, spectrograms = folder / "audio_codec_curves.png", folder / "audio_codec_spectrograms.png"
    save_curves(points, original, curves)
    middle, ours = len(speech.clips) // 2, versions[0].maker
    makers = {codec.maker for codec in speech_codecs.CODECS}
    cheapest = {version.maker: version.name for version in reversed(versions) if version.maker in makers}
    shown = [version for version in versions if version.maker == ours or version.name in cheapest.values()]
    sounds = {f"{version.name} ({version.bits_per_second:,.0f} bit/s)": version.outputs[middle] for version in shown}
    save_spectrograms({"original": speech.clips[middle]} | sounds, speech.sample_rate, spectrograms)
    return {"quality over bits per second": curves, "spectrograms of one clip": spectrograms}


def relative(path: Path, page: Path | None) -> str:
    return os.path.relpath(path, page.parent if page else ".")


def current_commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def header(commit: str, cpu_seconds: float, speech: Speech) -> str:
    import av
    import paddle

    command = shlex.join(["python", "benchmarks/audio_codec.py", *sys.argv[1:]])
    return "\n".join(
        [
            "# The audio tokenizer beside speech codecs",
            "",
            f"{datetime.date.today()}, `{command}`, {cpu_seconds:.0f} CPU seconds with "
            f"{os.environ['OMP_NUM_THREADS']} thread(s), PaddlePaddle {paddle.__version__}, PyAV {av.__version__}, "
            f"commit {commit}. {len(speech.clips)} clips, {speech.seconds:.1f} s in all, at {speech.sample_rate} Hz.",
        ]
    )


def method(args: argparse.Namespace, versions: Sequence[Version]) -> str:
    """What the numbers are, and what was left out."""
    late = ", ".join(f"{version.name} {1000 * version.delay:.2f} ms" for version in versions if version.delay)
    absent = [codec.name for codec in speech_codecs.CODECS if not speech_codecs.is_installed(codec)]
    whose = f'split "{args.split}", source "{args.source}"' if is_index(args) else f"all by {args.hold_out}"
    lines = [
        f"Recorded speech: {whose}. Means over clips; bits are those of all packets or codes of all clips over their "
        "seconds, the last one that a clip fills in part included, a container's left out. `2 of 4` is the first two "
        "levels of codes. SI-SDR compares waveforms, which a codec of few bits does not keep; mel distance compares "
        "spectra. Digits wrong: insertions, deletions and substitutions that the judge of spoken digits hears, over "
        "the digits said.",
        f"A codec is late; the one lag of all clips is where outputs and originals correlate most, searched at "
        f"{speech_codecs.FINE_RATE} Hz, and was taken out: {late or 'none'}. The tokenizers' samples come in place.",
    ]
    if absent:
        lines.append(f"Not in this build of PyAV: {'; '.join(absent)}.")
    return "\n\n".join(lines)


if __name__ == "__main__":
    exit_cleanly(main)
