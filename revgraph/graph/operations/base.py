"""What every operation can do, how its weights are read, and what affine operations can do besides."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import tensorflow as tf

from revgraph.graph.activations import UNKNOWN, Traits
from revgraph.graph.types import Weights

Source: TypeAlias = Callable[[str | tf.DType], tf.Tensor]
"""Reads one weight from the model, in the given dtype, at the moment of the call."""

Reader: TypeAlias = Callable[[str | tf.DType], dict[str, tf.Tensor]]
"""Reads all weights of an operation by name."""


def live(read: Callable[..., Any]) -> Source:
    """A source that calls `read()` at every use, so that weights that are assigned later are seen."""

    def source(dtype):
        value = read()
        return as_tensor(getattr(value, "value", value), dtype)

    return source


def constant(value: Any) -> Source:
    """A source of a value that never changes."""
    return lambda dtype: as_tensor(value, dtype)


def as_tensor(value: Any, dtype: str | tf.DType) -> tf.Tensor:
    """A number, an array, a variable or a tensor as a tensor of a dtype."""
    # TensorFlow would first make Python numbers float32. It would leave a variable of that dtype as it is, and read it
    # where it is used, whatever that read is to wait for.
    return tf.convert_to_tensor(tf.cast(value if tf.is_tensor(value) else np.asarray(value), dtype))


def reading(sources: Mapping[str, Source]) -> Reader:
    """A reader of weights, made of one source for each."""
    return lambda dtype: {name: source(dtype) for name, source in sources.items()}


def ordered_sum(terms: Iterable[tf.Tensor]) -> tf.Tensor:
    """The sum of the terms, added in their order."""
    first, *rest = terms
    if not rest:
        return first
    return functools.reduce(plus, rest[1:], first + rest[0])


def plus(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """a + b, for sums of three terms or more.

    TensorFlow replaces two additions in a row by one AddN, which adds in the order in which memory happens to be free.
    Results would then differ in the last bit from run to run. It leaves subtractions alone.
    """
    return a - (-1.0) * b


class Operation:
    """What one site computes: a function of input tensors and named weights."""

    @property
    def outputs_count(self) -> int:
        """How many tensors it returns."""
        return 1

    @property
    def traits(self) -> Traits:
        """What is known of it as a function of one tensor."""
        return UNKNOWN

    @property
    def constants(self) -> frozenset[int]:
        """Positions of the inputs that count as constants for every rule, such as the gate of a cell."""
        return frozenset()

    @property
    def advice(self) -> str | None:
        """What the user can do where the operation has no rule. None stands for the general advice."""
        return None

    @property
    def bias_is_table(self) -> bool:
        """Whether the bias is a table of constants, such as positions, rather than the bias of a layer."""
        return False

    @property
    def label(self) -> str:
        """The name under which printed graphs and error messages show this operation."""
        return type(self).__name__

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        """Reads the weights from the model as they are now, in a dtype."""
        return {}

    def weights(self, dtype: str | tf.DType, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """The weights for a call on these inputs, as they are now."""
        return self.completed(self.read(dtype), dtype, inputs)

    def completed(self, weights: Weights, dtype: str | tf.DType, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """The weights for a call on these inputs, from those that were read. A few depend on the inputs."""
        return dict(weights)

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        """Computes the outputs."""
        raise NotImplementedError

    def split(self, weights: Weights) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        """The weights of the part that is linear in the inputs, and the bias that is added to it, if any."""
        return dict(weights), None

    def add_bias(self, z: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """z + bias, with the bias that `split` gives."""
        vector = bias.shape.rank == 1 and bias.shape[0] == z.shape[-1] and z.shape.rank > 1
        return tf.nn.bias_add(z, bias) if vector else z + bias


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Operation):
    """z = linear(inputs, weights) + bias. Every weight but `"bias"` enters the linear part.

    Args:
        reader: Reads the weights. The bias has a shape that broadcasts against z.
        multiple: A pair (operation, scale), where the linear part is that of another operation with its output channels
            multiplied by a scale, and multiplying the outputs is cheaper than multiplying the kernels, because they are
            fewer. `scale` reads a tensor that broadcasts against z.
    """

    reader: Reader
    multiple: "tuple[Affine, Source] | None" = dataclasses.field(default=None, kw_only=True)

    keeps_signs: ClassVar[bool] = True
    """Whether z has the sign of the product where all inputs have one sign and all entries of the kernel have one."""

    def read(self, dtype: str | tf.DType) -> dict[str, tf.Tensor]:
        return self.reader(dtype)

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        """The part of z that is linear in the inputs."""
        raise NotImplementedError

    def split(self, weights: Weights) -> tuple[dict[str, tf.Tensor], tf.Tensor | None]:
        return {name: w for name, w in weights.items() if name != "bias"}, weights.get("bias")

    def __call__(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tuple[tf.Tensor, ...]:
        z = self.linear(inputs, weights)
        bias = weights.get("bias")
        return (z if bias is None else self.add_bias(z, bias),)

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        """Kernels with which the output channels come out multiplied by the vector `scale`."""
        raise NotImplementedError

    def scale_inputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        """Kernels that act as if the input channels were multiplied by the vector `scale`."""
        raise NotImplementedError

    def blocks(
        self, inputs: Sequence[tf.Tensor], weights: Weights, size: int, least: int = 2
    ) -> list[tuple[tuple[tf.Tensor, ...], dict[str, tf.Tensor]]]:
        """Blocks of the input channels, each with about `size` bytes of kernel. z is the sum over the blocks.

        Returns:
            The inputs and the weights of each block. The list is empty where there would be fewer than `least`, or
            where the operation has no such blocks.
        """
        return []

    def multiplications(self, weights: Weights) -> float:
        """How many multiplications an entry of the output takes."""
        return math.inf

    def output_axis(self, rank: int) -> int | None:
        """The axis of an output of that rank along which `scale_outputs` takes a vector; None if there is none."""
        return None

    def input_axis(self, rank: int) -> int | None:
        """The axis of an input of that rank along which `scale_inputs` takes a vector; None if there is none."""
        return None


def along(vector: tf.Tensor, axis: int, rank: int) -> tf.Tensor:
    """Reshapes a vector so that it broadcasts along `axis` of a tensor of `rank` axes; a scalar stays a scalar."""
    if vector.shape.rank == 0:
        return vector
    return tf.reshape(vector, (-1,) + (1,) * (rank - 1 - axis))
