"""What the processes of a run share and exchange."""

import subprocess
import sys

import numpy as np
import pytest

from ernie5.parallel.data_parallel import ALONE
from ernie5.parallel.parallelize import share_rows
from tests.parallel import collectives
from tests.sequences import packed_batch, random_documents


@pytest.mark.parametrize(("rows", "size"), [(4, 2), (5, 2), (7, 3), (3, 3), (10, 4), (6, 1)])
def test_the_shares_are_all_rows_once_in_order_and_even(rows, size):
    batch = packed_batch([random_documents([3, 5], 50, seed) for seed in range(rows)])
    shares = [share_rows(batch, part, size) for part in range(size)]
    counts = [len(share.input_ids) for share in shares]
    assert sum(counts) == rows and max(counts) - min(counts) <= 1
    for name in ("input_ids", "labels", "position_ids", "mask_rows", "document_ids"):
        joined = np.concatenate([getattr(share, name) for share in shares])
        np.testing.assert_array_equal(joined, getattr(batch, name))


def test_one_process_exchanges_nothing():
    values, worked = np.array([1.5]), []
    ALONE.on_first(lambda: worked.append(1))
    assert ALONE.summed(values) is values and ALONE.from_first(values) is values and worked == [1] and ALONE.is_first


@pytest.fixture(scope="module", params=[2, 3])
def exchanged(request, tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """What each of so many processes got."""
    folder = tmp_path_factory.mktemp("exchanged")
    result = subprocess.run(
        [sys.executable, collectives.__file__, str(request.param), str(folder)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")  # nor does Paddle say anything
    return [dict(np.load(folder / f"rank_{rank}.npz")) for rank in range(request.param)]


@pytest.mark.multiproc
def test_numbers_are_summed_exactly(exchanged):
    size = len(exchanged)
    for found in exchanged:
        assert found["size"] == size
        np.testing.assert_allclose(found["float64"], np.full(3, sum(0.1 + rank for rank in range(size))), rtol=1e-15)
        assert found["int64"] == size * 2**53 + sum(range(size))


@pytest.mark.multiproc
def test_gradients_are_summed_where_any_process_has_one(exchanged):
    size = len(exchanged)
    of_ranks = [collectives.values_of(rank) for rank in range(size)]
    for i, (shape, _) in enumerate(collectives.PARAMETERS):
        present = [values[i] for values in of_ranks if values[i] is not None]
        for found in exchanged:
            if not present:
                assert f"gradient{i}" not in found
                continue
            np.testing.assert_allclose(found[f"gradient{i}"], np.sum(present, 0), rtol=1e-6, atol=1e-6)
            assert found[f"gradient{i}"].shape == shape
            np.testing.assert_array_equal(found[f"gradient{i}"], exchanged[0][f"gradient{i}"])


@pytest.mark.multiproc
def test_the_first_gives_and_the_first_works(exchanged):
    for rank, found in enumerate(exchanged):
        np.testing.assert_array_equal(found["from_first"], np.arange(4))
        assert found["worked"].tolist() == ([0, 0] if rank == 0 else [])
