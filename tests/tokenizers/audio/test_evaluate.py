"""Quality of a codec, against a plain recomputation."""

import numpy as np
import paddle
import pytest

from ernie5.config.audio_networks import MelNetworkConfig, RecogniserConfig
from ernie5.config.audio_tokenizer import AudioTokenizerConfig
from ernie5.errors import UserError
from ernie5.tokenizers.audio.evaluate import bit_rates, code_use, error_rates, evaluate
from ernie5.tokenizers.audio.recogniser import Recogniser
from ernie5.tokenizers.audio.tokenizer import AudioTokenizer

CONFIG = AudioTokenizerConfig(
    sample_rate=800,
    hop_size=16,
    window_size=32,
    channels=16,
    frame_channels=16,
    latent_size=16,
    num_codebooks=2,
    codebook_size=16,
)


def sounds() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.1, length).astype(np.float32) for length in (640, 700)]


def ratio(output: np.ndarray, target: np.ndarray) -> float:
    output, target = output - output.mean(), target - target.mean()
    along = (output @ target) / (target @ target) * target
    return 10 * np.log10((along @ along) / ((output - along) @ (output - along)))


def test_quality_is_the_mean_over_sounds_of_each_prefix_of_levels():
    paddle.seed(0)
    tokenizer = AudioTokenizer(CONFIG).eval()
    tokenizer.quantizer.initialise(paddle.randn([1, 64, 16]), np.random.default_rng(0))
    ratios, codes = [], []
    for sound in sounds():
        found = tokenizer.encode(paddle.to_tensor(sound[None]))
        codes.append(found[0].numpy())
        outputs = (tokenizer.decode(found[..., :n]).numpy()[0, : len(sound)].astype(np.float64) for n in (1, 2))
        ratios.append([ratio(output, sound.astype(np.float64)) for output in outputs])
    quality = evaluate(tokenizer, [*sounds(), np.zeros(640, np.float32)])
    assert quality.num_sounds == 2
    np.testing.assert_allclose(quality.si_sdr, np.mean(ratios, axis=0), rtol=1e-3)
    joined = np.concatenate(codes)
    expected = [code_use(np.bincount(joined[:, level], minlength=16)) for level in range(2)]
    assert quality.code_use == pytest.approx(expected)


def test_code_use_is_one_where_all_codes_are_alike_and_the_share_where_some_are():
    assert code_use(np.array([5, 5, 5, 5])) == pytest.approx(1)
    assert code_use(np.array([7, 7, 0, 0])) == pytest.approx(0.5)


def test_bit_rate_of_the_report_s_frames():
    assert bit_rates(CONFIG) == (50, 100)  # 12.5 frames of 4 bits


def recogniser(sample_rate: int = 800) -> Recogniser:
    network = MelNetworkConfig(sample_rate=sample_rate, bands=8, width=16, units=1)
    return Recogniser(RecogniserConfig(network=network, symbols=("a", "b"))).eval()


def test_errors_are_of_the_sounds_and_of_each_prefix_of_levels():
    judge, tokenizer = recogniser(), AudioTokenizer(CONFIG).eval()
    heard = []
    judge.transcribe = lambda sound: heard.append(sound) or ["ab", "b", "", "ab", "ab", "a"][len(heard) - 1]
    rates = error_rates(tokenizer, judge, [(sounds()[0], "ab"), (sounds()[1], "ab")])
    assert rates == pytest.approx((0, 1 / 4, 3 / 4))
    np.testing.assert_array_equal(heard[0], sounds()[0])
    codes = tokenizer.encode(paddle.to_tensor(sounds()[1][None]))
    np.testing.assert_array_equal(heard[4], tokenizer.decode(codes[..., :1]).numpy()[0, :700])


def test_a_recogniser_of_another_rate_is_refused():
    with pytest.raises(UserError, match="hears sounds at 8000 Hz, the audio tokenizer is for 800 Hz"):
        error_rates(AudioTokenizer(CONFIG).eval(), recogniser(8000), [(sounds()[0], "ab")])
