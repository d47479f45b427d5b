"""Every configuration that is shipped loads, and is what it says."""

from pathlib import Path

import pytest

from ernie5.config.load import dump, load_config, load_model_config
from ernie5.planning.parameters import count_parameters

ROOT = Path(__file__).parents[1]
MODELS = sorted((ROOT / "configs/model").glob("*.yaml"))
STAGES = sorted((ROOT / "configs/stage").glob("*.yaml"))
RUNS = sorted((ROOT / "configs/run").glob("*.yaml"))
BARE_RUN = "data: {train: [{name: a, path: a.txt}]}\n"
STAGE_MODEL = {"report_8k_32k_128k": "full_2p4t", "tiny": "tiny"}  # the model that a stage's ranges are for


def name(path: Path) -> str:
    return path.stem


def backbone(vocab, hidden, layers, heads, kv_heads, head_dim, experts, ffn, shared=0, dense=0, dense_ffn=0, tied=True):
    """Parameters without the prediction block, as one formula."""
    mixture = hidden * experts + 3 * hidden * ffn * (experts + shared)
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    blocks = layers * (attention + 2 * hidden) + (layers - dense) * mixture + dense * 3 * hidden * dense_ffn
    return blocks + hidden + vocab * hidden * (1 if tied else 2)


# Formula of the backbone, its documented size, documented active size, and whether a prediction block is there.
SIZES = {
    "tiny": (backbone(512, 64, 3, 4, 2, 16, 8, 32), 0.22e6, 0.108e6, True),
    "small": (backbone(4096, 192, 4, 6, 2, 32, 64, 192), 29.5e6, 3.0e6, True),
    "digits": (backbone(512, 128, 5, 4, 2, 32, 16, 128), 4.26e6, 0.814e6, False),
    "yardstick": (backbone(8192, 256, 6, 8, 2, 32, 64, 128, shared=1), 41.5e6, 6.13e6, False),
    "ablation": (backbone(103424, 1024, 16, 16, 8, 64, 64, 1024), 3.38e9, 0.560e9, False),
    "base": (backbone(103424, 2048, 28, 16, 4, 128, 256, 512), 23.1e9, 1.22e9, True),
    "ernie45_21b_a3b": (
        backbone(103424, 2560, 28, 20, 4, 128, 64, 1536, shared=2, dense=1, dense_ffn=12288),
        21.8e9,
        3.35e9,
        False,
    ),
    "full_2p4t": (backbone(103424, 8192, 72, 64, 8, 128, 384, 3584, tied=False), 2.45e12, 62.7e9, True),
}


@pytest.mark.parametrize("path", MODELS + STAGES + RUNS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_comment_says_what_the_file_is(path: Path):
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_a_model_is_named_after_its_file_and_loads_back_equal(path: Path, tmp_path: Path):
    model = load_model_config(path)
    copy = tmp_path / "model.yaml"
    copy.write_text(dump(model), encoding="utf-8")
    assert model.name == path.stem
    assert load_model_config(copy) == model


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_run_loads_back_equal(path: Path, tmp_path: Path):
    config = load_config(path)
    copy = tmp_path / "run.yaml"
    copy.write_text(dump(config), encoding="utf-8")
    assert load_config(copy) == config


@pytest.mark.parametrize("path", STAGES, ids=name)
def test_a_stage_file_makes_a_run_with_the_model_it_is_for(path: Path, tmp_path: Path):
    model = ROOT / "configs/model" / f"{STAGE_MODEL.get(path.stem, 'small')}.yaml"
    run = tmp_path / "run.yaml"
    run.write_text(f"include: [{model}, {path}]\n{BARE_RUN}", encoding="utf-8")
    assert load_config(run).stages


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_a_model_has_the_size_that_is_documented(path: Path):
    formula, documented, active, has_prediction_block = SIZES[path.stem]
    count = count_parameters(load_model_config(path))
    assert count.backbone == formula
    assert count.backbone == pytest.approx(documented, rel=5e-3)
    assert count.active == pytest.approx(active, rel=5e-3)
    assert (count.mtp > 0) == has_prediction_block


def test_the_full_model_activates_less_than_three_percent_of_2p4_trillion():
    count = count_parameters(load_model_config(ROOT / "configs/model/full_2p4t.yaml"))
    assert count.share < 0.03
    assert round(count.backbone / 1e12, 1) == 2.4


def test_the_ablation_has_the_published_active_size_without_embeddings():
    count = count_parameters(load_model_config(ROOT / "configs/model/ablation.yaml"))
    assert round(count.active_excluding_embeddings / 1e6) == 454
    assert int(count.backbone_excluding_embeddings / 1e8) / 10 == 3.2  # cut, not rounded: 3.27


def test_ernie_45_has_its_published_size():
    count = count_parameters(load_model_config(ROOT / "configs/model/ernie45_21b_a3b.yaml"))
    assert int(count.backbone / 1e9) == 21
    assert int(count.active / 1e9) == 3


def test_the_report_stages_hold_what_the_report_prints():
    first, second, third = load_config(ROOT / "configs/run/pretrain_full_2p4t.yaml").stages
    assert [stage.max_seq_len for stage in (first, second, third)] == [8 * 1024, 32 * 1024, 128 * 1024]
    assert (first.batch_start_tokens, first.batch_tokens) == (14 * 2**20, 56 * 2**20)
    assert (first.lr_schedule, first.warmup_steps, first.learning_rate) == ("wsd", 2000, 1e-4)
    assert (first.expert_bias_speed, third.expert_bias_speed) == (1e-4, 1e-5)
    assert (first.mtp_loss_weight, third.mtp_loss_weight) == (0.3, 0.1)
    assert (second.learning_rate, third.min_learning_rate) == (1e-4, 1e-5)
    assert second.min_learning_rate == third.learning_rate
    draws = first.elastic.depth_probability, first.elastic.width_probability, first.elastic.sparsity_probability
    assert draws == (0.25, 0.20, 0.20)
