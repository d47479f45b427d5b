"""How many parameters a model has and how many a token uses: closed forms, nothing is built, no Paddle."""

from dataclasses import dataclass

from ernie5.config.schema import AudioConfig, ModelConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of each part. `mtp` is the whole multi-token prediction block, `vision_*` and `audio` what a model has
    around its backbone; the other parts are the backbone's.

    The balancing biases of the router (one number an expert) are buffers, not parameters, and not counted.
    """

    embedding: int
    lm_head: int  # 0 when tied to the embedding
    attention: int
    router: int
    routed_experts: int
    shared_experts: int
    dense_mlp: int
    norms: int
    mtp: int
    vision_cnn: int  # the tokenizer's encoder, which is not trained
    vision_understanding: int  # ViT and patch merger
    vision_generation: int  # embeddings and heads of bits
    audio: int  # embeddings and heads of codes
    unchosen_experts: int  # parameters of the backbone's routed experts that one token does not visit
    vocab_rows_unused: int  # parameters of an untied embedding outside the one row that a token looks up

    @property
    def backbone(self) -> int:
        """All but the prediction block: the size that reports of such models quote as their total."""
        return (
            self.embedding
            + self.lm_head
            + self.attention
            + self.router
            + self.routed_experts
            + self.shared_experts
            + self.dense_mlp
            + self.norms
        )

    @property
    def total(self) -> int:
        """Every parameter, as a checkpoint holds them: the backbone, the prediction block, vision and audio."""
        vision = self.vision_cnn + self.vision_understanding + self.vision_generation
        return self.backbone + self.mtp + vision + self.audio

    @property
    def backbone_excluding_embeddings(self) -> int:
        """The backbone without input embedding and output head."""
        return self.backbone - self.embedding - self.lm_head

    @property
    def active(self) -> int:
        """Parameters that one token uses to predict the next one at inference.

        The backbone without the routed experts not chosen; the prediction block, needed for training and for
        speculation only, is out. The vocabulary counts once: a tied embedding as the output head, an untied one as
        the head plus the single row that was looked up. Others count the whole input embedding as active too.
        """
        return self.backbone - self.unchosen_experts - self.vocab_rows_unused

    @property
    def active_excluding_embeddings(self) -> int:
        """`active` without input embedding and output head: the report's small ablations count so (§6.4.2)."""
        return self.backbone_excluding_embeddings - self.unchosen_experts

    @property
    def share(self) -> float:
        """`active` over `backbone`: the activation rate (report §2.1: below 3 %)."""
        return self.active / self.backbone


def count_parameters(model: ModelConfig) -> ParameterCount:
    """The parameters of `Ernie5ForCausalLM(model)`, part by part."""
    layers, hidden, moe = model.num_hidden_layers, model.hidden_size, model.moe
    num_dense = layers if moe.num_experts == 0 else moe.num_dense_layers
    num_moe = layers - num_dense
    expert = _swiglu(hidden, moe.moe_intermediate_size)
    return ParameterCount(
        embedding=model.vocab_size * hidden,
        lm_head=0 if model.tie_word_embeddings else model.vocab_size * hidden,
        attention=layers * _attention(model),
        router=num_moe * hidden * moe.num_experts,
        routed_experts=num_moe * moe.num_experts * expert,
        shared_experts=num_moe * moe.num_shared_experts * expert,
        dense_mlp=num_dense * _swiglu(hidden, model.intermediate_size),
        norms=(2 * layers + 1) * hidden,
        mtp=model.num_nextn_predict_layers * _prediction_block(model),
        vision_cnn=_vision_cnn(model.vision),
        vision_understanding=_vision_understanding(model.vision, hidden),
        vision_generation=_vision_generation(model.vision, hidden),
        audio=_audio(model.audio, hidden),
        unchosen_experts=num_moe * (moe.num_experts - moe.num_experts_per_tok) * expert,
        vocab_rows_unused=0 if model.tie_word_embeddings else (model.vocab_size - 1) * hidden,
    )


def flops_per_token(model: ModelConfig, seq_len: int) -> float:
    """FLOPs of one token's forward pass through the backbone in a row of `seq_len` tokens; training takes three times.

    A multiply-add is 2. Counted are the matrix products: two for each active matrix weight, the output head included,
    the looked-up embedding row, norms and biases not; and causal attention's two products with the keys and values, at
    half the square, since a token sees half the row on average. The prediction block is left out, as in `active`.
    """
    count = count_parameters(model)
    head = model.vocab_size * model.hidden_size
    biases = model.num_hidden_layers * _attention_biases(model)
    weights = count.active_excluding_embeddings - count.norms - biases + head
    attention_width = model.attention.num_attention_heads * model.attention.head_dim
    return 2.0 * weights + model.num_hidden_layers * 2.0 * attention_width * seq_len


def _swiglu(hidden: int, width: int) -> int:
    return 3 * hidden * width


def _attention(model: ModelConfig) -> int:
    """Projections q and o [hidden, heads * head_dim], k and v [hidden, kv_heads * head_dim], and their biases."""
    attention = model.attention
    heads = attention.num_attention_heads + attention.num_key_value_heads
    return 2 * model.hidden_size * heads * attention.head_dim + _attention_biases(model)


def _attention_biases(model: ModelConfig) -> int:
    attention = model.attention
    if not attention.use_bias:
        return 0
    return (attention.num_attention_heads + 2 * attention.num_key_value_heads) * attention.head_dim + model.hidden_size


def _vision_cnn(vision: VisionConfig | None) -> int:
    """Causal convolutions of 3 x 3 x 3 with biases."""
    if vision is None or vision.understanding_path == "vit":
        return 0
    channels = vision.encoder.channels
    blocks = sum(vision.encoder.num_res_blocks * 2 * _conv(width, width) for width in channels)
    downs = sum(_conv(one, other) for one, other in zip(channels, channels[1:], strict=False))
    return _conv(3, channels[0]) + blocks + downs


def _conv(in_channels: int, out_channels: int) -> int:
    return out_channels * (27 * in_channels + 1)


def _vision_understanding(vision: VisionConfig | None, hidden: int) -> int:
    if vision is None:
        return 0
    width, vit = vision.vit.hidden_size, vision.vit
    cnn_proj = vision.encoder.channels[-1] * width if vision.understanding_path != "vit" else 0
    merger = cnn_proj + width + 4 * width * width + width * hidden
    if vision.understanding_path == "cnn":
        return merger
    patch = 3 * vision.encoder.temporal_stride * vision.encoder.stride**2
    layer = 2 * width + 4 * width * width + _swiglu(width, vit.intermediate_size)
    return merger + (patch + 1) * width + vit.num_hidden_layers * layer + width


def _vision_generation(vision: VisionConfig | None, hidden: int) -> int:
    if vision is None:
        return 0
    num_scales = max(len(resolution.scales) for resolution in vision.resolutions)
    return 2 * vision.max_bits * hidden + vision.max_bits + num_scales * hidden


def _audio(audio: AudioConfig | None, hidden: int) -> int:
    """A table, a norm and a head for each level, with a row for the end; the projection of voices."""
    if audio is None:
        return 0
    return audio.num_codebooks * (2 * (audio.codebook_size + 1) + 1) * hidden + audio.speaker_dim * hidden


def _prediction_block(model: ModelConfig) -> int:
    """Norms of the hidden state, of the embedding and of the output, the projection [2 hidden, hidden], one layer.

    The layer routes where the model has experts; embedding and output head are the backbone's (arXiv:2412.19437, §2.2).
    """
    hidden, moe = model.hidden_size, model.moe
    if moe.num_experts == 0:
        feed_forward = _swiglu(hidden, model.intermediate_size)
    else:
        num_experts = moe.num_experts + moe.num_shared_experts
        feed_forward = num_experts * _swiglu(hidden, moe.moe_intermediate_size) + hidden * moe.num_experts
    return 3 * hidden + 2 * hidden * hidden + 2 * hidden + _attention(model) + feed_forward
