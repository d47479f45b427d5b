"""What an exported folder says of itself, and the program that runs it."""

from ernie5.config.schema import ModelConfig

RUN_PY = '''"""Runs the exported model of this folder: python run.py --prompt "Once upon a time"."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "ernie5.zip"))  # the sources that the model was exported with

from ernie5.inference.predictor.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(HERE))
'''

_README = """# {name}

A text model of {layers} layers and {experts}, exported by ernie5 for Paddle Inference.

    pip install paddlepaddle=={paddle}
    python run.py --prompt "Once upon a time"

`python run.py --help` lists the options. {operators}

From Python, with ernie5 installed or `ernie5.zip` on the path:

    from ernie5.inference.predictor import Predictor

    predictor = Predictor("this folder")
    print(predictor.generate("Once upon a time", max_new_tokens=64))

| file | what |
|---|---|
{programs}{prediction}| `*.pdiparams` | the weights, {dtype} |
| `export.json` | inputs and outputs of each program, versions, SHA-256 of each file |
| `config.json`, `generation_config.json`, `tokenizer*`, `special_tokens_map.json` | of the model folder |
| `ernie5.zip`, `run.py` | what runs them |

Set by whoever runs the programs directly: oneDNN off (`config.disable_mkldnn()`; on a CPU it is on, and computes
another routing), and outputs copied before the next run, which overwrites them.
"""
_PLAIN = """| `words.json` | ids to embedded words; hidden states to logits |
| `decoder_0.json` | the layers: embedded tokens [rows, n, hidden] and what is kept, to hidden states, keys and values |
"""
_NATIVE = """| `step.json` | ids to logits: one ragged row of tokens over pages of keys, which it writes in place |
"""


def readme_of(config: ModelConfig, ops: str, dtype: str) -> str:
    """The model card."""
    import paddle

    moe = config.moe
    experts = f"{moe.num_experts} experts, {moe.num_experts_per_tok} a token" if moe.num_experts else "no experts"
    operators = "It needs no other package."
    if ops == "native":
        operators = "It needs the compiled operators too: `pip install ./custom_ops` from ernie5's sources."
    return _README.format(
        name=config.name,
        layers=config.num_hidden_layers,
        experts=experts,
        paddle=paddle.__version__,
        operators=operators,
        dtype=dtype,
        programs=_NATIVE if ops == "native" else _PLAIN,
        prediction="| `prediction.json` | the prediction block, whose guesses make answers faster |\n"
        if config.num_nextn_predict_layers
        else "",
    )
