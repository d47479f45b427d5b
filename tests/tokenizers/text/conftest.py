import pytest

from ernie5.tokenizers.text import train_tokenizer

LINES = [
    "The model predicts the next group of tokens, and the tokens of the group are predicted at once.",
    "def forward(self, hidden_states):\n    return self.down(self.gate(hidden_states) * 12)\n",
    "Модель предсказывает следующую группу токенов, и группа предсказывает токены.",
    "模型预测下一组词元。模型的词元是统一的，词元的模型也是统一的。",
    "モデルは次のトークンを予測する。モデルとトークンの予測。",
    "แบบจำลองทำนายโทเค็นถัดไป แบบจำลองทำนาย",
    "हिन्दी में अगला टोकन और हिन्दी का मॉडल।",
    "😀😀 and 😁, 😀 again; tabs\tand\ttabs",
]


@pytest.fixture(scope="session")
def texts():
    return LINES * 3


@pytest.fixture(scope="session")
def tokenizer(texts):
    return train_tokenizer(texts, 600)
