"""What preprocessors of KerasHub make: which of its parts are tokens, and which are masks of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TOKENS = ("token_ids", "input_ids")
"""How the names of inputs end that hold the ids of tokens."""


MASKS = ("padding_mask", "attention_mask")
"""How the names of their masks end, which are true where there is no padding."""


def token_names(made: Any) -> list[str]:
    """The names of the inputs that hold the ids of tokens; an empty name where the only input does."""
    if isinstance(made, Mapping):
        return sorted(name for name in made if name.endswith(TOKENS))
    return [""] if not isinstance(made, list | tuple) and np.issubdtype(np.asarray(made).dtype, np.integer) else []


def prefix_of(name: str) -> str:
    """The name of an input of tokens without what all of them have, such as `encoder_`."""
    return next((name.removesuffix(end) for end in TOKENS if name.endswith(end)), name)


def texts_by_input(x: Any, names: Sequence[str]) -> dict[str, Sequence[str]]:
    """The texts that are given for each input of tokens.

    A list is for the only input, or for that of the encoder. In a dict the texts have the names of the inputs, but for
    their end, such as `encoder_text`.

    Args:
        x: What a preprocessor takes.
        names: The names of the inputs of tokens.
    """
    if not isinstance(x, Mapping):
        first = [name for name in names if len(names) == 1 or "encoder" in name]
        x = {f"{prefix_of(name)}text": x for name in first}
    found = {name: x.get(f"{prefix_of(name)}text") for name in names}
    lists = {name: [texts] if isinstance(texts, str) else texts for name, texts in found.items()}
    return {
        name: texts
        for name, texts in lists.items()
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    }


def mask_name(name: str, made: Any) -> str | None:
    """The name of the mask that says where the tokens of an input are no padding; None where there is none."""
    prefix = prefix_of(name)
    return next((prefix + end for end in MASKS if isinstance(made, Mapping) and prefix + end in made), None)


def mask_of(name: str, made: Any) -> np.ndarray | None:
    """The mask that goes with the tokens of an input; None where there is none."""
    mask = mask_name(name, made)
    return None if mask is None else np.asarray(made[mask])


def part_of(made: Any, name: str) -> Any:
    """A part of what a preprocessor makes, by its name; all of it where it is no dict."""
    return made[name] if isinstance(made, Mapping) else made
