"""Real speech codecs at their lowest rates, by way of PyAV: what they make of a sound, and the bits it really takes.

Each clip goes through an encoder and a decoder of its own. Bits are those of all packets with their own headers (a byte
each of Opus and AMR); a container's are not counted. What a codec is late by is found and taken out: `find_lag`.
The wheels of PyAV 18 encode no Codec 2, Speex, GSM or LPC-10.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FINE_RATE = 48_000  # at which lags are searched: finer than a sample of speech
LONGEST_LAG = 4_800  # of samples at FINE_RATE, 100 ms


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How FFmpeg calls it, and what it is told."""

    name: str
    encoder: str
    decoder: str
    bit_rate: int  # nominal
    rates: tuple[int, ...]  # samples a second that it takes, ascending
    options: dict[str, str] = field(default_factory=dict)

    @property
    def maker(self) -> str:
        """The name without the rate."""
        return self.name.partition(",")[0]


@dataclass(frozen=True, kw_only=True)
class Transmission:
    """What a codec makes of sounds."""

    bits: int  # of all packets
    delay: float  # seconds, taken out
    outputs: list[np.ndarray]  # float32 [samples] each, as long as the sounds and at their rate


def _opus(bit_rate: int) -> Codec:
    """Made for speech, in packets of 60 ms: of its longest, in which a low rate goes furthest."""
    options = {"application": "voip", "frame_duration": "60", "compression_level": "10"}
    return Codec(
        name=f"Opus, {bit_rate / 1000:g} kbit/s",
        encoder="libopus",
        decoder="libopus",
        bit_rate=bit_rate,
        rates=(8_000, 12_000, 16_000, 24_000, 48_000),
        options=options,
    )


def _amr(bit_rate: int) -> Codec:
    name = f"AMR-NB, {bit_rate / 1000:g} kbit/s"
    return Codec(name=name, encoder="libopencore_amrnb", decoder="amrnb", bit_rate=bit_rate, rates=(8_000,))


G723_1 = Codec(name="G.723.1, 6.3 kbit/s", encoder="g723_1", decoder="g723_1", bit_rate=6_300, rates=(8_000,))
CODECS = (_opus(6_000), _opus(8_000), _opus(12_000), _amr(4_750), _amr(7_950), G723_1)


def is_installed(codec: Codec) -> bool:
    """Whether PyAV's FFmpeg was built with its encoder and decoder."""
    from av.codec import Codec as AvCodec
    from av.codec.codec import UnknownCodecError

    try:
        AvCodec(codec.encoder, "w"), AvCodec(codec.decoder, "r")
    except UnknownCodecError:
        return False
    return True


def transmit(codec: Codec, sounds: Sequence[np.ndarray], sample_rate: int) -> Transmission:
    """Sounds, float32 [samples] each, resampled to the lowest rate of the codec that keeps all of them, and back."""
    import soxr

    own_rate = next((rate for rate in codec.rates if rate >= sample_rate), codec.rates[-1])
    bits, outputs = 0, []
    for sound in sounds:
        size, output = _round_trip(codec, soxr.resample(sound, sample_rate, own_rate), own_rate)
        bits += size
        outputs.append(output)
    lag = find_lag(outputs, [soxr.resample(sound, sample_rate, FINE_RATE) for sound in sounds])
    aligned = [
        fit(soxr.resample(shift(output, lag), FINE_RATE, sample_rate), len(sound))
        for output, sound in zip(outputs, sounds, strict=True)
    ]
    return Transmission(bits=bits, delay=lag / FINE_RATE, outputs=aligned)


def _round_trip(codec: Codec, sound: np.ndarray, sample_rate: int) -> tuple[int, np.ndarray]:
    """Bits of the packets, and what comes out, float32 [samples] at FINE_RATE with the codec's delay."""
    import av
    import soxr
    from av.codec import CodecContext

    encoder = CodecContext.create(codec.encoder, "w")
    encoder.sample_rate, encoder.layout, encoder.format = sample_rate, "mono", "s16"
    encoder.bit_rate, encoder.options = codec.bit_rate, codec.options
    encoder.open()
    size, packets = encoder.frame_size, []
    levels = np.rint(np.clip(sound, -1, 1) * 32767).astype(np.int16)
    for start in range(0, len(levels), size):
        frame = av.AudioFrame.from_ndarray(fit(levels[start : start + size], size)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = sample_rate, start
        packets += encoder.encode(frame)
    packets += encoder.encode(None)

    decoder = CodecContext.create(codec.decoder, "r")
    decoder.sample_rate, decoder.layout, decoder.extradata = sample_rate, "mono", encoder.extradata
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    samples = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
    full_scale = 32768 if samples.dtype == np.int16 else 1
    output = soxr.resample(samples.astype(np.float32) / full_scale, frames[0].sample_rate, FINE_RATE)
    return 8 * sum(packet.size for packet in packets), output


def find_lag(outputs: Sequence[np.ndarray], originals: Sequence[np.ndarray]) -> int:
    """The one lag, in samples, at which outputs are most like their originals: the largest sum of cross-correlations.

    All clips have one, as it is the codec's; each clip counts alike, however loud. Within LONGEST_LAG both ways.
    """
    total = np.zeros(2 * LONGEST_LAG + 1)
    for output, original in zip(outputs, originals, strict=True):
        length = 1 << (len(output) + len(original) + LONGEST_LAG).bit_length()
        spectrum = np.fft.rfft(output, length) * np.fft.rfft(original, length).conj()
        scale = np.linalg.norm(output) * np.linalg.norm(original)
        total += np.roll(np.fft.irfft(spectrum, length), LONGEST_LAG)[: len(total)] / (scale or 1)
    return int(total.argmax()) - LONGEST_LAG


def shift(sound: np.ndarray, lag: int) -> np.ndarray:
    """So many samples earlier, or later if negative."""
    return sound[lag:] if lag >= 0 else np.pad(sound, [-lag, 0])


def fit(sound: np.ndarray, length: int) -> np.ndarray:
    """Cut, or filled with zeros."""
    return np.pad(sound[:length], [0, max(0, length - len(sound))])
