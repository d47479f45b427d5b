"""Reading over the layers' caches: prompts at once, then words or whole scales of a picture, for text and vision alike.

A batch is read in step: its rows get the same number of tokens each time, shorter prompts are padded at the left.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import paddle

from ernie5.data.packing import Part, build_row
from ernie5.data.sequence import EncodedSample
from ernie5.layers.attention import LayerCache
from ernie5.layers.layout import Layout
from ernie5.layers.rope import rotation_of_few
from ernie5.modality.audio import Tap
from ernie5.modality.batch import NO_CODERS, Coders, make_batch
from ernie5.modality.token_layout import TO_THE_END
from ernie5.modality.unified import UnifiedSequence, stack
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.model.subnet import Subnet, full_subnet
from ernie5.ops.attention import Mask

_PAD_ID = 0  # no token sees a pad but the pad itself


class Decoding:
    """What has been read of a batch of sequences: the caches, and for each cached key who may still see it.

    A key that no later token of any row sees, such as one of a film's evicted frame, is dropped from the caches, so
    that a film of any length takes the memory of its window.
    """

    def __init__(self, model: Ernie5ForCausalLM, subnet: Subnet | None = None):
        self.model, self.subnet = model, subnet or full_subnet(model.config)
        self.caches = [LayerCache() for _ in range(model.config.num_hidden_layers)]
        self.length = 0  # tokens read of each row, pads included
        self.position = np.zeros(0, np.float32)  # [rows]: t, h and w of the next word
        # int64 [rows, keys], or [1, keys] where all rows agree: number of the first token that no longer sees the key
        self._hidden_from = np.zeros([1, 0], np.int64)

    @property
    def num_rows(self) -> int:
        return len(self.position)

    @property
    def num_keys(self) -> int:
        """Keys in each cache."""
        return self._hidden_from.shape[1]

    def read_prompts(self, prompts: Sequence[EncodedSample], coders: Coders = NO_CODERS) -> paddle.Tensor:
        """Begins each row with a prompt of at least one id; [rows, hidden] of their last tokens.

        `coders` are needed where a prompt holds media, as in `make_batch`.
        """
        rows = left_padded(prompts)
        length = rows.input_ids.shape[1]
        hidden_from, group_start = (rows.mask_rows[..., i].astype(np.int64) for i in range(2))
        hidden_from[hidden_from == length] = TO_THE_END
        with paddle.no_grad():
            embedded = self.model.embed(make_batch(rows, coders))
        self.position = rows.position_ids[:, -1, 0] + 1
        return self.read(embedded, rows.position_ids, group_start, hidden_from)[:, -1]

    def read_words(self, ids: np.ndarray, taps: Mapping[int, Tap] | None = None) -> paddle.Tensor:
        """One more id of every row, int64 [rows] -> [rows, hidden]; `taps` as of `read`."""
        positions = np.repeat(self.position[:, None, None], 3, axis=-1)
        self.position = self.position + 1
        with paddle.no_grad():
            embedded = self.model.text.embed(paddle.to_tensor(ids[:, None]))
        return self.read(embedded, positions, np.zeros([1, 1], np.int64), np.full([1, 1], TO_THE_END), taps)[:, -1]

    @paddle.no_grad()
    def read(
        self,
        embedded: paddle.Tensor,
        positions: np.ndarray,
        group_start: np.ndarray,
        hidden_from: np.ndarray,
        taps: Mapping[int, Tap] | None = None,
    ) -> paddle.Tensor:
        """The next n tokens of every row, embedded [rows, n, hidden] -> [rows, n, hidden] after the final norm.

        positions float32 [rows, n, 3]. group_start and hidden_from int64 [rows or 1, n] as in `TokenLayout`, counted
        from the first of these tokens; hidden_from may lie behind the last of them. `position` stays as it is.
        `taps` read behind layers, as in `Decoder`.
        """
        self._drop_hidden_keys()
        hidden_from = _one_row_if_equal(hidden_from + self.length)
        self._hidden_from = _beside(self._hidden_from, hidden_from)
        layout = Layout(
            Mask(embedded.shape[1], self.num_keys, self._mask_rows(_one_row_if_equal(group_start))),
            rotation_of_few(positions, self.model.config.attention),
        )
        self.length += embedded.shape[1]
        return self.model.decoder(embedded, layout, self.subnet, self.caches, taps).hidden_states

    def branch(self) -> None:
        """As many rows again behind these, each of which has read nothing but its row's first token.

        That is the unconditional half of guidance: what follows is read as behind `<s>` alone.
        """
        seen = np.broadcast_to(self._hidden_from, [self.num_rows, self.num_keys])
        first = (seen > self.length).argmax(1)[:, None]
        alone = np.where(np.arange(self.num_keys) == first, seen, 0)
        self._hidden_from = np.concatenate([seen, alone])
        self.position = np.concatenate([self.position, np.ones_like(self.position)])
        self._change_caches(lambda states: paddle.concat([states, states]))

    def keep_rows(self, count: int) -> None:
        """Leaves out all rows but the first."""
        self._hidden_from = self._hidden_from[:count]
        self.position = self.position[:count]
        self._change_caches(lambda states: states[:count])

    def _mask_rows(self, group_start: np.ndarray) -> np.ndarray | None:
        """FlashMask columns int32 [rows or 1, keys, 2] of the new tokens as queries; the last keys are their own.

        None where every key is seen, as by a word whose rows had no pads.
        """
        new = group_start.shape[1]
        if not group_start.any() and (self._hidden_from >= self.length + new).all():
            return None
        past = np.zeros([1, self.num_keys - new], np.int64)
        upper_end = _beside(past, group_start)
        lower_start, upper_end = np.broadcast_arrays((self._hidden_from - self.length).clip(0, new), upper_end)
        return np.stack([lower_start, upper_end], -1).astype(np.int32)

    def _drop_hidden_keys(self) -> None:
        hidden = (self._hidden_from <= self.length).all(0)
        if hidden.any():
            self._hidden_from = _one_row_if_equal(self._hidden_from[:, ~hidden])
            kept = paddle.to_tensor(np.flatnonzero(~hidden))
            self._change_caches(lambda states: paddle.index_select(states, kept, axis=1))

    def _change_caches(self, change) -> None:
        """Applies `change` to the keys and to the values of every layer that runs, [rows, keys, kv_heads, head_dim]."""
        for cache in self.caches:
            cache.change(change)


def left_padded(prompts: Sequence[EncodedSample]) -> UnifiedSequence:
    """Rows as training packs them, one prompt in each, stacked; pads stand before the shorter ones."""
    longest = max(map(len, prompts))
    rows = (build_row([Part(prompt, 0, len(prompt))], len(prompt), _PAD_ID) for prompt in prompts)
    return stack([_moved(row, longest - len(row)) for row in rows])


def _moved(row: UnifiedSequence, by: int) -> UnifiedSequence:
    """The row behind `by` pads."""
    pads = build_row([], by, _PAD_ID)
    return UnifiedSequence(
        input_ids=np.concatenate([pads.input_ids, row.input_ids]),
        token_kind=np.concatenate([pads.token_kind, row.token_kind]),
        position_ids=np.concatenate([pads.position_ids, row.position_ids]),
        labels=np.concatenate([pads.labels, row.labels]),
        loss_weight=np.concatenate([pads.loss_weight, row.loss_weight]),
        mask_rows=np.concatenate([pads.mask_rows, row.mask_rows + np.int32(by)]),
        document_ids=np.concatenate([pads.document_ids, row.document_ids]),
        media=tuple(replace(medium, start=medium.start + by) for medium in row.media),
    )


@contextmanager
def evaluating(model: Ernie5ForCausalLM) -> Iterator[None]:
    """The model in evaluation mode, and afterwards in the mode it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _one_row_if_equal(array: np.ndarray) -> np.ndarray:
    """[rows, n], or [1, n] if the rows are equal: masks that all rows share are laid out once."""
    return array[:1] if len(array) > 1 and (array == array[:1]).all() else array


def _beside(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[rows or 1, n] and [rows or 1, m] -> [rows or 1, n + m]."""
    rows = max(len(first), len(second))
    return np.concatenate([np.broadcast_to(part, [rows, part.shape[1]]) for part in (first, second)], axis=1)
