import sys

import numpy as np
import pytest

from ernie5.errors import UserError
from ernie5.tokenizers.text.presplit import jieba_segmenter, presplit


@pytest.mark.parametrize(
    "text, parts",
    [
        ("Hello brave world", ["Hello", " brave", " world"]),
        ("a = 42.5", ["a", " =", " ", "4", "2", ".", "5"]),
        ("x:\n    y", ["x", ":\n", "   ", " y"]),
        ("one\n\n\ttwo", ["one", "\n\n", "\t", "two"]),
        ("हिन्दी में", ["हिन्दी", " में"]),
        ("中文abc中文", ["中文", "abc", "中文"]),
        ("漢字とカタカナ", ["漢字", "と", "カタカナ"]),
        ("ภาษาไทย ๑๒", ["ภาษาไทย", " ", "๑", "๒"]),
        ("བོད་ཡིག།", ["བོད་ཡིག", "།"]),
    ],
)
def test_text_is_cut_at_words_digits_scripts_and_runs(text, parts):
    assert list(presplit(text)) == parts


def test_parts_join_to_the_text():
    rng = np.random.default_rng(3)
    for high in (0x80, 0x3000, 0x110000):
        text = "".join(map(chr, rng.integers(0, high, 4000)))
        assert "".join(presplit(text)) == text


def test_jieba_cuts_chinese_into_words_and_leaves_other_scripts():
    pytest.importorskip("jieba")
    assert list(presplit("北京大学生活动中心ภาษาไทย", jieba_segmenter()))[-1] == "ภาษาไทย"
    assert list(presplit("我们学习人工智能", jieba_segmenter())) == ["我们", "学习", "人工智能"]


def test_jieba_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UserError, match="pip install jieba"):
        jieba_segmenter()
