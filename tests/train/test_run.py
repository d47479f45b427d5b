"""What a run makes of its data before it trains."""

import pytest

from ernie5.config.load import load_config
from ernie5.data.split import open_splits
from ernie5.tokenizers.text import train_tokenizer
from ernie5.train.run import TEXT_BYTES, _Validation
from tests.runs import TINY


@pytest.fixture
def long_text(tmp_path):
    """One text of several pieces, the last tenth of it longer than two."""
    path = tmp_path / "long.txt"
    path.write_text("".join(f"line {i} of a long text\n" for i in range(60_000)))
    return [f"data.train.0.path={path}", "data.train.0.format=text", "data.validation_by=tail"]


def test_a_long_validation_text_is_scored_in_pieces_and_bytes_and_tokens_stay_together(long_text):
    config = load_config(TINY, [*long_text, "train.max_eval_tokens=50000"])
    _, corpora = open_splits(config.data, 0)
    assert corpora[0].num_bytes > 2 * TEXT_BYTES
    tokenizer = train_tokenizer(["line 0123456789 of a long text\n" * 9], 340)
    validation = _Validation(corpora, tokenizer, config)
    whole, quick = validation(64, True), validation(64, False)
    assert whole.num_bytes == corpora[0].num_bytes
    assert 0 < quick.num_bytes < whole.num_bytes
    for found in (whole, quick):
        labels = [int(label) for row in found.rows for label in row.labels[row.loss_weight > 0]]
        assert len(tokenizer.decode(labels).encode()) == found.num_bytes
