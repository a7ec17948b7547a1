"""Operations that move entries from place to place."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from revgraph.graph.operations.base import Operation, Source
from revgraph.graph.types import Weights


@dataclasses.dataclass(frozen=True, eq=False)
class Routing(Operation):
    """Moves entries from place to place: reshape, transpose, pad, crop, concatenate, maximum, max pooling, upsampling.

    Its transposed Jacobian sends relevance back to where the entries came from. Four flags say what is known of the
    operation. A flag is False where nothing is known.

    Args:
        function: Computes the outputs from the inputs.
        name: What it is called in printed graphs.
        outputs_count: How many outputs it has.
        copies: Every entry of an output is one entry of an input, or a constant. Nothing is mixed.
        fixed: The outputs are a linear function of the inputs, plus constants. This function does not depend on the
            values of the inputs. A sum over a window is fixed; a maximum, a sort or a choice by a mask is not.
        keeps_sign: The outputs have no negative entry where the inputs have none. Constants among the outputs have no
            negative entry either.
        fills: Some entries of the outputs may be constants, such as padding. They absorb the relevance that they get.
    """

    function: Callable[..., object]
    name: str
    outputs_count: int = 1
    copies: bool = dataclasses.field(default=False, kw_only=True)
    fixed: bool = dataclasses.field(default=False, kw_only=True)
    keeps_sign: bool = dataclasses.field(default=False, kw_only=True)
    fills: bool = dataclasses.field(default=False, kw_only=True)

    @property
    def label(self) -> str:
        return self.name

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return tuple(tf.nest.flatten(self.function(*inputs)))


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroPad(Routing):
    """Padding with zeros.

    Args:
        widths: How many zeros stand before and after, along every axis.
    """

    widths: tuple[tuple[int, int], ...] = ()


class Inert(Routing):
    """A tensor that is computed from shapes and comparisons alone. It counts as a constant, and absorbs its share."""

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        # TensorFlow has no gradient for some comparisons, such as sorting into bins, not even a gradient of zero.
        return super().__call__([tf.stop_gradient(x) if x.dtype.is_floating else x for x in inputs], weights)


@dataclasses.dataclass(frozen=True, eq=False)
class Table(Inert):
    """A weight that is added to the input, such as learned positions, repeated for each sample.

    Args:
        source: Reads the weight.
    """

    source: Source = dataclasses.field(kw_only=True)

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return {"table": self.source(dtype)}

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        return super().__call__((*inputs, weights["table"]), {})


class Renumbering(Routing):
    """Gives each id another number, as `ids + 1` or `where(ids < 0, ids + n, ids)` do.

    The relevance of an id does not depend on its number. So relevance passes unchanged.
    """

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        (x,) = inputs
        if x.dtype.is_integer:
            return super().__call__(inputs, weights)
        # The numbers are floating where relevance is computed. There the slope is one, whatever the function is.
        return (tf.identity(x),)


class Truncation(Routing):
    """Casts ids that came as floating numbers to integers. The ids' relevance is that of the floating numbers."""


class Interpolation(Routing):
    """Resizing and upsampling: every entry is a weighted mean of input entries, with weights that sum to one."""


@dataclasses.dataclass(frozen=True, eq=False)
class AveragePool(Routing):
    """Average pooling of any kind, before canonization makes it a `ChannelDiagonalConv`.

    Args:
        count: Function of the inputs that gives how many entries each window averages, padding left out. The result
            broadcasts against the output. `revgraph.graph.windows` has such functions.
    """

    count: Callable[..., Any] = lambda x: 1
