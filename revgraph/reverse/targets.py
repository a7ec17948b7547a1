"""Targets: the neurons at which relevance starts, and how much relevance each of them gets."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.graph.types import Selection
from revgraph.reverse.sides import are_sides, signs

MAX, ALL, NONE = -1, -2, -3
"""Codes that stand for a neuron's index: the neuron of largest value, all neurons, no neuron."""

_WORDS = {None: MAX, "max_activation": MAX, "all": ALL}
_TAKES = (
    'neuron_selection takes "max_activation", "all", an int, one int per sample, an int array of shape '
    "(batch, targets), a tuple of ints and slices, a boolean mask, factors of the output's shape, a function of it, or "
    'for an output of one unit "positive" and "negative"'
)


def why_nothing_starts(graph: Graph, slot: int) -> str | None:
    """The reason why no relevance can start at a tensor; None if it can.

    Args:
        graph: A graph.
        slot: The number of the tensor in the graph.
    """
    spec = graph.specs[slot]
    if not tf.as_dtype(spec.dtype).is_floating:
        return f"it holds {spec.dtype}, and relevance is a share of a number that depends smoothly on the inputs"
    batch = {graph.specs[each].shape[0] for each in graph.input_slots}
    if not spec.shape or (spec.shape[0] is not None and spec.shape[0] not in batch):
        return f"its shape {spec.shape} has no axis for samples, so it is not the output of any sample"
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """The start of relevance at one output. One of `index`, `mask`, `contrast` and `place` selects neurons.

    Args:
        index: int32 (batch,) or (batch, targets): positions in the flattened output, or codes.
        mask: bool or float, of the output's shape (batch, ...): factors on the neurons.
        contrast: Function of the output that returns one number per sample, such as the difference of two classes.
        place: Tuple or index array that selects from an output of free size. It can be checked only when there is an
            output.
        amount: How much relevance a selected neuron starts with: an array (batch, ...) of the output's rank, where axes
            of size 1 broadcast, or a function of the output that returns it. None for the analyzer's own start.
    """

    index: np.ndarray | None = None
    mask: np.ndarray | None = None
    contrast: Callable[[tf.Tensor], tf.Tensor] | None = None
    place: tuple[Any, ...] | np.ndarray | None = None
    amount: Any = None

    def part(self, samples: slice) -> "Target":
        """The target for some of the samples."""

        def cut(value):
            return value[samples] if isinstance(value, np.ndarray) else value

        return Target(cut(self.index), cut(self.mask), self.contrast, cut(self.place), cut(self.amount))

    def needs_output(self) -> bool:
        """Whether the start depends on the values or the size of the output."""
        return self.contrast is not None or self.place is not None or callable(self.amount)

    def on(self, y: tf.Tensor, reference: tf.Tensor | None = None) -> "Target":
        """The same target for an output y, (batch, ...), on which it no longer depends.

        Args:
            y: The output.
            reference: The output of the reference with which a method compares, like y.

        Raises:
            ValueError: A function of the output is not linear between the reference and y, so it has no one slope.
        """
        batch, *shape = map(int, y.shape)
        mask = self.mask
        if self.contrast is not None:
            mask = slope(self.contrast, y)
            if reference is not None:
                _check_linear(self.contrast, mask, y, reference)
        amount = self.amount
        if callable(amount):
            amount = as_amount(amount(tf.convert_to_tensor(y)), batch, tuple(shape))
        if self.place is not None:
            return dataclasses.replace(_target(self.place, None, batch, tuple(shape)), amount=amount)
        return Target(self.index, mask, amount=amount)

    def tensors(self, dtype: str) -> tuple[tf.Tensor, ...]:
        """The target as arguments of a compiled `start`: the index or the mask, and the amount if there is one."""
        first = tf.constant(self.index, tf.int32) if self.mask is None else tf.cast(self.mask, dtype)
        return (first,) if self.amount is None else (first, tf.cast(self.amount, dtype))

    def specs(self, rank: int, dtype: str) -> tuple[tf.TensorSpec, ...]:
        """The signature of `tensors` for any batch size.

        Args:
            rank: The number of axes of the output.
            dtype: The floating dtype of the graph.
        """
        full = tf.TensorSpec((None,) * rank, dtype)
        first = full if self.index is None else tf.TensorSpec((None,) * self.index.ndim, tf.int32)
        return (first,) if self.amount is None else (first, full)


def start(y: tf.Tensor, tensors: Sequence[tf.Tensor], own: tf.Tensor) -> tf.Tensor:
    """The relevance that starts at an output.

    Args:
        y: The output, (batch, ...).
        tensors: The target, as `Target.tensors` returns it, with an index of shape (batch,).
        own: The analyzer's own start, of y's shape: y itself (LRP) or ones (gradients).

    Returns:
        Tensor of y's shape, zero where no relevance starts.
    """
    first, *amount = tensors
    chosen = chosen_neurons(y, first) if first.dtype == tf.int32 else first
    return chosen * (amount[0] if amount else own)


def chosen_neurons(y: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The share of each neuron in a selection: 1 for a selected neuron, 0 for others. Several maxima share equally.

    Args:
        y: The output, (batch, ...).
        index: int32 (batch,): positions in the flattened output, or codes.

    Returns:
        Tensor of y's shape.
    """
    flat = tf.reshape(y, (tf.shape(y)[0], -1))
    top = tf.cast(flat == tf.reduce_max(flat, axis=1, keepdims=True), y.dtype)
    top /= tf.reduce_sum(top, axis=1, keepdims=True)
    chosen = tf.one_hot(index, tf.shape(flat)[1], dtype=y.dtype)
    chosen = tf.where((index == MAX)[:, None], top, tf.where((index == ALL)[:, None], tf.ones_like(flat), chosen))
    return tf.reshape(chosen, tf.shape(y))


def _check_linear(contrast, mask, y, reference):
    found = np.asarray(contrast(tf.convert_to_tensor(y)) - contrast(tf.convert_to_tensor(reference)))
    steps = (mask * np.asarray(y - reference)).reshape(len(found), -1)
    # The contrast subtracts outputs that may be much larger than their differences, so it is rounded.
    summands = np.abs(mask) * np.maximum(np.abs(y), np.abs(reference))
    rounding = 4 * np.finfo(steps.dtype).eps * summands.reshape(len(found), -1).sum(axis=1)
    if np.any(np.abs(found - steps.sum(axis=1)) > 1e-4 * np.abs(steps).sum(axis=1) + rounding):
        raise ValueError(
            "A method that compares with a reference takes as neuron_selection only functions that are linear in the "
            "output, such as lambda y: y[:, 3] - y[:, 5]. Give the model such an output of its own, and select that."
        )


def slope(contrast: Callable[[tf.Tensor], tf.Tensor], y: tf.Tensor) -> np.ndarray:
    """The gradient df/dy, of y's shape, of a function f that returns one number per sample.

    Raises:
        ValueError: The function returns something else, or is not computed with TensorFlow.
    """
    y = tf.convert_to_tensor(y)
    with tf.GradientTape() as tape:
        tape.watch(y)
        value = contrast(y)
    if not tf.is_tensor(value) or tuple(value.shape) != (y.shape[0],):
        raise ValueError(
            f"A function given as neuron_selection must return one number per sample, a tensor of shape "
            f"({y.shape[0]},). Received: {getattr(value, 'shape', type(value).__name__)}."
        )
    gradient = tape.gradient(value, y)
    if gradient is None:
        raise ValueError(
            "A function given as neuron_selection must compute its result from the output with TensorFlow or keras.ops."
        )
    return gradient.numpy()


def make_targets(
    selection: Selection,
    initial_relevance: Any,
    batch: int,
    names: Sequence[str],
    shapes: Sequence[tuple[int | None, ...]],
) -> list[Target]:
    """One target per output, from the arguments of `analyze`.

    Args:
        selection: See `Analyzer.analyze`. For several outputs a dict by name; no relevance starts at outputs that are
            not in it.
        initial_relevance: See `Analyzer.analyze`. For several outputs a dict by name, or one value for all.
        batch: Number of samples.
        names: Names of the outputs.
        shapes: The shapes of the outputs without the batch axis; None for a free size.

    Raises:
        KeyError: There is no output of a name.
        TypeError: A selection is of no known type.
        ValueError: A selection or an amount does not fit its output, or it is not clear which output is meant.
    """
    if not isinstance(selection, Mapping):
        if len(names) > 1:
            raise ValueError(
                f"There are {len(names)} outputs: say which to explain with a dict by output name, such as "
                f"neuron_selection={{{names[0]!r}: 0}}. The outputs are {', '.join(map(repr, names))}."
            )
        selection = {names[0]: selection}
    amounts = initial_relevance
    if not isinstance(amounts, Mapping):
        amounts = dict.fromkeys(selection, initial_relevance)
    unknown = [name for name in dict.fromkeys((*selection, *amounts)) if name not in names]
    if unknown or not selection:
        raise KeyError(f"Unknown outputs {unknown}. The outputs are {', '.join(map(repr, names))}.")
    return [
        _target(selection[name], amounts.get(name), batch, shape)
        if name in selection
        else Target(np.full(batch, NONE, np.int32))
        for name, shape in zip(names, shapes, strict=True)
    ]


def _target(selection, initial, batch, shape):
    amount = initial if initial is None or callable(initial) else as_amount(initial, batch, shape)
    if selection is None and isinstance(amount, np.ndarray) and np.ndim(initial) == len(shape) + 1:
        return Target(mask=np.ones(amount.shape, bool), amount=amount)
    if callable(selection):
        return Target(contrast=selection, amount=amount)
    if are_sides(selection):
        return Target(mask=signs(selection, batch, shape), amount=amount)
    if selection is None or isinstance(selection, str):
        if selection not in _WORDS:
            raise ValueError(f"{_TAKES}. Received: {selection!r}.")
        return Target(np.full(batch, _WORDS[selection], np.int32), amount=amount)
    if isinstance(selection, slice):
        selection = (selection,)
    if isinstance(selection, tuple):
        _check_tuple(selection, shape)
        if None in shape:
            return Target(place=selection, amount=amount)
        return Target(mask=_mask_of_tuple(selection, batch, shape), amount=amount)
    chosen = np.asarray(selection)
    if chosen.dtype == bool:
        return Target(mask=_checked_mask(chosen, batch, shape), amount=amount)
    if chosen.dtype.kind == "f" and chosen.ndim == len(shape) + 1:
        return Target(mask=_checked_mask(chosen, batch, shape), amount=amount)
    index = _checked_index(chosen, selection, batch, shape)
    return Target(place=index, amount=amount) if None in shape else Target(index, amount=amount)


def as_amount(value: Any, batch: int, shape: tuple[int | None, ...]) -> np.ndarray:
    """Start relevance as an array (batch, ...) that broadcasts against the output.

    Args:
        value: A number, one number per sample, or an array of the output's shape.
        batch: Number of samples.
        shape: The shape of the output without the batch axis.

    Raises:
        TypeError: It holds no numbers.
        ValueError: It has another shape.
    """
    value = np.asarray(value)
    if not (np.issubdtype(value.dtype, np.number)):
        raise TypeError(f"initial_relevance must be numbers. Received dtype {value.dtype}.")
    broadcast = (batch, *(1,) * len(shape))
    if value.ndim == 0:
        return np.full(broadcast, value)
    if value.shape == (batch,):
        return value.reshape(broadcast)
    fits = value.ndim == len(shape) + 1 and all(
        e is None or s == e for s, e in zip(value.shape, (batch, *shape), strict=True)
    )
    if not fits:
        raise ValueError(
            f"initial_relevance must be a number, one number per sample, or an array of the output's shape "
            f"{_text((batch, *shape))}. Received shape {value.shape}."
        )
    return value


def _check_tuple(selection, shape):
    if len(selection) != len(shape):
        raise ValueError(
            f"A tuple given as neuron_selection needs an index or a slice for each of the {len(shape)} axes after the "
            f"batch: the shape is {_text(('batch', *shape))}. Received {selection!r}."
        )
    for axis, (chosen, size) in enumerate(zip(selection, shape, strict=True)):
        if isinstance(chosen, slice):
            if size is not None and not range(*chosen.indices(size)):
                raise ValueError(
                    f"neuron_selection selects nothing on axis {axis + 1}, whose size is {size}. Received: {chosen!r}."
                )
            continue
        if not isinstance(chosen, int | np.integer) or isinstance(chosen, bool):
            raise TypeError(f"A tuple given as neuron_selection holds ints and slices. Received: {selection!r}.")
        if size is not None and not -size <= chosen < size:
            raise ValueError(
                f"neuron_selection is out of range on axis {axis + 1}: {chosen!r} for size {size}. The shape is "
                f"{_text(('batch', *shape))}."
            )


def _mask_of_tuple(selection, batch, shape):
    mask = np.zeros((batch, *shape), bool)
    mask[(slice(None), *selection)] = True
    return mask


def _checked_mask(mask, batch, shape):
    full = (batch, *shape)
    if mask.shape == full[1:]:
        mask = np.broadcast_to(mask, (batch, *mask.shape))
    if mask.ndim != len(full) or any(e not in (None, s) for s, e in zip(mask.shape, full, strict=True)):
        raise ValueError(
            f"{'A boolean mask' if mask.dtype == bool else 'Factors'} given as neuron_selection needs the output's "
            f"shape {_text(full)}. Received {mask.shape}."
        )
    return mask


def _checked_index(chosen, selection, batch, shape):
    if not np.issubdtype(chosen.dtype, np.integer) or chosen.ndim > 2:
        raise TypeError(f"{_TAKES}. Received: {selection!r} of type {type(selection).__name__}.")
    if len(shape) != 1:
        raise ValueError(
            f"A single index selects from one axis besides the batch. The shape is {_text(('batch', *shape))}: select "
            f"by a tuple of {len(shape)} indices or slices."
        )
    if chosen.ndim == 0:
        chosen = np.full(batch, chosen)
    if len(chosen) != batch:
        raise ValueError(
            f"neuron_selection has {len(chosen)} entries for {batch} samples: pass one index, or one per sample."
        )
    # Negative numbers are codes from here on, such as that of the largest neuron.
    return chosen if shape[0] is None else from_start(chosen, shape[0], selection)


def from_start(index: np.ndarray, size: int, received: Any) -> np.ndarray:
    """Indices of neurons counted from the first one, of which negative ones were counted from the end.

    Args:
        index: Ints.
        size: Number of neurons.
        received: What the user gave, for the error.

    Returns:
        int32 array of the shape of `index`.

    Raises:
        ValueError: There is no such neuron.
    """
    if index.size and not -size <= index.min() <= index.max() < size:
        there = "is 1 neuron, 0" if size == 1 else f"are {size} neurons, 0 to {size - 1}"
        rest = (
            'The two classes of a binary classifier are words here: "negative" for the label 0 and "positive" for 1, '
            'one for all samples or a list, such as ["negative", "positive"].'
            if size == 1
            else f"Negative numbers count from the end, -{size} to -1."
        )
        raise ValueError(f"neuron_selection is out of range: there {there}. Received: {received!r}. {rest}")
    return np.where(index < 0, index + size, index).astype(np.int32)


def _text(shape):
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"


def single(chosen: Sequence[Target], asked: str) -> Sequence[Target]:
    """The targets, if there is one per sample.

    Args:
        chosen: The targets.
        asked: The method that was asked, for the message.

    Raises:
        ValueError: There are several per sample.
    """
    if any(target.index is not None and target.index.ndim > 1 for target in chosen):
        raise ValueError(
            f"{asked} follows one target per sample. Ask for several targets one by one, such as "
            f"neuron_selection=targets[:, 0]."
        )
    return chosen
