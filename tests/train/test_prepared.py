"""Reading ahead: what is given out and in which order, what a checkpoint may say, and where errors come."""

from dataclasses import replace

import numpy as np
import pytest

from ernie5.config.schema import StageConfig
from ernie5.data.packing import build_row
from ernie5.errors import UserError
from ernie5.modality.batch import Coders
from ernie5.modality.unified import UnifiedSequence, VisualMedium, stack
from ernie5.modality.vision_codes import VisionBatch
from ernie5.parallel.data_parallel import ALONE
from ernie5.services.media import EncodedMedia
from ernie5.train.prepared import PreparedSteps

STAGE = StageConfig(name="only", max_seq_len=8, num_tokens=8 * 2 * 6, batch_tokens=16, micro_batch_rows=1)
PICTURE = VisualMedium(pixels=np.zeros([1, 2, 2, 3], np.uint8), start=1, length=1, scales=((1, 1),))


class Counting:
    """A loader whose n-th row begins with n. Each row has a picture."""

    def __init__(self, bad_row: int = -1):
        self.read, self.bad_row = 0, bad_row

    def next_rows(self, num_rows: int) -> UnifiedSequence:
        if self.read <= self.bad_row < self.read + num_rows:
            raise UserError(f"row {self.bad_row} is bad")
        row = build_row([], STAGE.max_seq_len, pad_id=0)
        numbers = range(self.read, self.read + num_rows)
        self.read += num_rows
        return stack([replace(row, input_ids=np.full(STAGE.max_seq_len, n), media=(PICTURE,)) for n in numbers])

    def state_dict(self) -> dict:
        return {"read": self.read}


class Recording:
    """A pool that notes what it is asked and when it answers."""

    def __init__(self):
        self.asked, self.answered, self.most, self.bits = 0, [], 0, []

    def submit(self, request) -> int:
        self.asked += 1
        self.bits.append(request.vision_bits)
        self.most = max(self.most, self.asked - len(self.answered))
        return self.asked - 1

    def result(self, ticket: int) -> EncodedMedia:
        self.answered.append(ticket)
        return EncodedMedia(None, None)


def steps_of(loader, pool=None, ahead: int = 0) -> PreparedSteps:
    def bits(stage: StageConfig, step: int) -> int:
        return 4 if step < 3 else 6

    def coders(stage: StageConfig, bits: int) -> Coders:
        return Coders(NoVision())

    return PreparedSteps(loader, ALONE, lambda rows, num_rows: rows.split(num_rows), bits, coders, pool, ahead)


class NoVision:
    def encode(self, media, seq_len):
        return VisionBatch([], None)


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_read_ahead_gives_the_same_rows_bits_and_loader_states(ahead):
    plain, pool = steps_of(Counting()), Recording()
    early = steps_of(Counting(), pool, ahead)
    for step in range(6):
        one, other = (steps.take(STAGE, step, 16 * step) for steps in (plain, early))
        assert list(one.rows.input_ids[:, 0]) == list(other.rows.input_ids[:, 0]) == [2 * step, 2 * step + 1]
        assert one.loader_state == other.loader_state == {"read": 2 * step + 2}
        assert one.vision_bits == other.vision_bits == (4 if step < 3 else 6)
        assert len(one.batches) == len(other.batches) == 2
    assert pool.answered == list(range(12)) and pool.bits == [4] * 6 + [6] * 6


def test_no_more_than_the_batches_ahead_are_on_their_way():
    loader, pool = Counting(), Recording()
    steps = steps_of(loader, pool, ahead=2)
    for step in range(6):
        steps.take(STAGE, step, 16 * step)
        assert loader.read <= 2 * (step + 1 + 2)
    assert pool.most == 2 * 3  # the step whose turn it is, and two behind it
    assert loader.read == 12  # and nothing behind the end of the stage


def test_error_in_what_is_read_ahead_comes_with_its_step():
    steps = steps_of(Counting(bad_row=5), Recording(), ahead=3)
    for step in range(2):
        state = steps.take(STAGE, step, 16 * step).loader_state
    assert state == {"read": 4}
    for _ in range(2):  # asked again, it fails again
        with pytest.raises(UserError, match="row 5 is bad"):
            steps.take(STAGE, 2, 32)


def test_other_place_than_the_next_begins_anew():
    loader = Counting()
    steps = steps_of(loader, Recording(), ahead=2)
    steps.take(STAGE, 0, 0)
    loader.read = 8  # as after restoring a checkpoint
    assert list(steps.take(STAGE, 4, 64).rows.input_ids[:, 0]) == [8, 9]
