"""The operators that an exported program may have.

Programs are code: Paddle has operators that read and write files, call Python or talk to other machines. A folder may
come from anywhere, so whatever is not named here is refused before Paddle sees it; the exporter refuses it too.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ernie5.errors import UserError

# As a program's JSON names them: the number of the dialect (1: Paddle's operators, 3: compiled ones), then the name;
# `p` is a parameter. `pylayer` is a block of operators, not Python.
ALLOWED = frozenset(
    """
    0.combine 1.add 1.any 1.arange 1.argsort 1.bmm 1.cast 1.clip 1.concat 1.cumsum 1.data 1.divide 1.embedding
    1.expand 1.fetch 1.flatten 1.floor_divide 1.full 1.full_int_array 1.full_with_tensor 1.gather
    1.greater_equal 1.if 1.index_sample 1.less_equal 1.less_than 1.logical_and 1.matmul 1.max 1.multiply
    1.one_hot 1.pylayer 1.reshape 1.rsqrt 1.scale 1.scatter 1.shape64 1.share_data_ 1.sigmoid 1.slice 1.softmax
    1.squeeze 1.stack 1.subtract 1.sum 1.swiglu 1.transpose 1.unsqueeze 2.yield 3.ernie5_head_logits
    3.ernie5_paged_decoder_layers_ 3.ernie5_rms_norm p
    """.split()
)


def operators_in(program: Any) -> Iterator[str]:
    """The names of all operators of a program's JSON as they stand there, those of branches and loops too."""
    waiting = [program]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for operator in value.get("ops", []):
                yield str(operator.get("#"))
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def refuse_unknown(operators: Iterable[str], source: Path) -> None:
    """UserError for an operator that no exported program has."""
    unknown = sorted(set(operators) - ALLOWED)
    if unknown:
        raise UserError(f"{source}: has operators that no exported model has ({', '.join(unknown)}): it is not run")
