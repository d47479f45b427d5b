"""Whole tensors come together from their pieces, once each, on whoever writes them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from ernie5.model.safetensors_file import map_file, write_file
from ernie5.parallel.pieces import Catalogue, Cut, own_pieces
from tests.parallel import pieces as program

CASES = [(2, "cut"), (2, "same"), (4, "cut"), (4, "replicas"), (4, "runs")]


class Said:
    """Ranks of which the others have said something before."""

    def __init__(self, *others: dict[str, list]):
        self.rank, self.size = 0, 1 + len(others)
        self._others = [json.dumps(other) for other in others]

    def gathered(self, text: str) -> list[str]:
        return [text, *self._others]


def has(shape, axis=0, place=0, degree=1, tag="F32", run=None) -> list:
    return [tag, shape, axis, degree, place, *(run or (0, math.prod(shape)))]


def catalogue(*others: dict[str, list], to_first: bool = False, own: dict | None = None, cuts: dict | None = None):
    return Catalogue(Said(*others), own or {}, cuts or {}, to_first)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}_{case[1]}")
def made(request, tmp_path_factory) -> tuple[Path, int]:
    """A folder with what each of so many processes has collected."""
    (count, layout), folder = request.param, tmp_path_factory.mktemp("pieces")
    command = [sys.executable, program.__file__, str(count), layout, str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return folder, count


def assert_same(found: dict[str, np.ndarray]) -> None:
    assert found.keys() == program.TENSORS.keys()
    for name, array in found.items():
        expected = program.whole(name)
        assert array.dtype == expected.dtype and array.shape == expected.shape, name
        np.testing.assert_array_equal(array, expected, err_msg=name)


@pytest.mark.multiproc
def test_each_tensor_is_put_together_once_with_the_values_of_the_moment(made):
    folder, count = made
    parts = [dict(np.load(folder / f"collected_{rank}.npz")) for rank in range(count)]
    assert sum(map(len, parts)) == len(program.TENSORS)
    assert_same({name: array for part in parts for name, array in part.items()})


@pytest.mark.multiproc
def test_the_first_process_gets_all_of_it_and_the_others_nothing(made):
    folder, count = made
    assert_same(dict(np.load(folder / "first.npz")))
    said = [json.loads((folder / f"said_{rank}.json").read_text()) for rank in range(count)]
    assert [one["got"] for one in said] == [one["is_first"] for one in said] == [True] + [False] * (count - 1)


@pytest.mark.multiproc
def test_others_do_not_fill_the_memory_of_a_slow_process(made):
    folder, count = made
    waiting = json.loads((folder / "said_0.json").read_text())["waiting"]
    assert waiting <= 3 * (count - 1)  # a piece and a share of a sum of each, and no more than the next one's


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_own_pieces_are_views_that_put_together_are_the_whole(axis):
    array = np.arange(4 * 4 * 4).reshape(4, 4, 4)
    pieces = [own_pieces({"a": array, "b": array}, {"a": Cut(axis, place, 2)}) for place in range(2)]
    assert all(np.shares_memory(piece["a"], array) and piece["b"] is array for piece in pieces)
    np.testing.assert_array_equal(np.concatenate([piece["a"] for piece in pieces], axis), array)


def test_an_own_piece_of_a_mapped_file_is_read_from_where_it_lies(tmp_path):
    array = np.arange(2**20, dtype=np.float32).reshape(1024, 1024)
    write_file(tmp_path / "a.safetensors", {"a": array})
    mapped = map_file(tmp_path / "a.safetensors")["a"]
    piece = own_pieces({"a": mapped}, {"a": Cut(0, 3, 4)})["a"]
    assert piece.ctypes.data - mapped.ctypes.data == 768 * 1024 * 4 and piece.nbytes == mapped.nbytes // 4
    np.testing.assert_array_equal(piece, array[768:])


def test_a_tensor_has_the_shape_of_its_pieces_together():
    entries = catalogue({"a": has([2, 3], 1, 0, 2)}, {"a": has([2, 3], 1, 1, 2)}).entries
    assert entries["a"].shape == [2, 6] and entries["a"].num_bytes == 48


def test_writers_have_it_and_about_as_many_bytes_each():
    sizes = {f"{i}": 1 + i for i in range(40)} | {"large": 300}
    same = {name: has([size]) for name, size in sizes.items()}
    found = catalogue(same, same, same, {"only": has([5])})
    written = [sum(found.written_by(rank).values()) for rank in range(5)]
    assert written[0] == 0 and written[4] == 20  # the first has nothing, the last a tensor of its own
    assert sum(written) == 4 * (sum(sizes.values()) + 5)
    assert max(written[1:4]) - min(written[1:4]) <= 4 * 40


def test_a_piece_is_sent_by_one_process_and_not_to_itself():
    parts = [{"a": has([4], 0, place, 2)} for place in (0, 1, 1)]
    entry = catalogue(*parts).entries["a"]
    assert entry.writer == 1 and list(entry.senders.values()) == [1, 2]


def test_the_first_process_puts_together_what_it_has_nothing_of():
    entry = catalogue({"a": has([4])}, {"a": has([4])}, to_first=True).entries["a"]
    assert entry.writer == 0 and list(entry.senders.values()) == [1]


@pytest.mark.parametrize("other", [has([3]), has([4], tag="F64"), has([4], 0, 1, 2)])
def test_a_tensor_that_processes_have_differently_is_refused_by_name(other):
    with pytest.raises(ValueError, match="layer.weight: .* on process 1"):
        catalogue({"layer.weight": other}, own={"layer.weight": paddle.zeros([4])})


def test_a_piece_that_nobody_has_is_refused_by_name():
    with pytest.raises(ValueError, match="layer.weight: no process has piece 1 of 2"):
        catalogue({"layer.weight": has([4], 0, 0, 2)})


def test_runs_of_a_piece_come_in_the_order_of_its_memory():
    found = catalogue(
        *({"a": has([2, 3], 1, place, 2, run=run)} for place, run in ((0, (2, 6)), (0, (0, 2)), (1, (0, 6))))
    )
    entry = found.entries["a"]
    assert entry.shape == [2, 6] and list(entry.senders.items()) == [((0, 0, 2), 2), ((0, 2, 6), 1), ((1, 0, 6), 3)]


@pytest.mark.parametrize("runs", [[(0, 3), (4, 6)], [(0, 3), (2, 6)], [(0, 3)], [(1, 6)], [(0, 6), (0, 3)]], ids=str)
def test_runs_that_do_not_make_up_a_piece_are_refused_by_name(runs):
    with pytest.raises(ValueError, match=r"layer.weight: processes have the elements .* of piece 0, which has 6"):
        catalogue(*({"layer.weight": has([6], run=run)} for run in runs))


def test_pieces_that_would_not_be_equal_are_refused():
    with pytest.raises(ValueError, match="4 pieces of 6 along axis 1 are not equal"):
        Cut(1, 0, 4).piece(np.zeros([4, 6]))
