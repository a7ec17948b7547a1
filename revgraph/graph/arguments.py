"""Checks of arguments that are numbers: the message names the argument, what it takes, and what came."""

import math
import numbers
from typing import Any

import numpy as np


def check_number(name: str, value: Any, least: float | None = None, above: float | None = None) -> None:
    """Refuses what is not a finite number, or not in range.

    Args:
        name: What the message calls it, such as `"epsilon"` or `"Gamma: gamma"`.
        value: What was received.
        least: The smallest number that is allowed.
        above: A bound that is not allowed itself.

    Raises:
        ValueError: It is no such number.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and (least is None or value >= least) and (above is None or value > above):
        return
    bounds = [f">= {least}"] * (least is not None) + [f"> {above}"] * (above is not None)
    raise ValueError(f"{' '.join([f'{name} must be a number', *bounds])}. Received: {value!r}.")


def check_count(name: str, value: Any) -> None:
    """Refuses what is not a positive int.

    Args:
        name: What the message calls it.
        value: What was received.

    Raises:
        ValueError: It is no positive int.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive int. Received: {value!r}.")


def check_seed(value: Any) -> None:
    """Refuses what is no seed.

    Args:
        value: None, an int that is not negative, or a sequence of such ints.

    Raises:
        ValueError: It is none of these.
    """
    parts = value if isinstance(value, list | tuple) and value else [value]
    if value is None or all(isinstance(p, int | np.integer) and not isinstance(p, bool) and p >= 0 for p in parts):
        return
    raise ValueError(f"seed must be None or an int >= 0. Received: {value!r}.")
