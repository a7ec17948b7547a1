"""Affine operations that are no linear layers: averages, scale and shift, sums, linear maps, normalizations."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from revgraph.graph.operations.base import Affine, along, as_tensor, ordered_sum
from revgraph.graph.types import Weights


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelDiagonalConv(Affine):
    """Average pooling as a convolution: the kernel is 1 / n on the channel diagonal, and zero off it.

    n is the number of entries in the window, padding left out. Rules change weights entry by entry, and so equal
    entries stay equal. Therefore the kernel is stored as one number per window, or one for all windows, and
    TensorFlow's pooling computes the sum over the window.

    Args:
        average: The average pooling, a function of the inputs.
        count: n as a function of the inputs; see `AveragePool`.
    """

    average: Callable[..., tf.Tensor]
    count: Callable[..., Any]

    def completed(self, weights: Weights, dtype: str | tf.DType, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"kernel": 1 / as_tensor(self.count(*inputs), dtype)}

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        kernel = weights["kernel"]
        return self.average(*inputs) * (as_tensor(self.count(*inputs), kernel.dtype) * kernel)


@dataclasses.dataclass(frozen=True, eq=False)
class Scale(Affine):
    """x * kernel + bias, entry by entry.

    Args:
        axis: The axis along which kernel and bias are vectors, as in BatchNormalization; they may also be scalars. None
            where they are tensors that broadcast against x.
    """

    axis: int | None = None

    @functools.cached_property
    def bias_is_table(self) -> bool:
        bias = self.read("float32").get("bias") if self.axis is None else None
        return bias is not None and bias.shape.rank > 0

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        return inputs[0] * self._broadcast(weights["kernel"], inputs[0].shape.rank)

    def add_bias(self, z: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return z + self._broadcast(bias, z.shape.rank)

    def output_axis(self, rank: int) -> int | None:
        return None if self.axis is None else self.axis % rank

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * scale}

    def multiplications(self, weights: Weights) -> float:
        return 1

    def _broadcast(self, weight, rank):
        return weight if self.axis is None else along(weight, self.axis % rank, rank)


class BatchNorm(Scale):
    """Batch normalization in inference: x times gamma / sqrt(variance + epsilon), plus a shift."""


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap(Affine):
    """A linear map without weights, such as a cumulative sum or differences.

    Args:
        function: The map.
        name: What it is called in printed graphs.
    """

    function: Callable[[tf.Tensor], tf.Tensor]
    name: str
    keeps_signs = False

    @property
    def label(self) -> str:
        return self.name

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        return self.function(*inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Normalize(Affine):
    r"""Normalization of each sample by its own statistics: (x - mean(x)) * factor(x - mean(x)) * kernel + bias.

    So compute LayerNormalization, GroupNormalization, RMSNormalization and UnitNormalization. The factor is mostly one
    over the standard deviation. With `held` it counts as a constant, which makes the operation affine: it subtracts the
    mean, which is a linear map, and then scales and shifts.

    Args:
        mean: Function of x that gives the means, which broadcast against x. None where nothing is subtracted.
        factor: Function of x - mean(x) that gives the factors, which broadcast against x.
        held: Whether the factor is a constant for gradients.
    """

    mean: Callable[[tf.Tensor], tf.Tensor] | None
    factor: Callable[[tf.Tensor], tf.Tensor]
    held: bool = False
    keeps_signs = False

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        (x,) = inputs
        if self.mean is not None:
            x = x - self.mean(x)
        factor = self.factor(x)
        z = x * (tf.stop_gradient(factor) if self.held else factor)
        return z * weights["kernel"] if "kernel" in weights else z


class Sum(Affine):
    """A weighted sum of its inputs, sum_i kernel_i x_i, as in Add (1, 1), Subtract (1, -1) and Average (1/2, 1/2)."""

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        return ordered_sum([x * weights["kernel"][i] for i, x in enumerate(inputs)])
