"""Memory and time of long rows: a small decoder forward and backward, its rows on one process or cut over several.

    python benchmarks/long_context.py --output docs/benchmarks/long_context_2026-11-23.md

Each case is run in processes of its own, one thread each. Memory is the peak of a process's resident set above what it
had with the model built; time is CPU seconds of the process that took most, so other programs count little.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ernie5.parallel.processes import other_processes

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, WIDTH = 64, 4, 2, 1, 16, 8, 2, 64
LENGTHS = 8192, 32768, 131072
LAYOUTS = (1, "none"), (1, "full"), (2, "none"), (2, "full")  # processes, recompute
LONGEST_ALONE = 32768  # one document of 128K tokens takes one process too long


class Case(NamedTuple):
    tokens: int
    row: str  # "documents" of mixed lengths, or "one document"
    context: int
    recompute: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=LENGTHS, help="lengths of the row")
    parser.add_argument("--output", type=Path, help="a page for the table")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)  # tokens, row, processes, recompute
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        tokens, row, context, recompute = args.case
        run(Case(int(tokens), row, int(context), recompute), args.folder)
        return
    lines = ["| tokens | row | processes | recompute | MiB a process | bytes a token of the row | CPU s | sent, MiB |"]
    lines += ["|---:|---|---:|---|---:|---:|---:|---:|"]
    print("\n".join(lines), flush=True)
    for case in cases(args.tokens):
        lines.append(table_row(case, measured(case)))
        print(lines[-1], flush=True)
    if args.output:
        args.output.write_text(page(lines), encoding="utf-8")


def cases(lengths: list[int]) -> list[Case]:
    every = [Case(n, row, *layout) for row in ("documents", "one document") for n in lengths for layout in LAYOUTS]
    slow = {case for case in every if case.row == "one document" and case.tokens > LONGEST_ALONE}
    return [case for case in every if case not in slow or (case.context, case.recompute) == (2, "full")]


def measured(case: Case) -> list[dict[str, float]]:
    """What each process of a case says."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--folder", folder, "--case", *map(str, case)]
        subprocess.run(command, check=True)
        return [json.loads((Path(folder) / f"rank_{rank}.json").read_text()) for rank in range(case.context)]


def table_row(case: Case, found: list[dict[str, float]]) -> str:
    peak, cpu, sent = (max(one[key] for one in found) for key in ("peak_mib", "cpu_s", "sent_mib"))
    each = round(peak * 2**20 / case.tokens)
    head = f"| {case.tokens:,} | {case.row} | {case.context} | {case.recompute} "
    return head + f"| {peak:,.0f} | {each:,} | {cpu:.1f} | {sent:.1f} |"


def page(lines: list[str]) -> str:
    cpu = next(
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model n" in line
    )
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = [
        "# Long rows: memory and time over length, on one process and on two",
        f"{time.strftime('%Y-%m-%d')}, commit {commit}, {cpu}, one thread a process, Python "
        f"{platform.python_version()}, float32, compiled operators, other programs on the machine:",
        "```bash\npython " + " ".join(sys.argv) + "\n```",
        f"A decoder of {LAYERS} layers, hidden {HIDDEN}, {HEADS} heads of {HEAD_DIM} over {KV_HEADS} of keys, "
        f"{EXPERTS} experts of {WIDTH} of which a token takes {TOP_K}: forward and backward of one row, no head and no "
        "optimizer.\nMemory: the peak of a process above what it had with the model built. Documents: 64 to 8,192 "
        "tokens, short ones more often.\nOn two processes each holds two chunks of the row; sent: keys, values and "
        "their gradients, by the process that sent most.",
    ]
    return "\n\n".join(about) + "\n\n" + "\n".join(lines) + "\n"


def run(case: Case, folder: Path) -> None:
    """In the processes of a case: writes rank_<n>.json."""
    with other_processes(case.context, folder):
        from ernie5.ops import runtime

        runtime.start_paddle(1)
        import paddle

        from ernie5.config.schema import OpsConfig
        from ernie5.parallel.data_parallel import join

        runtime.configure(OpsConfig(keep_heap=False))
        rank = join().rank
        group = paddle.distributed.new_group(list(range(case.context))) if case.context > 1 else None
        model, inputs = build(case, rank, group)
        before, start = status_mib("VmRSS"), time.process_time()
        hidden_states, layout, subnet = inputs()
        output = model.decoder(hidden_states, layout, subnet).hidden_states
        (output * output).sum().backward()
        found = {"peak_mib": status_mib("VmHWM") - before, "cpu_s": time.process_time() - start}
        found["sent_mib"] = group.process_group.bytes_sent / 2**20 if group is not None else 0.0
        (folder / f"rank_{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def build(case: Case, rank: int, group: Any):
    """The model, and what makes the tokens of this process, their layout and the subnet."""
    import paddle

    from ernie5.config.schema import AttentionConfig, ModelConfig, MoEConfig
    from ernie5.layers.layout import Layout
    from ernie5.layers.rope import rotation
    from ernie5.model.ernie5 import Ernie5ForCausalLM
    from ernie5.model.subnet import full_subnet
    from ernie5.ops.attention import Mask
    from ernie5.parallel.context import ContextParallelAttention, own_tokens
    from ernie5.parallel.recompute import recompute_blocks

    config = ModelConfig(
        name="long_context",
        vocab_size=64,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_nextn_predict_layers=0,
        attention=AttentionConfig(num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM),
        moe=MoEConfig(num_experts=EXPERTS, num_experts_per_tok=TOP_K, moe_intermediate_size=WIDTH),
    )
    paddle.seed(0)
    model = Ernie5ForCausalLM(config)
    if group is not None:
        attend = ContextParallelAttention(group)
        for block in model.blocks().values():
            block.self_attn.attend = attend
    recompute_blocks(model, case.recompute)

    def inputs():
        own = own_tokens(case.tokens, case.context, rank)
        mask_rows, positions = row_of(case)
        layout = Layout(
            Mask(case.tokens, case.tokens, mask_rows), rotation(paddle.to_tensor(positions[:, own]), config.attention)
        )
        hidden_states = paddle.randn([1, len(own), HIDDEN])
        hidden_states.stop_gradient = False
        return hidden_states, layout, full_subnet(config)

    return model, inputs


def row_of(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """mask_rows int32 [1, seq, 2] and position_ids float32 [1, seq, 3]."""
    lengths = np.array([case.tokens])
    if case.row == "documents":
        lengths = np.exp(np.random.default_rng(0).uniform(np.log(64), np.log(8192), case.tokens // 64)).astype(int)
        ends = np.cumsum(lengths).clip(max=case.tokens)
        lengths = np.diff(ends, prepend=0)
    ends, token = np.repeat(np.cumsum(lengths), lengths), np.arange(case.tokens)
    position = token - np.repeat(np.cumsum(lengths) - lengths, lengths)
    mask_rows = np.stack([ends, token], -1)[None].astype(np.int32)
    return mask_rows, np.repeat(position[None, :, None], 3, axis=2).astype(np.float32)


def status_mib(key: str) -> float:
    """VmRSS, what this process has resident, or VmHWM, the most that it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


if __name__ == "__main__":
    main()
