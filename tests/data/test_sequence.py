"""A sample's ids, what of them carries loss, and the bytes that bits per byte divides by."""

import numpy as np
import pytest

from ernie5.data.sample import Audio, Image, Message, Sample, Text, Video
from ernie5.data.sequence import encode_sample
from ernie5.errors import UserError
from tests.data.tiny_tokenizer import FIRST, TinyTokenizer

TOKENIZER = TinyTokenizer()


def ids_of(text):
    return [FIRST + ord(character) for character in text]


def encode(*segments, **settings):
    return encode_sample(Sample(segments=segments, origin="a:1", **settings), TOKENIZER)


def test_document_stands_between_its_marks():
    assert encode(Text("ab")).ids.tolist() == [1, *ids_of("ab"), 2]


def test_loss_follows_the_segment_and_end_follows_the_last():
    encoded = encode(Text("ab"), Text("c", loss=False))
    assert encoded.loss.tolist() == [False, True, True, False, False]
    assert encode(Text("c", loss=False), Text("ab")).loss.tolist() == [False, False, True, True, True]


def test_empty_text_is_a_document_whose_end_is_learned():
    encoded = encode(Text(""))
    assert (encoded.ids.tolist(), encoded.loss.tolist()) == ([1, 2], [False, True])


def test_piece_has_only_the_marks_of_the_ends_it_holds():
    assert encode(Text("a"), begins=False).ids.tolist() == [*ids_of("a"), 2]
    assert encode(Text("a"), ends=False).ids.tolist() == [1, *ids_of("a")]


def test_chat_has_one_beginning_and_loss_on_answers_alone():
    messages = (Message("user", (Text("q", False),)), Message("assistant", (Text("a"), Text("b"))))
    encoded = encode_sample(Sample(messages=messages, origin="a:1"), TOKENIZER)
    assert encoded.ids.tolist() == [1, 3, *ids_of("q"), 4, *ids_of("ab"), 2]
    assert encoded.loss.tolist() == [False, False, False, False, True, True, True]


def test_bytes_count_the_utf8_of_text_with_loss():
    assert encode(Text("é😀\ud800"), Text("not counted", loss=False)).num_bytes == 2 + 4 + 3
    messages = (Message("user", (Text("qq", False),)), Message("assistant", (Text("a"),), reasoning="hmm"))
    assert encode_sample(Sample(messages=messages, origin="a:1"), TOKENIZER).num_bytes == 4


def test_dropout_is_a_function_of_seed_and_segment():
    sample = Sample(segments=(Text("ab"), Text("ab")), origin="a:1")
    first, again, other = (encode_sample(sample, TOKENIZER, 0.1, seed).ids for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first[1] != first[4]


@pytest.mark.parametrize(
    "segment, missing",
    [
        (Image("a.png", "understand"), "vision"),
        (Video("b", 1.0, "generate"), "vision"),
        (Audio("c", "generate"), "audio"),
    ],
)
def test_media_are_refused_by_a_model_without_their_tower(segment, missing):
    with pytest.raises(UserError, match=f"^a:1: .*{segment.source}, but this model has no {missing}"):
        encode(Text("see"), segment)


def test_real_tokenizer_encodes_documents_and_chats():
    from ernie5.tokenizers.text import train_tokenizer

    tokenizer = train_tokenizer(["the cat sat on the mat " * 20], vocab_size=320)
    encoded = encode_sample(Sample(segments=(Text("the cat"),), origin="a:1"), tokenizer, bpe_dropout=0.5, seed=3)
    assert (encoded.ids[0], encoded.ids[-1]) == (tokenizer.bos_id, tokenizer.eos_id)
    assert tokenizer.decode(encoded.ids[1:-1].tolist()) == "the cat"
    messages = (Message("user", (Text("the", False),)), Message("assistant", (Text("mat"),)))
    chat = encode_sample(Sample(messages=messages, origin="a:1"), tokenizer)
    assert chat.ids.tolist().count(tokenizer.bos_id) == 1
    answer = tokenizer.decode(chat.ids[chat.loss].tolist())
    assert answer == "mat"
