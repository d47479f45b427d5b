import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.integrations import paddlenlp
from ernie5.tokenizers.text import TextTokenizer

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("paddlenlp") is None, reason="PaddleNLP is not installed: make test-paddlenlp"
    ),
    # PaddleNLP and its dependencies warn when they are imported.
    pytest.mark.filterwarnings("ignore"),
]

SAMPLES = [
    "the cat sat on the mat.",
    "",
    "  two spaces, a tab\tand a line\n",
    "猫坐在垫子上 🙂 Hunde",
    "half of a pair: \ud83d",
    "text that says <s>, </s> and <|end|>",
]
MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "the cat <|end|>"},
    {"role": "assistant", "content": "sat", "reasoning_content": "on the mat"},
    {"role": "user", "content": "zwei Hunde"},
    {"role": "assistant", "content": "Ein Hund"},
]


@pytest.fixture
def tokenizer(model_dir: Path):
    return paddlenlp.Ernie5Tokenizer.from_pretrained(str(model_dir))


@pytest.mark.parametrize("text", SAMPLES)
def test_ids_are_those_of_our_tokenizer(tokenizer, text_tokenizer, text):
    assert tokenizer(text)["input_ids"] == text_tokenizer.encode(text)


@pytest.mark.parametrize("text", SAMPLES)
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("text", SAMPLES)
def test_tokens_stand_for_ids_one_to_one(tokenizer, text):
    tokens = tokenizer.tokenize(text)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert ids == tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.convert_tokens_to_string(tokens) == text


def test_special_tokens_have_our_ids(tokenizer, text_tokenizer):
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.sep_token_id)
    assert ids == (text_tokenizer.pad_id, text_tokenizer.bos_id, text_tokenizer.eos_id, text_tokenizer.sep_id)
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in text_tokenizer.special_ids} == (
        text_tokenizer.special_ids
    )


def test_special_tokens_are_read_from_text_when_asked_for(tokenizer, text_tokenizer):
    ids = tokenizer("<s>the cat</s>", split_special_tokens=False)["input_ids"]
    assert ids == [text_tokenizer.bos_id, *text_tokenizer.encode("the cat"), text_tokenizer.eos_id]


def test_decoding_can_skip_special_tokens(tokenizer, text_tokenizer):
    ids = [text_tokenizer.bos_id, *text_tokenizer.encode("the cat"), text_tokenizer.eos_id]
    assert tokenizer.decode(ids) == "<s>the cat</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat"
    assert tokenizer.batch_decode([ids, ids[:1]], skip_special_tokens=True) == ["the cat", ""]


def test_vocabulary_has_every_id_once(tokenizer, text_tokenizer):
    assert len(tokenizer) == tokenizer.vocab_size == text_tokenizer.vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(text_tokenizer.vocab_size))


def test_a_batch_is_padded_on_the_right(tokenizer, text_tokenizer):
    texts = ["the cat sat on the mat.", "the"]
    batch = tokenizer(texts, padding=True, return_tensors="pd")
    long, short = (text_tokenizer.encode(text) for text in texts)
    pads = len(long) - len(short)
    assert batch["input_ids"].tolist() == [long, short + [text_tokenizer.pad_id] * pads]
    assert batch["attention_mask"].tolist() == [[1] * len(long), [1] * len(short) + [0] * pads]


def test_chat_ids_are_those_of_our_template(tokenizer, text_tokenizer):
    expected = [i for ids, _ in text_tokenizer.apply_chat_template(MESSAGES, True) for i in ids]
    assert tokenizer.apply_chat_template(MESSAGES)["input_ids"] == expected
    assert tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=False)["input_ids"] == expected[:-1]
    assert tokenizer.apply_chat_template(MESSAGES, return_tensors="np")["input_ids"].tolist() == [expected]


def test_a_question_and_rounds_are_conversations_too(tokenizer):
    messages = [{"role": "user", "content": "the"}]
    assert tokenizer.apply_chat_template("the") == tokenizer.apply_chat_template(messages)
    messages.append({"role": "assistant", "content": "cat"})
    assert tokenizer.apply_chat_template([["the", "cat"]]) == tokenizer.apply_chat_template(messages)


def test_chat_text_is_the_rendered_template(tokenizer):
    text = tokenizer.apply_chat_template([["the", "cat"]], tokenize=False, add_generation_prompt=False)
    assert text == "<s><|user|>the<|end|><|assistant|>cat<|end|>"


def test_chat_rounds_separate_what_carries_loss(tokenizer, text_tokenizer):
    rounds = tokenizer.encode_chat_inputs([["the", "cat"], ["on", "mat"]])["conversations"]
    special = text_tokenizer.special_ids
    assert [answer for _, answer in rounds] == [[*text_tokenizer.encode(t), special["<|end|>"]] for t in ("cat", "mat")]
    assert rounds[0][0][0] == text_tokenizer.bos_id
    assert rounds[1][0] == [
        special["<|user|>"],
        *text_tokenizer.encode("on"),
        special["<|end|>"],
        special["<|assistant|>"],
    ]


def test_a_saved_tokenizer_is_loaded_by_both(tokenizer, text_tokenizer, tmp_path):
    tokenizer.save_pretrained(str(tmp_path))
    assert TextTokenizer.from_pretrained(tmp_path).digest == text_tokenizer.digest
    again = paddlenlp.Ernie5Tokenizer.from_pretrained(str(tmp_path))
    assert again(SAMPLES)["input_ids"] == tokenizer(SAMPLES)["input_ids"]
    assert again.apply_chat_template(MESSAGES) == tokenizer.apply_chat_template(MESSAGES)


def test_a_token_outside_the_vocabulary_cannot_be_added(tokenizer):
    assert tokenizer.add_tokens(["<|end|>"]) == 0
    with pytest.raises(UserError, match="'<mine>' is not in the vocabulary"):
        tokenizer.add_tokens(["<mine>"])


def test_an_altered_model_file_is_refused(tokenizer, text_tokenizer, tmp_path):
    text_tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.model"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match="tokenizer.model"):
        paddlenlp.Ernie5Tokenizer.from_pretrained(str(tmp_path))


def test_paddlenlp_collator_pads_ids_and_labels(tokenizer, text_tokenizer):
    from paddlenlp.data import DataCollatorForSeq2Seq

    rows = [text_tokenizer.encode(text) for text in ("the cat sat on the mat.", "the")]
    batch = DataCollatorForSeq2Seq(tokenizer)([{"input_ids": row, "labels": row} for row in rows])
    pads = len(rows[0]) - len(rows[1])
    assert batch["input_ids"].tolist()[1] == rows[1] + [text_tokenizer.pad_id] * pads
    assert batch["labels"].tolist()[1] == rows[1] + [-100] * pads
    np.testing.assert_array_equal(batch["attention_mask"].sum(axis=1), [len(row) for row in rows])
