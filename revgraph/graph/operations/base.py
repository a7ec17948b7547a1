"""What every operation can do, how its weights are read, and what affine operations can do besides."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from revgraph.graph.activations import UNKNOWN

Source = Callable[[tf.DType], tf.Tensor]
"""Reads one weight, in the asked-for dtype, at the moment of the call."""

Reader = Callable[[tf.DType], dict[str, tf.Tensor]]
"""Reads all weights of an operation by name."""


def live(read) -> Source:
    """A source that calls `read()` anew each time, so that weights assigned later are seen."""

    def source(dtype):
        value = read()
        return as_tensor(getattr(value, "value", value), dtype)

    return source


def constant(value) -> Source:
    """A source of a value that never changes."""
    return lambda dtype: as_tensor(value, dtype)


def as_tensor(value, dtype) -> tf.Tensor:
    """A value as a tensor of a dtype."""
    # TensorFlow on its own would make Python numbers float32 first.
    return tf.cast(value if tf.is_tensor(value) else np.asarray(value), dtype)


def reading(sources: Mapping[str, Source]) -> Reader:
    """A reader of weights from one source each."""
    return lambda dtype: {name: source(dtype) for name, source in sources.items()}


def ordered_sum(terms) -> tf.Tensor:
    """The sum of the terms, added up in their order."""
    first, *rest = terms
    if not rest:
        return first
    return functools.reduce(plus, rest[1:], first + rest[0])


def plus(a, b) -> tf.Tensor:
    """a + b, when more is to be added.

    TensorFlow makes one AddN of three additions or more, which adds in the order in which memory happens to be free:
    results would differ in the last bit from run to run. It leaves subtractions alone.
    """
    return a - (-1.0) * b


class Operation:
    """What one site computes."""

    outputs_count = 1

    traits = UNKNOWN
    """What is known of it as a function of one tensor; see `revgraph.graph.activations`."""

    advice: str | None = None
    """What to do where it has no rule, if that is not what is to be done about any other operation."""

    bias_is_table = False
    """Whether what is added is a table of constants, such as positions, rather than the bias of a layer."""

    @property
    def label(self) -> str:
        """The name under which printed graphs and error messages show this operation."""
        return type(self).__name__

    def read(self, dtype) -> dict[str, tf.Tensor]:
        """Reads the weights from the model, in `dtype`."""
        return {}

    def weights(self, dtype, inputs) -> dict[str, tf.Tensor]:
        """The weights of a call on these inputs, on whose shape they may depend."""
        return self.read(dtype)

    def __call__(self, inputs, weights) -> tuple[tf.Tensor, ...]:
        raise NotImplementedError

    def split(self, weights) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """The weights that must be known to compute the part that is linear in the inputs, and the bias added to it."""
        return weights, None


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Operation):
    """z = linear(x, weights) + bias; every weight but `"bias"` enters the linear part.

    Args:
        reader: Reads the weights. The bias has a shape that broadcasts against z.
        multiple: Where the linear part is a multiple of another operation's along the output channels, and its outputs
            are so few that it is cheaper to multiply these than the kernels: the operation, and what reads the factor,
            a tensor that broadcasts against z.
    """

    reader: Reader
    multiple: "tuple[Affine, Source] | None" = dataclasses.field(default=None, kw_only=True)

    keeps_signs = True
    """Whether inputs and kernels of one sign each give z of the sign of their product."""

    def read(self, dtype):
        return self.reader(dtype)

    def linear(self, inputs, weights) -> tf.Tensor:
        """The part of z that is linear in the inputs."""
        raise NotImplementedError

    def split(self, weights):
        return {name: w for name, w in weights.items() if name != "bias"}, weights.get("bias")

    def add_bias(self, z, bias) -> tf.Tensor:
        """z + bias."""
        vector = bias.shape.rank == 1 and bias.shape[0] == z.shape[-1] and z.shape.rank > 1
        return tf.nn.bias_add(z, bias) if vector else z + bias

    def __call__(self, inputs, weights):
        z = self.linear(inputs, weights)
        bias = weights.get("bias")
        return (z if bias is None else self.add_bias(z, bias),)

    def scale_outputs(self, weights, scale):
        """Kernels that give the output channels multiplied by the vector `scale`."""
        raise NotImplementedError

    def scale_inputs(self, weights, scale):
        """Kernels that act as if the input channels were multiplied by the vector `scale`."""
        raise NotImplementedError

    def blocks(self, inputs, weights, size) -> list:
        """Blocks of the input channels of which each has about `size` bytes of kernel; z is the sum over the blocks.

        Each is a pair of its inputs and its weights. Empty where there is one block only, or where the operation cannot
        be taken apart like that.
        """
        return []

    def multiplications(self, weights) -> float:
        """Multiplications per entry of the output."""
        return math.inf

    def output_axis(self, rank) -> int | None:
        """The axis of the output along which `scale_outputs` takes a vector; None if there is none."""
        return None

    def input_axis(self, rank) -> int | None:
        """The axis of the input along which `scale_inputs` takes a vector; None if there is none."""
        return None


def along(vector, axis, rank):
    """Reshapes a vector so that it broadcasts along `axis` of a tensor of `rank` axes; a scalar stays a scalar."""
    if vector.shape.rank == 0:
        return vector
    return tf.reshape(vector, (-1,) + (1,) * (rank - 1 - axis))
