"""PaddleNLP's Trainer on our model and toy data. A program too, because a resume must work in a fresh process:

python -m tests.integrations.train_toy MODEL_DIR OUTPUT_DIR unified|plain CHECKPOINT
"""

import sys
import warnings
from pathlib import Path

NUM_STEPS, SAVE_STEPS = 12, 6  # an epoch has 4


def toy_data() -> list[dict[str, list[int]]]:
    """Rows of counting modulo 7, of different lengths: ids 40 to 46, each decided by the one before."""
    rows = [[40 + (start + i) % 7 for i in range(6 + start % 3)] for start in range(32)]
    return [{"input_ids": row, "labels": row} for row in rows]


def train(model_dir: Path, output_dir: Path, checkpoint_format: str, checkpoint: Path | None = None):
    """Trains for NUM_STEPS from the folder, or from a checkpoint on; returns the Trainer and the balance callback."""
    from paddle.io import BatchSampler
    from paddlenlp.data import DataCollatorForSeq2Seq
    from paddlenlp.datasets import MapDataset
    from paddlenlp.trainer import Trainer, TrainingArguments

    from ernie5.integrations.paddlenlp import Ernie5PretrainedModel, Ernie5Tokenizer, ExpertBalanceCallback

    class InOrder(Trainer):
        """Theirs shuffles anew after a resume, so that two runs could not be compared."""

        def _get_train_sampler(self):
            return BatchSampler(self.train_dataset, batch_size=self.args.per_device_train_batch_size)

    tokenizer = Ernie5Tokenizer.from_pretrained(str(model_dir))
    balance = ExpertBalanceCallback(speed=1e-2)
    trainer = InOrder(
        model=Ernie5PretrainedModel.from_pretrained(str(model_dir)),
        args=TrainingArguments(
            output_dir=str(output_dir),
            device="cpu",
            max_steps=NUM_STEPS,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=2e-2,
            logging_steps=1,
            save_steps=SAVE_STEPS,
            unified_checkpoint=checkpoint_format == "unified",
            report_to=["visualdl"],
            disable_tqdm=True,
        ),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        train_dataset=MapDataset(toy_data()),
        eval_dataset=MapDataset(toy_data()[:8]),
        tokenizer=tokenizer,
        callbacks=[balance],
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer, balance


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[3] == "unified":
        # Shifts the names that Paddle gives to parameters; the plain format could not be resumed after this.
        from paddle import nn

        nn.Embedding(2, 2), nn.Linear(2, 2)
    train(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
