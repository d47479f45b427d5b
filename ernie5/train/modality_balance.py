"""Weights of the modalities' losses by what those losses have been so far (report §3.2: posterior-based balancing).

Which formula the report uses is not published. Ours brings every modality's mean loss to the interval of the text's:
weight = (average of the text's loss / average of the modality's own) ** power, each an exponential average over steps.
With power 1 they get there; a text whose answers are nearly learned then outweighs everything: a smaller power helps.
"""

from collections.abc import Mapping

from ernie5.config.schema import ModalityBalanceConfig

REFERENCE = "text"
BALANCED = ("vision", "audio")


def averaged(averages: Mapping[str, float], losses: Mapping[str, float | None], decay: float) -> dict[str, float]:
    """The averages with a step's mean losses; one that begins starts with its first loss, None leaves it as it is."""
    new = {name: loss for name, loss in losses.items() if loss is not None}
    return dict(averages) | {
        name: decay * averages[name] + (1 - decay) * loss if name in averages else loss for name, loss in new.items()
    }


def balance_weights(averages: Mapping[str, float], config: ModalityBalanceConfig) -> dict[str, float]:
    """A factor for each modality's loss, 1 for the text and as long as nothing is known."""
    weights = {REFERENCE: 1.0, **dict.fromkeys(BALANCED, 1.0)}
    if config.method == "none" or not averages.get(REFERENCE):
        return weights
    return weights | {
        name: (averages[REFERENCE] / averages[name]) ** config.power for name in BALANCED if averages.get(name)
    }
