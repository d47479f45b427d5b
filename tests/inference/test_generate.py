"""Generation over caches against a full forward pass at every step."""

import dataclasses

import numpy as np
import paddle
import pytest

from ernie5.config.schema import GenerationConfig, MemberConfig
from ernie5.elastic.sampler import member_subnet
from ernie5.inference.generate import generate_ids
from ernie5.layers.layout import make_layout
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import full_subnet
from tests.sequences import packed_batch, random_documents

GREEDY = GenerationConfig(max_new_tokens=12, temperature=0.0)
PROMPTS = random_documents([5, 1, 9], 96, seed=2)


@pytest.fixture
def model(tiny_model_config) -> Ernie5ForCausalLM:
    moe = dataclasses.replace(tiny_model_config.moe, num_dense_layers=1, num_shared_experts=1)
    config = dataclasses.replace(tiny_model_config, moe=moe, intermediate_size=24, initializer_range=0.25)
    paddle.seed(3)
    return Ernie5ForCausalLM(config).eval()


def full_forward_greedy(model: Ernie5ForCausalLM, prompt: list[int], steps: int, subnet=None) -> list[int]:
    """Without a cache: every step reads the whole text anew."""
    ids = list(prompt)
    for _ in range(steps):
        row = packed_batch([[ids]])
        layout = make_layout(row.mask_rows, paddle.to_tensor(row.position_ids), model.config.attention)
        hidden = model.hidden_states(paddle.to_tensor(row.input_ids), layout, subnet or full_subnet(model.config))
        logits = model.logits(hidden[:, -1]).numpy()[0]
        best = np.sort(logits)[-2:]
        assert best[1] - best[0] > 1e-4, "a tie would make the test a matter of rounding"
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]


def generated(model, prompts, config=GREEDY, eos_id=None, **options) -> list[list[int]]:
    steps = list(generate_ids(model, prompts, config, eos_id, **options))
    return np.stack(steps, 1).tolist()


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda p: f"prompt_of_{len(p)}")
def test_greedy_generation_equals_a_full_forward_at_every_step(model, prompt):
    assert generated(model, [prompt]) == [full_forward_greedy(model, prompt, 12)]


def test_prompts_of_different_lengths_are_continued_as_each_alone(model):
    assert generated(model, PROMPTS) == [generated(model, [prompt])[0] for prompt in PROMPTS]


def test_a_member_of_the_elastic_family_generates_as_its_own_full_forward(model):
    member = MemberConfig(name="small", num_layers=2, num_experts=5, top_k=1)
    subnet = member_subnet(model.config, member)
    result = generated(model, PROMPTS, subnet=subnet)
    assert result == [full_forward_greedy(model, prompt, 12, subnet) for prompt in PROMPTS]
    assert result != generated(model, PROMPTS)


def test_generation_stops_when_every_prompt_has_ended(model):
    [ids] = generated(model, PROMPTS[:1])
    end = ids.index(ids[4])
    assert generated(model, PROMPTS[:1], eos_id=ids[4]) == [ids[: end + 1]]


def test_a_sequence_that_has_ended_goes_on_with_the_end_token_and_leaves_the_others_alone(model):
    free = generated(model, PROMPTS)
    eos_id = free[0][3]
    assert eos_id not in free[2][:6]
    ended = generated(model, PROMPTS, eos_id=eos_id)
    for row, unbounded in zip(ended, free, strict=True):
        end = unbounded.index(eos_id) if eos_id in unbounded else len(unbounded)
        kept = min(end + 1, len(row))
        assert row[:kept] == unbounded[:kept]
        assert set(row[kept:]) <= {eos_id}


@pytest.mark.parametrize("num_tokens", [1, 2, 7])
def test_no_more_than_max_new_tokens_are_yielded(model, num_tokens):
    config = dataclasses.replace(GREEDY, max_new_tokens=num_tokens)
    assert [len(row) for row in generated(model, PROMPTS, config)] == [num_tokens] * 3


def test_drawn_tokens_repeat_with_the_seed_and_change_with_another(model):
    config = GenerationConfig(max_new_tokens=12, temperature=1.0, top_p=1.0)
    first, again, other = (generated(model, PROMPTS, config, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_generation_keeps_no_graph_and_leaves_no_gradient(model):
    generated(model, PROMPTS[:1])
    assert all(parameter.grad is None for parameter in model.parameters())
