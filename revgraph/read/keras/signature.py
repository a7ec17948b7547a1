"""The signature of a model: the arguments of its `call`, and the names of its inputs and outputs."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from revgraph.graph.graph import by_name, holds_strings
from revgraph.graph.types import Tensors
from revgraph.read.keras import private

OF_STRINGS = (layers.TextVectorization, layers.StringLookup, layers.Hashing)
"""Classes of layers that make numbers of strings."""


class SizesUnknown(ValueError):
    """The model's code needs a size, such as the number of time steps, that is not known without data."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sized:
    """A model together with example inputs, whose sizes are used where the model does not give a size.

    Args:
        model: A Keras model.
        example: The inputs, in the structure in which the model takes them. Only their sizes count.
    """

    model: keras.Model
    example: Tensors = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.model.name


def has_any_size(model: Any) -> bool:
    """Whether a model may take inputs of other sizes than those on which it was built.

    Subclassed models may. Functional models, and anything that is no Keras model, may not.
    """
    return isinstance(model, keras.Model) and not private.has_symbolic_ends(private.functional(model) or model)


def arguments_of(model: keras.Model, example: Tensors = None) -> tuple:
    """The arguments of the model's `call`, as structures of `tf.TensorSpec`.

    Args:
        model: The model.
        example: Inputs whose sizes are used where the model does not give a size. The size of the batch stays open.

    Raises:
        SizesUnknown: The model was built without a shape, and there is no example.
        ValueError: The model is not built, or takes another number of inputs than the example has.
    """
    arguments = _arguments(model, example)
    if example is None:
        return arguments
    # A model takes a dict by input name, whatever the order of its inputs is.
    example = by_name(example, _input_names(arguments))
    if has_any_size(model) and len(keras.tree.flatten(arguments)) == len(keras.tree.flatten(example)):
        # The sizes on which it was built are no limit.
        arguments = keras.tree.map_structure(
            lambda spec: _spec([None] * spec.shape.rank, spec.dtype, spec.name), arguments
        )
    shapes = [np.shape(x) for x in keras.tree.flatten(example)]
    count = len(keras.tree.flatten(arguments))
    if len(shapes) != count:
        raise ValueError(f"The model {model.name!r} takes {count} inputs. Received {len(shapes)}.")
    remaining = iter(shapes)
    return keras.tree.map_structure(lambda spec: _sized(spec, next(remaining)), arguments)


def _sized(spec, shape):
    """A spec whose unknown sizes are those of a shape."""
    if spec.shape.rank != len(shape):
        return spec
    sizes = [n if n is not None else m for n, m in zip(spec.shape[1:], shape[1:], strict=True)]
    return tf.TensorSpec((spec.shape[0], *sizes), spec.dtype, spec.name)


def _arguments(model, example):
    sequential = isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call
    if sequential and not (model.built and model.layers):
        raise ValueError(
            f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data, "
            f"or `model.build(input_shape)`, or add a `keras.Input(shape)` as the first layer."
        )
    symbolic = private.functional(model) or model
    if private.has_symbolic_ends(symbolic):
        return (
            keras.tree.map_structure(
                lambda x: tf.TensorSpec(x.shape, keras.backend.standardize_dtype(x.dtype), x.name),
                private.symbolic_inputs(symbolic),
            ),
        )
    shapes = private.shapes_at_build(model)
    dtype = widest_dtype(model)
    if shapes:
        arguments = tuple(_specs(shape, re.sub("_shape$", "", name), dtype) for name, shape in shapes.items())
        if not any(isinstance(layer, OF_STRINGS) for layer in private.layers_of(model)):
            return arguments
        if example is None:
            raise SizesUnknown(
                f"The model {model.name!r} has a layer for strings, and does not say which of its inputs are strings. "
                f"`create_analyzer` makes an analyzer that learns it from the data."
            )
        return _with_strings(arguments, example)
    if not model.built:
        raise ValueError(
            f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data before "
            f"explaining it, for example `model(x[:1])`."
        )
    if example is None:
        raise SizesUnknown(
            f"The model {model.name!r} does not say which inputs it takes, because it was built without a shape. "
            f"`create_analyzer` makes an analyzer that learns it from the data."
        )
    return (keras.tree.map_structure(lambda x: _of_array(x), example),)


def _with_strings(arguments, example):
    """The arguments with strings where the example has strings."""
    given = keras.tree.flatten(example)
    if len(given) != len(keras.tree.flatten(arguments)):
        return arguments
    parts = iter(given)
    return keras.tree.map_structure(
        lambda spec: tf.TensorSpec(spec.shape, "string" if holds_strings(next(parts)) else spec.dtype, spec.name),
        arguments,
    )


def _of_array(x):
    if holds_strings(x):
        return tf.TensorSpec((None, *np.shape(x)[1:]), "string")
    x = np.asarray(x)
    return _spec(x.shape, x.dtype.name if x.dtype != np.float64 else keras.config.floatx(), None)


def _spec(shape, dtype, name):
    return tf.TensorSpec((None, *shape[1:]), keras.backend.standardize_dtype(dtype), name=name)


def _specs(shape, name, dtype):
    """Specs for a shape, or for a structure of shapes."""
    if isinstance(shape, dict):
        return {key: _specs(value, key, dtype) for key, value in shape.items()}
    if shape and isinstance(shape[0], list | tuple):
        return [_specs(value, f"{name}_{i}", dtype) for i, value in enumerate(shape)]
    return _spec(shape, dtype, name)


def names_of(model: keras.Model, arguments: tuple, outputs: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the inputs and of the outputs, in flat order.

    Args:
        model: The model.
        arguments: The arguments of its `call`, as structures of `tf.TensorSpec`.
        outputs: The structure of its outputs.
    """
    functional, count = private.functional(model), len(keras.tree.flatten(outputs))
    output_names = [f"output_{i}" for i in range(count)] if functional is None else _numbered(functional.output_names)
    if isinstance(outputs, dict):
        output_names = _keys(outputs)
    return tuple(_input_names(arguments)), tuple(output_names)


def _input_names(arguments: tuple) -> list[str]:
    """The names of the inputs, in flat order."""
    names = [re.sub(":0$", "", spec.name or f"input_{i}") for i, spec in enumerate(keras.tree.flatten(arguments))]
    by_key = len(arguments) == 1 and isinstance(arguments[0], dict) and len(arguments[0]) == len(names)
    return sorted(arguments[0]) if by_key else names


def _numbered(names: Iterable[str]) -> list[str]:
    """The names, with numbers behind equal ones. A layer that returns two outputs is `lstm` and `lstm#2`."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return numbered


def _keys(structure: Any) -> list[str]:
    """The key of each output of a dict, in flat order: `logits`, or `attentions/0` where an entry has several."""
    if isinstance(structure, dict):
        parts = [(str(key), structure[key]) for key in sorted(structure)]
    elif isinstance(structure, list | tuple):
        parts = [(str(i), part) for i, part in enumerate(structure)]
    else:
        return [""]
    return [f"{key}/{rest}" if rest else key for key, part in parts for rest in _keys(part)]


def widest_dtype(model: keras.Model) -> str:
    """The floating dtype in which a model is explained: float64 if it has a float64 weight, and float32 otherwise.

    The compute dtype of the model, such as float16, does not matter.
    """
    wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in model.variables)
    return "float64" if wide or model.dtype_policy.variable_dtype == "float64" else "float32"
