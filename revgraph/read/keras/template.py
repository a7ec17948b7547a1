"""The arguments of a call, with placeholders where tensors of the graph stood."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands for a tensor of the graph in the arguments of a call.

    Args:
        index: Position in the site's inputs.
        dtype: The dtype that the tensor has in the model.
    """

    index: int
    dtype: str


@dataclasses.dataclass(frozen=True)
class Template:
    """The arguments of a call, with a `Slot` in the place of each tensor of the graph.

    Args:
        args, kwargs: The arguments.
        dtype: The floating dtype in which the graph computes.
    """

    args: tuple
    kwargs: dict[str, Any]
    dtype: str

    def fill(self, tensors):
        """Positional and named arguments with tensors in the place of their slots, without `training`."""
        kwargs = {k: v for k, v in self.kwargs.items() if k != "training"}
        return keras.tree.map_structure(
            lambda a: tensors[a.index] if isinstance(a, Slot) else a, (tuple(self.args), kwargs)
        )

    def bind(self, function):
        """The function of the tensors alone, in inference, whose floating results have the dtype of the graph."""
        inference = {"training": False} if "training" in parameters(function) else {}

        def call(*tensors):
            args, kwargs = self.fill(tensors)
            return function(*args, **kwargs, **inference)

        own = {slot.index: slot.dtype for slot in self.slots()}
        return in_either_dtype(call, self.dtype, [own[i] for i in sorted(own)])

    def slots(self) -> list[Slot]:
        """The slots in the order in which they stand in the arguments."""
        return slots_in((self.args, self.kwargs))

    def named(self, function) -> dict[str, Any]:
        """The arguments by the names of the function's parameters."""
        bound = inspect.signature(function).bind_partial(*self.args, **self.kwargs)
        return dict(bound.arguments)

    def argument(self, function, name, default=None):
        """The value that the parameter `name` of `function` was given."""
        return self.named(function).get(name, default)


def is_symbolic(value) -> bool:
    """Whether a value is a tensor of a TensorFlow graph, which has no numbers yet."""
    return tf.is_tensor(value) and not hasattr(value, "numpy")


def template_of(args, kwargs, dtype) -> tuple[Template, tuple]:
    """The template of a call, and the tensors that its slots stand for.

    Args:
        args, kwargs: The arguments of the call, with tensors of a TensorFlow graph in them.
        dtype: The floating dtype in which the graph computes.
    """
    read = []

    def slot(a):
        if not is_symbolic(a):
            return a
        read.append(a)
        return Slot(len(read) - 1, a.dtype.name)

    args, kwargs = keras.tree.map_structure(slot, (tuple(args), dict(kwargs)))
    return Template(args, kwargs, dtype), tuple(read)


def in_either_dtype(function, dtype, own) -> Callable:
    """The function in the dtype of the graph, or in its own dtypes where it cannot compute in that of the graph.

    Code that holds float32 constants or variables cannot take the float64 tensors of a graph that computes in float64.
    What it computes in float32 is then converted.

    Args:
        function: A function of tensors, which returns a structure of tensors.
        dtype: The floating dtype of the graph.
        own: The dtype of each tensor in the model.

    Returns:
        A function of the same tensors, whose floating results have the dtype of the graph.
    """

    def call(*tensors):
        try:
            results = function(*tensors)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError):
            # What different dtypes raise depends on whether TensorFlow runs eagerly.
            narrow = [tf.cast(x, t) if x.dtype.is_floating else x for x, t in zip(tensors, own, strict=True)]
            if all(x.dtype == y.dtype for x, y in zip(tensors, narrow, strict=True)):
                raise
            results = function(*narrow)
        return keras.tree.map_structure(lambda z: tf.cast(z, dtype) if z.dtype.is_floating else z, results)

    return call


def slots_in(structure) -> list[Slot]:
    """The slots in a structure of arguments."""
    return [a for a in keras.tree.flatten(structure) if isinstance(a, Slot)]


def constants_in(structure) -> list:
    """What stands in a structure of arguments besides slots: numbers, arrays, tensors, variables."""
    return [a for a in keras.tree.flatten(structure) if not isinstance(a, Slot) and a is not None]


def known(constant, test) -> bool:
    """Whether a constant is known now, cannot change, and passes a test of its values. A variable can change."""
    if isinstance(constant, tf.Variable | keras.Variable):
        return False
    try:
        return bool(np.all(test(np.asarray(constant))))
    except (TypeError, ValueError, NotImplementedError):
        # A tensor without a value, or an object that NumPy does not know.
        return False


def parameters(function):
    """The parameters of a function by name; none where Python cannot tell."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
