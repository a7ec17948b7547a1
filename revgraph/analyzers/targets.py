"""Where relevance starts: which neuron, and how much."""

import numpy as np
import tensorflow as tf

MAX, ALL, NONE = -1, -2, -3
"""Codes in a vector of selected neurons: the largest, every one, and none."""


def select(selection, batch, graph) -> list[np.ndarray]:
    """One vector of indices per output of the graph; see `indices`.

    Args:
        selection: What `indices` takes; for several outputs a dict by their names, where the others start nothing.
        batch: Number of samples.
        graph: The graph whose outputs are selected from.
    """
    names, slots = graph.output_names, graph.output_slots
    if not isinstance(selection, dict):
        if len(slots) > 1:
            raise ValueError(
                f"The model {graph.name!r} has {len(slots)} outputs: say which to explain with a dict by output name, "
                f"such as neuron_selection={{{names[0]!r}: 0}}. The outputs are {', '.join(map(repr, names))}."
            )
        selection = {names[0]: selection}
    unknown = [name for name in selection if name not in names]
    if unknown or not selection:
        raise KeyError(
            f"neuron_selection names outputs that the model {graph.name!r} does not have: {unknown}. "
            f"The outputs are {', '.join(map(repr, names))}."
        )
    return [
        indices(selection[name], batch, graph.specs[slot].shape[1:])
        if name in selection
        else np.full(batch, NONE, np.int32)
        for name, slot in zip(names, slots, strict=True)
    ]


def start(y, index, own_value):
    """Relevance of the output that selects one neuron per sample.

    Args:
        y: Output, (batch, ...).
        index: int32 of shape (batch,): position in the flattened output, `MAX` or `ALL`. Several maxima share equally.
        own_value: Whether relevance starts as the neuron's own value (LRP) or as 1 (gradients).

    Returns:
        Tensor like y, zero where nothing starts.
    """
    flat = tf.reshape(y, (tf.shape(y)[0], -1))
    top = tf.cast(flat == tf.reduce_max(flat, axis=1, keepdims=True), y.dtype)
    top /= tf.reduce_sum(top, axis=1, keepdims=True)
    chosen = tf.one_hot(index, tf.shape(flat)[1], dtype=y.dtype)
    chosen = tf.where((index == MAX)[:, None], top, tf.where((index == ALL)[:, None], tf.ones_like(flat), chosen))
    return tf.reshape(chosen, tf.shape(y)) * (y if own_value else tf.ones_like(y))


def indices(selection, batch, shape) -> np.ndarray:
    """One index per sample from what a user may pass as `neuron_selection`.

    Args:
        selection: None or "max_activation", "all", an int, or one int per sample.
        batch: Number of samples.
        shape: Shape of the output without the batch axis.

    Returns:
        int32 array of shape (batch,).

    Raises:
        ValueError: Unknown word, wrong number of indices, or index out of range.
        TypeError: Not a selection.
    """
    size = int(np.prod(shape, dtype=np.int64)) if None not in shape else None
    if selection is None or isinstance(selection, str):
        codes = {None: MAX, "max_activation": MAX, "all": ALL}
        if selection not in codes:
            raise ValueError(
                f'neuron_selection takes "max_activation", "all", an index, or one index per sample. '
                f"Received: {selection!r}."
            )
        return np.full(batch, codes[selection], np.int32)
    chosen = np.asarray(selection)
    if chosen.dtype == bool or not np.issubdtype(chosen.dtype, np.integer) or chosen.ndim > 1:
        raise TypeError(
            f'neuron_selection takes "max_activation", "all", an int, or one int per sample. '
            f"Received: {selection!r} of type {type(selection).__name__}."
        )
    if len(shape) != 1:
        raise ValueError(
            f"neuron_selection by a single index needs an output with one axis besides the batch. "
            f"The output has shape (batch, {', '.join(map(str, shape))}): select by a tuple of {len(shape)} indices."
        )
    if chosen.ndim == 0:
        chosen = np.full(batch, chosen)
    if len(chosen) != batch:
        raise ValueError(
            f"neuron_selection has {len(chosen)} indices for {batch} samples: pass one index, or one per sample."
        )
    if size is not None and chosen.size and (chosen.min() < 0 or chosen.max() >= size):
        raise ValueError(
            f"neuron_selection is out of range: the output has {size} neurons, 0 to {size - 1}. "
            f"Received: {selection!r}."
        )
    return chosen.astype(np.int32)
