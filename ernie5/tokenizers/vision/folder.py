"""The folder of a vision tokenizer; readable without Paddle."""

from ernie5.config.vision_tokenizer import VisionTokenizerConfig, check
from ernie5.layers.network_folder import NetworkFolder

FOLDER = NetworkFolder(
    name="vision tokenizer",
    model_type="ernie5_vision_tokenizer",
    version=2,  # 1, which was not written down, had norms
    config_type=VisionTokenizerConfig,
    check=check,
    command="tools/tokenizer.py train vision",
)
