import errno
import json

import numpy as np
import paddle
import pytest
from paddle import nn

from ernie5.errors import UserError
from ernie5.model import weights
from ernie5.model.safetensors_file import read_header
from ernie5.model.weights import assign, load_tensors, save_tensors

TENSORS = {
    "flag": np.array([True, False, True]),
    "matrix": np.arange(12, dtype=np.float32).reshape(3, 4),
    "empty": np.zeros((0, 4), np.float32),
    "scalar": np.array(7, np.int64),
    "half": np.array([0.5, -2], np.float16),
}


def raw_file(folder, header, data=b"", stem="model", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / f"{stem}.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(1,), begin=0, end=4):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array, strict=True)


def test_arrays_of_every_kind_come_back_equal(tmp_path):
    save_tensors(TENSORS, tmp_path)
    assert_same(load_tensors(tmp_path), TENSORS)


def test_shards_hold_at_most_the_limit_and_come_back_equal(tmp_path):
    tensors = {f"t{i}": np.full(100, i, np.float32) for i in range(5)}
    save_tensors(tensors, tmp_path, max_shard_bytes=800)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)), "model.safetensors.index.json"]
    index = json.loads((tmp_path / names[-1]).read_text())
    assert index["metadata"] == {"total_size": 2000}
    assert index["weight_map"]["t2"] == names[1]
    assert_same(load_tensors(tmp_path), tensors)


def test_the_safetensors_library_reads_what_is_written(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    save_tensors(TENSORS, tmp_path)
    assert_same(library.load_file(tmp_path / "model.safetensors"), TENSORS)


def test_what_the_safetensors_library_writes_is_read(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(TENSORS, tmp_path / "model.safetensors")
    assert_same(load_tensors(tmp_path), TENSORS)


def test_paddle_parameters_are_saved_with_their_values_views_and_bfloat16_too(tmp_path):
    layer = nn.Linear(3, 4)
    half = layer.weight.astype("bfloat16")
    save_tensors({"weight": layer.weight, "turned": layer.weight.detach().T, "half": half}, tmp_path)
    found = load_tensors(tmp_path)
    np.testing.assert_array_equal(found["weight"], layer.weight.numpy())
    np.testing.assert_array_equal(found["turned"], layer.weight.numpy().T)
    np.testing.assert_array_equal(found["half"], half.numpy())  # Paddle's own bits
    assert read_header(tmp_path / "model.safetensors")["half"].tag == "BF16"


def test_records_carry_the_size_and_sha256_of_the_files(tmp_path):
    import hashlib

    records = save_tensors({f"t{i}": np.full(100, i, np.float32) for i in range(3)}, tmp_path, max_shard_bytes=400)
    assert len(records) == 4
    for name, record in records.items():
        data = (tmp_path / name).read_bytes()
        assert (record.sha256, record.num_bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def test_saving_again_leaves_no_file_of_the_earlier_save(tmp_path):
    save_tensors({f"t{i}": np.zeros(100, np.float32) for i in range(3)}, tmp_path, max_shard_bytes=400)
    (tmp_path / "modelling.txt").write_text("not ours")
    save_tensors(TENSORS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "modelling.txt"]


def test_a_full_disk_leaves_the_earlier_files_as_they_were(tmp_path, monkeypatch):
    save_tensors(TENSORS, tmp_path)

    def full(path, tensors):
        path.write_bytes(b"begun")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(weights, "write_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors({"other": np.zeros(3)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert_same(load_tensors(tmp_path), TENSORS)


def test_loaded_arrays_are_views_that_cannot_be_written(tmp_path):
    save_tensors(TENSORS, tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        load_tensors(tmp_path)["matrix"][0, 0] = 1


@pytest.mark.parametrize(
    "header, data, cause",
    [
        (b'{"a":', b"", "not valid JSON"),
        (b"[1]", b"", "not a JSON object"),
        (b"\xff\xfe{}", b"", "not valid JSON"),
        (b"[" * 20_000, b"", "not valid JSON"),
        (b'{"a": {}, "a": {}}', b"", "stands twice"),
        ({"a": {"dtype": "F32"}}, b"", "no dtype, shape and data_offsets"),
        ({"a": entry(dtype="F7")}, bytes(4), "dtype 'F7'"),
        ({"a": entry(dtype=["F32"])}, bytes(4), "dtype"),
        ({"a": entry(shape=[-1])}, bytes(4), "shape"),
        ({"a": entry(shape=[True])}, bytes(4), "shape"),
        ({"a": entry(shape=[1] * 40)}, bytes(4), "shape"),
        ({"a": entry(shape=[0, 2**62], end=0)}, b"", "shape"),
        ({"a": entry(shape=[2])}, bytes(4), "needs 8 bytes and has 4"),
        ({"a": entry(begin=-4, end=0)}, bytes(4), "data_offsets"),
        ({"a": entry(begin=4, end=8)}, bytes(8), "starts at byte"),
        ({"a": entry(), "b": entry()}, bytes(4), "starts at byte"),
        ({"a": entry()}, bytes(8), "its tensors end at byte"),
        ({"a": entry()}, bytes(2), "its tensors end at byte"),
        ({"a": entry(shape=[2**40], end=2**42)}, bytes(4), "its tensors end at byte"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_cause(tmp_path, header, data, cause):
    path = raw_file(tmp_path, header, data)
    with pytest.raises(UserError, match=cause) as caught:
        load_tensors(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 10**9, 3])
def test_a_header_length_beyond_the_file_is_refused(tmp_path, length):
    raw_file(tmp_path, b"{}", length=length)
    with pytest.raises(UserError, match="does not fit"):
        load_tensors(tmp_path)


def test_a_file_shorter_than_its_prefix_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_tensors(tmp_path)


def test_tensors_at_odd_offsets_are_read(tmp_path):
    header = {"a": entry("U8", [1], 0, 1), "b": entry("F32", [2], 1, 9)}
    raw_file(tmp_path, header, b"\x05" + np.array([1.5, 2.5], np.float32).tobytes())
    assert load_tensors(tmp_path)["b"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "x.bin", "a\\b", 3])
def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path, name):
    (tmp_path / "outside.safetensors").write_bytes(b"")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match="only files beside the index"):
        load_tensors(folder)


def test_an_index_that_disagrees_with_its_shard_is_refused(tmp_path):
    save_tensors({"a": np.zeros(2), "b": np.zeros(2)}, tmp_path, max_shard_bytes=16)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"b"', '"c"'))
    with pytest.raises(UserError, match=r"not those that model.safetensors.index.json lists \(b; c\)"):
        load_tensors(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    save_tensors({"a": np.zeros(2), "b": np.zeros(2)}, tmp_path, max_shard_bytes=16)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002.safetensors: no such file"):
        load_tensors(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(UserError, match="has neither model.safetensors nor"):
        load_tensors(tmp_path)


def test_a_folder_with_two_versions_of_the_weights_is_refused(tmp_path):
    save_tensors({"a": np.zeros(2), "b": np.zeros(2)}, tmp_path, max_shard_bytes=16)
    raw_file(tmp_path, {})
    with pytest.raises(UserError, match="remove the one that is out of date"):
        load_tensors(tmp_path)


def test_assign_gives_a_model_the_saved_values(tmp_path):
    saved, loaded = nn.Linear(3, 4), nn.Linear(3, 4)
    save_tensors(dict(saved.named_parameters()), tmp_path)
    assign(loaded.named_parameters(), load_tensors(tmp_path), tmp_path)
    np.testing.assert_array_equal(loaded.weight.numpy(), saved.weight.numpy())


def test_assign_lists_what_does_not_fit_and_changes_nothing():
    layer = nn.Linear(3, 4)
    before = layer.weight.numpy().copy()
    tensors = {"weight": np.zeros((4, 3), np.float32), **{f"x{i}": np.zeros(1, np.float32) for i in range(5)}}
    with pytest.raises(UserError) as caught:
        assign(layer.named_parameters(), tensors, "here")
    assert str(caught.value) == (
        "here: weights of another model, 1 missing (bias), 5 unknown to the model (x0; x1; x2; and 2 more), "
        "1 of another shape (weight: [4, 3] there, [3, 4] in the model); load the model they belong to"
    )
    np.testing.assert_array_equal(layer.weight.numpy(), before)


def test_assign_refuses_another_dtype_unless_told_to_cast():
    tensor = paddle.zeros([2])
    bits = paddle.to_tensor([1.5, -3.0]).astype("bfloat16").numpy()
    with pytest.raises(UserError, match="a: BF16 there, F32 in the model"):
        assign([("a", tensor)], {"a": bits}, "here")
    assign([("a", tensor)], {"a": bits}, "here", cast=True)
    assert tensor.tolist() == [1.5, -3.0]


def test_cast_does_not_turn_integers_into_weights():
    with pytest.raises(UserError, match="a: I64 there, F32 in the model"):
        assign([("a", paddle.zeros([2]))], {"a": np.zeros(2, np.int64)}, "here", cast=True)


def test_assign_keeps_bfloat16_bits():
    tensor = paddle.zeros([2], dtype="bfloat16")
    assign([("a", tensor)], {"a": np.array([16320, 49216], np.uint16)}, "here")
    assert tensor.astype("float32").tolist() == [1.5, -3.0]
