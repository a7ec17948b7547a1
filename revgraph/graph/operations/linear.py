"""Linear layers: operations with a kernel that mixes or filters channels."""

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf
from keras import ops

from revgraph.graph.operations.base import Affine, along
from revgraph.graph.types import Weights


class Dense(Affine):
    """A dense layer: the product x W over the last axis of the input."""

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        x, kernel = inputs[0], weights["kernel"]
        between = x.shape[1:-1]
        if x.shape.rank <= 2 or not between.is_fully_defined():
            return ops.matmul(x, kernel)
        # Keras computes the shapes when the product runs, which takes ten operations more.
        rows = tf.matmul(tf.reshape(x, (-1, x.shape[-1])), kernel)
        return tf.reshape(rows, (-1, *between, kernel.shape[-1]))

    def output_axis(self, rank: int) -> int | None:
        return rank - 1

    input_axis = output_axis

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * scale}

    def scale_inputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * (scale if scale.shape.rank == 0 else scale[:, None])}

    def multiplications(self, weights: Weights) -> float:
        return weights["kernel"].shape[0]

    def blocks(
        self, inputs: Sequence[tf.Tensor], weights: Weights, size: int, least: int = 2
    ) -> list[tuple[tuple[tf.Tensor, ...], dict[str, tf.Tensor]]]:
        kernel = weights["kernel"]
        channels, outputs = kernel.shape
        step = max(16, size // (outputs * kernel.dtype.size) // 16 * 16)
        sizes = [min(step, channels - start) for start in range(0, channels, step)]
        if len(sizes) < least:
            return []
        # TensorFlow copies tensors that do not start at a multiple of 64 bytes, and matrices unless every row does.
        if outputs * kernel.dtype.size % 64 == 0:
            parts = tf.split(kernel, sizes)
        else:
            flat = tf.reshape(kernel, (-1,))
            starts = range(0, channels * outputs, step * outputs)
            flats = [tf.slice(flat, (at,), (rows * outputs,)) for at, rows in zip(starts, sizes, strict=True)]
            parts = [tf.reshape(part, (-1, outputs)) for part in flats]
        return [((x,), {"kernel": part}) for x, part in zip(tf.split(inputs[0], sizes, axis=-1), parts, strict=True)]


@dataclasses.dataclass(frozen=True, eq=False)
class Einsum(Affine):
    """An einsum of the input with a kernel, as EinsumDense computes it.

    Args:
        equation: The einsum, such as `"...x,xy->...y"`.
    """

    equation: str

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        return ops.einsum(self.equation, inputs[0], weights["kernel"])

    def add_bias(self, z: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        # Keras adds a bias that is not on the last axis in its own way, and the graph computes what the model computes.
        return ops.add(z, bias)

    def _axes(self):
        left, output = self.equation.replace(" ", "").split("->")
        return (*left.split(","), output)

    def output_axis(self, rank: int) -> int | None:
        _, kernel, output = self._axes()
        return rank - 1 if kernel[-1] == output[-1] else None

    def input_axis(self, rank: int) -> int | None:
        x, kernel, output = self._axes()
        return rank - 1 if x[-1] in kernel and x[-1] not in output else None

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * scale}

    def scale_inputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        x, axes, _ = self._axes()
        kernel = weights["kernel"]
        # From the end, because "..." may stand for axes at the front.
        return {"kernel": kernel * along(scale, kernel.shape.rank - len(axes) + axes.index(x[-1]), kernel.shape.rank)}


@dataclasses.dataclass(frozen=True, eq=False)
class Convolutional(Affine):
    """What convolutions share. Channels-first data are transposed, because CPU kernels want channels last.

    Args:
        strides: One stride per spatial axis.
        padding: `"valid"`, `"same"`, `"causal"`, or entries before and after along each spatial axis.
        dilation: One dilation per spatial axis.
        data_format: `"channels_last"` or `"channels_first"`.
    """

    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    data_format: str

    def output_axis(self, rank: int) -> int | None:
        return rank - 1 if self.data_format == "channels_last" else 1

    input_axis = output_axis

    def linear(self, inputs: Sequence[tf.Tensor], weights: Weights) -> tf.Tensor:
        (x,) = inputs
        if self.data_format == "channels_last":
            return self.convolve(x, weights)
        return channels_first(self.convolve(channels_last(x), weights))

    def convolve(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        """The convolution of an input with channels last."""
        raise NotImplementedError

    def padded(self, x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, str]:
        """x with explicit padding done, and the name of the padding that is left for the convolution to do."""
        around = self.padding
        if around == "causal":
            around = ((self.dilation[0] * (kernel.shape[0] - 1), 0),)
        if isinstance(around, str):
            return x, around
        return tf.pad(x, ((0, 0), *around, (0, 0))), "valid"


def channels_last(x: tf.Tensor) -> tf.Tensor:
    """Moves the channel axis from 1 to the end."""
    return tf.transpose(x, (0, *range(2, x.shape.rank), 1))


def channels_first(x: tf.Tensor) -> tf.Tensor:
    """Moves the channel axis from the end to 1."""
    return tf.transpose(x, (0, x.shape.rank - 1, *range(1, x.shape.rank - 1)))


class Conv(Convolutional):
    """Convolution in 1 to 3 dimensions. The number of groups follows from the shapes of kernel and input."""

    def convolve(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        kernel = weights["kernel"]
        x, padding = self.padded(x, kernel)
        geometry = (self.strides, padding, "channels_last", self.dilation)
        groups = x.shape[-1] // kernel.shape[-2]
        if groups == 1:
            return ops.conv(x, kernel, *geometry)
        # TensorFlow's grouped convolution has no gradient on some CPUs. Compiled by XLA it is a hundred times slower.
        if groups == x.shape[-1] and len(self.strides) < 3 and len(set(self.strides)) == 1:
            kernel = tf.reshape(kernel, (*kernel.shape[:-2], groups, kernel.shape[-1] // groups))
            return ops.depthwise_conv(x, kernel, *geometry)
        parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        return tf.concat([ops.conv(part, k, *geometry) for part, k in parts], axis=-1)

    def multiplications(self, weights: Weights) -> float:
        return math.prod(weights["kernel"].shape[:-1])

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * scale}

    def scale_inputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        kernel = weights["kernel"]
        if scale.shape.rank == 0:
            return {"kernel": kernel * scale}
        groups = scale.shape[0] // kernel.shape[-2]
        per_group = tf.transpose(tf.reshape(scale, (groups, kernel.shape[-2])))
        return {"kernel": kernel * tf.repeat(per_group, kernel.shape[-1] // groups, axis=1)}


class DepthwiseConv(Convolutional):
    """One convolution or several for each channel, which does not mix channels."""

    def convolve(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        x, padding = self.padded(x, weights["kernel"])
        return ops.depthwise_conv(x, weights["kernel"], self.strides, padding, "channels_last", self.dilation)

    def multiplications(self, weights: Weights) -> float:
        return math.prod(weights["kernel"].shape[:-2])

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        kernel = weights["kernel"]
        return {"kernel": kernel * (scale if scale.shape.rank == 0 else tf.reshape(scale, kernel.shape[-2:]))}

    def scale_inputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * (scale if scale.shape.rank == 0 else scale[:, None])}


@dataclasses.dataclass(frozen=True, eq=False)
class ConvTranspose(Convolutional):
    """Transposed convolution, with a kernel of shape `(..., outputs, inputs)`.

    Args:
        output_padding: Entries that are added to the size of the output, as in Keras.
    """

    output_padding: int | tuple[int, ...] | None

    def convolve(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        return ops.conv_transpose(
            x,
            weights["kernel"],
            list(self.strides),
            self.padding,
            self.output_padding,
            "channels_last",
            self.dilation,
        )

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * (scale if scale.shape.rank == 0 else scale[:, None])}

    def scale_inputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"kernel": weights["kernel"] * scale}


class SeparableConv(Convolutional):
    """A depthwise convolution followed by a pointwise one, as one site with two kernels."""

    keeps_signs = False

    def convolve(self, x: tf.Tensor, weights: Weights) -> tf.Tensor:
        kernel = weights["depthwise_kernel"]
        x, padding = self.padded(x, kernel)
        x = ops.depthwise_conv(x, kernel, self.strides, padding, "channels_last", self.dilation)
        return ops.conv(x, weights["pointwise_kernel"], 1, "valid", "channels_last")

    def scale_outputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        return {**weights, "pointwise_kernel": weights["pointwise_kernel"] * scale}

    def scale_inputs(self, weights: Weights, scale: tf.Tensor) -> dict[str, tf.Tensor]:
        kernel = weights["depthwise_kernel"]
        scale = scale if scale.shape.rank == 0 else scale[:, None]
        return {**weights, "depthwise_kernel": kernel * scale}
