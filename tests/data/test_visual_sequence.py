"""A sample with media against the layout of the report's Figure 2, written out by hand."""

import dataclasses

import numpy as np
import pytest
from PIL import Image as Picture

from ernie5.config.schema import ResolutionConfig, VisionConfig, VisionDataConfig, VisionEncoderConfig, ViTConfig
from ernie5.data.manifest import BadLine
from ernie5.data.media_settings import MediaSettings
from ernie5.data.packing import Cursor, fill_row
from ernie5.data.sample import Image, Message, Sample, Text, Video
from ernie5.data.sequence import encode_sample
from ernie5.data.visual import VisionSettings
from ernie5.errors import UserError
from ernie5.modality.unified import IGNORE_INDEX, TokenKind
from tests.data.tiny_tokenizer import FIRST, VisualTinyTokenizer

TOKENIZER = VisualTinyTokenizer()
S = TOKENIZER.special_ids
VISION = VisionConfig(
    encoder=VisionEncoderConfig(channels=(4, 4, 4)),
    max_bits=4,
    resolutions=(
        ResolutionConfig(height=8, width=8, scales=((1, 1), (2, 2))),
        ResolutionConfig(height=8, width=16, scales=((1, 1), (1, 2), (2, 4))),
    ),
    vit=ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8),
    temporal_window=1,
)
QUIET = VisionSettings(VISION, VisionDataConfig()).uncorrupted()


def with_data(**settings):
    return VisionSettings(VISION, dataclasses.replace(QUIET.data, **settings))


@pytest.fixture
def picture(tmp_path):
    def make(height=8, width=8, name="p.png"):
        noise = np.random.default_rng(0).integers(0, 256, [height, width, 3], np.uint8)
        Picture.fromarray(noise).save(tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.fixture
def film(tmp_path):
    """A film of three unlike frames of 8 x 8, 4 a second."""
    frames = [Picture.fromarray(np.full([8, 8, 3], 80 * i, np.uint8)) for i in range(3)]
    path = str(tmp_path / "f.gif")
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=250)
    return path


def encode(*segments, settings=QUIET, seed=0):
    return encode_sample(
        Sample(segments=segments, origin="a:1"), TOKENIZER, seed=seed, media=MediaSettings(vision=settings)
    )


def test_understood_picture_is_boi_rows_eoi_sep_and_predicts_its_two_ends(picture):
    encoded = encode(Image(picture(), "understand"), Text("a"))
    assert encoded.ids.tolist() == [1, S["<boi>"], S["<image>"], S["<eoi>"], S["<sep>"], FIRST + ord("a"), 2]
    assert encoded.loss.tolist() == [False, False, False, True, True, True, True]


def test_generated_picture_has_the_inputs_of_later_scales_and_the_sum_of_all(picture):
    encoded = encode(Text("a", loss=False), Image(picture(), "generate"))
    assert encoded.ids.tolist() == [1, FIRST + ord("a"), S["<boi>"], *[S["<image>"]] * 5, S["<eoi>"], 2]
    assert encoded.loss.tolist() == [False, False, True, *[False] * 5, True, True]
    assert encoded.places.kinds.tolist() == [0, 0, 0, *[TokenKind.VISION_GENERATION] * 5, 0, 0]


def test_positions_are_centre_aligned_and_text_goes_on_behind_the_largest(picture):
    places = encode(Image(picture(8, 16), "generate"), Text("a")).places
    # <s> 0, BOI 1, then from 2: two cells of scale [1, 2], eight of [2, 4], the sum of all in the middle
    wide = [[2, 2.5, 2.5], [2, 2.5, 4.5]]
    fine = [[2, 2 + i, 2 + j] for i in range(2) for j in range(4)]
    middle = [[2, 2.5, 3.5]]
    ends = [[6, 6, 6], [7, 7, 7], [8, 8, 8]]
    assert places.positions.tolist() == [[0, 0, 0], [1, 1, 1], *wide, *fine, *middle, *ends]


def visible(row):
    """Who sees whom in one row, bool [query, key], from the definition of the columns."""
    query = np.arange(len(row))[:, None]
    return (query < row.mask_rows[:, 0]) & (query >= row.mask_rows[:, 1])


def pack(*samples, length=40):
    return fill_row(Cursor(), dict(enumerate(samples)).get, length, 0, "split")


def test_scale_sees_itself_and_the_past_and_text_is_causal(picture):
    row = pack(encode(Image(picture(), "generate"), Text("ab")))
    groups = [0, 1, *[2] * 4, 3, 4, 5, 6, 7]  # <s> BOI scale1 S_S EOI a b </s>
    expected = np.array([[b <= a for b in groups] for a in groups])
    assert np.array_equal(visible(row)[:11, :11], expected)


def test_film_sees_window_frames_back_and_evicted_frames_stay_gone(film):
    row = pack(encode(Text("ab"), Video(film, 4.0, "generate"), Text("c")))
    first = 4  # <s> a b BOV, then frames of 4 + 1 tokens
    see = visible(row)
    last, text = first + 10, first + 15
    assert see[last, :first].all() and see[last, first + 5 :].sum() == 5 + 4
    assert not see[last:20, first : first + 5].any()
    assert see[text, first + 5 : text].all() and not see[text, first : first + 5].any()


def test_masked_frame_is_hidden_from_all_later_ones_but_not_from_itself(film):
    row = pack(encode(Video(film, 4.0, "generate"), settings=with_data(frame_mask_probability=1.0)))
    see = visible(row)
    assert not see[2 + 5 : 2 + 15, 2 : 2 + 5].any() and see[2 + 4, 2 : 2 + 5].all()


def test_film_is_understood_in_groups_of_four_frames(film):
    encoded = encode(Video(film, 4.0, "understand"), Text("a"))
    assert encoded.ids.tolist().count(S["<video>"]) == 1
    assert encoded.ids[[1, 3, 4]].tolist() == [S["<bov>"], S["<eov>"], S["<sep>"]]


def test_guidance_leaves_out_what_stands_before_the_first_generated_medium(picture):
    segments = (Text("draw", loss=False), Image(picture(), "generate"), Text("b"))
    encoded = encode(*segments, settings=with_data(condition_dropout=1.0))
    assert encoded.ids.tolist() == [1, S["<boi>"], *[S["<image>"]] * 5, S["<eoi>"], FIRST + ord("b"), 2]
    assert not encoded.loss[1]
    assert [medium.start for medium in encoded.places.media] == [2]
    assert [medium.origin for medium in encoded.places.media] == ["a:1"]


def test_condition_is_dropped_at_the_given_rate(picture):
    path = picture()
    settings = with_data(condition_dropout=0.3)
    dropped = [
        len(encode(Text("dr"), Image(path, "generate"), settings=settings, seed=seed)) < 10 for seed in range(300)
    ]
    assert 0.2 < np.mean(dropped) < 0.4


def test_what_is_drawn_at_random_is_a_function_of_the_seed(picture):
    settings = with_data(flip_max=0.3)
    rates = [encode(Image(picture(), "generate"), settings=settings, seed=s).places.media[0] for s in (1, 1, 2)]
    assert np.array_equal(rates[0].flip_rates, rates[1].flip_rates) and rates[0].flip_seed == rates[1].flip_seed
    assert not np.array_equal(rates[0].flip_rates, rates[2].flip_rates)


def test_media_in_a_chat_stand_inside_their_turn(picture):
    user = Message("user", (Image(picture(), "understand"), Text("q", False)))
    sample = Sample(messages=(user, Message("assistant", (Text("a"),))), origin="a:1")
    ids = encode_sample(sample, TOKENIZER, media=MediaSettings(vision=QUIET)).ids.tolist()
    seen = [S["<boi>"], S["<image>"], S["<eoi>"], S["<sep>"]]
    end = TOKENIZER.end_id
    assert ids == [1, 3, *seen, FIRST + ord("q"), end, 4, FIRST + ord("a"), end, 2]


def test_sample_with_media_is_never_cut(picture):
    encoded = encode(Image(picture(), "generate"))  # 9 tokens
    row = pack(encode(Text("abc")), encoded, length=12)
    assert (row.token_kind == TokenKind.PADDING).sum() == 12 - 5
    with pytest.raises(UserError, match="a:1: has 9 tokens, but max_seq_len of the stage is 8: raise it$"):
        pack(encoded, length=8)


def test_media_know_their_place_in_the_row_and_labels_skip_them(picture):
    row = pack(encode(Text("abc")), encode(Image(picture(), "generate")))
    (medium,) = row.media
    assert (medium.start, medium.length, medium.scales) == (7, 5, ((1, 1), (2, 2)))
    weighted = np.flatnonzero(row.loss_weight)
    assert row.labels[weighted].tolist() == [*(FIRST + ord(c) for c in "abc"), 2, S["<boi>"], S["<eoi>"], 2]
    assert (row.labels[12:] == IGNORE_INDEX)[2:].all()


def test_medium_that_cannot_be_read_is_a_bad_line_of_its_sample(tmp_path):
    (tmp_path / "p.png").write_bytes(b"no picture")
    with pytest.raises(BadLine, match=r"^a:1: .*p\.png"):
        encode(Image(str(tmp_path / "p.png"), "understand"))
