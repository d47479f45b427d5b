"""Rules of `parallel:`. Whether its degrees fit the processes is known only when these have met (`make_mesh`)."""

from dataclasses import asdict

from ernie5.config.ranges import not_positive
from ernie5.config.schema import Config

BUILT = ("expert",)  # ways to share a model that are built; data parallelism needs no setting


def degrees_are_positive_and_built(config: Config) -> str | None:
    degrees = asdict(config.parallel)
    if message := not_positive(**degrees):
        return f"parallel.{message}"
    asked = {name: degree for name, degree in degrees.items() if degree > 1 and name not in BUILT}
    if not asked:
        return None
    name, degree = next(iter(asked.items()))
    return f"parallel.{name} is {degree}, but so far a model can be shared by `expert` and by data alone: leave it out"


def experts_can_be_spread(config: Config) -> str | None:
    degree, experts = config.parallel.expert, config.model.moe.num_experts
    if degree > 1 and (experts == 0 or experts % degree):
        return f"parallel.expert is {degree}, which does not divide the model's {experts} experts: set it to a divisor"
    return None


def gradients_are_measured_on_one_process(config: Config) -> str | None:
    """The first process alone would go through the experts, which are all over."""
    for i, stage in enumerate(config.stages):
        if config.parallel.expert > 1 and stage.balance.measure_steps:
            return (
                f"stages.{i}.balance.measure_steps is {stage.balance.measure_steps}, but gradients of one modality "
                "cannot be measured where experts are spread: set it to 0, or parallel.expert to 1"
            )
    return None


PARALLEL_RUN_RULES = (
    degrees_are_positive_and_built,
    experts_can_be_spread,
    gradients_are_measured_on_one_process,
)
