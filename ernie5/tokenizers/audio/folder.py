"""The folder of an audio tokenizer; readable without Paddle."""

from ernie5.config.audio_tokenizer import AudioTokenizerConfig, check
from ernie5.layers.network_folder import NetworkFolder

FOLDER = NetworkFolder(
    name="audio tokenizer",
    model_type="ernie5_audio_tokenizer",
    version=1,
    config_type=AudioTokenizerConfig,
    check=check,
    command="tools/tokenizer.py train audio",
)
