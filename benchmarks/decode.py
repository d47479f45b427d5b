"""Greedy decoding of a batch of random prompts, prefill included, float32.

    python benchmarks/decode.py --batch 8 --prompt 128 --new 128 --top-k 1

With --serve it takes turns with another program: see README.md.
"""

import argparse
from pathlib import Path

import protocol

from ernie5.config.load import load_model_config
from ernie5.config.schema import GenerationConfig, OpsConfig
from ernie5.ops import runtime

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", type=Path, default=ROOT / "configs/model/yardstick.yaml", help="a YAML, for random weights"
    )
    parser.add_argument("--exported", type=Path, help="in its place, an exported folder: what is run is fixed in it")
    parser.add_argument("--batch", type=int, default=1, help="prompts read together")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=128, help="tokens to generate")
    parser.add_argument("--top-k", type=int, default=0, help="experts a token is sent to; 0: as in the full model")
    parser.add_argument("--layers", type=int, default=0, help="layers run, the first ones; 0: all")
    parser.add_argument("--no-keep-heap", dest="keep_heap", action="store_false", help="let freed memory go")
    protocol.add_options(parser)
    args = parser.parse_args()
    runtime.start_paddle()
    runtime.configure(OpsConfig(keep_heap=args.keep_heap))
    decode, facts = make_decode(args)
    protocol.run(decode, facts, args)


def make_decode(args: argparse.Namespace):
    """(a function that decodes once, what it is about)."""
    import numpy as np
    import paddle

    from ernie5.inference.generate import generate_ids

    model, subnet = exported_model(args.exported) if args.exported else random_model(args)
    config = model.config
    prompts = np.random.default_rng(1).integers(0, config.vocab_size, (args.batch, args.prompt)).tolist()
    generation = GenerationConfig(max_new_tokens=args.new, temperature=0)

    def decode() -> protocol.Record:
        steps = sum(1 for _ in generate_ids(model, prompts, generation, eos_id=None, subnet=subnet))
        return {"new_tokens": steps * args.batch}

    facts = {"framework": f"paddle {paddle.__version__}", "model": config.name, "exported": bool(args.exported)}
    if subnet is not None:
        facts |= {"top_k": subnet.top_k, "layers": len(subnet.layer_ids)}
    return decode, {**facts, "batch": args.batch, "prompt": args.prompt, "new": args.new, "keep_heap": args.keep_heap}


def exported_model(folder: Path):
    from ernie5.inference.predictor.exported import ExportedModel

    return ExportedModel(folder), None


def random_model(args: argparse.Namespace):
    """(the model, the member that is run)."""
    import paddle

    from ernie5.model.ernie5 import Ernie5ForCausalLM
    from ernie5.model.subnet import make_subnet

    config = load_model_config(args.model)
    paddle.seed(0)
    model = Ernie5ForCausalLM(config)
    model.eval()
    top_k, layers = args.top_k or config.moe.num_experts_per_tok, args.layers or config.num_hidden_layers
    return model, make_subnet(config, range(layers), None, top_k)


if __name__ == "__main__":
    main()
