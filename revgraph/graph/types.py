"""Names for the types that stand in many signatures."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

PathLike: TypeAlias = str | os.PathLike[str]
"""The path of a file or of a folder."""

Tensors: TypeAlias = Any
"""An array or tensor `(batch, ...)`, or lists and dicts of them, nested as the model's inputs are."""

Relevance: TypeAlias = Any
"""An array, or lists and dicts of arrays, nested as the model's inputs are."""

Selection: TypeAlias = (
    int
    | str
    | Sequence[int]
    | Sequence[str]
    | np.ndarray
    | tf.Tensor
    | tuple[int | slice, ...]
    | Callable[[tf.Tensor], tf.Tensor]
    | Mapping[str, Any]
    | None
)
"""What to explain: the values that `neuron_selection` may have, see `ReverseAnalyzer.analyze`."""

Conditions: TypeAlias = Mapping[Any, Any] | Sequence[Mapping[Any, Any]] | Sequence[Sequence[Mapping[Any, Any]]]
"""What relevance may pass: the values that `conditions` may have, see `ReverseAnalyzer.analyze`."""

Bounds: TypeAlias = tuple[Any, Any]
"""(low, high): two numbers, or two arrays that broadcast against a sample."""

Weights: TypeAlias = Mapping[str, tf.Tensor]
"""Weights of an operation by name."""
