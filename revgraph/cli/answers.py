"""What commands say: their results as text or as JSON, and that the command line is wrong."""

import contextlib
import json
import math
from argparse import Namespace
from collections.abc import Iterator
from typing import Any


class UsageError(Exception):
    """The command line itself is wrong."""


def tell(options: Namespace, told: Any, text: Any) -> None:
    """Prints the results of a command.

    Args:
        options: The parsed options.
        told: The results for `--json`.
        text: What is printed without it.
    """
    if options.json:
        print(as_json(told), file=options.stdout, flush=True)
    else:
        print(text, flush=True)


def as_json(told: Any) -> str:
    """Results as JSON. It knows no NaN and no infinity, so these become null.

    Args:
        told: Dicts, lists, texts, numbers and None.

    Returns:
        The text.
    """
    return json.dumps(_with_null(told), allow_nan=False)


def _with_null(told):
    if isinstance(told, dict):
        return {key: _with_null(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return [_with_null(value) for value in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


@contextlib.contextmanager
def wrong(option: str) -> Iterator[None]:
    """Turns errors of what an option says into errors of the command line.

    Args:
        option: The option, such as `--metrics`.

    Raises:
        UsageError: The block raises a TypeError, a ValueError, or an error of a look-up.
    """
    try:
        yield
    except (TypeError, ValueError, LookupError) as error:
        raise UsageError(f"{option}: {error.args[0]}") from error
