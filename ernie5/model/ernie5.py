"""ERNIE 5.0: one autoregressive mixture-of-experts decoder over the unified sequence (arXiv:2602.04705, report §2).

The file to read first. A batch of unified sequences is embedded, runs through the layers that a subnet keeps, and is
read by the heads of its modalities; each gives the loss of its next group of tokens.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

from ernie5.config.schema import ModelConfig
from ernie5.layers.layout import Layout, make_layout
from ernie5.layers.pages import LayerPages
from ernie5.modality.audio import AudioModality, Tap, TeacherForcing
from ernie5.modality.batch import Batch
from ernie5.modality.text import TextModality
from ernie5.modality.vision_generation import VisionGeneration
from ernie5.modality.vision_understanding import VisionUnderstanding
from ernie5.model.block import Block, BlockOutput
from ernie5.model.decoder import Decoder, DecoderOutput
from ernie5.model.mtp import MultiTokenPrediction
from ernie5.model.subnet import Subnet


class Losses(NamedTuple):
    """Weighted sums over the batch, in nats; the trainer divides by the weights of the whole global batch."""

    text: paddle.Tensor  # float32 scalar
    mtp: paddle.Tensor | None  # float32 scalar; None in a model without the block
    vision: paddle.Tensor | None  # float32 scalar, of the mean over a token's bits; None where nothing is drawn
    audio: paddle.Tensor | None  # float32 scalar, of the mean over a frame's codes; None where nothing is spoken
    tokens_per_expert: dict[
        int, paddle.Tensor
    ]  # layer id (the prediction block's is the number of layers) -> int64 [experts]


class Walk(NamedTuple):
    """A batch's way through the layers."""

    layout: Layout
    spoken: TeacherForcing | None  # collects the loss of what is spoken
    taps: dict[int, Tap]  # where it does so, by layer id


class Ernie5ForCausalLM(nn.Layer):
    """The unified model. `forward` trains; `hidden_states` and `logits` are what evaluation and generation need."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.text = TextModality(config)
        self.decoder = Decoder(config)
        self.mtp = MultiTokenPrediction(config) if config.num_nextn_predict_layers else None
        sizes = (config.hidden_size, config.initializer_range)
        self.vision_understanding = self.vision_generation = None
        if config.vision is not None:
            self.vision_understanding = VisionUnderstanding(config.vision, *sizes)
            self.vision_generation = VisionGeneration(config.vision, *sizes)
        self.audio = None
        if config.audio is not None:
            self.audio = AudioModality(config.audio, *sizes, config.rms_norm_eps)

    @property
    def dtype(self) -> paddle.dtype:
        """Of what goes from layer to layer."""
        return self.decoder.norm.weight.dtype

    def blocks(self) -> dict[int, Block]:
        """Every block of this process by its layer id, which is its row in a subnet's expert mask."""
        blocks = {layer_id: layer for layer_id, layer in enumerate(self.decoder.layers) if isinstance(layer, Block)}
        return blocks if self.mtp is None else blocks | {self.mtp.layer_id: self.mtp.block}

    def forward(self, batch: Batch, subnet: Subnet) -> Losses:
        walk = self.walk(batch)
        decoded = self.decoder(self.embed(batch), walk.layout, subnet, taps=walk.taps)
        return self.losses(decoded, batch, walk, subnet)

    def validation_losses(self, batch: Batch, subnet: Subnet) -> Losses:
        """As `forward`, without the prediction block."""
        walk = self.walk(batch)
        decoded = self.decoder(self.embed(batch), walk.layout, subnet, taps=walk.taps)
        return self.next_group_losses(decoded, batch, walk)

    def walk(self, batch: Batch) -> Walk:
        """What the layers need to know of a batch beside its embedded rows."""
        layout = make_layout(batch.mask_rows, batch.position_ids, self.config.attention)
        return Walk(layout, *self._spoken(batch))

    def losses(self, decoded: DecoderOutput, batch: Batch, walk: Walk, subnet: Subnet) -> Losses:
        """What predicting costs, that of the second-next token too."""
        losses = self.next_group_losses(decoded, batch, walk)
        if self.mtp is None:
            return losses
        predicted = self.predict_second_next(decoded.residual, self.text.embed(batch.next_ids), walk.layout, subnet)
        mtp_loss = self.text.loss(predicted.hidden_states, batch.mtp_labels, batch.mtp_loss_weight)
        loads = dict(decoded.tokens_per_expert)
        if predicted.tokens_per_expert is not None:
            loads[self.mtp.layer_id] = predicted.tokens_per_expert
        return losses._replace(mtp=mtp_loss, tokens_per_expert=loads)

    def next_group_losses(self, decoded: DecoderOutput, batch: Batch, walk: Walk) -> Losses:
        """What predicting the next group of tokens of each modality costs."""
        text_loss = self.text.loss(decoded.hidden_states, batch.labels, batch.loss_weight)
        vision_loss = self._vision_loss(decoded.hidden_states, batch)
        audio_loss = walk.spoken.loss if walk.spoken is not None else None
        return Losses(text_loss, None, vision_loss, audio_loss, decoded.tokens_per_expert)

    def embed(self, batch: Batch) -> paddle.Tensor:
        """The unified sequence as the layers take it, [batch, seq, hidden]: words, and media in their places.

        A place below 0 is that of a token which is not in the batch: of a medium that is cut, one has the other end.
        """
        words = self.text.embed(batch.input_ids)
        media = [*self._seen(batch), *self._heard(batch)]
        if not media:
            return words
        rows = [words, *(embedded for embedded, _ in media)]
        rows = paddle.concat([row.reshape([-1, words.shape[-1]]) for row in rows])
        places = np.concatenate([places for _, places in media])
        where = np.arange(words.shape[0] * words.shape[1])
        embedded = np.arange(len(where), len(rows))
        where[places[places >= 0]] = embedded[places >= 0]
        return paddle.gather(rows, paddle.to_tensor(where)).reshape(words.shape)

    def _seen(self, batch: Batch) -> Iterator[tuple[paddle.Tensor, np.ndarray]]:
        """Embedded pictures and films [..., hidden], and their places in the flattened batch."""
        if batch.vision is None:
            return
        for group in batch.vision.understood:
            yield self.vision_understanding(group.pixels), group.places
        generated = batch.vision.generated
        if generated is not None and len(generated.places):
            yield self.vision_generation.embed(generated.inputs, generated.scale_ids), generated.places

    def _heard(self, batch: Batch) -> Iterator[tuple[paddle.Tensor, np.ndarray]]:
        """Embedded frames of sound and voices [n, hidden], and their places in the flattened batch."""
        if batch.audio is None:
            return
        if batch.audio.codes is not None:
            yield self.audio.embed(batch.audio.codes), batch.audio.places
        if batch.audio.voices is not None:
            yield self.audio.embed_voices(batch.audio.voices.vectors), batch.audio.voices.places

    def _spoken(self, batch: Batch) -> tuple[TeacherForcing | None, dict[int, Tap]]:
        """What collects the loss of what is spoken, and where it taps the layers."""
        targets = batch.audio.spoken if batch.audio is not None else None
        if targets is None:
            return None, {}
        spoken = TeacherForcing(targets.codes, targets.weight)
        return spoken, self.audio.taps(self.config.num_hidden_layers, paddle.to_tensor(targets.places), spoken)

    def _vision_loss(self, hidden_states: paddle.Tensor, batch: Batch) -> paddle.Tensor | None:
        generated = batch.vision.generated if batch.vision is not None else None
        if generated is None or not len(generated.target_places):
            return None
        rows = hidden_states.reshape([-1, hidden_states.shape[-1]])
        predicting = paddle.gather(rows, paddle.to_tensor(generated.target_places))
        return self.vision_generation.loss(predicting, generated.targets, paddle.to_tensor(generated.weight))

    def predict_second_next(
        self,
        residual: paddle.Tensor,
        next_embedded: paddle.Tensor,
        layout: Layout,
        subnet: Subnet,
        pages: LayerPages | None = None,
    ) -> BlockOutput:
        """What the prediction block makes of `residual` and of the tokens that follow, [batch, seq, hidden] each."""
        mask = subnet.layer_masks[self.mtp.layer_id]
        return self.mtp(residual, next_embedded, layout, mask, subnet.top_k, pages)

    def hidden_states(self, input_ids: paddle.Tensor, layout: Layout, subnet: Subnet) -> paddle.Tensor:
        """input_ids int64 [batch, seq] -> [batch, seq, hidden], after the final norm."""
        return self.decoder(self.text.embed(input_ids), layout, subnet).hidden_states

    def read_words(
        self, ids: np.ndarray, layout: Layout, subnet: Subnet, pages: Mapping[int, LayerPages], asked: np.ndarray
    ) -> tuple[DecoderOutput, paddle.Tensor]:
        """Words int64 [n] of the sequences in `pages`, one sequence behind the other, as in `Decoder`.

        -> what is behind the layers, and next-token logits [m, vocab] of the words with the numbers `asked`, int64 [m].
        """
        decoded = self.decoder(self.text.embed(paddle.to_tensor(ids)).unsqueeze(0), layout, subnet, pages)
        hidden = decoded.hidden_states.squeeze(0)
        if len(asked) < len(ids):
            hidden = paddle.gather(hidden, paddle.to_tensor(asked))
        return decoded, self.logits(hidden)

    def logits(self, hidden_states: paddle.Tensor) -> paddle.Tensor:
        """[..., hidden] -> next-token logits [..., vocab]."""
        return self.text.logits(hidden_states)
