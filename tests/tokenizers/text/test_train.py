import logging

import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.text import TextTokenizer, train_tokenizer
from ernie5.tokenizers.text.model_file import read_pieces
from ernie5.tokenizers.text.presplit import MAX_ABUGIDA, MAX_HAN_KANA
from ernie5.tokenizers.text.tokenizer import NUM_FIXED
from ernie5.tokenizers.text.train import _most_frequent


def halves(run):
    """A segmenter whose words are two characters long."""
    return [run[i : i + 2] for i in range(0, len(run), 2)]


def test_the_vocabulary_has_the_size_asked_for(tokenizer):
    assert tokenizer.vocab_size == 600


def test_training_is_deterministic_in_threads_and_order(texts):
    first = train_tokenizer(texts, 600, num_threads=1)
    assert train_tokenizer(reversed(texts), 600, num_threads=2).digest == first.digest


def test_no_learned_piece_splits_a_code_unit(tokenizer):
    assert all(len(data) % 2 == 0 and data for data in tokenizer._data_of_id[NUM_FIXED:])


def test_every_learned_piece_can_be_reached(tokenizer):
    """What a text of one piece encodes to is that piece, so no id is dead."""
    for i in range(NUM_FIXED, tokenizer.vocab_size):
        assert tokenizer.encode(tokenizer.token_text(i)) == [i]


def test_a_piece_that_the_kept_merges_do_not_make_gives_its_room_to_the_next():
    unit_counts, merge_counts = dict.fromkeys("abcd", 9), {"ab": 2, "abc": 5, "cd": 4, "da": 3}
    units, merges = _most_frequent(unit_counts, ["ab", "abc", "cd", "da"], merge_counts, room=6)
    assert (units, merges) == (list("abcd"), ["cd", "da"])


def test_a_space_begins_a_word_and_is_never_inside_or_after(tokenizer):
    pieces = [piece for piece in tokenizer.learned_pieces() if piece.strip()]
    assert any(piece.startswith(" ") for piece in pieces)
    assert not any(" " in piece[1:] for piece in pieces)


def test_digits_are_learned_alone():
    tokenizer = train_tokenizer(["2024 2025 2024 2025 12 12"] * 5, 400)
    assert all(len(piece) == 1 for piece in tokenizer.learned_pieces() if any(map(str.isdigit, piece)))


def test_indentation_is_one_piece():
    tokenizer = train_tokenizer(["if x:\n        return y\n        return z\n"] * 5, 400)
    assert "       " in tokenizer.learned_pieces()


def test_no_piece_crosses_the_segmenters_words():
    text = "甲乙丙丁戊己" * 20
    crossing = {"乙丙", "丁戊", "己甲"}
    assert crossing & set(train_tokenizer([text], 400).learned_pieces())
    pieces = set(train_tokenizer([text], 400, segmenter=halves).learned_pieces())
    assert {"甲乙", "丙丁", "戊己"} <= pieces
    assert all(len(piece) <= 2 for piece in pieces) and not crossing & pieces


def test_a_segmenter_that_loses_text_is_refused():
    with pytest.raises(UserError, match="segmenter"):
        train_tokenizer(["中文字"], 400, segmenter=lambda run: [run[:1]])


@pytest.mark.parametrize("phrase, limit", [("中华人民共和国宪法", MAX_HAN_KANA), ("ประกาศสากลว่าด้วยสิทธิ", MAX_ABUGIDA)])
def test_unspaced_phrases_stay_out_without_a_segmenter_too(phrase, limit):
    pieces = train_tokenizer([phrase + "\n"] * 50, 400).learned_pieces()
    assert max(map(len, pieces)) == limit


def test_rare_units_leave_their_room_to_frequent_merges():
    rare = "".join(chr(0x4E00 + i) * 2 + " " for i in range(200))
    tokenizer = train_tokenizer([rare, "alpha beta gamma " * 100], NUM_FIXED + 40)
    assert " gamma" in tokenizer.learned_pieces()
    assert sum(0x4E00 <= ord(piece[0]) < 0x9FFF for piece in tokenizer.learned_pieces()) < 30


def test_a_unit_seen_once_is_spelled_in_bytes():
    tokenizer = train_tokenizer(["aaaa aaaa 世"], 400)
    assert "世" not in tokenizer.learned_pieces()
    assert len(tokenizer.encode("世")) == 2


def test_an_emoji_that_is_frequent_is_one_token(tokenizer):
    assert len(tokenizer.encode("😀")) == 1


def test_a_small_text_gives_a_smaller_vocabulary_and_says_so(caplog):
    with caplog.at_level(logging.INFO):
        tokenizer = train_tokenizer(["abc abc"], 5000)
    assert NUM_FIXED < tokenizer.vocab_size < 320
    assert f"vocabulary of {tokenizer.vocab_size}, not 5000" in caplog.text


def test_a_single_character_is_enough_text():
    tokenizer = train_tokenizer(["a"], 512)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_refused(texts):
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(texts, 512)


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(UserError, match=f"vocab_size is {NUM_FIXED}"):
        train_tokenizer(["abc"], NUM_FIXED)


def test_only_max_bytes_are_read():
    read = []

    def texts():
        for text in ["aa bb ", "cc dd ", "ee ff "]:
            read.append(text)
            yield text

    tokenizer = train_tokenizer(texts(), 512, max_bytes=9)
    assert len(read) == 2
    assert tokenizer.digest == train_tokenizer(["aa bb ", "cc "], 512).digest


def test_training_text_may_hold_anything():
    text = "\ud83d\ude00\ud83d \0\0 \u2581\u2581 \t\t \U00100100\U00100100 \ufffe\ufffe" * 3
    tokenizer = train_tokenizer([text], 512)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_writes_nothing_to_the_terminal(texts, capfd):
    train_tokenizer(texts, 512)
    assert capfd.readouterr() == ("", "")


def test_the_model_file_is_what_the_protobuf_definition_says(tokenizer):
    pb2 = pytest.importorskip("sentencepiece.sentencepiece_model_pb2")
    proto = pb2.ModelProto.FromString(tokenizer._model)
    assert [(p.piece, p.score, p.type) for p in proto.pieces] == [tuple(p) for p in read_pieces(tokenizer._model)]
    assert proto.trainer_spec.model_type == pb2.TrainerSpec.BPE
    assert proto.trainer_spec.vocab_size == tokenizer.vocab_size
    assert not proto.normalizer_spec.add_dummy_prefix and not proto.normalizer_spec.remove_extra_whitespaces
    assert isinstance(TextTokenizer(proto.SerializeToString()), TextTokenizer)
