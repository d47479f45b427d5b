"""Text tokenizer: UTF-16BE byte-pair encoding (report §3.1)."""

from ernie5.tokenizers.text.presplit import Segmenter, jieba_segmenter
from ernie5.tokenizers.text.special import CHAT_TEMPLATE, SPECIAL_TOKENS
from ernie5.tokenizers.text.stream import StreamDecoder
from ernie5.tokenizers.text.tokenizer import TextTokenizer
from ernie5.tokenizers.text.train import train_tokenizer

__all__ = [
    "CHAT_TEMPLATE",
    "SPECIAL_TOKENS",
    "Segmenter",
    "StreamDecoder",
    "TextTokenizer",
    "jieba_segmenter",
    "train_tokenizer",
]
