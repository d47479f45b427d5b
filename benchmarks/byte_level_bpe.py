"""The peer of tokenizer_udhr.py: UTF-8 byte-level BPE by Hugging Face `tokenizers`. JSON on stdin and stdout.

In: {"vocab_size", "num_special", "own_split": bool, "train": [text], "test": {language: [text]}}. With `own_split` the
texts are taken as cut already and merges may use all of each; else GPT-2's expression cuts them.
Out: {"version", "vocab_size", "tokens": {language: count}}.
"""

import json
import sys

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers


def main() -> None:
    job = json.load(sys.stdin)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not job["own_split"])
    trainer = trainers.BpeTrainer(
        vocab_size=job["vocab_size"],
        min_frequency=2,
        special_tokens=[f"<special_{i}>" for i in range(job["num_special"])],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(job["train"], trainer)
    counts = {
        language: sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts))
        for language, texts in job["test"].items()
    }
    json.dump(
        {"version": tokenizers.__version__, "vocab_size": tokenizer.get_vocab_size(), "tokens": counts}, sys.stdout
    )


if __name__ == "__main__":
    main()
