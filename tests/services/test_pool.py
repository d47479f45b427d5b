"""Workers on Ray: the codes of the training process's own coders, whatever happens to a worker."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest

pytest.importorskip("ray", reason="services need ray: make test-services")
import ray

from ernie5.errors import Fault, UserError
from ernie5.modality.audio_codes import AudioCoder
from ernie5.modality.unified import SoundMedium, VisualMedium
from ernie5.modality.vision_codes import VisionCoder
from ernie5.services.cluster import connected
from ernie5.services.media import EncodedMedia, EncodeRequest, to_arrays
from ernie5.services.pool import EncodingPool
from ernie5.services.worker import WorkerSetup, identity
from ernie5.tokenizers.vision.tokenizer import VisionTokenizer
from tests.audio_models import FRAME, VOICE, audio_tokenizer, speaker_encoder
from tests.runs import keep_gemm_kernels
from tests.vision_runs import save_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.multiproc]
BITS, SEQ_LEN = 4, 64
SCALES = ((1, 1), (2, 2), (4, 4))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """On this machine, for two workers."""
    with pytest.MonkeyPatch.context() as patch:
        keep_gemm_kernels(patch)
        with connected("", cpus=2) as address:
            yield address


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> tuple[WorkerSetup, VisionCoder, AudioCoder]:
    """Folders for the workers, and coders of this process with the same networks."""
    folder = tmp_path_factory.mktemp("networks")
    vision = VisionTokenizer.from_pretrained(save_tokenizer(folder / "vision", BITS))
    audio, speaker = audio_tokenizer(), speaker_encoder()
    setup = WorkerSetup(
        vision={BITS: str(folder / "vision")},
        audio=str(audio.save_pretrained(folder / "audio")),
        speaker=str(speaker.save_pretrained(folder / "speaker")),
    )
    return setup, VisionCoder(vision), AudioCoder(audio, speaker)


@pytest.fixture
def pool(cluster, networks) -> Iterator[EncodingPool]:
    pool = make_pool(networks)
    yield pool
    pool.close()


def make_pool(networks, num_workers: int = 1, **wrong: str) -> EncodingPool:
    setup, vision, audio = networks
    expected = identity({BITS: vision.tokenizer}, audio) | wrong
    return EncodingPool(setup, expected, num_workers)


def make_request(seed: int, bits: int = BITS) -> EncodeRequest:
    """A picture, a film and three sounds, with wrong bits in the history."""
    rng = np.random.default_rng(seed)

    def film(frames: int, start: int) -> VisualMedium:
        pixels = rng.integers(0, 256, [frames, 8, 8, 3]).astype(np.uint8)
        rates = rng.uniform(0, 0.5, [frames, len(SCALES)])
        return VisualMedium(
            pixels=pixels, start=start, length=21 * frames, scales=SCALES, flip_rates=rates, flip_seed=seed
        )

    def sound(frames: int, start: int, role: str) -> SoundMedium:
        samples = rng.uniform(-0.5, 0.5, frames * FRAME).astype(np.float32)
        return SoundMedium(samples=samples, start=start, length=1 if role == "speaker" else frames, role=role)

    sounds = sound(3, 2, "understand"), sound(5, 7, "generate"), sound(4, 20, "speaker")
    return EncodeRequest((film(1, 1), film(2, 22)), sounds, SEQ_LEN, bits)


def assert_as_here(encoded, request: EncodeRequest, networks) -> None:
    """Bit for bit what the coders of this process make of the request."""
    _, vision, audio = networks
    drawn = vision.encode(request.drawn, SEQ_LEN).generated
    sounds = audio.encode(request.heard, SEQ_LEN)
    found, expected = leaves(to_arrays(encoded)), leaves(to_arrays(EncodedMedia(drawn, sounds)))
    assert len(found) == len(expected) == 6 + 2 + 3 + 2
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def leaves(tree) -> list[np.ndarray]:
    return [leaf for part in tree for leaf in leaves(part)] if isinstance(tree, tuple) else [tree]


def process_of(worker) -> int:
    return ray.get(worker.actor.__ray_call__.remote(lambda _: os.getpid()))


def test_codes_and_voices_are_those_of_the_training_process_bit_for_bit(pool, networks):
    request = make_request(1)
    encoded = pool.result(pool.submit(request))
    assert_as_here(encoded, request, networks)
    assert encoded.sounds.voices.vectors.shape == [1, VOICE] and isinstance(encoded.drawn.inputs, paddle.Tensor)


def test_killed_worker_is_replaced_and_nothing_is_lost_or_mixed_up(pool, networks):
    process, requests = process_of(pool.workers[0]), [make_request(seed) for seed in range(6)]
    tickets = [pool.submit(request) for request in requests[:4]]
    assert_as_here(pool.result(tickets[0]), requests[0], networks)
    os.kill(process, signal.SIGKILL)
    tickets += [pool.submit(request) for request in requests[4:]]
    for ticket, request in zip(tickets[1:], requests[1:], strict=True):
        assert_as_here(pool.result(ticket), request, networks)
    assert pool.use.replaced == 1 and pool.use.requests == 6
    assert not pool.workers[0].tickets


def test_requests_go_to_the_worker_that_has_least_to_do(cluster, networks):
    pool = make_pool(networks, num_workers=2)
    tickets = [pool.submit(make_request(seed)) for seed in range(2)]
    assert {ticket.worker for ticket in tickets} == set(pool.workers)
    pool.close()


def test_medium_that_fails_again_and_again_is_named_with_the_cause(pool, networks):
    good, bad = make_request(1), make_request(2, bits=5)  # of which the workers have no tokenizer
    wrong, right = pool.submit(bad), pool.submit(good)
    with pytest.raises(Fault, match="3 workers failed .* a picture of 8 x 8 pixels at token 1 of row 0: KeyError: 5"):
        pool.result(wrong)
    assert_as_here(pool.result(right), good, networks)


def test_medium_that_a_tokenizer_refuses_is_told_as_here(pool):
    medium = make_request(1).drawn[0]
    odd = VisualMedium(pixels=medium.pixels[:, :7], start=0, length=21, scales=SCALES)
    with pytest.raises(UserError, match="pixels are 7 x 8: the vision tokenizer needs multiples of 2"):
        pool.result(pool.submit(EncodeRequest((odd,), (), SEQ_LEN, BITS)))
    assert pool.use.replaced == 0


def test_worker_with_another_tokenizer_is_refused(cluster, networks):
    with pytest.raises(UserError, match="a worker's audio tokenizer is [0-9a-f]{64}, but this run's is abc"):
        make_pool(networks, **{"audio tokenizer": "abc"})


def test_worker_without_the_folder_is_refused(cluster, networks):
    setup = networks[0]._replace(audio=str(Path("/nowhere")))
    with pytest.raises(UserError, match="/nowhere/config.json: cannot be read .*worker of services"):
        EncodingPool(setup, {}, 1)


def test_missing_ray_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"ray is not installed: pip install 'ernie5\[scale\]', or set it to 0"):
        with connected(""):
            pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere"])
def test_address_without_a_cluster_is_told(address):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=f"services.address is '{address}', but no Ray cluster for this run answers"):
        with connected(address):
            pass
    assert signal.getsignal(signal.SIGTERM) is handler
