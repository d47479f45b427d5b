"""Speech over caches, frame by frame, against one pass over the whole sequence with the same codes."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.config.schema import AudioSamplingConfig, GenerationConfig, MemberConfig
from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import Part, build_row
from ernie5.data.sample import Audio, Sample, Text
from ernie5.data.sequence import encode_sample
from ernie5.elastic.sampler import member_subnet
from ernie5.errors import UserError
from ernie5.inference.ask import answer, speak, speak_stream
from ernie5.inference.coders import SIGHT
from ernie5.inference.reading import Reads, words_of
from ernie5.inference.request import Request
from ernie5.inference.speak import Speaking, to_waveforms
from ernie5.layers.layout import make_layout
from ernie5.modality.batch import Coders, make_batch
from ernie5.modality.unified import stack
from ernie5.model.subnet import full_subnet
from tests.audio_models import AUDIO, CODES, FRAME, LEVELS, audio_coder, audio_model, noise_sound
from tests.inference.loops import engine_of, results
from tests.vision_models import text_tokenizer

TEXT = text_tokenizer()
BOA, EOA = TEXT.special_ids["<boa>"], TEXT.special_ids["<eoa>"]
CHANCE = AudioSamplingConfig(temperature=1.0, top_p=1.0, guidance=1.0, max_seconds=0.48)  # six frames
GUIDED = dataclasses.replace(CHANCE, guidance=2.0)
GREEDY = dataclasses.replace(GUIDED, temperature=0.0)


@pytest.fixture
def model(tiny_model_config):
    return audio_model(tiny_model_config)


@pytest.fixture(scope="module")
def coders():
    return Coders(audio=audio_coder())


def prompts_of_all_kinds(folder):
    """Of different lengths: padded at the left."""
    heard = Audio(noise_sound(folder, 2.5), "understand")
    voice = Audio(noise_sound(folder, 8, seed=1), "speaker")
    return [[Text("Draw a seven.")], [], [heard, Text("What is it?"), voice], [voice, Text("It")]]


class Recording(Speaking):
    """Notes the logits of each level, and the codes that all branches get."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen = []

    def _choose(self, odds, level):
        seen = odds.copy()
        codes = super()._choose(odds, level)
        self.seen.append((seen, codes))
        return codes

    def by_branch(self):
        """logits float32 [branches, reads, levels, codes], codes int64 [branches, reads, levels]."""
        for column in zip(*self.seen, strict=True):
            array = np.stack(column, axis=1)
            yield array.reshape([len(array), -1, LEVELS, *array.shape[2:]])


class Spoken:
    """What was said behind a prompt."""

    def __init__(self, speaking, frames, behind):
        self.seen = speaking.seen
        self.logits, self.codes = speaking.by_branch()  # [branches, reads, levels, ...]
        self.frames = frames  # int64 [frames, levels]
        self.behind = behind  # logits behind the words that were read then


def spoken(model, coders, prompts, config, seed=0, subnet=None, words=()):
    requests = [
        Request(prompt=tuple(prompt), config=GenerationConfig(audio=config), seed=seed + i)
        for i, prompt in enumerate(prompts)
    ]

    def loop(task, writer):
        branches, frames = [writer.sequence], []
        if config.guidance != 1:
            branches.append((yield from task.open_unconditional()))
        speaking = Recording(task, branches)
        codes = yield from speaking.begin(BOA)
        while codes is not None:
            frames.append(codes)
            codes = yield from speaking.next_frame()
        behind = None
        for word in words:
            (answer,) = yield Reads([words_of(writer.sequence, [word])])
            behind = answer.values[0]
        return Spoken(speaking, np.stack(frames), behind)

    return results(engine_of(model, TEXT, coders, subnet=subnet), requests, loop)


def whole_pass(model, coders, prompt, codes, folder, behind="", subnet=None):
    """Without caches: logits [reads, levels, codes] at BOA and each frame, text logits of the last token.

    codes int64 [reads, levels]: those that are chosen, the end last.
    """
    length = len(codes) - 1
    target = Audio(noise_sound(folder, length, seed=99), "generate")
    sample = Sample(segments=(*prompt, target, Text(behind)), origin="test", ends=False)
    encoded = encode_sample(sample, TEXT, media=MediaSettings.uncorrupted(model.config))
    batch = make_batch(stack([build_row([Part(encoded, 0, len(encoded))], len(encoded), 0)]), coders)
    frames = batch.audio.codes.numpy()
    frames[-length:] = codes[:-1]
    batch = batch._replace(audio=batch.audio._replace(codes=paddle.to_tensor(frames)))
    seen = []

    def choose(logits, level):
        seen.append(logits.numpy())
        return paddle.to_tensor(codes[:, level])

    taps = model.audio.taps(model.config.num_hidden_layers, paddle.to_tensor(batch.audio.spoken.places), choose)
    layout = make_layout(batch.mask_rows, batch.position_ids, model.config.attention)
    hidden = model.decoder(model.embed(batch), layout, subnet or full_subnet(model.config), taps=taps).hidden_states
    return np.stack(seen, axis=1), model.logits(hidden[0, -1]).numpy()


@pytest.mark.parametrize("config", [CHANCE, GUIDED], ids=["conditional", "guided"])
def test_logits_of_each_level_are_those_of_one_pass_on_the_same_codes(model, coders, tmp_path, config):
    prompts = prompts_of_all_kinds(tmp_path)
    found = spoken(model, coders, prompts, config, seed=11)
    assert len({len(one.frames) for one in found}) > 1  # sounds end apart
    for one, prompt in zip(found, prompts, strict=True):
        rows = [prompt, []] if config is GUIDED else [prompt]  # guidance: behind <s> alone
        for logits, codes, row in zip(one.logits, one.codes, rows, strict=True):
            assert len(codes) == len(one.frames) + 1
            assert (codes[-1] == CODES).all() and (codes[:-1] < CODES).all()
            expected, _ = whole_pass(model, coders, row, codes, tmp_path)
            assert expected.std() > 0.1
            np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


def test_text_behind_sounds_of_several_lengths_is_predicted_as_in_one_pass(model, coders, tmp_path):
    prompts = prompts_of_all_kinds(tmp_path)
    found = spoken(model, coders, prompts, CHANCE, seed=11, words=[EOA, *TEXT.encode("It")])
    for one, prompt in zip(found, prompts, strict=True):
        _, expected = whole_pass(model, coders, prompt, one.codes[0], tmp_path, "It")
        np.testing.assert_allclose(one.behind, expected, atol=1e-4, rtol=0)


def test_sounds_of_prompts_together_are_those_of_each_alone(model, coders, tmp_path):
    prompts = prompts_of_all_kinds(tmp_path)
    together = speak(model, TEXT, coders, prompts, GREEDY)
    alone = [speak(model, TEXT, coders, [prompt], GREEDY)[0] for prompt in prompts]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    assert len({sound.tobytes() for sound in together}) > 1


def test_guidance_of_one_is_no_guidance(model, coders):
    weak = dataclasses.replace(CHANCE, guidance=1.0 + 1e-9)  # with unconditional rows
    plain, guided = (speak(model, TEXT, coders, [[Text("It")]], config, seed=3) for config in (CHANCE, weak))
    assert np.array_equal(plain, guided)


def test_guidance_moves_the_logits_away_from_the_unconditional_ones(model, coders):
    config = dataclasses.replace(GREEDY, guidance=3.0)
    (found,) = spoken(model, coders, [[Text("Draw a seven.")]], config)
    logits, codes = found.logits, found.codes
    odds = logits[1] + 3 * (logits[0] - logits[1])
    odds[0, 0, CODES] = odds[:, 1:, CODES] = -np.inf
    going = codes[0, :, 0] != CODES
    assert np.array_equal(codes[0, going], odds.argmax(-1)[going])
    assert np.array_equal(codes[0], codes[1])
    assert not np.array_equal(logits[0].argmax(-1)[going], odds.argmax(-1)[going])


def set_end(model, level, odds):
    """Makes the end of this level as likely as that, whatever the state: the other codes' logits become small."""
    weight = model.audio.heads[level].weight
    weight.set_value(paddle.zeros_like(weight))
    model.audio.norms[level].weight.set_value(paddle.zeros_like(model.audio.norms[level].weight))
    if odds:
        model.audio.heads[level].register_forward_post_hook(
            lambda layer, inputs, output: output + paddle.to_tensor(odds * np.eye(CODES + 1, dtype=np.float32)[CODES])
        )


def test_first_level_ends_a_sound_which_has_at_least_a_frame(model, coders):
    set_end(model, 0, 100.0)
    for found in spoken(model, coders, [[], [Text("It")]], CHANCE):
        assert found.frames.shape == (1, LEVELS) and (found.frames < CODES).all()
        assert (found.codes[:, 1] == CODES).all()
    assert [len(sound) for sound in speak(model, TEXT, coders, [[], []], CHANCE)] == [FRAME, FRAME]


def test_other_levels_do_not_end_a_sound_and_no_sound_is_longer_than_the_limit(model, coders):
    set_end(model, 0, -100.0)
    set_end(model, 1, 100.0)
    (found,) = spoken(model, coders, [[]], CHANCE)
    assert found.frames.shape == (6, LEVELS) and (found.frames < CODES).all()
    assert (found.codes[:, 6] == CODES).all()  # the last frame predicts the end, as in training


def test_chunks_of_the_stream_are_the_whole_to_the_last_bit(model, coders, tmp_path):
    prompt = prompts_of_all_kinds(tmp_path)[2]
    (whole,) = speak(model, TEXT, coders, [prompt], GUIDED, seed=2)
    chunks = list(speak_stream(model, TEXT, coders, prompt, GUIDED, seed=2))
    assert whole.dtype == np.float32 and np.abs(whole).max() > 0
    assert [len(chunk) for chunk in chunks] == [FRAME] * (len(whole) // FRAME) and len(chunks) > 1
    assert np.array_equal(np.concatenate(chunks), whole)


def test_rows_are_cut_where_they_end(coders):
    codec = coders.audio.tokenizer
    frames = np.random.default_rng(0).integers(0, CODES, [2, 4, LEVELS])
    frames[1, 2:] = CODES
    long, short = to_waveforms(codec, frames)
    assert np.array_equal(long, codec.decode(paddle.to_tensor(frames[:1])).numpy()[0])
    assert np.array_equal(short, codec.decode(paddle.to_tensor(frames[1:, :2])).numpy()[0])


def test_member_of_the_family_speaks_with_its_own_layers(model, coders, tmp_path):
    subnet = member_subnet(model.config, MemberConfig(name="small", num_layers=4, top_k=1))
    (found,) = spoken(model, coders, [[Text("It")]], CHANCE, subnet=subnet)
    expected, _ = whole_pass(model, coders, [Text("It")], found.codes[0], tmp_path, subnet=subnet)
    np.testing.assert_allclose(found.logits[0], expected, atol=1e-4, rtol=0)
    assert not np.allclose(whole_pass(model, coders, [Text("It")], found.codes[0], tmp_path)[0], expected, atol=0.1)


def test_sounds_repeat_with_the_seed_and_change_with_another(model, coders):
    first, again, other = (speak(model, TEXT, coders, [[]], GUIDED, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_what_is_heard_and_whose_voice_it_is_changes_what_is_said(model, coders, tmp_path):
    files = [noise_sound(tmp_path, 4, seed=seed) for seed in (1, 2)]
    for role in ("understand", "speaker"):
        one, other = (spoken(model, coders, [[Audio(file, role)]], GREEDY)[0].seen[0][0] for file in files)
        assert np.abs(one[0] - other[0]).max() > 1e-3


def test_speaking_leaves_the_model_in_its_mode_and_without_gradients(model, coders):
    model.train()
    speak(model, TEXT, coders, [[]], CHANCE)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_no_prompts_make_no_sounds(model, coders):
    assert speak(model, TEXT, coders, [], CHANCE) == []


def test_model_without_audio_does_not_speak(tiny_model_config, coders):
    model = audio_model(tiny_model_config, audio=None)
    with pytest.raises(UserError, match="^this model has no audio: to speak, take a model with audio$"):
        speak(model, TEXT, coders, [[]], CHANCE)


def test_without_a_codec_nothing_is_spoken_or_heard(model, tmp_path):
    with pytest.raises(UserError, match="^there is no audio tokenizer .* audio_tokenizer/ of the model folder$"):
        speak(model, TEXT, SIGHT, [[]], CHANCE)
    with pytest.raises(UserError, match="^there is no audio tokenizer .* audio_tokenizer/ of the model folder$"):
        answer(model, TEXT, [[Audio(noise_sound(tmp_path), "understand")]], GenerationConfig())


def test_voice_without_a_speaker_encoder_is_refused(model, tmp_path):
    prompt = [Audio(noise_sound(tmp_path), "speaker")]
    with pytest.raises(UserError, match="^there is no speaker encoder .* speaker_encoder/ of the model folder$"):
        speak(model, TEXT, Coders(audio=audio_coder(with_speaker=False)), [prompt], CHANCE)


def test_voice_before_a_model_that_takes_none_is_refused(tiny_model_config, coders, tmp_path):
    model = audio_model(tiny_model_config, dataclasses.replace(AUDIO, speaker_dim=0))
    with pytest.raises(UserError, match="is a reference clip, but this model takes no voices: leave it out$"):
        speak(model, TEXT, coders, [[Audio(noise_sound(tmp_path), "speaker")]], CHANCE)


def test_file_that_is_no_sound_is_named(model, coders, tmp_path):
    (tmp_path / "a.wav").write_text("hello")
    with pytest.raises(UserError, match="a.wav: is a text: give a whole WAV"):
        speak(model, TEXT, coders, [[Audio(str(tmp_path / "a.wav"), "understand")]], CHANCE)
