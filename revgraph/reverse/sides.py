"""The two classes that an output of one unit tells apart: words for them, and their signs."""

from typing import Any

import numpy as np

from revgraph.graph.types import Selection

SIDES = {"negative": -1, "positive": 1}
"""Words for the two classes, and their signs. They stand in the order of labels, 0 and 1."""


def are_sides(selection: Selection) -> bool:
    """Whether a selection is `"positive"` or `"negative"`, or one of these words per sample.

    Args:
        selection: See `Analyzer.analyze`.
    """
    several = isinstance(selection, list) or (isinstance(selection, np.ndarray) and selection.ndim == 1)
    words: Any = selection if several else [selection]
    return len(words) > 0 and all(isinstance(word, str) and word in SIDES for word in words)


def signs(selection: Selection, batch: int, shape: tuple[int | None, ...]) -> np.ndarray:
    """The signs of the classes that are selected, as factors of an output of one unit: (batch, 1).

    Args:
        selection: One word, or one per sample.
        batch: Number of samples.
        shape: The shape of the output without the batch axis.

    Raises:
        ValueError: The output has several units, or the number of words does not fit.
    """
    if any(size != 1 for size in shape):
        raise ValueError(
            f'"positive" and "negative" are the two classes of an output of one unit. The shape is '
            f"{(batch, *shape)}: select by an index. Received: {selection!r}."
        )
    words: Any = selection if isinstance(selection, list | np.ndarray) else [selection]
    if len(words) not in (1, batch):
        raise ValueError(
            f"neuron_selection has {len(words)} words for {batch} samples: pass one word, or one per sample."
        )
    found = np.array([SIDES[word] for word in words], float).reshape(-1, *(1,) * len(shape))
    return np.broadcast_to(found, (batch, *found.shape[1:]))
