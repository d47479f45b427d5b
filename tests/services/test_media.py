"""What travels between a run and its workers."""

from dataclasses import replace

import numpy as np
import paddle

from ernie5.modality.audio_codes import AudioBatch
from ernie5.modality.unified import SoundMedium, UnifiedSequence, VisualMedium
from ernie5.modality.vision_codes import Generated
from ernie5.services.media import (
    EncodedMedia,
    answering_coders,
    described,
    make_request,
    num_bytes,
    to_arrays,
    to_tensors,
)

SEQ_LEN = 16
SEEN = VisualMedium(pixels=np.zeros([1, 2, 2, 3], np.uint8), start=1, length=1)
DRAWN = VisualMedium(pixels=np.zeros([2, 2, 4, 3], np.uint8), start=4, length=2, scales=((1, 1),), row=1)
HEARD = SoundMedium(samples=np.zeros(5, np.float32), start=9, length=2, role="understand")


def rows_with(*media) -> UnifiedSequence:
    names = ("input_ids", "token_kind", "position_ids", "labels", "loss_weight", "mask_rows", "document_ids")
    return UnifiedSequence(**dict.fromkeys(names, np.zeros([2, SEQ_LEN])), media=media)


def generated() -> Generated:
    return Generated(
        inputs=paddle.rand([2, 3]),
        scale_ids=np.arange(2),
        places=np.arange(2) + 4,
        targets=paddle.ones([2, 3]),
        target_places=np.arange(2) + 3,
        weight=np.ones(2, np.float32),
    )


def test_request_leaves_out_what_is_only_looked_at():
    request = make_request(rows_with(SEEN, DRAWN, HEARD), 4, 0.5)
    assert request.media == (DRAWN, HEARD) and request.seq_len == SEQ_LEN
    assert request.num_bytes == DRAWN.pixels.nbytes + HEARD.samples.nbytes
    assert request.alone(HEARD).media == (HEARD,) and request.alone(DRAWN).media == (DRAWN,)


def test_rows_that_need_no_tokenizer_make_no_request():
    assert make_request(rows_with(SEEN), 4, 0.5) is None


def test_answer_travels_as_arrays_and_arrives_as_it_was():
    encoded = EncodedMedia(generated(), AudioBatch(paddle.to_tensor([[1, 2]]), np.arange(1), None, None))
    sent = to_arrays(encoded)
    assert isinstance(sent.drawn.inputs.array, np.ndarray) and num_bytes(sent) == 2 * 24 + 3 * 16 + 8 + 16 + 8
    back = to_tensors(sent)
    np.testing.assert_array_equal(back.drawn.inputs.numpy(), encoded.drawn.inputs.numpy())
    assert back.sounds.codes.dtype == paddle.int64 and back.sounds.spoken is None
    assert back.drawn.places is not sent.drawn.places  # which may lie in memory of Ray's


def test_answering_coders_give_the_answer_and_look_at_the_rest():
    encoded = EncodedMedia(generated(), None)
    vision = answering_coders(encoded).vision.encode([SEEN, DRAWN], SEQ_LEN)
    assert vision.generated is encoded.drawn
    assert [list(group.places) for group in vision.understood] == [[1]]


def test_message_says_which_medium_it_is():
    assert described(SEEN) == "a picture of 2 x 2 pixels at token 1 of row 0"
    assert described(DRAWN) == "a film of 2 frames of 2 x 4 pixels at token 4 of row 1"
    assert described(HEARD) == "a sound of 5 samples at token 9 of row 0"
    assert described(replace(SEEN, origin="a.jsonl:3")).endswith("at token 1 of row 0 (a.jsonl:3)")
