from pathlib import Path

import pytest

from ernie5.errors import UserError
from ernie5.planning.cluster import load_cluster

CLUSTERS = sorted((Path(__file__).parents[2] / "configs/cluster").glob("*.yaml"))


def test_clusters_from_8_to_4096_gpus_are_shipped():
    sizes = [load_cluster(str(path)).gpus for path in CLUSTERS]
    assert len(sizes) >= 5
    assert (min(sizes), max(sizes)) == (8, 4096)


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_a_cluster_is_named_after_its_file_and_explained(path: Path):
    cluster = load_cluster(str(path))
    assert cluster.name == path.stem
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert path.stem.endswith(f"_{cluster.gpus}")


def test_an_override_changes_the_number_of_gpus():
    assert load_cluster(str(CLUSTERS[0]), ("cluster.gpus=2016",)).gpus == 2016


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cluster.gpus=0", "cluster.gpus is 0: must be above 0"),
        ("cluster.gpus=12", "whole nodes"),
        ("cluster.memory_gib=-1.0", "cluster.memory_gib"),
        ("cluster.inter_gb_per_s=.nan", "cluster.inter_gb_per_s"),
        ("cluster.inter_latency_us=-1.0", "at least 0"),
        ("cluster.gpu=8", "cluster.gpu"),
    ],
)
def test_a_figure_out_of_range_is_an_error(override: str, words: str):
    with pytest.raises(UserError) as error:
        load_cluster(str(CLUSTERS[0]), (override,))
    assert words in str(error.value)
