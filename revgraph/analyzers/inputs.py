"""What `analyze` takes: arrays, tensors, lists and dicts of them, checked before anything runs."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.ids import check_ids
from revgraph.graph.analysis import inputs_with_indices
from revgraph.graph.arguments import check_count
from revgraph.graph.callers import outside
from revgraph.graph.graph import Graph, by_name, holds_strings
from revgraph.graph.types import Relevance, Tensors

Batch: TypeAlias = tuple[list[Any], slice, int]
"""Flat inputs, which of the samples they are, and how many samples there are."""


def flat_inputs(x: Tensors, graph: Graph, ids: bool = True) -> list[Any]:
    """The arrays of the model's inputs in flat order, checked.

    Args:
        x: Array or tensor, or the structure of them that the model takes; a dict by input names is always taken.
        graph: The model's graph.
        ids: Whether ids are checked, too.

    Returns:
        List of NumPy arrays or tensors, all with the same number of samples.

    Raises:
        TypeError: Not numbers, half precision, or inside of a `tf.function`.
        ValueError: Wrong number of inputs, wrong shape, different batch sizes, no samples, or ids outside of a table.
    """
    if tf.inside_function():
        raise TypeError(
            "An analyzer does not run inside of a tf.function or of Dataset.map, because it compiles functions of its "
            "own and looks at values: call analyze outside, or write the analyzer with analyzer.export(path) and call "
            "that SavedModel inside; analyzer.save(path) keeps it as an analyzer."
        )
    check_texts(x)
    slots, names = graph.input_slots, graph.input_names
    parts = _parts(x, graph)
    if not graph.strings and holds_strings(x):
        raise TypeError(_no_preprocessor(x, ", ".join(map(repr, names)), graph))
    if len(parts) != len(slots):
        raise ValueError(
            f"The model {graph.name!r} takes {len(slots)} inputs ({', '.join(names)}). Received {len(parts)}."
        )
    arrays = [_array(part, name, slot, graph) for part, name, slot in zip(parts, names, slots, strict=True)]
    sizes = {array.shape[0] for array in arrays}
    if len(sizes) > 1:
        raise ValueError(f"All inputs need the same number of samples. Received: {sorted(sizes)}.")
    if sizes == {0}:
        raise ValueError("Nothing to explain: the batch is empty. Pass at least one sample.")
    # Some of several inputs may be empty, such as the pictures beside a sentence.
    if all(0 in array.shape[1:] for array in arrays):
        raise ValueError(
            f"Nothing to explain: the samples of input {names[0]!r} have no entries, because its shape is "
            f"{tuple(arrays[0].shape)}. Pass sequences of at least one step."
        )
    if ids:
        check_ids(arrays, graph)
    return arrays


def check_texts(x: Any) -> None:
    """Refuses lists without anything in them, and lists of texts with something else among them.

    Args:
        x: What `analyze` takes, or a dict or tuple of what a preprocessor takes.

    Raises:
        TypeError: Something stands beside texts.
        ValueError: A list is empty.
    """
    for part in x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) and x else [x]:
        if isinstance(part, list | tuple) and not part:
            raise ValueError("Nothing to explain: the batch is empty. Pass at least one sample.")
        entries = list(_entries(part)) if isinstance(part, list | tuple | np.ndarray) else []
        others = [entry for entry in entries if not holds_strings(entry)]
        if others and len(others) < len(entries):
            raise TypeError(
                f"A list of texts holds strings alone. Received: {others[0]!r} of type {type(others[0]).__name__} "
                f'beside {len(entries) - len(others)} strings. Write it as a string, or "" for no text.'
            )


def _entries(values):
    """What nested lists and arrays of objects hold, but for arrays and tensors, which are inputs of their own."""
    if isinstance(values, np.ndarray):
        # Other arrays have entries of one kind.
        values = values.tolist() if values.dtype.kind == "O" else []
    for value in values:
        if isinstance(value, list | tuple):
            yield from _entries(value)
        elif not np.ndim(value):
            yield value


def packed(flat: list[np.ndarray], graph: Graph) -> Relevance:
    """Arrays of the model's inputs in the structure in which the model takes them.

    One input in a list is an array, as it is for `predict`: who has one input need not say so.

    Args:
        flat: List of arrays, in flat order.
        graph: The model's graph.
    """
    structure = graph.inputs
    while isinstance(structure, list | tuple) and len(structure) == 1:
        (structure,) = structure
    return keras.tree.pack_sequence_as(structure, flat)


def is_stream(x: object) -> bool:
    """Whether x gives batches one by one: a dataset, a `PyDataset` or a generator."""
    return isinstance(x, tf.data.Dataset | keras.utils.PyDataset | Iterator)


def batches(x: Tensors, graph: Graph, batch_size: int | None = None, verbose: int = 0) -> Iterator[Batch]:
    """Batches of what `analyze` takes.

    Args:
        x: See `Analyzer.analyze`.
        graph: The model's graph.
        batch_size: Samples at once; all of an array by default.
        verbose: 1 shows a progress bar.

    Returns:
        Iterator over checked flat inputs, which samples they are, and of how many. Each batch of a stream stands by
        itself, and is cut if it has more than `batch_size` samples.
    """
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if is_stream(x):
        return _stream(x, graph, batch_size, verbose)
    return _slices(flat_inputs(x, graph), batch_size, verbose)


def _slices(inputs, batch_size, verbose):
    count = int(inputs[0].shape[0])
    size = batch_size or count
    progress = keras.utils.Progbar(-(-count // size)) if verbose else None
    for first in range(0, count, size):
        samples = slice(first, first + size)
        yield [array[samples] for array in inputs], samples, count
        if progress:
            progress.add(1)


def _stream(x, graph, batch_size, verbose):
    if isinstance(x, keras.utils.PyDataset):
        x = map(x.__getitem__, range(len(x)))
    elif isinstance(x, tf.data.Dataset) and batch_size:
        x = x.unbatch().batch(batch_size)
    progress = keras.utils.Progbar(None) if verbose else None
    empty = True
    for batch in x:
        yield from _slices(flat_inputs(batch[0] if isinstance(batch, tuple) else batch, graph), batch_size, 0)
        empty = False
        if progress:
            progress.add(1)
    if empty:
        raise ValueError("Nothing to explain: the dataset is empty.")


def _parts(x, graph):
    if isinstance(x, dict):
        if set(graph.input_names) <= set(x):
            _warn_unused(sorted(set(x) - set(graph.input_names)), graph)
            return by_name(x, graph.input_names)
        missing = [name for name in graph.input_names if name not in x]
        raise ValueError(
            f"The inputs are named {list(graph.input_names)}. Received a dict with keys {sorted(map(str, x))}. Add "
            f"{', '.join(map(repr, missing))}."
        )
    if isinstance(x, list | tuple) and len(graph.input_slots) == 1:
        whole = len(x) == 1 and _rank(x[0]) == len(graph.specs[graph.input_slots[0]].shape)
        return list(x) if whole else [_stacked(x, graph)]
    return list(keras.tree.flatten(x)) if isinstance(x, list | tuple) else [x]


def _warn_unused(keys, graph):
    """Says which entries of a dict are no inputs. Keras leaves them out where the inputs of a model are a list."""
    if keys:
        warnings.warn(
            f"{', '.join(map(repr, keys))}: no such inputs of the model {graph.name!r}, so they are left out. It takes "
            f"{', '.join(map(repr, graph.input_names))}.",
            stacklevel=outside(),
        )


def _rank(x):
    """The number of axes of an array, a tensor or nested lists; None for what is no array."""
    try:
        return np.ndim(x)
    except ValueError:
        return None


def _stacked(x, graph):
    """A list of numbers as one array; a list of arrays is not one input."""
    if any(isinstance(part, np.ndarray | tf.Tensor) for part in x) and len(x) > 1:
        shapes = {np.shape(part) for part in x}
        rank = len(graph.specs[graph.input_slots[0]].shape)
        if len(shapes) > 1 or len(next(iter(shapes))) != rank - 1:
            raise ValueError(f"The model {graph.name!r} takes 1 input ({graph.input_names[0]}). Received {len(x)}.")
    return x


def _array(part, name, slot, graph):
    if holds_strings(part):
        part = _numbers_of_strings(part, name, slot, graph)
    array = part if isinstance(part, tf.Tensor | tf.Variable) else _to_numpy(part, name)
    dtype = tf.as_dtype(array.dtype)
    if dtype in (tf.float16, tf.bfloat16):
        raise TypeError(
            f'Input {name!r} is {dtype.name}, which has too few digits for relevance. Convert it: x.astype("float32").'
        )
    if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
        raise TypeError(f"Input {name!r} must hold numbers. Received dtype {array.dtype}.")
    _check_shape(tuple(array.shape), name, graph.specs[slot].shape)
    if dtype.is_floating and not np.isfinite(np.sum(array)):
        _warn_not_finite(array, name)
    return array


def _numbers_of_strings(part, name, slot, graph):
    """What the layers for strings at the front of a model make of strings."""
    if slot not in graph.strings:
        raise TypeError(_no_preprocessor(part, repr(name), graph))
    before = graph.strings[slot]
    strings, expected = tf.convert_to_tensor(part), before.specs[before.inputs].shape
    if strings.shape.rank == 0:
        # A single text is a batch of one, as it is for a preprocessor.
        strings = tf.reshape(strings, (1,) * len(expected))
    _check_shape(tuple(strings.shape), name, expected)
    return graph.cast(slot, strings)


def _no_preprocessor(given, inputs, graph):
    return (
        f"Input {inputs} must be an array of numbers. Received: {type(given).__name__} with strings, and the model "
        f"{graph.name!r} has no preprocessor that makes numbers of them. Pass the ids that your tokenizer makes, or "
        f"explain a model that has its own: a task of KerasHub with its preprocessor, or a Keras model that begins "
        f"with TextVectorization."
    )


def _to_numpy(part, name):
    try:
        array = np.asarray(part)
    except ValueError as error:
        raise ValueError(f"Input {name!r} is not an array: {error}") from error
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"Input {name!r} must be an array of numbers. Received: {type(part).__name__} with dtype {array.dtype}."
        )
    return array


def _check_shape(shape, name, expected):
    wanted = "(batch" + "".join(f", {'any' if n is None else n}" for n in expected[1:]) + ")"
    if len(shape) == len(expected) - 1:
        raise ValueError(
            f"Input {name!r} lacks an axis: expected shape {wanted}, received {shape}. One sample needs a batch axis "
            f"too: x[None]."
        )
    fits = len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape[1:], expected[1:], strict=True))
    if not fits:
        raise ValueError(f"Input {name!r} has the wrong shape: expected {wanted}, received {shape}.")


def _warn_not_finite(array, name):
    bad = ~np.isfinite(np.asarray(array))
    if not bad.any():
        return
    samples = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    kind = "NaN" if np.isnan(np.asarray(array)).any() else "infinite values"
    warnings.warn(
        f"Input {name!r} contains {kind} (samples {samples[:10].tolist()}); their relevance will not be finite.",
        stacklevel=outside(),
    )


def refuse_mixed_ids(name: str, graph: Graph) -> None:
    """Refuses a model with ids among the numbers of an input, for methods that multiply by inputs or change them.

    Args:
        name: Name of the method.
        graph: The model's graph.

    Raises:
        TypeError: There are such ids.
    """
    mixed = inputs_with_indices(graph)
    if mixed:
        raise TypeError(
            f"{name} multiplies by the inputs or changes them, and {', '.join(map(repr, mixed))} has ids beside other "
            f"numbers: some of its entries are looked up in a table. Give the ids an input of their own, or use a "
            f'method of LRP or "gradient".'
        )
