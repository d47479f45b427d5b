"""The shares of a batch: together they are the batch, media and targets included."""

import numpy as np
import paddle
import pytest

from ernie5.modality.audio_codes import AudioBatch, SpokenTargets, Voices
from ernie5.modality.batch import Batch
from ernie5.modality.vision_codes import Generated, Understood, VisionBatch
from ernie5.parallel.mesh import Mesh
from ernie5.parallel.tokens import TokenShare

ROWS, SEQ = 2, 16
MESHES = {
    "tensor": Mesh(tensor=2),
    "context": Mesh(context=2),
    "both": Mesh(context=2, tensor=4),
    "in a stage": Mesh(pipeline=2, data=2, context=2, tensor=2),
}


def batch() -> Batch:
    """Every number of it says where it is from."""
    places = np.arange(ROWS * SEQ).reshape(ROWS, SEQ)
    tensors = [paddle.to_tensor(places + 1000 * i) for i in range(6)]
    picture = Understood(paddle.to_tensor(np.float32([[7], [8]])), np.array([*range(3, 9), *range(20, 26)]))
    drawn = Generated(
        inputs=paddle.to_tensor(np.float32([[10], [11], [12]])),
        scale_ids=np.array([10, 11, 12]),
        places=np.array([10, 11, 12]),
        targets=paddle.to_tensor(np.float32([[10], [11], [12]])),
        target_places=np.array([9, 10, 11]),
        weight=np.float32([10, 11, 12]),
    )
    spoken = SpokenTargets(
        paddle.to_tensor(np.array([[27], [28], [29]])),
        np.array([27, 28, 29]),
        paddle.to_tensor(np.float32([27, 28, 29])),
    )
    sound = AudioBatch(
        paddle.to_tensor(np.array([[28], [29]])),
        np.array([28, 29]),
        spoken,
        Voices(paddle.to_tensor(np.float32([[1]])), np.array([1])),
    )
    return Batch(
        tensors[0],
        paddle.to_tensor(np.repeat(places[..., None], 3, -1).astype(np.float32)),
        np.zeros([ROWS, SEQ, 2], np.int32),
        *tensors[1:],
        vision=VisionBatch([picture], drawn),
        audio=sound,
    )


def shares(mesh: Mesh) -> list[Batch]:
    """Of one data place and one stage."""
    return [TokenShare(mesh, rank).of(batch()) for rank in mesh.group(0, "context", "tensor")]


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_every_token_is_in_one_share(mesh):
    found = shares(mesh)
    for name in ("input_ids", "labels", "loss_weight", "next_ids", "mtp_labels", "mtp_loss_weight"):
        together = np.concatenate([getattr(share, name).numpy() for share in found], 1)
        np.testing.assert_array_equal(np.sort(together, 1), getattr(batch(), name).numpy(), err_msg=name)


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_positions_are_those_of_all_that_a_tensor_group_has(mesh):
    for share in shares(mesh):
        assert share.position_ids.shape[1] == SEQ // mesh.context
        assert set(share.input_ids.numpy().ravel()) <= set(share.position_ids[..., 0].numpy().ravel())
        assert share.mask_rows.shape[1] == SEQ


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_media_and_targets_are_where_their_tokens_are(mesh):
    drawn, targets, spoken, heard, voices = [], [], [], [], []
    for share in shares(mesh):
        at = share.input_ids.numpy().ravel()
        if share.vision is not None and share.vision.generated is not None:
            generated = share.vision.generated
            assert at[generated.places].tolist() == generated.inputs.numpy().ravel().tolist()
            assert (at[generated.target_places] + 1).tolist() == generated.targets.numpy().ravel().tolist()
            drawn += generated.scale_ids.tolist()
            targets += generated.weight.tolist()
        if share.audio is not None and share.audio.codes is not None:
            assert at[share.audio.places].tolist() == share.audio.codes.numpy().ravel().tolist()
            heard += share.audio.codes.numpy().ravel().tolist()
        if share.audio is not None and share.audio.spoken is not None:
            assert at[share.audio.spoken.places].tolist() == share.audio.spoken.codes.numpy().ravel().tolist()
            spoken += share.audio.spoken.weight.tolist()
        if share.audio is not None and share.audio.voices is not None:
            voices += at[share.audio.voices.places].tolist()
    assert sorted(drawn) == sorted(targets) == [10, 11, 12]
    assert sorted(spoken) == [27, 28, 29] and sorted(heard) == [28, 29] and voices == [1]


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_a_picture_is_seen_whole_by_those_who_have_any_of_it(mesh):
    found = set()
    for share in shares(mesh):
        if share.vision is None or not share.vision.understood:
            continue
        (group,) = share.vision.understood
        assert len(group.places) == 6 * group.pixels.shape[0]
        at = share.input_ids.numpy().ravel()
        for picture, places in zip(group.pixels.numpy().ravel(), group.places.reshape(-1, 6), strict=True):
            assert (places >= 0).any()
            expected = np.arange(3, 9) if picture == 7 else np.arange(20, 26)
            np.testing.assert_array_equal(at[places[places >= 0]], expected[places >= 0])
            found |= {(picture, place) for place in at[places[places >= 0]]}
    assert len(found) == 12


def test_alone_nothing_is_copied():
    whole = batch()
    assert TokenShare(Mesh(data=3), 1).of(whole) is whole
