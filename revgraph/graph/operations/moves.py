"""Operations that move entries from place to place."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from revgraph.graph.operations.base import Operation


@dataclasses.dataclass(frozen=True, eq=False)
class Routing(Operation):
    """Moves entries from place to place: reshape, transpose, pad, crop, concatenate, maximum, max pooling, upsampling.

    Its transposed Jacobian sends relevance back to where the entries came from. Four properties say what else is known
    of it. Each is False unless somebody vouches for it.

    Args:
        function: Computes the outputs from the inputs.
        name: What it is called in printed graphs.
        outputs_count: How many outputs it has.
        copies: Every entry of an output is one entry of an input, or a constant. Nothing is mixed.
        fixed: The outputs are a linear function of the inputs plus constants, and which one does not depend on the
            values of the inputs. A sum over a window is fixed; a maximum, a sort or a choice by a mask is not.
        keeps_sign: The outputs have no negative entry where the inputs have none. Constants that take part count.
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
    def label(self):
        return self.name

    def __call__(self, inputs, weights):
        return tuple(tf.nest.flatten(self.function(*inputs)))


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroPad(Routing):
    """Padding with zeros.

    Args:
        widths: Entries before and after along every axis.
    """

    widths: tuple[tuple[int, int], ...] = ()


class Inert(Routing):
    """What is made of shapes and comparisons alone. It is a constant, and absorbs its share."""

    def __call__(self, inputs, weights):
        # Some comparisons, such as sorting into bins, have no gradient in TensorFlow, not even one that is zero.
        return super().__call__([tf.stop_gradient(x) if x.dtype.is_floating else x for x in inputs], weights)


class Renumbering(Routing):
    """Gives another number to each id: `ids + 1`, `where(ids < 0, ids + n, ids)`.

    What an id is looked up for belongs to the id, whatever its number is. Relevance passes unchanged.
    """

    def __call__(self, inputs, weights):
        (x,) = inputs
        if x.dtype.is_integer:
            return super().__call__(inputs, weights)
        # Where relevance is computed numbers are floating. The slope is one, whatever the function is.
        return (tf.identity(x),)


class Truncation(Routing):
    """Makes integers of ids that stand among floating numbers. Their relevance is that of the numbers."""


class Interpolation(Routing):
    """Every entry a weighted mean of input entries, with weights that sum to one: resizing, upsampling.

    The transposed Jacobian conserves relevance here, too.
    """


@dataclasses.dataclass(frozen=True, eq=False)
class AveragePool(Routing):
    """Average pooling of any kind, before canonization makes it a channel-diagonal convolution.

    Args:
        count: How many elements each window averages, padding left out, as a function of the input; the result
            broadcasts against the output. See revgraph.graph.windows.
    """

    count: Callable[[tf.Tensor], Any] = lambda x: 1
