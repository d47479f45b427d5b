"""The configuration tree: frozen dataclasses, one a section. No Paddle, no environment, no defaults that depend on one.

Every field carries its unit in the name or in its comment, and its source where the report gives one. The loader
(`load.py`) builds these from YAML and refuses what is not here; rules over several sections are in `rules.py`.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Grouped-query attention with Uni-RoPE (report §2.2.3)."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 1_000_000.0  # base of the rotary frequencies, from the first stage on (report §3.2)
    rope_temporal_fraction: float = (
        0.3125  # share of the frequency pairs, the lowest ones, that turn with t (ERNIE 4.5 VL: 20 of 64)
    )
    use_bias: bool = False  # on q, k, v and o projections


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Mixture-of-experts feed-forward layers (report §2.1): every layer after the leading dense ones."""

    num_experts: int  # routed experts a layer; 0 makes every layer dense
    num_experts_per_tok: int  # experts a token is sent to (top-k)
    moe_intermediate_size: int  # width of one expert
    num_shared_experts: int = 0  # experts every token passes through, as one MLP of their summed width
    num_dense_layers: int = 0  # leading layers with a dense MLP (the report has none)
    router_score: Literal["softmax", "sigmoid"] = "softmax"
    routed_scaling_factor: float = 1.0  # multiplies the renormalised weights of the routed experts


@dataclass(frozen=True, kw_only=True)
class ResolutionConfig:
    """A size at which pictures and frames are generated, with its scales (report §2.2.1): a row of the table."""

    height: int  # pixels
    width: int  # pixels
    scales: tuple[tuple[int, ...], ...]  # (height, width) of each in latent cells; first 1 x 1, last the whole grid


@dataclass(frozen=True, kw_only=True)
class VisionEncoderConfig:
    """The causal convolutional encoder of the vision tokenizer, before its projection to bits (report §2.2.1)."""

    channels: tuple[int, ...]  # of each level; every level after the first halves height and width
    num_res_blocks: int = 1  # at each level
    temporal_stride: int = 1  # frames behind the first that make one latent frame; a power of two (VideoAR: 4)

    @property
    def stride(self) -> int:
        """Side of a latent cell in pixels."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The vision transformer of the understanding path (report §2.2.2); its patches are the latent cells."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Vision in the backbone (report §2.2): a picture is a film of one frame."""

    encoder: VisionEncoderConfig  # that of the tokenizers; its copy in the backbone is the CNN path
    max_bits: int  # bits of a visual token that embedding and heads are sized for; a tokenizer may have fewer
    resolutions: tuple[ResolutionConfig, ...]  # sizes of what is generated; a medium goes to the nearest aspect ratio
    vit: ViTConfig
    merger_heads: int = 4  # attention heads of the patch merger
    understanding_path: Literal["both", "cnn", "vit"] = "both"
    temporal_window: int = 4  # latent frames before its own that a generated frame sees
    max_understanding_pixels: int = 512 * 512  # of a frame; a larger one is made smaller, its shape kept
    max_frames: int = 64  # of a film; a longer one is an error


@dataclass(frozen=True, kw_only=True)
class AudioConfig:
    """Audio in the backbone (report §2.3): a token is a frame of codes, one of each level, for 80 ms of sound."""

    sample_rate: int = 24_000  # of the codec, Hz; every sound is brought to it
    num_codebooks: int = 8  # levels of codes; each has a layer of its own at the top
    codebook_size: int = 2048  # codes of a level
    speaker_dim: int = 0  # numbers that the speaker encoder gives; 0: no voices are taken from reference clips
    max_seconds: float = 600.0  # of a sound; a longer one is an error


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone. Names are those of `config.json` in the model folder."""

    name: str
    vocab_size: int  # rows of the embedding; the tokenizer may use fewer
    hidden_size: int
    num_hidden_layers: int
    attention: AttentionConfig
    moe: MoEConfig
    intermediate_size: int = 0  # width of the dense MLP; needed when there are dense layers
    num_nextn_predict_layers: int = (
        1  # multi-token prediction blocks (report §2.1; depth 1 as DeepSeek-V3 and ERNIE 4.5)
    )
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02  # standard deviation of the initial weights
    tie_word_embeddings: bool = True
    vision: VisionConfig | None = None  # without it the model neither sees nor draws
    audio: AudioConfig | None = None  # without it the model neither hears nor speaks


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """What one step's sub-network is drawn from (report §3.3). All probabilities 0: always the full model."""

    depth_probability: float = 0.0  # of a reduced depth (report: 0.25)
    min_layers: int = 1  # fewest decoder layers in a draw
    keep_first_layers: int = 1  # never skipped
    keep_last_layers: int = 1  # never skipped; at least model.audio.num_codebooks, whose heads sit there (report §2.3)
    layer_groups: int = 1  # runs of layers of which a draw skips as many each, as pipeline stages want it
    width_probability: float = 0.0  # of a reduced expert set (report: 0.20)
    min_experts: int = 1  # fewest experts in a draw
    expert_multiple: int = 1  # runs of experts of which a draw keeps as many each; expert counts are multiples of this
    sparsity_probability: float = 0.0  # of a reduced top-k (report: 0.20)
    min_top_k: int = 1  # smallest k in a draw


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """A named member of the elastic family that evaluation reports. 0 means: as in the full model."""

    name: str
    num_layers: int = 0
    num_experts: int = 0
    top_k: int = 0


@dataclass(frozen=True, kw_only=True)
class VisionSwitchConfig:
    """From this step of the stage on, the vision tokenizer of so many bits is used (report §2.2.1)."""

    step: int
    bits: int


@dataclass(frozen=True, kw_only=True)
class VisionStageConfig:
    """How a stage trains visual generation."""

    loss_weight: float = 1.0  # of a visual token's mean loss a bit, beside a text token's loss
    # A token of scale k weighs (cells of the last scale / cells of scale k) ** power, so that early scales count
    # (arXiv:2412.04431: 0.5); the weights of a frame sum to its number of tokens.
    scale_weight_power: float = 0.5
    switches: tuple[VisionSwitchConfig, ...] = ()  # in rising order of steps; empty: the tokenizer of the most bits


@dataclass(frozen=True, kw_only=True)
class AudioStageConfig:
    """How a stage trains speech."""

    loss_weight: float = 1.0  # of a frame's mean loss a code, beside a text token's loss


@dataclass(frozen=True, kw_only=True)
class ModalityBalanceConfig:
    """Weights of the modalities' losses by what they have been so far, so that none dominates (report §3.2).

    posterior: a modality's loss is multiplied by (mean text loss / its own mean loss) ** power, over averages.
    """

    method: Literal["none", "posterior"] = "none"
    power: float = 1.0  # 1 brings the losses to one interval; less holds back a text that is nearly learned
    decay: float = 0.99  # of the averages, a step
    measure_steps: int = 0  # steps between two measurements of the modalities' gradient norms; 0: never


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training: a context length with its schedule (report §3.2). Stages run in the order of the file."""

    name: str
    max_seq_len: int  # tokens in a packed row
    num_tokens: int  # tokens to train on in this stage, padding included, all ranks together
    batch_tokens: int  # tokens in one optimizer step once the ramp is over, all ranks together
    batch_start_tokens: int = 0  # tokens in the first optimizer step; 0: no ramp (report: 14M to 56M)
    batch_ramp_tokens: int = 0  # tokens over which the batch grows linearly
    micro_batch_rows: int = 1  # rows of one forward pass; the rest is gradient accumulation
    learning_rate: float = 1e-4  # peak
    min_learning_rate: float = 1e-5  # at the end of a decay
    lr_schedule: Literal["wsd", "cosine"] = "wsd"  # report: WSD in the 8K stage, cosine after
    warmup_steps: int = 0  # linear, from 0
    decay_fraction: float = 0.0  # WSD only: share of the stage's tokens at its end spent going down to the minimum
    expert_bias_speed: float = 1e-3  # step of the balancing bias (report: 1e-4, then 1e-5, at 56M-token batches)
    mtp_loss_weight: float = 0.3  # report: 0.3, then 0.1
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    vision: VisionStageConfig = field(default_factory=VisionStageConfig)
    audio: AudioStageConfig = field(default_factory=AudioStageConfig)
    balance: ModalityBalanceConfig = field(default_factory=ModalityBalanceConfig)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with decoupled decay; norms and biases are not decayed."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0  # of the global gradient norm; 0 turns clipping off
    # Of the routers' learning rate. At 1 a small run sends every token to the same experts for its first hundred steps,
    # while all hidden states still look alike (docs/log.md). ERNIE 4.5's open recipe has 0.01.
    router_lr_scale: float = 0.1


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The text tokenizer (report §3.1): loaded from `path`, or trained on the training split when `path` is empty."""

    path: str = ""  # folder of a saved tokenizer
    vision: tuple[str, ...] = ()  # folders of trained vision tokenizers, fewest bits first
    audio: str = ""  # folder of a trained audio tokenizer
    speaker: str = ""  # folder of a trained speaker encoder
    vocab_size: int = 0  # of a newly trained one, special tokens included; 0: the model's
    bpe_dropout: float = 0.0  # probability that a merge is left out when training text is encoded (arXiv:1910.13267)
    max_train_bytes: int = 100_000_000  # of text given to the tokenizer's training


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of samples."""

    name: str
    path: str  # file, folder or glob, relative to the working directory; or `pydoc`: CPython's own documentation
    format: Literal["auto", "jsonl", "text", "pydoc"] = "auto"  # auto: by the ending of the name
    weight: float = 1.0  # share of the samples drawn from this source, relative to the others
    document_separator: Literal["file", "blank_line", "line"] = "file"  # where a plain-text file is cut into documents


@dataclass(frozen=True, kw_only=True)
class VisionDataConfig:
    """How media are corrupted in training."""

    condition_dropout: float = 0.1  # probability that a generated medium loses what stands before it (guidance)
    frame_mask_probability: float = 0.1  # that a frame of a generated film is hidden from all later ones
    flip_min: float = 0.0  # the flip rate of a frame is drawn from [min + step * frame, max + step * frame]
    flip_max: float = 0.25  # (report §2.2.3 gives no number; arXiv:2601.05966: 0 to 0.25, step 0.01)
    flip_step: float = 0.01


@dataclass(frozen=True, kw_only=True)
class AudioDataConfig:
    """How sounds are corrupted and varied in training."""

    condition_dropout: float = 0.1  # probability that a generated sound loses what stands before it (guidance)
    # All sounds of a sample are played up to this share faster or slower, their pitch with it: other voices.
    speed_range: float = 0.0
    # Seconds of silence, at most, before a sound that is heard; its frames then begin elsewhere and have other codes.
    max_delay: float = 0.0
    # Probability that a sound that is heard loses its last levels of codes, at least one; the first ones, which say the
    # words (report §2.3), have to do then, and a voice is learned by heart less easily.
    level_dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where samples come from and how they become batches."""

    train: tuple[SourceConfig, ...]
    validation: tuple[SourceConfig, ...] = ()  # empty: cut from `train` by document
    validation_fraction: float = 0.1  # of the documents of each training source, when `validation` is empty
    validation_by: Literal["document", "tail"] = "document"  # tail: the last share of a source's text, as nanoGPT cuts
    packing: bool = True  # training rows are filled with samples; else each has one, or a run of one, and then padding
    too_long: Literal["split", "error"] = "split"  # what happens to a text longer than the stage's row
    bad_line: Literal["error", "skip"] = "error"  # a malformed line; skipped ones are counted and reported
    num_workers: int = 1  # processes that tokenize; 0: in the training process
    prefetch_batches: int = 4
    vision: VisionDataConfig = field(default_factory=VisionDataConfig)
    audio: AudioDataConfig = field(default_factory=AudioDataConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop around the steps. Intervals are in optimizer steps; 0 means never (but always once, at the end)."""

    output_dir: str = "runs/default"
    # Model folder whose weights a new run begins with; `model:` is then that of its model.yaml, and the text tokenizer
    # that of the folder if it has one, unless tokenizer.path names another. Empty: weights are drawn.
    init_from: str = ""
    seed: int = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 with float32 master weights on GPU
    # What runs its forward again in the backward pass, instead of keeping it: every block (with its input in the host's
    # memory meanwhile), or only its attention or its feed-forward.
    recompute: Literal["none", "full", "full_offload", "attention", "feed_forward"] = "none"
    max_steps: int = 0  # stop early; 0: when the stages are done
    log_steps: int = 10
    eval_steps: int = 100
    sample_steps: int = 200  # 0: none at the end either where processes share the model, which no one then gathers
    save_steps: int = 200
    keep_checkpoints: int = 2  # newest ones kept, beside the best
    async_save: bool = False  # checkpoints are written beside the next steps, from a copy of weights and state
    max_eval_tokens: int = 100_000  # validation tokens an evaluation reads while training; the last one reads all
    visualdl: bool = True
    threads: int = 0  # of the CPU math libraries; 0: as many as cores


@dataclass(frozen=True, kw_only=True)
class MediaPromptConfig:
    """A prompt with media in it or behind it: what is named is seen and heard, then `text` is read, then answered."""

    text: str = ""
    image: str = ""  # file
    video: str = ""  # file
    audio: str = ""  # file, what is said in which is understood
    speaker: str = ""  # file, a reference clip, whose voice is taken
    fps: float = 4.0  # frames a second that are looked at, and that a drawn film is shown at
    answer: Literal["text", "image", "video", "audio"] = "text"
    height: int = 0  # pixels of what is drawn; 0: the first of the model's resolutions
    width: int = 0
    num_frames: int = 1  # of a drawn film


@dataclass(frozen=True, kw_only=True)
class VisualSamplingConfig:
    """How pictures and films are drawn, bit by bit."""

    temperature: float = 1.0  # 0: always the likelier value
    top_p: float = 1.0  # a bit whose likelier value has this probability takes it
    guidance_start: float = 2.0  # classifier-free guidance at the first scale; 1: none
    guidance_end: float = 2.0  # and at the last; linear between


@dataclass(frozen=True, kw_only=True)
class AudioSamplingConfig:
    """How speech is drawn, code by code."""

    temperature: float = 0.5  # 0: always the likeliest code
    top_p: float = 0.8  # the likeliest codes that together have this probability
    top_k: int = 0  # 0: no limit
    guidance: float = 1.0  # classifier-free guidance; 1: none
    max_seconds: float = 10.0  # of a sound, which is ended there


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How the samples that a run shows are drawn."""

    prompts: tuple[str, ...] = ("",)
    media_prompts: tuple[MediaPromptConfig, ...] = ()
    max_new_tokens: int = 128
    temperature: float = 0.8  # 0: greedy
    top_p: float = 0.95
    top_k: int = 0  # 0: no limit
    vision: VisualSamplingConfig = field(default_factory=VisualSamplingConfig)
    audio: AudioSamplingConfig = field(default_factory=AudioSamplingConfig)


@dataclass(frozen=True, kw_only=True)
class OpsConfig:
    """How operators run."""

    # native: compiled by custom_ops/; reference: plain Paddle; auto: native where they are installed
    backend: Literal["auto", "native", "reference"] = "auto"
    # products of weights and of attention in bfloat16, sums and all else in float32: needs native operators and
    # AVX512-BF16
    bf16_products: bool = False
    keep_heap: bool = (
        True  # glibc: freed memory stays with the process, so large tensors do not fault their pages in again
    )


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How a model lies on the processes: pipeline x data x context x tensor of them, data being what they leave."""

    tensor: int = 1  # processes that share each matrix of attention and of dense layers, and the tokens in between
    pipeline: int = 1  # stages of layers, one after the other
    virtual_stages: int = 1  # pieces that each stage holds, interleaved: smaller bubbles, more messages
    expert: int = 1  # processes over which the experts are spread; divides data x context x tensor
    context: int = 1  # processes that share each row of tokens
    sharding: int = 1  # processes over which optimizer state is spread (ZeRO-1); divides data
    # How tokens travel to experts. auto: by DeepEP where this Paddle has it and it takes the model's rows.
    dispatcher: Literal["auto", "all_to_all", "deep_ep"] = "auto"


@dataclass(frozen=True, kw_only=True)
class ServicesConfig:
    """Tokenizers as services, on Ray: they encode the media of coming batches while the backbone computes."""

    num_workers: int = 0  # of each training process; 0: it encodes by itself, when a batch's turn has come
    ahead: int = 4  # batches that are read and on their way behind the one that is trained on
    address: str = ""  # of a Ray cluster; empty: Ray is started on the first process's machine
    gpus_per_worker: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """A run: one model, its stages, its data."""

    model: ModelConfig
    stages: tuple[StageConfig, ...]
    data: DataConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    ops: OpsConfig = field(default_factory=OpsConfig)
    services: ServicesConfig = field(default_factory=ServicesConfig)
    members: tuple[MemberConfig, ...] = ()  # of the elastic family, evaluated beside the full model
