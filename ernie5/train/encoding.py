"""Micro-batches made of rows: where several processes have the same rows, each encodes some of the media, for all."""

from collections.abc import Callable, Sequence

from paddle.distributed.communication.group import Group

from ernie5.errors import Fault, UserError
from ernie5.modality.batch import Batch, Coders, make_batch
from ernie5.modality.unified import UnifiedSequence
from ernie5.parallel.data_parallel import exchanged
from ernie5.services.media import EncodedMedia, answering_coders, encode_media, make_request, to_arrays, to_tensors

Encode = Callable[[int], EncodedMedia | None]  # number of a micro-batch -> codes of its media, if any need codes


def is_own(number: int, group: Group | None) -> bool:
    """Whether this process encodes the media of that micro-batch, of those that all of `group` have."""
    return group is None or number % group.nranks == group.rank


def encode_with(coders: Coders, parts: Sequence[UnifiedSequence]) -> Encode:
    """Encodes here, when it is called."""

    def encode(number: int) -> EncodedMedia | None:
        request = make_request(parts[number])
        return encode_media(request, coders) if request is not None else None

    return encode


def make_batches(parts: Sequence[UnifiedSequence], encode: Encode, group: Group | None) -> list[Batch]:
    """A batch of each part, which are the same on all of `group`; they call it together (None: a process alone).

    `encode` is called where the number `is_own`. What it raises of UserError and Fault all of the group raise.
    """
    own: dict[int, EncodedMedia | UserError | Fault | None] = {}
    for number in range(len(parts)):
        if is_own(number, group):
            try:
                own[number] = encode(number)
            except (UserError, Fault) as error:
                own[number] = error
                break
    found = own if group is None else _shared(own, group)
    for error in found.values():
        if isinstance(error, Exception):
            raise error
    return [make_batch(part, answering_coders(found[number])) for number, part in enumerate(parts)]


def _shared(own: dict, group: Group) -> dict:
    """Of all processes of the group."""
    sent = exchanged({number: to_arrays(one) for number, one in own.items()}, group)
    return own | {number: to_tensors(one) for part in sent for number, one in part.items() if number not in own}
