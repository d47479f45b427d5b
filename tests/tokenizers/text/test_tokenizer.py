import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import sentencepiece

from ernie5.errors import UserError
from ernie5.tokenizers.text import SPECIAL_TOKENS, TextTokenizer, train_tokenizer
from ernie5.tokenizers.text.tokenizer import NUM_FIXED

AWKWARD = [
    "",
    "\0",
    "\ud83d",
    "\ude00\ud83d",
    "\ud83d\ude00",  # two code points, not U+1F600
    "😀\ud83d\ude00😀",
    "\ufffe\uffff\ufffd\ufeff",
    "\u2581 \u2585\u2047  \u2581",
    "\U000f0020\U00100041\U00100100\U0010ffff",  # the planes that the symbols use
    "\u0378\ue000\U000e0fff",  # unassigned and private
    " \r\n\t\x0b\x85\u2028 ",
    "<s>",
]


def random_texts(count):
    rng = np.random.default_rng(5)
    spans = [(0, 0x80), (0, 0x10000), (0xD7F0, 0xE010), (0x4E00, 0x9FFF), (0x10000, 0x110000), (0, 0x110000)]
    for i in range(count):
        low, high = spans[i % len(spans)]
        yield "".join(map(chr, rng.integers(low, high, rng.integers(1, 60))))


def test_every_string_comes_back(tokenizer, texts):
    for text in [*AWKWARD, *texts, *random_texts(600)]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("bpe_dropout", [0.1, 0.7, 1.0])
def test_every_string_comes_back_under_dropout(tokenizer, texts, bpe_dropout):
    for seed, text in enumerate([*AWKWARD, *texts, *random_texts(120)]):
        assert tokenizer.decode(tokenizer.encode(text, bpe_dropout, seed)) == text


def test_an_explicit_surrogate_pair_and_the_character_have_different_ids(tokenizer):
    assert tokenizer.encode("\ud83d\ude00") != tokenizer.encode("\U0001f600")


def naive_encode(tokenizer, text):
    """Byte-pair encoding over UTF-16 units as the definition has it: the best pair anywhere, leftmost first."""
    pieces = tokenizer.learned_pieces()
    ids = {piece.encode("utf-16-be", "surrogatepass"): NUM_FIXED + i for i, piece in enumerate(pieces)}
    data = text.encode("utf-16-be", "surrogatepass")
    parts = [data[i : i + 2] for i in range(0, len(data), 2)]
    while True:
        merges = [(ids[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in ids]
        if not merges:
            break
        _, at = min(merges)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    first_byte = len(SPECIAL_TOKENS)
    return [i for part in parts for i in ([ids[part]] if part in ids else [first_byte + byte for byte in part])]


def test_ids_are_those_of_byte_pair_encoding_over_utf16_units(tokenizer, texts):
    for text in [*texts[:8], "tokenisation, 模型模型😀\n\n    x"]:
        assert tokenizer.encode(text) == naive_encode(tokenizer, text)


def test_a_unit_outside_the_alphabet_is_its_two_bytes_high_first(tokenizer):
    assert [tokenizer.token_text(i) for i in tokenizer.encode("\u0416\u1234")] == [
        "<0x04>",
        "<0x16>",
        "<0x12>",
        "<0x34>",
    ]


def test_text_that_names_a_special_token_is_ordinary_text(tokenizer):
    text = "".join(SPECIAL_TOKENS)
    assert min(tokenizer.encode(text)) >= len(SPECIAL_TOKENS)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_ids_never_change():
    assert SPECIAL_TOKENS[:11] == (
        *("<pad>", "<unk>", "<s>", "</s>", "<sep>"),
        *("<boi>", "<eoi>", "<bov>", "<eov>", "<boa>", "<eoa>"),
    )
    assert SPECIAL_TOKENS[11:21] == (
        *("<image>", "<video>", "<audio>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"),
        *("<|end|>", "<think>", "</think>"),
    )
    assert len(SPECIAL_TOKENS) == 40


def test_named_ids_are_those_of_their_tokens(tokenizer):
    ids = tokenizer.special_ids
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.sep_id) == (
        *(ids["<pad>"], ids["<s>"], ids["</s>"], ids["<sep>"]),
    )


def test_decode_takes_any_ids(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(-3, tokenizer.vocab_size + 3, 40).tolist()
        assert isinstance(tokenizer.decode(ids), str)


def test_decode_shows_special_tokens_when_asked(tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("a"), tokenizer.eos_id]
    assert tokenizer.decode(ids) == "a"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>a</s>"


def test_half_a_unit_and_an_unknown_id_become_replacement_characters(tokenizer):
    high, low = tokenizer.encode("\u1234")
    assert tokenizer.decode([high]) == "\ufffd"
    assert tokenizer.decode([high, *tokenizer.encode("e")]) == "\ufffde"
    assert tokenizer.decode([high, low, tokenizer.vocab_size, -1]) == "\u1234\ufffd\ufffd"


def test_stream_joins_to_decode_and_never_splits_a_character(tokenizer, texts):
    rng = np.random.default_rng(1)
    random_ids = rng.integers(0, tokenizer.vocab_size, 400).tolist()
    for ids in [random_ids, tokenizer.encode("".join(texts) + "😂🤖\u1234", bpe_dropout=1.0, seed=0)]:
        stream = tokenizer.stream()
        parts = [stream.push(i) for i in ids] + [stream.finish()]
        assert "".join(parts) == tokenizer.decode(ids)
    for part in parts:  # of the valid text: every part is text by itself
        part.encode("utf-8")


def test_dropout_is_a_function_of_text_probability_and_seed(tokenizer, texts):
    fresh = pickle.loads(pickle.dumps(tokenizer))
    text = "".join(texts)
    first = tokenizer.encode(text, 0.2, seed=7)
    tokenizer.encode(text[::-1], 0.5, seed=8)
    sentencepiece.set_random_generator_seed(3)
    assert tokenizer.encode(text, 0.2, seed=7) == first == fresh.encode(text, 0.2, seed=7)
    assert tokenizer.encode(text, 0.2, seed=8) != first


def test_dropout_drops_a_lone_merge_as_often_as_asked():
    tokenizer = train_tokenizer(["ab"] * 9, 300)
    assert tokenizer.learned_pieces()[-1] == "ab"
    dropped = sum(len(tokenizer.encode("ab", 0.3, seed)) == 2 for seed in range(3000))
    assert dropped / 3000 == pytest.approx(0.3, abs=0.03)  # 3.6 standard deviations


def test_dropout_lengthens_text_as_sentencepieces_own_does(tokenizer, texts):
    symbols = tokenizer._speller.spell(texts[0])
    engine = [len(tokenizer._encode(symbols, enable_sampling=True, alpha=0.3)) for _ in range(400)]
    ours = [len(tokenizer.encode(texts[0], 0.3, seed)) for seed in range(400)]
    assert np.mean(ours) == pytest.approx(np.mean(engine), rel=0.03)


def test_full_dropout_gives_code_units_and_bytes(tokenizer):
    assert [tokenizer.token_text(i) for i in tokenizer.encode("the \u1234", 1.0, 0)] == list("the ") + [
        "<0x12>",
        "<0x34>",
    ]


@pytest.mark.parametrize("bpe_dropout, seed", [(0.1, None), (-0.1, 1), (1.5, 1), (float("nan"), 1)])
def test_dropout_without_a_seed_or_out_of_range_is_refused(tokenizer, bpe_dropout, seed):
    with pytest.raises(UserError):
        tokenizer.encode("a", bpe_dropout, seed)


def test_saved_tokenizer_loads_equal(tokenizer, texts, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = TextTokenizer.from_pretrained(tmp_path)
    assert loaded.digest == tokenizer.digest
    assert [loaded.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]


def test_saved_files_tell_special_tokens_and_their_ids(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    names = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert config["tokenizer_class"] == "Ernie5Tokenizer"
    assert (names["bos_token"], names["eos_token"], names["pad_token"]) == ("<s>", "</s>", "<pad>")
    assert json.loads((tmp_path / "added_tokens.json").read_text()) == tokenizer.special_ids
    assert set(names["additional_special_tokens"]) | set(list(names.values())[:5]) == set(SPECIAL_TOKENS)


def test_sentencepiece_itself_reads_the_model_file(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    engine = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert engine.encode("the next group") == tokenizer.encode("the next group")
    assert (engine.pad_id(), engine.bos_id(), engine.eos_id(), engine.unk_id()) == (0, 2, 3, 1)


def break_nothing_there(folder):
    shutil.rmtree(folder)


def break_no_model(folder):
    (folder / "tokenizer.model").unlink()


def break_no_config(folder):
    (folder / "tokenizer_config.json").unlink()


def break_json(folder):
    (folder / "tokenizer_config.json").write_text("{")


def break_foreign_config(folder):
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')


def break_cut_model(folder):
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:-9])


def break_noise(folder):
    (folder / "tokenizer.model").write_bytes(bytes(range(256)))


def break_other_model(folder):
    train_tokenizer(["other other"], 320).save_pretrained(folder / "other")
    shutil.copy(folder / "other" / "tokenizer.model", folder / "tokenizer.model")


@pytest.mark.parametrize(
    "break_folder",
    [
        *(break_nothing_there, break_no_model, break_no_config, break_json, break_foreign_config),
        *(break_cut_model, break_noise, break_other_model),
    ],
)
def test_a_broken_folder_is_refused_by_path(tokenizer, tmp_path, break_folder):
    folder = tmp_path / "saved"
    tokenizer.save_pretrained(folder)
    break_folder(folder)
    with pytest.raises(UserError, match=str(folder)):
        TextTokenizer.from_pretrained(folder)


def test_a_sentencepiece_model_of_others_is_refused(tmp_path, tokenizer, texts):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(tmp_path / "m"), vocab_size=150, minloglevel=2
    )
    with pytest.raises(ValueError, match="special tokens"):
        TextTokenizer((tmp_path / "m.model").read_bytes())


def test_ids_are_the_same_where_sentencepiece_is_not_installed(tokenizer, monkeypatch):
    texts = [*AWKWARD, *random_texts(60), "Draw a seven, 画八。"]
    expected = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert [pickle.loads(pickle.dumps(tokenizer)).encode(text) for text in texts] == expected
