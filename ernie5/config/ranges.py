"""Ranges of single values: each function returns what is wrong and what to do, or None."""

from collections.abc import Callable, Iterable


def outside(values: dict[str, float], fits: Callable[[float], bool], expected: str) -> str | None:
    """What is wrong with the named values that do not fit, or None."""
    bad = [f"{name} is {value}" for name, value in values.items() if not fits(value)]
    return f"{', '.join(bad)}: {expected}" if bad else None


def not_positive(**values: float) -> str | None:
    """A complaint about values that are not above 0, or None."""
    return outside(values, lambda value: value > 0, "must be above 0")


def negative(**values: float) -> str | None:
    """A complaint about values below 0, or None."""
    return outside(values, lambda value: value >= 0, "must not be negative")


def not_a_share(**values: float) -> str | None:
    """A complaint about values outside 0 to 1, or None."""
    return outside(values, lambda value: 0 <= value <= 1, "must lie between 0 and 1")


def joined(*messages: str | None) -> str | None:
    """Complaints in one, without the Nones; None if there is none."""
    return "; ".join(message for message in messages if message) or None


def prefixed(prefix: str, messages: Iterable[str | None]) -> str | None:
    """As `joined`, each with the section it belongs to."""
    return joined(*(f"{prefix}.{message}" for message in messages if message))
