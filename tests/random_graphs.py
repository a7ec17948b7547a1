"""Random graphs drawn from every operation that revgraph knows.

A graph is a program: lines of Keras code, which `build` runs and `describe` prints. One entry of the `CATALOGUE` stands
in every graph (entry `seed % len(CATALOGUE)`), so that as many seeds as there are entries draw them all. In every other
turn it stands there alone. The others are drawn at random among those that fit one of the tensors made so far.
Whatever nobody has read is flattened, concatenated and read by the last Dense layers, so that every line counts.

The text of an entry has holes: `{x}` is the tensor it reads, `{y}` another one of the same shape, `{b}` one that
broadcasts against x, `{i}` the integer input, `{c}` the number of channels, `{n}` a fresh number from which constants
are made. `<a|b>` is a choice. Several lines are split by `;` and the last one gives the new tensor.
"""

import dataclasses
import functools
import re

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from tests.models import precision

BATCH = 7
"""No axis has this length: for `a + b` of shapes (n, n) and (n, 1) Keras 3.15 takes b for a bias, and mixes samples."""
IDS = 7
"""Integer inputs are smaller than this."""

LARGE = 130
"""Tensors with more entries per sample are read by nothing but the last layers."""


def number(n, *shape):
    """Constants in +-[0.3, 1.2], different for each n."""
    rng = np.random.default_rng(1000 + n)
    return rng.uniform(0.3, 1.2, shape) * rng.choice([-1.0, 1.0], shape)


class Scaled(layers.Layer):
    """A layer of the user's own whose kernel is an expression of weights."""

    def build(self, shape):
        self.v = self.add_weight(shape=(shape[-1], 4), name="v")
        self.g = self.add_weight(shape=(4,), name="g")

    def call(self, x):
        return ops.matmul(x, self.v * self.g)


class Gated(layers.Layer):
    """A gate of the user's own, with layers inside."""

    def build(self, shape):
        self.signal, self.gate = layers.Dense(4), layers.Dense(4, activation="sigmoid")
        self.signal.build(shape)
        self.gate.build(shape)

    def call(self, x):
        return self.signal(x) * self.gate(x)


class Centred(layers.Layer):
    """A shift by weights that broadcast, and a rectifier made of operations."""

    def build(self, shape):
        self.centre = self.add_weight(shape=(shape[-1],), name="centre")

    def call(self, x):
        return ops.maximum(x - self.centre, 0.0) - 0.5 * ops.maximum(self.centre - x, 0.0)


class Counting(layers.Layer):
    """A layer whose `call` changes attributes of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.count, self.seen, self.notes, self.last = 0, [], {}, None

    def call(self, x):
        self.count += 1
        self.seen.append(self.count)
        self.notes["calls"] = self.count
        self.last = x
        return ops.relu(x) - 0.3 * x


class Regular(layers.Layer):
    """A layer that adds a loss."""

    def call(self, x):
        self.add_loss(1e-3 * ops.mean(ops.square(x)))
        return 1.5 * x


class Looping(layers.Layer):
    """Python that depends on shapes, and views of one tensor."""

    def call(self, x):
        steps = [x[:, t] for t in range(x.shape[1])]
        state = steps[0]
        for step in steps[1:]:
            state = ops.tanh(0.5 * state + step)
        return ops.stack([state, steps[-1]], axis=1)


CUSTOM = (Scaled, Gated, Centred, Counting, Regular, Looping)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One kind of line.

    Args:
        text: What the line computes; see the module.
        ranks: Ranks, with the batch axis, of tensors that it can read.
        size: The least length of the axes between batch and channels.
        even: Whether the number of channels must be even.
        linear: Whether LRP-0 of it is input times gradient.
        source: `"float"`, `"ids"` or `"bytes"`: what the input must be.
    """

    text: str
    ranks: tuple[int, ...]
    size: int = 1
    even: bool = False
    linear: bool = True
    source: str = "float"

    def fits(self, tensor) -> bool:
        shape = tuple(tensor.shape)
        return (
            len(shape) in self.ranks
            and "float" in str(tensor.dtype)
            and not tensor.sparse
            and all(n >= self.size for n in (shape[1:-1] if len(shape) > 2 else shape[1:]))
            and (not self.even or shape[-1] % 2 == 0)
            and None not in shape[1:]
            and shape[-1] >= 2
            and int(np.prod(shape[1:])) <= LARGE
        )


CATALOGUE: list[Entry] = []
ANY, SPATIAL = (2, 3, 4, 5), (3, 4, 5)


def entry(texts, ranks, **facts):
    """Adds entries, one for each line of text."""
    for text in texts.strip().split("\n"):
        CATALOGUE.append(Entry(text.strip(), ranks, **facts))


ACT = "<None|'relu'|'relu'|'tanh'|'leaky_relu'>"
PIECEWISE = "<None|'relu'|'relu'|'leaky_relu'>"
PAD = "padding='<valid|same>'"
BIAS = "use_bias=<True|False>"

# Linear layers.
entry(
    f"""
    layers.Dense(<2|4>, activation={PIECEWISE}, {BIAS})({{x}})
    layers.EinsumDense('...c,cd->...d', output_shape=4, bias_axes='d', activation={PIECEWISE})({{x}})
    """,
    ANY,
)
entry("layers.EinsumDense('abc,cde->abde', ({t}, 2, 3))({x})", (3,))
entry("layers.EinsumDense('abc,bd->adc', (4, {c}), bias_axes='d')({x})", (3,))
entry(
    f"""
    layers.Conv1D(<2|4>, 2, strides=<1|2>, padding='<valid|same|causal>', activation={PIECEWISE}, {BIAS})({{x}})
    layers.Conv1D(2, 2, dilation_rate=2, padding='<valid|causal>')({{x}})
    layers.DepthwiseConv1D(2, depth_multiplier=<1|2>, {PAD}, {BIAS})({{x}})
    layers.SeparableConv1D(4, 2, strides=<1|2>, {PAD}, activation={PIECEWISE})({{x}})
    layers.Conv1DTranspose(2, 2, strides=<1|2>, {PAD}, {BIAS})({{x}})
    layers.TimeDistributed(layers.Dense(4, activation={PIECEWISE}))({{x}})
    """,
    (3,),
    size=3,
)
entry("layers.Conv1D(4, 2, groups=2)({x})", (3,), size=2, even=True)
entry(
    f"""
    layers.Conv2D(<2|4>, <2|3>, strides=<1|2>, {PAD}, activation={PIECEWISE}, {BIAS})({{x}})
    layers.Conv2D(<2|4>, <1|2>, {PAD}, activation='relu')({{x}})
    layers.Conv2D(2, 2, dilation_rate=2, {PAD})({{x}})
    layers.DepthwiseConv2D(2, depth_multiplier=<1|2>, strides=<1|2>, {PAD}, activation={PIECEWISE})({{x}})
    layers.SeparableConv2D(4, 2, depth_multiplier=<1|2>, {PAD}, activation={PIECEWISE})({{x}})
    layers.Conv2DTranspose(2, 2, strides=<1|2>, {PAD}, {BIAS})({{x}})
    layers.TimeDistributed(layers.Conv1D(2, 2, padding='same', activation={PIECEWISE}))({{x}})
    """,
    (4,),
    size=3,
)
entry("layers.Conv2D(4, 2, groups=2, {p})({x})".replace("{p}", PAD), (4,), size=2, even=True)
entry(
    f"""
    layers.Conv3D(2, 2, strides=<1|2>, {PAD}, activation={PIECEWISE}, {BIAS})({{x}})
    layers.Conv3DTranspose(2, 2, strides=<1|2>, {PAD})({{x}})
    """,
    (5,),
    size=3,
)

# Normalization.
entry(
    """
    layers.BatchNormalization(scale=<True|False>, center=<True|False>)({x})
    layers.BatchNormalization(axis=1)({x})
    layers.ReLU()(layers.BatchNormalization()(layers.Dense(4)({x})))
    layers.Dense(4)(layers.BatchNormalization()(layers.ReLU()({x})))
    layers.Dense(2)(layers.BatchNormalization()({x}))
    layers.Rescaling(<-0.5|2.0>, offset=<0.0|-0.4>)({x})
    layers.Normalization(mean=0.2, variance=2.0)({x})
    layers.Normalization(mean=list(number({n}, {c})), variance=list(number({n}, {c}) ** 2), invert=<True|False>)({x})
    ops.batch_normalization({x}, number({n}, {c}), number({n}, {c}) ** 2, -1, number({n} + 1, {c}), number(5, {c}))
    """,
    ANY,
)
entry("layers.MaxPooling2D(2, 1)(layers.BatchNormalization()(layers.Conv2D(2, 2)({x})))", (4,), size=3)
entry("layers.AveragePooling2D(2, 1)(layers.BatchNormalization()(layers.Conv2D(2, 2)({x})))", (4,), size=3)
entry("layers.BatchNormalization()(ops.sort(layers.Dense(4)({x}), axis=-1))", ANY)
# The axis of the normalization is another one, or none, behind these.
entry(
    """
    layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.BatchNormalization(axis=1)({x})))
    layers.Dense(2)(ops.max(layers.BatchNormalization(axis=1)({x}), axis=1))
    layers.Dense(2)(layers.Permute((2, 1))(layers.BatchNormalization(axis=<-1|1>)({x})))
    layers.BatchNormalization(axis=1)(layers.Permute((2, 1))(layers.Dense(3)({x})))
    layers.Dense(2)(ops.roll(layers.BatchNormalization()({x}), 1, axis=-1))
    layers.Dense(2)(ops.concatenate([layers.BatchNormalization()({x}), {x}], axis=<1|-1>))
    layers.Dense(2)({x}[:, 1] * number({n}, {c}))
    """,
    (3,),
    size=2,
)
entry(
    """
    layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.BatchNormalization(axis=<1|2>)({x})))
    layers.Dense(2)(layers.Flatten()(layers.BatchNormalization(axis=<1|-1>)({x})))
    layers.Conv2D(2, 2)(layers.AveragePooling2D(2, 1, padding='same')(layers.BatchNormalization()({x})))
    layers.Conv2D(2, 2)(layers.MaxPooling2D(2, 1)(layers.BatchNormalization()({x})))
    layers.Conv2D(2, 2, padding='same')(layers.UpSampling2D(2)(layers.BatchNormalization()({x})))
    layers.BatchNormalization()(layers.ZeroPadding2D(1)(layers.Conv2D(2, 2)({x})))
    layers.BatchNormalization(axis=1)(layers.Conv2D(2, 2)({x}))
    layers.BatchNormalization()(layers.GlobalMaxPooling2D()(layers.Conv2D(2, 2)({x})))
    """,
    (4,),
    size=3,
)
entry("layers.Conv2D(2, 2, padding='same')(layers.BatchNormalization()({x}))", (4,), size=2)
entry("layers.Conv2D(2, 2)(layers.ZeroPadding2D(1)(layers.BatchNormalization()({x})))", (4,), size=2)
entry(
    """
    layers.LayerNormalization(axis=<-1|1>)({x})
    layers.LayerNormalization(rms_scaling=True)({x})
    layers.RMSNormalization()({x})
    layers.UnitNormalization(axis=<-1|1>)({x})
    ops.layer_normalization({x}, number({n}, {c}), number({n} + 1, {c}))
    ops.rms_normalization({x}, number({n}, {c}))
    ops.normalize({x}, axis=-1, order=2)
    layers.Dense(4)(layers.LayerNormalization()({x}))
    """,
    ANY,
    linear=False,
)
entry("layers.GroupNormalization(<1|2|-1>)({x})", SPATIAL, even=True, linear=False)

# Merging.
entry(
    """
    layers.Add()([{x}, {y}])
    layers.Add()([{x}, {y}, {x}])
    layers.Subtract()([{x}, {y}])
    layers.Average()([{x}, {y}])
    layers.Maximum()([{x}, {y}])
    layers.Minimum()([{x}, {y}])
    layers.Concatenate(axis=<-1|1>)([{x}, {y}])
    layers.Add()([{x}, {b}])
    layers.Subtract()([{b}, {x}])
    layers.Maximum()([{x}, {b}])
    {x} + {y}
    {x} - {b}
    {b} - 2.0 * {x}
    ops.maximum({x}, {y})
    ops.minimum({x}, {b})
    ops.fmax({x}, {y})
    ops.fmin({x}, {y})
    layers.ReLU()(layers.Add()([layers.BatchNormalization()({x}), {y}]))
    ops.concatenate([{x}, {y}], axis=-1)
    """,
    ANY,
)
entry(
    """
    layers.Multiply()([{x}, {y}])
    layers.Multiply()([{x}, layers.Activation('sigmoid')({y})])
    layers.Multiply()([{x}, layers.Dense({c}, activation='sigmoid')({b})])
    {x} * {y}
    {x} * ops.sigmoid({x})
    {x} * ops.softmax({y}, axis=-1)
    {x} * {b}
    {x} / (ops.softplus({y}) + 0.5)
    {x} / (ops.exp(ops.tanh({b})) + 1.0)
    ops.true_divide({x}, ops.exp(ops.tanh({y})))
    Gated()({x})
    """,
    ANY,
    linear=False,
)
entry(
    """
    layers.Dot(axes=(2, 2))([{x}, {y}])
    layers.Dot(axes=(1, 1))([{x}, {y}])
    layers.Dot(axes=(2, 2), normalize=True)([{x}, {y}])
    ops.matmul({x}, ops.swapaxes({y}, 1, 2))
    ops.matmul(ops.softmax(ops.matmul({x}, ops.swapaxes({y}, 1, 2)) * 0.5, axis=-1), {y})
    ops.einsum('btc,bsc->bts', {x}, {y})
    ops.einsum('btc,bsc->bt', {x}, {y})
    """,
    (3,),
    linear=False,
)
entry("ops.expand_dims({x}, 2) * ops.expand_dims({y}, 1)", (2,), linear=False)

# Arithmetic with constants.
entry(
    """
    {x} * <-0.7|1.5|0.3>
    {x} + <0.4|-0.4>
    <0.4|1.0> - {x}
    {x} - number({n}, {c})
    {x} * number({n}, {c})
    {x} * number({n}, {c}) + number({n} + 1, {c})
    {x} / <2.0|-3.0>
    {x} / number({n}, {c})
    -{x}
    ops.negative({x})
    ops.add({x}, number({n}, {c}))
    ops.subtract(number({n}, {c}), {x})
    ops.multiply(number({n}, *{s}), {x})
    ops.add({x}, number({n}, *{s}))
    ops.true_divide({x}, 2.0)
    ops.matmul({x}, number({n}, {c}, 4))
    ops.dot({x}, number({n}, {c}, 2))
    layers.Dense(4)({x} * -0.7)
    layers.Dense(4)(-ops.relu({x}))
    layers.Dense(4)(ops.relu({x}) - 0.5)
    layers.Dense(4)(ops.relu({x}) * number({n}, {c}))
    layers.Dense(4)(layers.Rescaling(-1.0)(layers.ReLU()({x})))
    layers.ReLU()(-0.8 * layers.Dense(4)({x}))
    """,
    ANY,
)
entry(
    """
    ops.matmul(number({n}, 2, {t}), {x})
    ops.einsum('btc,cd->btd', {x}, number({n}, {c}, 2))
    ops.einsum('btc,ts->bsc', {x}, number({n}, {t}, 2))
    ops.einsum('td,btc->bdc', number({n}, {t}, 2), {x})
    ops.expand_dims({x}, 1) - number({n}, 2, 1, {c})
    """,
    (3,),
)
entry("ops.relu(ops.expand_dims({x}, 2) - number({n}, 3))", (2,))
entry("ops.tensordot({x}, number({n}, {c}, 2), axes=1)", ANY)
entry("ops.inner({x}, number({n}, 2, {c}))", (2, 3))

# Activations: piecewise linear ones first.
entry(
    """
    layers.Activation('<relu|leaky_relu|linear>')({x})
    layers.ReLU(negative_slope=<0.0|0.2>)({x})
    layers.ReLU(max_value=1.0)({x})
    layers.LeakyReLU(0.3)({x})
    layers.PReLU()({x})
    ops.relu({x})
    ops.relu6(3.0 * {x})
    ops.leaky_relu({x}, 0.1)
    ops.maximum({x}, 0.0)
    ops.maximum({x}, 0)
    ops.absolute({x})
    ops.abs({x})
    ops.fabs({x})
    ops.copy({x})
    ops.cast({x}, 'float64')
    ops.saturate_cast({x}, 'float64')
    ops.convert_to_tensor({x})
    ops.nan_to_num({x})
    layers.Dense(4)(layers.LeakyReLU(0.3)(layers.Dense(4)({x})))
    layers.Dense(4, activation='relu')(layers.ReLU(max_value=0.8)(layers.Dense(4)({x})))
    """,
    ANY,
)
entry(
    """
    layers.Activation('<elu|selu|gelu|silu|swish|mish|softplus|softsign|tanh|sigmoid|exponential>')({x})
    layers.Activation('<hard_sigmoid|hard_silu|hard_swish|hard_tanh|hard_shrink|soft_shrink|tanh_shrink>')({x})
    layers.Activation('<celu|log_sigmoid|squareplus|sparse_plus|sparse_sigmoid|relu6>')({x})
    layers.Activation('<softmax|log_softmax|sparsemax>')({x})
    layers.Dense(4, activation='<elu|gelu|silu|softplus|tanh|sigmoid|hard_sigmoid|hard_tanh|mish|relu6|softmax>')({x})
    layers.Dense(4)(layers.Dense(4, activation='<sigmoid|softplus|hard_sigmoid|softmax|exponential>')({x}))
    layers.ReLU(negative_slope=0.1, max_value=1.0, threshold=0.2)({x})
    layers.ReLU(max_value=1.0, threshold=0.3)({x})
    keras.activations.relu({x}, threshold=-0.3)
    keras.activations.relu({x}, max_value=0.9, threshold=-0.2)
    layers.Dense(4)(keras.activations.relu({x}, threshold=-0.3))
    layers.ELU(0.7)({x})
    ops.negative(layers.Softmax()({x}, mask={x} > -0.2))
    layers.Softmax(axis=<-1|1>)(0.9 * {x})
    layers.Dense(2)(ops.square({x}))
    layers.Dense(2)(ops.clip({x}, <-0.5|0.1>, 0.8))
    ops.clip({x}, -0.5, 0.5)
    ops.maximum({x}, <0.3|-0.3>)
    ops.maximum({x}, number({n}, {c}))
    ops.minimum({x}, <0.3|0.8>)
    ops.minimum(number({n}, {c}), {x})
    ops.sigmoid({x})
    ops.sparse_sigmoid({x})
    ops.softplus({x})
    ops.softsign({x})
    ops.soft_shrink({x}, 0.2)
    ops.sparse_plus({x})
    ops.silu({x})
    ops.squareplus({x})
    ops.log_sigmoid({x})
    ops.hard_sigmoid({x})
    ops.hard_silu({x})
    ops.elu({x})
    ops.selu({x})
    ops.gelu({x}, approximate=<True|False>)
    ops.celu({x}, 0.7)
    ops.tanh_shrink({x})
    ops.hard_tanh({x})
    ops.hard_shrink({x}, 0.2)
    ops.threshold({x}, 0.2, <-0.4|0.0>)
    ops.softmax({x}, axis=<-1|1>)
    ops.log_softmax({x})
    ops.sparsemax({x})
    ops.tanh({x})
    ops.arctan({x})
    ops.arcsinh({x})
    ops.cbrt({x})
    ops.ceil({x})
    ops.cos({x})
    ops.cosh(ops.tanh({x}))
    ops.erf({x})
    ops.erfc({x})
    ops.exp(0.3 * {x})
    ops.expm1(0.3 * {x})
    ops.floor(2.0 * {x})
    ops.log(ops.softplus({x}) + 0.5)
    ops.log10(ops.softplus({x}) + 0.5)
    ops.log1p(ops.softplus({x}))
    ops.log2(ops.softplus({x}) + 0.5)
    ops.reciprocal(ops.softplus({x}) + 0.5)
    1.0 / (ops.softplus({x}) + 0.5)
    ops.round(2.0 * {x})
    ops.rsqrt(ops.softplus({x}) + 0.5)
    ops.sqrt(ops.softplus({x}) + 0.5)
    ops.sign({x})
    ops.sin({x})
    ops.sinc({x})
    ops.sinh(ops.tanh({x}))
    ops.square({x})
    ops.stop_gradient({x}) + {x}
    ops.view({x}, 'float64')
    ops.tan(0.5 * ops.tanh({x}))
    ops.trunc(2.0 * {x})
    {x} ** 2
    ops.power(ops.softplus({x}), 1.5)
    """,
    ANY,
    linear=False,
)
entry("ops.glu({x})", ANY, even=True, linear=False)
entry("ops.concatenate(ops.moments({x}, axes=[-1], keepdims=True), axis=-1)", ANY, linear=False)

# Moves.
entry(
    """
    layers.Flatten()({x})
    layers.Reshape((-1, {c}))({x})
    layers.Reshape(({c}, -1))({x})
    ops.reshape({x}, (-1, *{s}[::-1]))
    ops.expand_dims({x}, <1|-1>)
    ops.squeeze(ops.expand_dims({x}, 1), 1)
    ops.flip({x}, axis=<-1|1>)
    ops.roll({x}, 1, axis=-1)
    ops.repeat({x}, 2, axis=<-1|1>)
    {x}[:, 1:]
    {x}[:, ::-1]
    {x}[..., :2]
    ops.sort({x}, axis=-1)
    ops.top_k({x}, 2)[0]
    ops.split({x}, [1], axis=-1)[1]
    ops.stack([{x}, {y}], axis=<1|-1>)
    ops.unstack({x}, axis=1)[1]
    ops.hstack([{x}, {y}])
    ops.hsplit({x}, [1])[0]
    ops.take({x}, [1, 0, 1], axis=<-1|1>)
    ops.take_along_axis({x}, ops.argsort({x}, axis=-1), axis=-1)
    ops.where({x} > 0.2, {x}, <-0.5|0.0|1.0>)
    ops.where({x} > 0.2, {x}, {y})
    ops.where(number({n}, *{s}) > 0, {x}, <0.0|-0.4>)
    ops.where({y} > 0, -0.3, {x})
    ops.select([{x} > 0.5, {x} < -0.5], [{x}, {y}], <0.0|0.7>)
    ops.concatenate([{x}, 0.0 * {x} + number({n}, {c})], axis=-1)
    ops.max({x}, axis=<-1|1>)
    ops.min({x}, axis=-1)
    ops.amax({x}, axis=-1)
    ops.amin({x}, axis=1)
    ops.max({x}, axis=-1, initial=0.3)
    ops.mean({x}, axis=<-1|1>, keepdims=<True|False>)
    ops.sum({x}, axis=<-1|1>)
    ops.cumsum({x}, axis=-1)
    ops.diff({x}, axis=-1)
    ops.trapezoid({x}, axis=-1)
    ops.broadcast_to(ops.expand_dims({x}, 1), (BATCH, 2, *{s}))
    ops.pad({x}, ((0, 0),) * (len({s})) + ((1, 1),), mode='<constant|reflect|symmetric>')
    ops.pad({x}, ((0, 0),) * (len({s})) + ((0, 1),), constant_values=<0.0|0.6|-0.6>)
    layers.Dense(2)(ops.pad(ops.relu({x}), ((0, 0),) * (len({s})) + ((0, 1),), constant_values=-0.6))
    layers.Dense(2)(ops.where(ops.relu({x}) > 0.3, ops.relu({x}), -0.6))
    layers.Dense(2)(ops.flip(ops.relu({x}), axis=-1))
    layers.Dense(2)(ops.max(ops.relu({x}), axis=1, keepdims=True))
    ops.fft(({x}, {y}))[<0|1>]
    ops.append({x}, {y}, axis=<-1|1>)
    ops.array_split({x}, 2, axis=-1)[0]
    ops.where({x} > 0.1, {x}, ops.zeros_like({x}))
    ops.maximum({x}, 0.3 * ops.ones_like({x}))
    ops.where({x} > 0.4, ops.full_like({x}, <0.5|-0.5>), {x})
    """,
    ANY,
    size=2,
)
entry("layers.RepeatVector(3)({x})\nops.tile({x}, (1, 2))", (2,))
entry(
    """
    layers.Permute((2, 1))({x})
    ops.transpose({x}, (0, 2, 1))
    ops.moveaxis({x}, 1, 2)
    ops.tril({x})
    ops.triu({x})
    ops.dstack([{x}, {y}])
    layers.Masking()(layers.ZeroPadding1D(1)({x}))
    layers.GlobalAveragePooling1D()(layers.Masking()(layers.ZeroPadding1D(1)({x})))
    layers.ZeroPadding1D((<0|1>, 1))({x})
    layers.Cropping1D((1, 0))({x})
    layers.UpSampling1D(2)({x})
    layers.MaxPooling1D(2, <1|2>, padding='<valid|same>')({x})
    layers.AveragePooling1D(2, <1|2>, padding='<valid|same>')({x})
    layers.GlobalMaxPooling1D(keepdims=<True|False>)({x})
    layers.GlobalAveragePooling1D(keepdims=<True|False>)({x})
    layers.AdaptiveMaxPooling1D(2)({x})
    layers.AdaptiveAveragePooling1D(2)({x})
    ops.max_pool({x}, 2, 1)
    ops.average_pool({x}, 2, 1, padding='same')
    ops.conv({x}, number({n}, 2, {c}, 2), padding='same')
    layers.Dense(2)(layers.AveragePooling1D(2)(layers.ReLU()({x})))
    """,
    (3,),
    size=2,
)
entry("Looping()({x})", (3,), size=2, linear=False)
entry("ops.trace({x}, axis1=1, axis2=2)[:, None]\nops.diagonal({x}, axis1=1, axis2=2)", (3,))
entry(
    """
    layers.Permute((2, 1, 3))({x})
    ops.rot90({x}, axes=(1, 2))
    ops.fliplr({x})
    layers.ZeroPadding2D(((1, 0), (0, 1)))({x})
    layers.Cropping2D(((1, 0), (0, 1)))({x})
    layers.CenterCrop(2, 2)({x})
    layers.Resizing(4, 5, interpolation='<nearest|bilinear|bicubic|area|lanczos3>')({x})
    layers.UpSampling2D(2, interpolation='<nearest|bilinear>')({x})
    layers.MaxPooling2D(2, <1|2>, padding='<valid|same>')({x})
    layers.AveragePooling2D(2, <1|2>, padding='<valid|same>')({x})
    layers.GlobalMaxPooling2D(keepdims=<True|False>)({x})
    layers.GlobalAveragePooling2D(keepdims=<True|False>)({x})
    layers.AdaptiveMaxPooling2D(2)({x})
    layers.AdaptiveAveragePooling2D(2)({x})
    layers.Flatten(data_format='channels_first')({x})
    layers.ZeroPadding2D(1, data_format='channels_first')({x})
    layers.GlobalMaxPooling2D(data_format='channels_first')({x})
    layers.GlobalAveragePooling2D(data_format='channels_first')({x})
    ops.max_pool({x}, 2, <1|2>, padding='same')
    ops.average_pool({x}, 2, 1, padding='<valid|same>')
    ops.reshape(ops.adaptive_max_pool({x}, (2, 2), data_format='channels_last'), (-1, 4, {c}))
    ops.reshape(ops.adaptive_average_pool({x}, (2, 2), data_format='channels_last'), (-1, 4, {c}))
    ops.image.resize({x}, (4, 4), interpolation='<nearest|bilinear|bicubic>')
    ops.image.pad_images({x}, 1, 0, <0|1>, 1)
    ops.image.extract_patches({x}, (2, 2), padding='valid')
    ops.image.crop_images({x}, 0, 1, target_height=2, target_width=1)
    ops.conv({x}, number({n}, 2, 2, {c}, 2), strides=<1|2>)
    ops.depthwise_conv({x}, number({n}, 2, 2, {c}, 2), padding='same')
    ops.separable_conv({x}, number({n}, 2, 2, {c}, 1), number({n}, 1, 1, {c}, 3))
    ops.space_to_depth(layers.Resizing(4, 4)({x}), 2)
    layers.ReLU()(layers.Conv2D(2, 2)(layers.MaxPooling2D(2, 1)(layers.ReLU()({x}))))
    layers.ReLU()(layers.Conv2D(2, 2)(layers.Resizing(4, 4, interpolation='bicubic')(layers.ReLU()({x}))))
    """,
    (4,),
    size=3,
)
entry("ops.depth_to_space(layers.Conv2D(4, 1)({x}), 2)", (4,))
entry("layers.SpatialDropout2D(0.3)(layers.RandomFlip()({x}))", (4,))
entry(
    """
    layers.ZeroPadding3D(((1, 0), (0, 0), (0, 1)))({x})
    layers.Cropping3D(((1, 0), (0, 0), (0, 1)))({x})
    layers.UpSampling3D((1, 2, 1))({x})
    layers.GlobalMaxPooling3D()({x})
    layers.GlobalAveragePooling3D()({x})
    ops.dsplit({x}, [2])[0]
    """,
    (5,),
    size=3,
)

# Nothing in inference, shared, nested and own layers.
entry(
    """
    layers.Dropout(0.4)({x})
    layers.Identity()(layers.GaussianNoise(0.3)({x}))
    layers.ActivityRegularization(l2=0.01)({x})
    shared = layers.Dense({c}, activation='relu'); shared(shared({x}))
    shared = layers.Dense(4); shared({x}) + ops.relu(shared({y}))
    shared = layers.BatchNormalization(); layers.Concatenate()([shared({x}), shared(layers.Dense({c})({y}))])
    nested = keras.Sequential([layers.Dense(4), layers.BatchNormalization(), layers.ReLU()]); nested({x})
    nested = keras.Sequential([layers.Dense({c}, 'relu'), layers.Dense({c})]); nested(nested({x})) + {y}
    inner = keras.Input({s}); keras.Model(inner, [ops.relu(inner), layers.Dense(2)(inner)])({x})[<0|1>]
    a, b = keras.Input({s}), keras.Input({s}); keras.Model([a, b], layers.Subtract()([a, -b]))([{y}, {x}])
    Scaled()({x})
    Centred()({x})
    Counting()({x})
    Regular()({x})
    """,
    ANY,
)

# Integers.
entry(
    """
    layers.Embedding(IDS, 2)({i})
    layers.Embedding(IDS, 4, mask_zero=True)({i})
    layers.GlobalAveragePooling1D()(layers.Embedding(IDS, 4, mask_zero=True)({i}))
    layers.Embedding(IDS, 2)({i}[:, 1:])
    layers.Embedding(IDS, 3)({i}[:, 0])
    layers.Embedding(IDS, 2)(ops.flip({i}, axis=1))
    layers.Embedding(IDS, 2)(layers.Reshape((2, 2))({i}))
    layers.Embedding(IDS, 2)(ops.concatenate([{i}, {i}[:, :1]], axis=1))
    layers.Concatenate()([layers.Embedding(IDS, 2)({i}[:, k]) for k in range(2)])
    ops.take(number({n}, IDS, 3), {i}, axis=0)
    layers.TimeDistributed(layers.Embedding(IDS, 3))(layers.Reshape((2, 2))({i}))
    layers.Embedding(IDS, 2)(ops.split({i}, 2, axis=1)[1])
    layers.Embedding(IDS, 4)({i}) + number({n}, 4, 4)
    e = layers.Embedding(IDS, 4); ops.matmul(layers.Dense(4)(e({i})), number({n}, 4, IDS))
    """,
    (),
    source="ids",
)
entry(
    """
    layers.Rescaling(1 / 255.0, offset=<0.0|-0.5>)({i})
    ops.cast({i}, 'float64') / 255.0
    ops.cast({i}[:, 1:], 'float64') * 0.01 - 1.0
    ops.cast(ops.flip({i}, axis=2), 'float64') / 127.5 - 1.0
    layers.Normalization(mean=[100.0, 90.0], variance=[900.0, 400.0])(ops.cast({i}, 'float64'))
    ops.divide(ops.cast(ops.transpose({i}, (0, 2, 1, 3)), 'float64'), 255.0)
    """,
    (),
    source="bytes",
)

INPUTS = {
    2: "keras.Input((<3|5>,))",
    3: "keras.Input((<3|4>, <2|4>))",
    4: "keras.Input((<4|5>, <4|5>, <2|4>))",
    5: "keras.Input((3, 3, 3, 2))",
    "ids": "keras.Input((4,), dtype='int32')",
    "bytes": "keras.Input((4, 4, 2), dtype='uint8')",
}

HEADER = """import keras
import numpy as np
from keras import layers, ops

from tests.random_graphs import *  # number, weigh, data, the layers of its own

keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")
"""


class _Program:
    """Lines, and the tensors that they have made so far."""

    def __init__(self, seed, linear):
        self.rng = np.random.default_rng(seed)
        self.linear = linear
        self.lines, self.inputs, self.pool = [], [], []
        self.read = set()
        self.constants = 0
        self.scope = {"keras": keras, "np": np, "layers": layers, "ops": ops, "number": number, "IDS": IDS}
        self.scope |= {"BATCH": BATCH} | {cls.__name__: cls for cls in CUSTOM}

    def choice(self, values):
        return values[int(self.rng.integers(len(values)))]

    def tensor(self, name):
        return self.scope[name]

    def line(self, text, prefix="t"):
        """Runs one line and returns the name of what it made."""
        text = re.sub(r"<([^<>]*\|[^<>]*)>", lambda m: self.choice(m.group(1).split("|")), text)
        *before, last = text.split("; ")
        name = f"{prefix}{len(self.inputs if prefix == 'i' else self.pool)}"
        lines = [*before, f"{name} = {last}"]
        self.lines += lines
        for code in lines:
            exec(code, self.scope)
        (self.inputs if prefix == "i" else self.pool).append(name)
        return name

    def input(self, kind, **sizes):
        """Adds an input; `sizes` replaces choices of lengths."""
        text = INPUTS[kind]
        for choice, size in sizes.items():
            text = text.replace(choice, size)
        name = self.line(text, "i")
        if "float" in str(self.tensor(name).dtype):
            self.pool.append(name)
        return name

    def use(self, name):
        self.read.add(name)
        return name

    def other(self, x, broadcast=False):
        """Another tensor of x's shape, or one that broadcasts against it."""
        shape = tuple(self.tensor(x).shape)
        if broadcast:
            return self.line(self.choice([f"layers.Dense(1)({x})", f"ops.mean({x}, axis=1, keepdims=True)"]))
        same = [t for t in self.pool if t != x and tuple(self.tensor(t).shape) == shape]
        return self.choice(same) if same and self.rng.random() < 0.7 else self.line(f"layers.Dense({shape[-1]})({x})")

    def add(self, entry):
        """Adds an entry, on one of the tensors that fit it."""
        holes = {}
        if "{i}" in entry.text:
            dtype = "uint8" if entry.source == "bytes" else "int32"
            fitting = [name for name in self.inputs if str(self.tensor(name).dtype) == dtype]
            holes["i"] = self.use(fitting[0]) if fitting else self.use(self.input(entry.source))
        else:
            x = self.choice([name for name in self.pool if entry.fits(self.tensor(name))])
            shape = tuple(self.tensor(x).shape)
            holes = {"x": self.use(x), "c": shape[-1], "s": shape[1:], "t": shape[1]}
            if "{y}" in entry.text:
                holes["y"] = self.use(self.other(x))
            if "{b}" in entry.text:
                holes["b"] = self.use(self.other(x, broadcast=True))
        self.constants += 2
        text = re.sub(r"\{(\w)\}", lambda m: str(holes.get(m.group(1), self.constants)), entry.text)
        self.line(text)

    def random(self, count):
        """Adds entries at random."""
        for _ in range(count):
            fitting = [e for e in CATALOGUE if self.allowed(e) and any(e.fits(self.tensor(t)) for t in self.pool)]
            # Linear layers are drawn as often as all others.
            linear = [e for e in fitting if re.match(r"layers\.\w*(Conv|Dense)", e.text)]
            self.add(self.choice(linear if linear and self.rng.random() < 0.35 else fitting))

    def allowed(self, entry):
        return entry.source == "float" and (entry.linear or not self.linear)

    def finish(self):
        """The rest is read by the last layers."""
        left = [name for name in self.pool if name not in self.read]
        parts = []
        for name in left:
            rank = len(self.tensor(name).shape)
            if rank > 2:
                ends = ["layers.Flatten()({x})"]
                if rank < 6:
                    ends += [f"layers.GlobalAveragePooling{rank - 2}D()({{x}})"]
                name = self.line(self.choice(ends).replace("{x}", name))
            elif rank == 1:
                name = self.line(f"ops.expand_dims({name}, 1)")
            parts.append(name)
        last = parts[0] if len(parts) == 1 else self.line(f"layers.Concatenate()([{', '.join(parts)}])")
        if self.rng.random() < 0.5:
            last = self.line(f"layers.Dense(4, activation='relu')({last})")
        outputs = [self.line(f"layers.Dense(3, name='out{i}')({last})") for i in range(self.choice([1, 1, 1, 2]))]
        inputs = list(self.inputs)
        end = [f"[{', '.join(names)}]" if len(names) > 1 else names[0] for names in (inputs, outputs)]
        self.lines.append(f"model = keras.Model({', '.join(end)})")
        exec(self.lines[-1], self.scope)
        return self.scope["model"]


def program(seed, linear=False, only=None):
    """The program of a seed; with `linear` of operations for which LRP-0 is input times gradient.

    Args:
        seed: The seed.
        linear: Leave out what is not piecewise linear.
        only: Entry that stands in the program, in place of the one whose turn it is.
    """
    made = _Program(seed, linear)
    entries = [e for e in CATALOGUE if e.linear or not linear]
    chosen = entries[seed % len(entries)] if only is None else only
    kinds = [chosen.source if chosen.source != "float" else made.choice(chosen.ranks)]
    # Every other turn through the catalogue has the entry alone, between the input and the last layers.
    short = seed // len(entries) % 2 == 1
    if not short and made.rng.random() < 0.3:
        kinds.append(made.choice([2, 3, 4, "ids"]))
    first, *more = kinds
    # The first input fits the entry whose turn it is.
    made.input(first, **{"<3|4>": "4", "<4|5>": "5"}, **({"<3|5>": "4"} if chosen.even else {}))
    for kind in more:
        made.input(kind)
    for name in list(made.inputs):
        if "int" in str(made.tensor(name).dtype) and chosen.source == "float":
            made.add(made.choice([e for e in CATALOGUE if e.source == "ids"]))
    if chosen.source != "float":
        made.add(chosen)
    before = 0 if short else int(made.rng.integers(0, 3))
    made.random(before)
    if chosen.source == "float":
        made.add(chosen)
    made.random(0 if short else int(made.rng.integers(1, 6 - before)))
    made.finish()
    return made


def weigh(model, seed):
    """Gives the model weights: negative scales, biases that are not zero, variances that are positive."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name, shape = variable.path.split("/")[-1], tuple(variable.shape)
        if "seed" in variable.path or "int" in str(variable.dtype):
            continue
        if name in ("moving_variance", "variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif name in ("gamma", "scale", "alpha"):
            value = rng.uniform(0.4, 1.3, shape) * rng.choice([-1.0, 1.0, 1.0], shape)
        elif len(shape) > 1:
            fan = max(1, int(np.prod(shape[:-1])))
            value = rng.normal(size=shape) * np.sqrt(1.5 / fan)
        else:
            value = rng.uniform(0.1, 0.4, shape) * rng.choice([-1.0, 1.0], shape)
        variable.assign(value)
    return model


def data(model, seed, batch=BATCH):
    """Inputs away from zero, in the structure in which the model takes them."""
    rng = np.random.default_rng(seed + 1)

    def array(x):
        shape = (batch, *x.shape[1:])
        if "uint8" in str(x.dtype):
            return rng.integers(1, 256, shape).astype("uint8")
        if "int" in str(x.dtype):
            return rng.integers(0, IDS, shape).astype("int32")
        return rng.uniform(0.2, 1.3, shape) * rng.choice([-1.0, 1.0], shape)

    arrays = [array(x) for x in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


def build(seed, linear=False, only=None):
    """The model of a seed, in float64, and inputs for it."""
    with precision("float64"):
        model = weigh(program(seed, linear, only).scope["model"], seed)
    return model, data(model, seed)


def describe(seed, linear=False) -> str:
    """The model of a seed as a program to run."""
    with precision("float64"):
        lines = program(seed, linear).lines
    return "\n".join([HEADER, *lines, f"weigh(model, {seed})", f"x = data(model, {seed})"])


def drawn(model) -> set[str]:
    """The names of the classes of all layers and operations of a model, those in nested models included."""
    names = set()
    for operation in getattr(model, "_functional", model).operations:
        names.add(type(operation).__name__)
        if isinstance(operation, keras.Model):
            names |= drawn(operation)
        if isinstance(operation, layers.TimeDistributed):
            names.add(type(operation.layer).__name__)
    return names


def alone(entry):
    """A model of nothing but one entry, and what it reads."""
    made = _Program(0, linear=False)
    kind = entry.source if entry.source != "float" else max(entry.ranks)
    made.input(kind, **{"<3|5>": "4", "<3|4>": "4", "<4|5>": "5", "<2|4>": "4"})
    made.add(entry)
    return keras.Model([made.tensor(name) for name in made.inputs], made.tensor(made.pool[-1]))


@functools.lru_cache(maxsize=512)
def case(seed, linear=False):
    """`build`, kept: models are not changed by who explains them."""
    return build(seed, linear)


__all__ = [cls.__name__ for cls in CUSTOM] + ["BATCH", "IDS", "number", "weigh", "data", "tf"]
