"""The states of the random generators as JSON, without pickle: after a resume they draw what would have come."""

import random
from typing import Any

import numpy as np
import paddle


def get_rng_states() -> dict[str, Any]:
    """States of Paddle's generators (of the current device), NumPy's global one and Python's; JSON-able."""
    bits, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    return {
        "paddle": [_state_json(state) for state in paddle.get_rng_state()],
        "numpy": {"bits": bits, "keys": keys.tolist(), "position": position, "has_gauss": has_gauss, "gauss": gauss},
        "python": {"version": version, "internal": list(internal), "gauss_next": gauss_next},
    }


def set_rng_states(states: dict[str, Any]) -> None:
    """Puts back what `get_rng_states` gave, exactly."""
    kind = type(paddle.get_rng_state()[0])  # the class has no public name
    paddle.set_rng_state([_state_of_json(kind, state) for state in states["paddle"]])
    found = states["numpy"]
    keys = np.array(found["keys"], np.uint32)
    np.random.set_state((found["bits"], keys, found["position"], found["has_gauss"], found["gauss"]))
    found = states["python"]
    random.setstate((found["version"], tuple(found["internal"]), found["gauss_next"]))


def _state_json(state: Any) -> dict[str, Any]:
    device, seed, offset, engine = state.__getstate__()  # the engine: the characters of std::mt19937_64's text form
    return {"device": device, "seed": seed, "offset": offset, "engine": bytes(engine).decode("ascii")}


def _state_of_json(kind: type, found: dict[str, Any]) -> Any:
    state = kind.__new__(kind)
    state.__setstate__((found["device"], found["seed"], found["offset"], list(found["engine"].encode("ascii"))))
    return state
