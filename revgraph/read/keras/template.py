"""Templates: the arguments of a call, with a placeholder for each tensor of the graph."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    def fill(self, tensors: Sequence[tf.Tensor]) -> tuple[tuple, dict[str, Any]]:
        """The positional and the named arguments of a call on these tensors, without `training`.

        Args:
            tensors: One tensor for each slot, by the index of the slot.
        """
        kwargs = {k: v for k, v in self.kwargs.items() if k != "training"}
        return keras.tree.map_structure(
            lambda a: tensors[a.index] if isinstance(a, Slot) else a, (tuple(self.args), kwargs)
        )

    def bind(self, function: Callable) -> Callable:
        """A function of the tensors alone, which calls `function` in inference with all other arguments as they were.

        Its floating results have the dtype of the graph.
        """
        inference = {"training": False} if "training" in parameters(function) else {}

        def call(*tensors):
            args, kwargs = self.fill(tensors)
            return function(*args, **kwargs, **inference)

        own = {slot.index: slot.dtype for slot in self.slots()}
        return in_either_dtype(call, self.dtype, [own[i] for i in sorted(own)])

    def slots(self) -> list[Slot]:
        """The slots in the order of the arguments."""
        return slots_in((self.args, self.kwargs))

    def named(self, function: Callable) -> dict[str, Any]:
        """The arguments by the names of the parameters of `function`."""
        bound = inspect.signature(function).bind_partial(*self.args, **self.kwargs)
        return dict(bound.arguments)

    def argument(self, function: Callable, name: str, default: Any = None) -> Any:
        """The argument for the parameter `name` of `function`."""
        return self.named(function).get(name, default)


def is_symbolic(value: Any) -> bool:
    """Whether a value is a tensor of a TensorFlow graph, which has no values yet."""
    return tf.is_tensor(value) and not hasattr(value, "numpy")


def template_of(args: Iterable, kwargs: Mapping[str, Any], dtype: str) -> tuple[Template, tuple[tf.Tensor, ...]]:
    """Makes the template of a call.

    Args:
        args, kwargs: The arguments of the call, with tensors of a TensorFlow graph in them.
        dtype: The floating dtype in which the graph computes.

    Returns:
        The template, and the tensor for each of its slots.
    """
    read: list[tf.Tensor] = []

    def slot(a):
        if not is_symbolic(a):
            return a
        read.append(a)
        return Slot(len(read) - 1, a.dtype.name)

    positional, named = keras.tree.map_structure(slot, (tuple(args), dict(kwargs)))
    return Template(positional, named, dtype), tuple(read)


def in_either_dtype(function: Callable, dtype: str, own: Sequence[str]) -> Callable:
    """Runs a function in the dtype of the graph, or in its own dtypes if it raises an error in that of the graph.

    A graph may compute in float64 while the code of a model holds float32 constants or variables. Such code raises an
    error on float64 tensors. It is then run in float32, and its results are converted to float64.

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
            # Which error TensorFlow raises for mixed dtypes depends on whether it runs eagerly.
            narrow = [tf.cast(x, t) if x.dtype.is_floating else x for x, t in zip(tensors, own, strict=True)]
            if all(x.dtype == y.dtype for x, y in zip(tensors, narrow, strict=True)):
                raise
            results = function(*narrow)
        return keras.tree.map_structure(lambda z: tf.cast(z, dtype) if z.dtype.is_floating else z, results)

    return call


def slots_in(structure: Any) -> list[Slot]:
    """The slots in a structure of arguments."""
    return [a for a in keras.tree.flatten(structure) if isinstance(a, Slot)]


def constants_in(structure: Any) -> list:
    """The constants in a structure of arguments: numbers, arrays, tensors, variables."""
    return [a for a in keras.tree.flatten(structure) if not isinstance(a, Slot) and a is not None]


def known(constant: Any, test: Callable[[np.ndarray], Any]) -> bool:
    """Whether a constant passes a test of its values, and cannot change. A variable can change.

    Args:
        constant: A number, array, tensor or variable.
        test: Takes the values as an array, and gives booleans.
    """
    if isinstance(constant, tf.Variable | keras.Variable):
        return False
    try:
        return bool(np.all(test(np.asarray(constant))))
    except (TypeError, ValueError, NotImplementedError):
        # A tensor without a value, or an object that NumPy does not know.
        return False


def parameters(function: Callable) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function by name; none for a function that Python cannot inspect."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
