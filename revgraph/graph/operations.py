"""What a site computes: operations as values that read the model's live variables.

An operation is called as `operation(inputs, weights)` with tuples of tensors and a dict of named weights, so that a
rule can call it on modified inputs and on modified weights. `operation.read(dtype)` gives the weights as they are now.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from revgraph.graph.activations import TRAITS, UNKNOWN

Source = Callable[[tf.DType], tf.Tensor]
"""Reads one weight, in the asked-for dtype, at the moment of the call."""

FEW = 4
"""Input channels of a convolution up to which it takes hardly longer with twice as many."""

Reader = Callable[[tf.DType], dict[str, tf.Tensor]]
"""Reads all weights of an operation by name."""


def live(read) -> Source:
    """A source that calls `read()` anew each time, so that weights assigned later are seen."""

    def source(dtype):
        value = read()
        return _tensor(getattr(value, "value", value), dtype)

    return source


def constant(value) -> Source:
    """A source of a value that never changes."""
    return lambda dtype: _tensor(value, dtype)


def _tensor(value, dtype):
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

    bias_is_table = False
    """Whether the bias is a table, such as one of positions, which counts as a constant and not as a layer's bias."""

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

    def has_room(self, inputs, weights) -> bool:
        """Whether it takes hardly longer with twice as many input channels, which `beside` then can put there."""
        return False

    def beside(self, inputs, weights) -> tuple:
        """Inputs and kernels, side by side along the input channels, of one call that gives the sum of several.

        Args:
            inputs: The input of each call.
            weights: The kernels of each call.
        """
        raise NotImplementedError

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


class Dense(Affine):
    """x W over the last axis."""

    def linear(self, inputs, weights):
        return ops.matmul(inputs[0], weights["kernel"])

    def output_axis(self, rank):
        return rank - 1

    input_axis = output_axis

    def scale_outputs(self, weights, scale):
        return {"kernel": weights["kernel"] * scale}

    def scale_inputs(self, weights, scale):
        return {"kernel": weights["kernel"] * (scale if scale.shape.rank == 0 else scale[:, None])}

    def multiplications(self, weights):
        return weights["kernel"].shape[0]

    def blocks(self, inputs, weights, size):
        kernel = weights["kernel"]
        channels, outputs = kernel.shape
        step = max(16, size // (outputs * kernel.dtype.size) // 16 * 16)
        sizes = [min(step, channels - start) for start in range(0, channels, step)]
        if len(sizes) == 1:
            return []
        # TensorFlow copies what does not start at a multiple of 64 bytes. Of a matrix it asks that of every row.
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
    """An einsum of the input with a kernel, as EinsumDense computes it."""

    equation: str

    def linear(self, inputs, weights):
        return ops.einsum(self.equation, inputs[0], weights["kernel"])

    def _axes(self):
        left, output = self.equation.replace(" ", "").split("->")
        return (*left.split(","), output)

    def output_axis(self, rank):
        _, kernel, output = self._axes()
        return rank - 1 if kernel[-1] == output[-1] else None

    def input_axis(self, rank):
        x, kernel, output = self._axes()
        return rank - 1 if x[-1] in kernel and x[-1] not in output else None

    def scale_outputs(self, weights, scale):
        return {"kernel": weights["kernel"] * scale}

    def scale_inputs(self, weights, scale):
        x, axes, _ = self._axes()
        kernel = weights["kernel"]
        # From the end, because "..." may stand for axes at the front.
        return {"kernel": kernel * along(scale, kernel.shape.rank - len(axes) + axes.index(x[-1]), kernel.shape.rank)}


@dataclasses.dataclass(frozen=True, eq=False)
class Convolutional(Affine):
    """What convolutions share. Channels-first data are transposed, because CPU kernels want channels last."""

    strides: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    data_format: str

    def output_axis(self, rank):
        return rank - 1 if self.data_format == "channels_last" else 1

    input_axis = output_axis

    def linear(self, inputs, weights):
        (x,) = inputs
        if self.data_format == "channels_last":
            return self.convolve(x, weights)
        return channels_first(self.convolve(channels_last(x), weights))

    def convolve(self, x, weights):
        """The convolution, channels last."""
        raise NotImplementedError

    def padded(self, x, kernel):
        """x with explicit padding done, and the padding that is left for the convolution to do."""
        around = self.padding
        if around == "causal":
            around = ((self.dilation[0] * (kernel.shape[0] - 1), 0),)
        if isinstance(around, str):
            return x, around
        return tf.pad(x, ((0, 0), *around, (0, 0))), "valid"


def channels_last(x):
    """Moves the channel axis from 1 to the end."""
    return tf.transpose(x, (0, *range(2, x.shape.rank), 1))


def channels_first(x):
    """Moves the channel axis from the end to 1."""
    return tf.transpose(x, (0, x.shape.rank - 1, *range(1, x.shape.rank - 1)))


class Conv(Convolutional):
    """Convolution in 1 to 3 dimensions; groups follow from the shapes of kernel and input."""

    def convolve(self, x, weights):
        kernel = weights["kernel"]
        x, padding = self.padded(x, kernel)
        geometry = (self.strides, padding, "channels_last", self.dilation)
        groups = x.shape[-1] // kernel.shape[-2]
        if groups == 1:
            return ops.conv(x, kernel, *geometry)
        # TensorFlow has no grouped convolution with a gradient on all CPUs; compiled by XLA it takes a hundred times as
        # long.
        if groups == x.shape[-1] and len(self.strides) < 3 and len(set(self.strides)) == 1:
            kernel = tf.reshape(kernel, (*kernel.shape[:-2], groups, kernel.shape[-1] // groups))
            return ops.depthwise_conv(x, kernel, *geometry)
        parts = zip(tf.split(x, groups, axis=-1), tf.split(kernel, groups, axis=-1), strict=True)
        return tf.concat([ops.conv(part, k, *geometry) for part, k in parts], axis=-1)

    def has_room(self, inputs, weights):
        channels = inputs[0].shape[self.input_axis(inputs[0].shape.rank)]
        return channels == weights["kernel"].shape[-2] <= FEW

    def beside(self, inputs, weights):
        kernel = tf.concat([w["kernel"] for w in weights], axis=-2)
        return (tf.concat(inputs, self.input_axis(inputs[0].shape.rank)),), {"kernel": kernel}

    def multiplications(self, weights):
        return math.prod(weights["kernel"].shape[:-1])

    def scale_outputs(self, weights, scale):
        return {"kernel": weights["kernel"] * scale}

    def scale_inputs(self, weights, scale):
        kernel = weights["kernel"]
        if scale.shape.rank == 0:
            return {"kernel": kernel * scale}
        groups = scale.shape[0] // kernel.shape[-2]
        per_group = tf.transpose(tf.reshape(scale, (groups, kernel.shape[-2])))
        return {"kernel": kernel * tf.repeat(per_group, kernel.shape[-1] // groups, axis=1)}


class DepthwiseConv(Convolutional):
    """One convolution, or several, on each channel by itself."""

    def convolve(self, x, weights):
        x, padding = self.padded(x, weights["kernel"])
        return ops.depthwise_conv(x, weights["kernel"], self.strides, padding, "channels_last", self.dilation)

    def multiplications(self, weights):
        return math.prod(weights["kernel"].shape[:-2])

    def scale_outputs(self, weights, scale):
        kernel = weights["kernel"]
        return {"kernel": kernel * (scale if scale.shape.rank == 0 else tf.reshape(scale, kernel.shape[-2:]))}

    def scale_inputs(self, weights, scale):
        return {"kernel": weights["kernel"] * (scale if scale.shape.rank == 0 else scale[:, None])}


@dataclasses.dataclass(frozen=True, eq=False)
class ConvTranspose(Convolutional):
    """Transposed convolution; its kernel is (..., outputs, inputs)."""

    output_padding: int | tuple[int, ...] | None

    def convolve(self, x, weights):
        return ops.conv_transpose(
            x,
            weights["kernel"],
            list(self.strides),
            self.padding,
            self.output_padding,
            "channels_last",
            self.dilation,
        )

    def scale_outputs(self, weights, scale):
        return {"kernel": weights["kernel"] * (scale if scale.shape.rank == 0 else scale[:, None])}

    def scale_inputs(self, weights, scale):
        return {"kernel": weights["kernel"] * scale}


class SeparableConv(Convolutional):
    """A depthwise convolution followed by a pointwise one, as one site with two kernels."""

    keeps_signs = False

    def convolve(self, x, weights):
        kernel = weights["depthwise_kernel"]
        x, padding = self.padded(x, kernel)
        x = ops.depthwise_conv(x, kernel, self.strides, padding, "channels_last", self.dilation)
        return ops.conv(x, weights["pointwise_kernel"], 1, "valid", "channels_last")

    def scale_outputs(self, weights, scale):
        return {**weights, "pointwise_kernel": weights["pointwise_kernel"] * scale}

    def scale_inputs(self, weights, scale):
        kernel = weights["depthwise_kernel"]
        scale = scale if scale.shape.rank == 0 else scale[:, None]
        return {**weights, "depthwise_kernel": kernel * scale}


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
        return {"kernel": 1 / _tensor(self.count(*inputs), dtype)}

    def linear(self, inputs, weights):
        kernel = weights["kernel"]
        return self.average(*inputs) * (_tensor(self.count(*inputs), kernel.dtype) * kernel)


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


@dataclasses.dataclass(frozen=True, eq=False)
class Fused(Operation):
    """An affine operation with an activation behind it, as `Dense(activation="relu")` has it."""

    affine: Affine
    activation: "Activation"

    @property
    def label(self):
        return f"{self.affine.label} + {self.activation.label}"

    def read(self, dtype):
        return self.affine.read(dtype)

    def __call__(self, inputs, weights):
        return self.activation(self.affine(inputs, weights), {})


@dataclasses.dataclass(frozen=True, eq=False)
class Activation(Operation):
    """A function of one input that keeps its shape; the name says which, and so what is known of it."""

    function: Callable[[tf.Tensor], tf.Tensor]
    name: str
    layer: Any = None

    @property
    def label(self):
        return self.name

    @property
    def traits(self):
        return TRAITS.get(self.name, UNKNOWN)

    def __call__(self, inputs, weights):
        return (self.function(inputs[0]),)


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


class Product(Operation):
    """The product of its inputs, entry by entry: gates, swish."""

    def __call__(self, inputs, weights):
        z = inputs[0]
        for x in inputs[1:]:
            z = z * x
        return (z,)


class Quotient(Operation):
    """One input divided by the other, entry by entry."""

    def __call__(self, inputs, weights):
        return (inputs[0] / inputs[1],)


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction(Operation):
    """Sums of products of its inputs, linear in each of them: matmul, einsum and dot of two tensors of the graph."""

    function: Callable[..., tf.Tensor]
    name: str

    @property
    def label(self):
        return self.name

    def __call__(self, inputs, weights):
        return (self.function(*inputs),)


@dataclasses.dataclass(frozen=True, eq=False)
class Embedding(Operation):
    """Looks up a row for each index; the row's relevance belongs to the index."""

    table: Source

    def read(self, dtype):
        return {"embeddings": self.table(dtype)}

    def __call__(self, inputs, weights):
        return (tf.gather(weights["embeddings"], tf.cast(inputs[0], tf.int32)),)


@dataclasses.dataclass(frozen=True, eq=False)
class Opaque(Operation):
    """A Keras layer or operation that revgraph cannot look into: called as a whole, on its variables by name.

    Variables whose weight is left out are zero.
    """

    operation: keras.Operation
    function: Callable[..., object]
    outputs_count: int = 1

    @property
    def label(self):
        return type(self.operation).__name__

    def read(self, dtype):
        return {name: live(lambda v=v: v)(v.dtype) for name, v in self._variables().items()}

    def _variables(self):
        """Variables by the shortest ending of their path that tells them apart, mostly `kernel` and `bias`."""
        variables = getattr(self.operation, "variables", ())
        names = [v.name for v in variables]
        return {
            (v.name if names.count(v.name) == 1 else v.path): v
            for v in variables
            if "float" in keras.backend.standardize_dtype(v.dtype)
        }

    def __call__(self, inputs, weights):
        mapping = [(v, weights[name] if name in weights else tf.zeros_like(v)) for name, v in self._variables().items()]
        if not mapping:
            return tuple(tf.nest.flatten(self.function(*inputs)))
        with keras.StatelessScope(state_mapping=mapping):
            return tuple(tf.nest.flatten(self.function(*inputs)))
