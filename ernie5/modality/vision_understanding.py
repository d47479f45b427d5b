"""Understanding: what a picture or a film is for the backbone, through two paths (report §2.2.2)."""

import paddle
from paddle import nn

from ernie5.config.schema import VisionConfig
from ernie5.modality.patch_merger import PatchMerger, group_cells
from ernie5.modality.vision_transformer import VisionTransformer
from ernie5.tokenizers.vision.encoder import VisionEncoder


class VisionUnderstanding(nn.Layer):
    """pixels float32 [batch, frames, height, width, 3] in [-1, 1] -> [batch, tokens, hidden].

    The CNN path is the vision tokenizer's encoder before quantisation, whose bits would lose fine semantics; it stays
    as the tokenizer was trained. The ViT learns with the backbone. `understanding_path` may leave one of them out.
    Tokens are in the order of `understanding_layout`; no loss is put on them.
    """

    def __init__(self, config: VisionConfig, hidden_size: int, initializer_range: float):
        super().__init__()
        self.cnn = self.vit = None
        if config.understanding_path != "vit":
            self.cnn = VisionEncoder(config.encoder)
            for parameter in self.cnn.parameters():
                parameter.stop_gradient = True
        if config.understanding_path != "cnn":
            self.vit = VisionTransformer(config.vit, config.encoder, initializer_range)
        channels = config.encoder.channels[-1] if self.cnn is not None else 0
        self.merger = PatchMerger(channels, config.vit.hidden_size, config.merger_heads, hidden_size, initializer_range)

    def load_cnn(self, weights: dict[str, paddle.Tensor]) -> None:
        """Takes the weights of a trained tokenizer's encoder of the same configuration, its `state_dict`."""
        if self.cnn is None:
            return
        for name, parameter in self.cnn.state_dict(keep_vars=True).items():  # set_state_dict only warns of a misfit
            parameter.set_value(weights[name])

    def forward(self, pixels: paddle.Tensor) -> paddle.Tensor:
        cnn = vit = None
        if self.cnn is not None:
            with paddle.no_grad():
                cnn = group_cells(self.cnn(pixels)).astype(self.merger.out_proj.weight.dtype)
        if self.vit is not None:
            vit = group_cells(self.vit(pixels))
        return self.merger(cnn, vit).reshape([pixels.shape[0], -1, self.merger.out_proj.weight.shape[1]])
