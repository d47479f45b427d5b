"""Rows, branches and walls of the caches."""

import numpy as np
import paddle
import pytest

from ernie5.data.sequence import EncodedSample
from ernie5.inference.decoding import Decoding, evaluating, left_padded
from ernie5.model.ernie5 import Ernie5ForCausalLM
from tests.sequences import random_documents

PROMPTS = random_documents([5, 1, 8], 96, seed=2)


@pytest.fixture
def model(tiny_model_config) -> Ernie5ForCausalLM:
    paddle.seed(3)
    return Ernie5ForCausalLM(tiny_model_config).eval()


def samples(prompts):
    return [EncodedSample(np.array(ids), np.zeros(len(ids), bool), 0, "test") for ids in prompts]


def opened(model, prompts):
    decoding = Decoding(model)
    decoding.read_prompts(samples(prompts))
    return decoding


def same(first, second):
    np.testing.assert_allclose(first.numpy(), second.numpy(), atol=1e-5, rtol=0)


def test_left_padded_rows_are_those_of_packing_moved_to_the_right():
    rows = left_padded(samples([[7, 8], [5, 6, 7, 8]]))
    assert rows.input_ids.tolist() == [[0, 0, 7, 8], [5, 6, 7, 8]]
    assert rows.position_ids[0].tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]
    assert rows.mask_rows[0].tolist() == [[1, 0], [2, 1], [4, 2], [4, 3]]
    assert rows.document_ids[0].tolist() == [-1, -1, 0, 0]


def test_branch_reads_on_behind_the_first_token_alone(model):
    both = opened(model, PROMPTS)
    both.branch()
    alone = opened(model, [prompt[:1] for prompt in PROMPTS])
    for ids in ([3, 4, 5], [6, 7, 8]):
        branched = both.read_words(np.array(ids * 2))
        same(branched[3:], alone.read_words(np.array(ids)))


def test_branch_leaves_the_rows_it_is_made_from_alone_and_can_be_given_up(model):
    branched, plain = opened(model, PROMPTS), opened(model, PROMPTS)
    branched.branch()
    same(branched.read_words(np.array([3, 4, 5] * 2))[:3], plain.read_words(np.array([3, 4, 5])))
    branched.keep_rows(3)
    assert branched.num_rows == 3
    same(branched.read_words(np.array([6, 7, 8])), plain.read_words(np.array([6, 7, 8])))


def test_group_of_tokens_sees_itself_whole_and_single_tokens_only_what_was_before(model):
    embedded = paddle.randn([1, 4, model.config.hidden_size])
    positions = np.repeat(np.arange(4, dtype=np.float32)[None, :, None] + 5, 3, -1)
    never = np.full([1, 4], 10**6)
    changed = embedded.clone()
    changed[:, 3] = 1.0
    for group_start, first_row_changes in ((np.zeros([1, 4], int), True), (np.arange(4)[None], False)):
        first, second = (
            opened(model, PROMPTS[:1]).read(tokens, positions, group_start, never)[0, 0].numpy()
            for tokens in (embedded, changed)
        )
        assert (np.abs(first - second).max() > 1e-3) == first_row_changes


def test_keys_are_dropped_only_when_no_row_sees_them(model):
    decoding = opened(model, PROMPTS)
    one = paddle.randn([3, 2, model.config.hidden_size])
    positions = np.full([3, 2, 3], 9.0, np.float32)
    group = np.array([[0, 1]])
    before = decoding.num_keys
    decoding.read(one, positions, group, np.array([[2, 2], [2, 99], [2, 99]]))
    assert decoding.num_keys == before + 2
    decoding.read_words(np.array([3, 4, 5]))  # the first of the two is gone for all
    assert decoding.num_keys == before + 2
    assert {cache.key.shape[1] for cache in decoding.caches} == {before + 2}


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_gives_the_mode_back_also_after_an_error(model, training):
    model.train() if training else model.eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not model.training
        raise KeyError
    assert model.training == training
