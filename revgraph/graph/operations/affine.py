"""Affine operations without such a kernel: averages, scale and shift, sums, linear maps, normalizations."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from revgraph.graph.operations.base import Affine, along, as_tensor, ordered_sum


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelDiagonalConv(Affine):
    """A convolution whose kernel is zero off the channel diagonal and equal over its window: average pooling.

    On the diagonal stands 1 / n, with n the number of real elements in the window. Rules change weights entry by
    entry, which keeps equal entries equal, so the kernel is one number per window, or one for all, and the sum over
    the window is left to TensorFlow's pooling kernels.

    Args:
        average: The average pooling.
        count: n, as a function of the input; see `AveragePool`.
    """

    average: Callable[[tf.Tensor], tf.Tensor]
    count: Callable[[tf.Tensor], Any]

    def weights(self, dtype, inputs):
        return {"kernel": 1 / as_tensor(self.count(*inputs), dtype)}

    def linear(self, inputs, weights):
        kernel = weights["kernel"]
        return self.average(*inputs) * (as_tensor(self.count(*inputs), kernel.dtype) * kernel)


@dataclasses.dataclass(frozen=True, eq=False)
class Scale(Affine):
    """x * kernel + bias, entry by entry.

    With an `axis`, kernel and bias are vectors along it, as BatchNormalization has them, or scalars. Without one they
    are tensors that broadcast against x.
    """

    axis: int | None = None

    @functools.cached_property
    def bias_is_table(self):
        bias = self.read("float32").get("bias") if self.axis is None else None
        return bias is not None and bias.shape.rank > 0

    def linear(self, inputs, weights):
        return inputs[0] * self._broadcast(weights["kernel"], inputs[0].shape.rank)

    def add_bias(self, z, bias):
        return z + self._broadcast(bias, z.shape.rank)

    def output_axis(self, rank):
        return None if self.axis is None else self.axis % rank

    def scale_outputs(self, weights, scale):
        return {"kernel": weights["kernel"] * scale}

    def multiplications(self, weights):
        return 1

    def _broadcast(self, weight, rank):
        return weight if self.axis is None else along(weight, self.axis % rank, rank)


class BatchNorm(Scale):
    """Batch normalization in inference: the scale gamma / sqrt(variance + epsilon), and the shift that goes with it."""


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap(Affine):
    """A linear map without weights: cumulative sums, differences."""

    function: Callable[[tf.Tensor], tf.Tensor]
    name: str
    keeps_signs = False

    @property
    def label(self):
        return self.name

    def linear(self, inputs, weights):
        return self.function(*inputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Normalize(Affine):
    r"""Normalization of each sample by its own statistics: (x - mean(x)) * factor(x - mean(x)) * kernel + bias.

    LayerNormalization, GroupNormalization, RMSNormalization, UnitNormalization. With `held` the factor, one over the
    standard deviation, is a constant for whoever differentiates, and the operation is affine: mean subtraction, which
    is a linear map, then scale and shift.

    Args:
        mean: Gives the means, which broadcast against x; None where nothing is subtracted.
        factor: Gives the factors, which broadcast against x, from x less its means.
        held: Whether the factor counts as a constant.
    """

    mean: Callable[[tf.Tensor], tf.Tensor] | None
    factor: Callable[[tf.Tensor], tf.Tensor]
    held: bool = False
    keeps_signs = False

    def linear(self, inputs, weights):
        (x,) = inputs
        if self.mean is not None:
            x = x - self.mean(x)
        factor = self.factor(x)
        z = x * (tf.stop_gradient(factor) if self.held else factor)
        return z * weights["kernel"] if "kernel" in weights else z


class Sum(Affine):
    """sum_i kernel_i x_i: Add (ones), Subtract (1, -1), Average (1/n)."""

    def linear(self, inputs, weights):
        return ordered_sum([x * weights["kernel"][i] for i, x in enumerate(inputs)])
