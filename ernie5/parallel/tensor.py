"""Tensor parallelism: the matrices of attention and of dense feed-forward layers are cut over a group, and so is what
lies between them, by tokens (arXiv:1909.08053, arXiv:2205.05198; report §5).

A process has some tokens of each row. Before attention and before a dense feed-forward layer those of the group come
together, each process works on all of them with its heads, or its part of the width, and the sum of what they make goes
back by tokens. Norms, routers and experts see the process's own tokens. The layers know nothing of it: their matrices
are smaller, and hooks stand before and behind them.
"""

import paddle
import paddle.distributed as dist
from paddle import nn
from paddle.autograd import PyLayer
from paddle.distributed.communication.group import Group
from paddle.distributed.fleet.utils.sequence_parallel_utils import AllGatherOp, ReduceScatterOp

from ernie5.layers.attention import Attention
from ernie5.layers.mlp import GatedMLP
from ernie5.modality.text import TextModality
from ernie5.modality.unified import IGNORE_INDEX
from ernie5.model.ernie5 import Ernie5ForCausalLM
from ernie5.parallel.cutting import cut_parameter
from ernie5.parallel.pieces import Cut

ROWS = 1024  # tokens whose logits are made at once
BLOCKS = ("decoder.layers.", "mtp.block.")
COLUMN_CUT, ROW_CUT = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")


def cut_matrices(model: Ernie5ForCausalLM, group: Group) -> dict[str, Cut]:
    """Leaves this process its part of the matrices; name -> where that lies. The word embedding stays whole: a gradient
    of it would be the one exchange that is not in the order of the layers, and sharding takes the state off it."""
    cuts = {}
    for name, layer in model.named_sublayers():
        if not (isinstance(layer, Attention | GatedMLP) and name.startswith(BLOCKS)):
            continue  # vision's own transformer has all of a picture
        for key, matrix in layer.named_children():
            axis = 1 if key in COLUMN_CUT else 0
            cuts[f"{name}.{key}.weight"] = cut = Cut(axis, group.rank, group.nranks)
            cut_parameter(matrix, "weight", cut)
            if matrix.bias is not None and key in COLUMN_CUT:
                cuts[f"{name}.{key}.bias"] = cut = Cut(0, group.rank, group.nranks)
                cut_parameter(matrix, "bias", cut)
            elif matrix.bias is not None and group.rank:  # of what is summed one part carries it
                matrix.register_forward_post_hook(lambda matrix, _, output: output - matrix.bias)
        layer.register_forward_pre_hook(_bring_together)
        layer.register_forward_post_hook(_add_up)
    model.text = VocabParallelText(model.text, group)
    if model.text.lm_head is not None:
        cuts["text.lm_head.weight"] = cut = Cut(1, group.rank, group.nranks)
        cut_parameter(model.text.lm_head, "weight", cut)
    return cuts


def _bring_together(_, inputs: tuple) -> tuple:
    """The first input, [tokens, hidden] or [batch, tokens, hidden], with the tokens of the whole group."""
    return _by_tokens(AllGatherOp.apply, inputs[0]), *inputs[1:]


def _add_up(_, inputs: tuple, output: paddle.Tensor) -> paddle.Tensor:
    return _by_tokens(ReduceScatterOp.apply, output)


def _by_tokens(operation, states: paddle.Tensor) -> paddle.Tensor:
    """fleet's operators cut along the first axis."""
    if states.ndim == 2:
        return operation(states)
    return operation(states.transpose([1, 0, 2]).contiguous()).transpose([1, 0, 2])


class VocabParallelText(TextModality):
    """The text modality whose loss is made by all processes of a group, each with its part of the vocabulary."""

    def __init__(self, text: TextModality, group: Group):
        nn.Layer.__init__(self)
        self.embed_tokens, self.lm_head = text.embed_tokens, text.lm_head
        self._group = group

    def loss(self, hidden_states: paddle.Tensor, labels: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
        """As `TextModality.loss`, of all tokens of the group, divided by its processes: their sum is the loss."""
        rows = hidden_states.reshape([-1, hidden_states.shape[-1]])
        head, hidden_first = self._head()
        if not hidden_first:
            part = head.shape[0] // self._group.nranks
            head = head[self._group.rank * part : (self._group.rank + 1) * part].t()
        return _VocabParallelCrossEntropy.apply(rows, head, labels.flatten(), weight.flatten(), self._group)


class _VocabParallelCrossEntropy(PyLayer):
    """sum of weight * -log softmax(rows head)[label] / processes, of the group's rows, with a part of the vocabulary.

    rows [own tokens, hidden], head [hidden, part of vocab]. Its gradient is made in the forward pass, some rows at a
    time, so that logits are not kept, and with that of the other modalities' losses nothing is exchanged out of turn.
    The gradient that comes in has to be the same on all processes, as that of a loss is.
    """

    @staticmethod
    def forward(ctx, rows, head, labels, weight, group):
        rows, labels, weight = (_gathered(one, group) for one in (rows, labels, weight))
        first = group.rank * head.shape[1]
        total, row_gradients = paddle.zeros([], "float32"), []
        head_gradient = paddle.zeros(head.shape, "float32")
        for start in range(0, rows.shape[0], ROWS):
            part = slice(start, start + ROWS)
            loss, gradient = _loss_and_gradient(rows[part], head, labels[part], weight[part], first, group)
            total += loss
            row_gradients.append(paddle.matmul(gradient.astype(head.dtype), head, transpose_y=True))
            head_gradient += paddle.matmul(rows[part], gradient.astype(rows.dtype), transpose_x=True).astype("float32")
        own = paddle.empty([rows.shape[0] // group.nranks, rows.shape[1]], rows.dtype)
        dist.stream.reduce_scatter(own, paddle.concat(row_gradients), group=group)
        ctx.save_for_backward(own, head_gradient.astype(head.dtype))
        return total / group.nranks

    @staticmethod
    def backward(ctx, scale):
        rows, head = ctx.saved_tensor()
        return rows * scale.astype(rows.dtype), head * scale.astype(head.dtype)


def _gathered(tensor: paddle.Tensor, group: Group) -> paddle.Tensor:
    whole = paddle.empty([tensor.shape[0] * group.nranks, *tensor.shape[1:]], tensor.dtype)
    dist.stream.all_gather(whole, tensor, group=group)
    return whole


def _loss_and_gradient(rows, head, labels, weight, first: int, group: Group) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Of some rows: the sum of the losses and, for the logits of this part of the vocabulary, its gradient."""
    logits = paddle.matmul(rows, head).astype("float32")
    largest = logits.max(-1)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    shares = paddle.exp(logits - largest.unsqueeze(-1))
    local = labels - first
    is_here = (local >= 0) & (local < head.shape[1])
    at = paddle.where(is_here, local, 0).unsqueeze(-1)
    of_label = paddle.take_along_axis(logits, at, -1).squeeze(-1) * is_here.astype("float32")
    sums = paddle.stack([shares.sum(-1), of_label])
    dist.all_reduce(sums, group=group)
    weight = paddle.where(labels == IGNORE_INDEX, 0.0, weight.astype("float32"))
    loss = (weight * (sums[0].log() + largest - sums[1])).sum()
    here = (is_here.astype("float32") * weight).unsqueeze(-1)
    gradient = shares * (weight / sums[0]).unsqueeze(-1)
    return loss, paddle.put_along_axis(gradient, at, -here, -1, reduce="add")
