"""One training step: batch to tensors, forward, backward, AdamW. Random ids, no clipping, float32.

    python benchmarks/train_step.py --batch 4 --seq 512

With --serve it takes turns with another program: see README.md.
"""

import argparse
import gc
import time
from pathlib import Path

import protocol

from ernie5.config.load import load_model_config
from ernie5.config.schema import OpsConfig
from ernie5.ops import runtime

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "configs/model/yardstick.yaml")
    parser.add_argument("--batch", type=int, default=4, help="rows of a batch")
    parser.add_argument("--seq", type=int, default=512, help="tokens of a row")
    parser.add_argument("--no-keep-heap", dest="keep_heap", action="store_false", help="let freed memory go")
    parser.add_argument("--bf16-products", action="store_true", help="products of weights in bfloat16")
    protocol.add_options(parser)
    args = parser.parse_args()
    runtime.start_paddle()
    runtime.configure(OpsConfig(keep_heap=args.keep_heap, bf16_products=args.bf16_products))
    step, facts = make_step(args)
    gc.freeze()  # as the trainer does
    protocol.run(step, facts, args)


def make_step(args: argparse.Namespace):
    """(a function that takes one step and says how long its phases took, what it is about)."""
    import paddle

    from ernie5.modality.batch import make_batch
    from ernie5.model.ernie5 import Ernie5ForCausalLM
    from ernie5.model.subnet import full_subnet
    from ernie5.ops.adamw import AdamW

    config = load_model_config(args.model)
    paddle.seed(0)
    model = Ernie5ForCausalLM(config)
    parameters = model.parameters()
    optimizer = AdamW(1e-4, parameters=parameters, weight_decay=0.1, apply_decay_param_fun=lambda name: True)
    rows, subnet = random_rows(args.batch, args.seq, config.vocab_size), full_subnet(config)

    def step() -> protocol.Record:
        times = [time.process_time()]
        losses = model(make_batch(rows), subnet)
        objective = losses.text if losses.mtp is None else losses.text + losses.mtp
        objective = objective / (args.batch * args.seq)
        times.append(time.process_time())
        objective.backward()
        times.append(time.process_time())
        optimizer.step()
        optimizer.clear_grad(set_to_zero=False)
        times.append(time.process_time())
        phases = zip(("forward_cpu_s", "backward_cpu_s", "optimizer_cpu_s"), times, times[1:], strict=False)
        return {**{name: end - start for name, start, end in phases}, "loss": float(objective)}

    num_parameters = sum(parameter.size for parameter in parameters)
    facts = {"framework": f"paddle {paddle.__version__}", "model": config.name, "parameters": num_parameters}
    return step, {**facts, "batch": args.batch, "seq": args.seq, "keep_heap": args.keep_heap}


def random_rows(batch: int, seq: int, vocab_size: int):
    """Stacked rows, one document each."""
    import numpy as np

    from ernie5.modality.unified import UnifiedSequence

    ids = np.random.default_rng(0).integers(0, vocab_size, (batch, seq + 1))
    position = np.arange(seq)
    mask_rows = np.stack([np.full(seq, seq), position], -1).astype(np.int32)
    return UnifiedSequence(
        input_ids=ids[:, :-1],
        labels=ids[:, 1:],
        token_kind=np.zeros((batch, seq), np.int8),
        position_ids=np.broadcast_to(position[None, :, None], (batch, seq, 3)).astype(np.float32),
        loss_weight=np.ones((batch, seq), np.float32),
        mask_rows=np.broadcast_to(mask_rows, (batch, seq, 2)),
        document_ids=np.zeros((batch, seq), np.int32),
    )


if __name__ == "__main__":
    main()
