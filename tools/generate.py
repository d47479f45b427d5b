"""Goes on from a prompt with a trained model.

    python tools/generate.py runs/pydoc/model --prompt 'The "for" statement'
    python tools/generate.py runs/pydoc/model --prompt "A class" --temperature 0 --top-k-experts 2

The folder is `model/` of a run, or any other that holds config.json, the weights and the tokenizer.
"""

import argparse
import math
import sys

from ernie5.errors import UserError, exit_cleanly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="DIR", help="model folder")
    parser.add_argument("--prompt", default="", help="beginning of the text; empty: the start of a document")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely token")
    parser.add_argument(
        "--top-p", type=float, default=0.95, help="draw from the likeliest tokens of this joint probability"
    )
    parser.add_argument("--top-k", type=int, default=0, help="draw from this many likeliest tokens; 0: no limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-layers", type=int, default=0, help="elastic depth: layers to run; 0: all")
    parser.add_argument("--top-k-experts", type=int, default=0, help="elastic sparsity: experts a token; 0: as trained")
    arguments = parser.parse_args()
    if arguments.max_new_tokens < 1 or min(arguments.top_k, arguments.seed) < 0:
        raise UserError("--max-new-tokens must be 1 or more, --top-k and --seed 0 or more")
    if not 0 <= arguments.temperature < math.inf or not 0 < arguments.top_p <= 1:
        raise UserError("--temperature must be a number from 0 on, --top-p above 0 and at most 1")
    from ernie5.config.schema import GenerationConfig, MemberConfig, OpsConfig
    from ernie5.ops import runtime

    runtime.start_paddle()
    runtime.configure(OpsConfig())
    from ernie5.config.rules import check_member
    from ernie5.elastic.sampler import member_subnet
    from ernie5.inference.generate import generate_ids
    from ernie5.model.folder import from_pretrained
    from ernie5.tokenizers.text import TextTokenizer

    model, tokenizer = from_pretrained(arguments.model), TextTokenizer.from_pretrained(arguments.model)
    model.eval()
    member = MemberConfig(name="this run", num_layers=arguments.num_layers, top_k=arguments.top_k_experts)
    check_member(member, model.config)
    config = GenerationConfig(
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
    )
    prompt = [tokenizer.bos_id, *tokenizer.encode(arguments.prompt)]
    stream = tokenizer.stream()
    subnet = member_subnet(model.config, member)
    sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(arguments.prompt)
    for (token_id,) in generate_ids(model, [prompt], config, tokenizer.eos_id, arguments.seed, subnet):
        sys.stdout.write(stream.push(int(token_id)))
        sys.stdout.flush()
    sys.stdout.write(stream.finish() + "\n")


if __name__ == "__main__":
    exit_cleanly(main)
