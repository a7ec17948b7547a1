"""Every Keras operation and layer that revgraph lists is built, read and run, and what is claimed of it is tried."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L
from keras import ops

import revgraph
from revgraph.graph.operations import Inert, Opaque, Routing
from revgraph.read import trace
from revgraph.read.keras.layers import VIEWS as LAYERS
from tests.models import OLDER_KERAS, inputs_of, randomized

pytestmark = pytest.mark.usefixtures("float64")

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(3, 2))
VECTOR = np.array([0.5, 1.0, 2.0])


def kernel(shape):
    return np.random.default_rng(shape).normal(size=shape)


# (shapes of the inputs, batch axis apart; what is computed from them)
OPERATIONS = {
    "Add": ((3,), lambda x: x + VECTOR),
    "AdaptiveAveragePool": ((5, 4, 2), lambda x: ops.adaptive_average_pool(x, (2, 3))),
    "AdaptiveMaxPool": ((5, 4, 2), lambda x: ops.adaptive_max_pool(x, (2, 3))),
    "Amax": ((4, 3), lambda x: ops.amax(x, axis=1)),
    "Amin": ((4, 3), lambda x: ops.amin(x, axis=1)),
    "Append": ([(4, 3), (2, 3)], lambda x, y: ops.append(x, y, axis=1)),
    "ArraySplit": ((5, 3), lambda x: ops.array_split(x, 2, axis=1)),
    "AveragePool": ((5, 4, 2), lambda x: ops.average_pool(x, 2, padding="same")),
    "BatchNorm": ((4, 3), lambda x: ops.batch_normalization(x, VECTOR, VECTOR, axis=-1, offset=VECTOR, scale=VECTOR)),
    "BroadcastTo": ((1, 3), lambda x: ops.broadcast_to(x, (3, 4, 3))),
    "Cast": ((3,), lambda x: ops.cast(x, "float64")),
    "Clip": ((3,), lambda x: ops.clip(x, -0.5, 0.5)),
    "Concatenate": ([(4, 3), (2, 3)], lambda x, y: ops.concatenate([x, y], axis=1)),
    "Conv": ((5, 3), lambda x: ops.conv(x, kernel((2, 3, 2)), padding="same")),
    "ConvTranspose": (
        (5, 3),
        lambda x: ops.conv_transpose(x, kernel((2, 2, 3)), strides=2),
    ),
    "ConvertToTensor": ((3,), lambda x: ops.convert_to_tensor(x)),
    "Copy": ((3,), lambda x: ops.copy(x)),
    "CropImages": ((5, 4, 2), lambda x: ops.image.crop_images(x, 1, 1, target_height=2, target_width=2)),
    "Cumsum": ((4, 3), lambda x: ops.cumsum(x, axis=1)),
    "DepthToSpace": ((2, 2, 4), lambda x: ops.depth_to_space(x, 2)),
    "DepthwiseConv": ((5, 3), lambda x: ops.depthwise_conv(x, kernel((2, 3, 1)))),
    "Diag": ((3,), lambda x: ops.diag(x[0])),
    "Diagflat": ((3,), lambda x: ops.diagflat(x[0])),
    "Diagonal": ((4, 4), lambda x: ops.diagonal(x, axis1=1, axis2=2)),
    "Diff": ((4, 3), lambda x: ops.diff(x, axis=1)),
    "Divide": ([(3,), (3,)], lambda x, y: ops.divide(x, ops.exp(y))),
    "Dot": ((3,), lambda x: ops.dot(x, KERNEL)),
    "Dsplit": ((2, 4, 3), lambda x: ops.dsplit(x, [1])),
    "Dstack": ([(4, 3), (4, 3)], lambda x, y: ops.dstack([x, y])),
    "Einsum": ((4, 3), lambda x: ops.einsum("bij,jk->bik", x, KERNEL)),
    "ExpandDims": ((3,), lambda x: ops.expand_dims(x, 1)),
    "ExtractPatches": ((5, 4, 2), lambda x: ops.image.extract_patches(x, 2, padding="same")),
    "Flip": ((4, 3), lambda x: ops.flip(x, axis=1)),
    "Fliplr": ((4, 3), lambda x: ops.fliplr(x)),
    "Flipud": ((4, 3), lambda x: ops.flipud(x)),
    "Fmax": ([(3,), (3,)], lambda x, y: ops.fmax(x, y)),
    "Fmin": ([(3,), (3,)], lambda x, y: ops.fmin(x, y)),
    "FullLike": ((3,), lambda x: x + ops.full_like(x, -2.0)),
    "GetItem": ((4, 3), lambda x: x[:, 1:, ::2]),
    "Glu": ((4,), lambda x: ops.glu(x)),
    "Hsplit": ((4, 3), lambda x: ops.hsplit(x, 2)),
    "Hstack": ([(4, 3), (2, 3)], lambda x, y: ops.hstack([x, y])),
    "Inner": ([(3,), (3,)], lambda x, y: ops.inner(x, y)),
    "LayerNorm": ((4, 3), lambda x: ops.layer_normalization(x, VECTOR, VECTOR)),
    "Matmul": ([(4, 3), (3, 2)], lambda x, y: ops.matmul(x, y)),
    "Max": ((4, 3), lambda x: ops.max(x, axis=1)),
    "MaxPool": ((5, 4, 2), lambda x: ops.max_pool(x, 2, padding="same")),
    "Maximum": ([(3,), (3,)], lambda x, y: ops.maximum(x, y)),
    "Mean": ((4, 3), lambda x: ops.mean(x, axis=1)),
    "Min": ((4, 3), lambda x: ops.min(x, axis=1)),
    "Minimum": ([(3,), (3,)], lambda x, y: ops.minimum(x, y)),
    "Moments": ((4, 3), lambda x: ops.moments(x, axes=[1])),
    "Moveaxis": ((4, 3), lambda x: ops.moveaxis(x, 1, 2)),
    "Multiply": ((3,), lambda x: x * VECTOR),
    "Negative": ((3,), lambda x: -x),
    "Normalize": ((4, 3), lambda x: ops.normalize(x, axis=-1)),
    "Outer": ([(3,), (2,)], lambda x, y: ops.outer(x, y)),
    "Pad": ((4, 3), lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1)))),
    "PadImages": ((5, 4, 2), lambda x: ops.image.pad_images(x, 1, 2, target_height=8, target_width=7)),
    "Power": ((3,), lambda x: ops.power(ops.abs(x), 1.5)),
    "RMSNorm": ((4, 3), lambda x: ops.rms_normalization(x, VECTOR)),
    "Ravel": ((4, 3), lambda x: ops.ravel(x)),
    "ReLU": ((3,), lambda x: keras.activations.relu(x, negative_slope=0.1, max_value=1.0, threshold=0.2)),
    "Rearrange": ((4, 3), lambda x: ops.rearrange(x[0], "i j -> j i")),
    "Repeat": ((4, 3), lambda x: ops.repeat(x, 2, axis=1)),
    "Reshape": ((4, 3), lambda x: ops.reshape(x, (-1, 2, 6))),
    "Resize": ((4, 4, 2), lambda x: ops.image.resize(x, (6, 5), interpolation="nearest")),
    "Roll": ((4, 3), lambda x: ops.roll(x, 1, axis=1)),
    "Rot90": ((4, 3), lambda x: ops.rot90(x, axes=(1, 2))),
    "SaturateCast": ((3,), lambda x: ops.saturate_cast(x, "float64")),
    "Select": ([(3,), (3,)], lambda x, y: ops.select([x > 0, y > 0], [x, y], 0)),
    "SeparableConv": (
        (5, 3),
        lambda x: ops.separable_conv(x, kernel((2, 3, 1)), kernel((1, 3, 2))),
    ),
    "Slice": ((4, 3), lambda x: ops.slice(x, (0, 1, 0), (2, 2, 3))),
    "SliceUpdate": ([(4, 3), (2, 3)], lambda x, y: ops.slice_update(x, (0, 1, 0), y)),
    "Sort": ((4, 3), lambda x: ops.sort(x, axis=1)),
    "SpaceToDepth": ((4, 4, 2), lambda x: ops.space_to_depth(x, 2)),
    "Split": ((4, 3), lambda x: ops.split(x, 2, axis=1)),
    "Squeeze": ((1, 3), lambda x: ops.squeeze(x, axis=1)),
    "Stack": ([(3,), (3,)], lambda x, y: ops.stack([x, y], axis=1)),
    "Subtract": ([(4, 3), (1, 3)], lambda x, y: x - y),
    "Sum": ((4, 3), lambda x: ops.sum(x, axis=1)),
    "Swapaxes": ((4, 3), lambda x: ops.swapaxes(x, 1, 2)),
    "Take": ((4, 3), lambda x: ops.take(x, [2, 0], axis=1)),
    "TakeAlongAxis": ((4, 3), lambda x: ops.take_along_axis(x, np.array([[[1, 0, 2]]]), axis=1)),
    "Tensordot": ([(3,), (3,)], lambda x, y: ops.tensordot(x, y, axes=[[1], [1]])),
    "Threshold": ((3,), lambda x: ops.threshold(x, 0.1, -0.3)),
    "Tile": ((4, 3), lambda x: ops.tile(x, (1, 2, 1))),
    "TopK": ((4,), lambda x: ops.top_k(x, 2)[0]),
    "Trace": ((4, 4), lambda x: ops.trace(x, axis1=1, axis2=2)),
    "Transpose": ((4, 3), lambda x: ops.transpose(x, (0, 2, 1))),
    "Trapezoid": ((4, 3), lambda x: ops.trapezoid(x, axis=1)),
    "OnesLike": ((3,), lambda x: x + ops.ones_like(x)),
    "Tril": ((4, 4), lambda x: ops.tril(x)),
    "ZerosLike": ((3,), lambda x: x + ops.zeros_like(x)),
    "Triu": ((4, 4), lambda x: ops.triu(x)),
    "TrueDivide": ((3,), lambda x: x / VECTOR),
    "Unstack": ((4, 3), lambda x: ops.unstack(x, axis=1)),
    "Vdot": ([(3,), (3,)], lambda x, y: ops.vdot(x, y)),
    "View": ((3,), lambda x: ops.view(x, "float64")),
    "Vsplit": ((4, 3), lambda x: ops.vsplit(x, [1])),
    "Vstack": ([(4, 3), (4, 3)], lambda x, y: ops.vstack([x, y])),
    "Where": ([(3,), (3,)], lambda x, y: ops.where(np.array([True, False, True]), x, y)),
}

ACTIVATIONS = frozenset(
    "Relu Relu6 Sigmoid SparseSigmoid Softplus Softsign SoftShrink SparsePlus Silu Squareplus LogSigmoid LeakyRelu "
    "HardSigmoid HardSilu Elu Selu Gelu Celu TanhShrink HardTanh HardShrink Threshold Softmax LogSoftmax "
    "Sparsemax Tanh Clip Absolute Arctan Arcsinh Cbrt Ceil Cos Cosh Erf Erfc Exp Exp2 Expm1 Fabs Floor Log Log10 "
    "Log1p Log2 NanToNum Reciprocal Round Rsqrt Sign Sin Sinc Sinh Sqrt Square StopGradient Tan Trunc".split()
)
"""Operations that change every entry by itself, or rescale those along an axis, by the name of their class."""

POINTWISE = {"Absolute": "abs", "StopGradient": "stop_gradient"}
"""Functions of one argument that are not named like their class."""

POSITIVE = {"Log", "Log10", "Log2", "Log1p", "Sqrt", "Rsqrt"}
"""Functions that are defined for positive numbers."""


def pointwise(name):
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    function = getattr(ops, POINTWISE.get(name, snake))
    return (3,), (lambda x: function(ops.abs(x))) if name in POSITIVE else function


def built(shapes, function):
    shapes = shapes if isinstance(shapes, list) else [shapes]
    inputs = [keras.Input(shape) for shape in shapes]
    outputs = function(*inputs)
    return randomized(keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs))


def same(actual, desired, tolerance=1e-12):
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(desired), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def check_claims(operation, inputs, constants, tolerance=1e-12):
    """What a routing operation claims holds on values."""

    def run(*values):
        return [z.numpy() for z in operation(values, {}) if z.dtype.is_floating]

    moving = [x.dtype.is_floating for x in inputs]

    def drawn():
        return [tf.constant(RANDOM.normal(size=x.shape)) if m else x for x, m in zip(inputs, moving, strict=True)]

    def combined(a, xs, b, ys):
        return [a * x + b * y if m else x for x, y, m in zip(xs, ys, moving, strict=True)]

    xs, ys = drawn(), drawn()
    entries = np.concatenate([np.ravel(x) for x in xs])
    for z in run(*xs):
        brought_in = ~np.isin(z, entries)
        if operation.copies:
            assert np.isin(z[brought_in], constants).all(), "copies"
        if operation.copies and not operation.fills:
            assert not brought_in.any(), "fills"
    if operation.fixed:
        zero = run(*combined(0, xs, 0, ys))
        for z, x, y, at in zip(run(*combined(2, xs, -3, ys)), run(*xs), run(*ys), zero, strict=True):
            same(z - at, 2 * (x - at) - 3 * (y - at), tolerance)
    if operation.keeps_sign:
        for z in run(*[tf.abs(x) if m else x for x, m in zip(xs, moving, strict=True)]):
            assert (z >= 0).all(), "keeps_sign"


def check_reading(model, constants=(0.0,), tolerance=1e-12, runs=True, x=None):
    """The graph computes what the model computes, and its operations are what they say."""
    graph, x = trace(model), inputs_of(model) if x is None else x
    if runs:
        same(graph(x), model(x, training=False), tolerance)
    x = [tf.convert_to_tensor(value) for value in keras.tree.flatten(x)]
    with tf.GradientTape() as tape:
        tape.watch([value for value in x if value.dtype.is_floating])
        values = graph.run(x)
        results = [values[slot] for slot in graph.output_slots]
        total = tf.add_n([tf.reduce_sum(z) for z in results if z.dtype.is_floating])
    # Of some operations TensorFlow has no gradient: it would be missed here.
    tape.gradient(total, x)
    for site in graph.sites:
        if isinstance(site.operation, Routing) and not isinstance(site.operation, Inert):
            check_claims(site.operation, [values[slot] for slot in site.inputs], constants, tolerance)
    return graph


def defined():
    """The names of the operations that this version of Keras has."""
    found, new = set(), {keras.Operation}
    while new:
        found |= new
        new = {cls for known in new for cls in known.__subclasses__()} - found
    return {cls.__name__ for cls in found}


NOT_IN_GRAPHS = {"ConvTranspose", "Exp2", "Vsplit"}
"""Operations that Keras 3.15 itself cannot run in a TensorFlow graph: on float64, or on a batch of unknown size."""

if OLDER_KERAS:
    NOT_IN_GRAPHS |= {"BatchNorm", "StopGradient", "Trace", "Tril", "Triu"}


@pytest.mark.parametrize("name", sorted({*OPERATIONS, *ACTIVATIONS} & defined() - NOT_IN_GRAPHS))
def test_every_operation(name):
    shapes, function = OPERATIONS[name] if name in OPERATIONS else pointwise(name)
    model = built(shapes, function)
    assert any(type(operation).__name__ == name for operation in model.operations)
    constants = {"FullLike": (-2.0,), "OnesLike": (1.0,), "Sinc": (0.0, 1.0), "Threshold": (0.0, -0.3)}.get(
        name, (0.0,)
    )
    graph = check_reading(model, constants)
    x = inputs_of(model)
    same(
        graph(x),
        function(*map(ops.convert_to_tensor, x)) if isinstance(x, list) else function(ops.convert_to_tensor(x)),
    )
    assert not any(isinstance(site.operation, Opaque) and site.operation.label == name for site in graph.sites)


SHAPED = {"1D": (5, 2), "2D": (5, 4, 2), "3D": (4, 5, 4, 2)}

LAYER_CASES = {
    "Activation": ((3,), lambda: L.Activation("tanh")),
    "Add": ([(3,), (3,)], lambda: L.Add()),
    "AlphaDropout": ((3,), lambda: L.AlphaDropout(0.5)),
    "Average": ([(3,), (3,)], lambda: L.Average()),
    "CenterCrop": ((5, 4, 2), lambda: L.CenterCrop(3, 2)),
    "Concatenate": ([(3,), (2,)], lambda: L.Concatenate()),
    "Dense": ((3,), lambda: L.Dense(2, activation="relu")),
    "Dot": ([(4, 3), (4, 3)], lambda: L.Dot(axes=2)),
    "Dropout": ((3,), lambda: L.Dropout(0.5)),
    "EinsumDense": ((4, 3), lambda: L.EinsumDense("bij,jk->bik", output_shape=(4, 2), bias_axes="k")),
    "GaussianDropout": ((3,), lambda: L.GaussianDropout(0.5)),
    "GaussianNoise": ((3,), lambda: L.GaussianNoise(0.5)),
    "GroupNormalization": ((4, 6), lambda: L.GroupNormalization(3)),
    "Masking": ((4, 3), lambda: L.Masking()),
    "Maximum": ([(3,), (3,)], lambda: L.Maximum()),
    "Minimum": ([(3,), (3,)], lambda: L.Minimum()),
    "Multiply": ([(3,), (3,)], lambda: L.Multiply()),
    "Normalization": ((3,), lambda: L.Normalization(mean=VECTOR, variance=VECTOR)),
    "PReLU": ((3,), lambda: L.PReLU(alpha_initializer="normal")),
    "Permute": ((4, 3), lambda: L.Permute((2, 1))),
    "RandomCrop": ((5, 4, 2), lambda: L.RandomCrop(5, 4)),
    "RandomBrightness": ((4, 4, 3), lambda: L.RandomBrightness(0.2)),
    "RandomColorDegeneration": ((4, 4, 3), lambda: L.RandomColorDegeneration(0.2)),
    "RandomContrast": ((4, 4, 3), lambda: L.RandomContrast(0.2)),
    "RandomGrayscale": ((4, 4, 3), lambda: L.RandomGrayscale(0.2)),
    "RandomHue": ((4, 4, 3), lambda: L.RandomHue(0.2)),
    "RandomPosterization": ((4, 4, 3), lambda: L.RandomPosterization(4)),
    "RandomRotation": ((4, 4, 3), lambda: L.RandomRotation(0.2)),
    "RandomSaturation": ((4, 4, 3), lambda: L.RandomSaturation(0.2)),
    "RandomSharpness": ((4, 4, 3), lambda: L.RandomSharpness(0.2)),
    "RandomTranslation": ((4, 4, 3), lambda: L.RandomTranslation(0.2, 0.2)),
    "RandomZoom": ((4, 4, 3), lambda: L.RandomZoom(0.2)),
    "RepeatVector": ((3,), lambda: L.RepeatVector(2)),
    "Rescaling": ((3,), lambda: L.Rescaling(2.0, -1.0)),
    "Reshape": ((4, 3), lambda: L.Reshape((2, 6))),
    "Resizing": ((5, 4, 2), lambda: L.Resizing(3, 6)),
    "Subtract": ([(3,), (3,)], lambda: L.Subtract()),
}
for n, shape in SHAPED.items():
    LAYER_CASES |= {
        f"AdaptiveAveragePooling{n}": (shape, lambda n=n: getattr(L, f"AdaptiveAveragePooling{n}")(3)),
        f"AdaptiveMaxPooling{n}": (shape, lambda n=n: getattr(L, f"AdaptiveMaxPooling{n}")(3)),
        f"AveragePooling{n}": (shape, lambda n=n: getattr(L, f"AveragePooling{n}")(3, 2, padding="same")),
        f"Conv{n}": (shape, lambda n=n: getattr(L, f"Conv{n}")(3, 2)),
        f"Conv{n}Transpose": (shape, lambda n=n: getattr(L, f"Conv{n}Transpose")(3, 2)),
        f"Cropping{n}": (shape, lambda n=n: getattr(L, f"Cropping{n}")(1)),
        f"DepthwiseConv{n}": (shape, lambda n=n: getattr(L, f"DepthwiseConv{n}")(2)),
        f"GlobalAveragePooling{n}": (shape, lambda n=n: getattr(L, f"GlobalAveragePooling{n}")()),
        f"GlobalMaxPooling{n}": (shape, lambda n=n: getattr(L, f"GlobalMaxPooling{n}")()),
        f"MaxPooling{n}": (shape, lambda n=n: getattr(L, f"MaxPooling{n}")(3, 2, padding="same")),
        f"SeparableConv{n}": (shape, lambda n=n: getattr(L, f"SeparableConv{n}")(3, 2)),
        f"SpatialDropout{n}": (shape, lambda n=n: getattr(L, f"SpatialDropout{n}")(0.5)),
        f"UpSampling{n}": (shape, lambda n=n: getattr(L, f"UpSampling{n}")(2)),
        f"ZeroPadding{n}": (shape, lambda n=n: getattr(L, f"ZeroPadding{n}")(1)),
    }

WITHOUT_KERNELS = {"MaxPooling3D", "AveragePooling3D", "AdaptiveMaxPooling3D", "AdaptiveAveragePooling3D"}
"""Layers for which TensorFlow has no float64 kernels on CPUs, so that the model itself cannot be run."""


IDENTITIES = frozenset(
    "ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise Identity SpatialDropout1D "
    "SpatialDropout2D SpatialDropout3D AugMix CutMix MixUp RandAugment RandomBrightness RandomColorDegeneration "
    "RandomColorJitter RandomContrast RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur "
    "RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation "
    "RandomSharpness RandomShear RandomTranslation RandomZoom".split()
)
"""Layers that do nothing in inference."""


@pytest.mark.parametrize("name", sorted({cls.__name__ for cls in LAYERS} | {n for n in IDENTITIES if hasattr(L, n)}))
def test_every_layer(name):
    if name == "RandomCrop" and OLDER_KERAS:
        pytest.skip("it computes in float32 there")
    if name == "Embedding":
        tokens = keras.Input((3,), dtype="int32")
        model = randomized(keras.Model(tokens, L.Embedding(5, 2)(tokens)))
    else:
        image = (4, 4, 3) if name.startswith("Random") or name in ("AugMix", "CutMix", "MixUp") else (4, 3)
        shapes, make = LAYER_CASES.get(name, (image, getattr(L, name)))
        model = built(shapes, lambda *x: make()(list(x) if len(x) > 1 else x[0]))
    # TensorFlow resizes in float32, whatever it is given.
    graph = check_reading(
        model,
        tolerance=1e-5 if name == "Resizing" else 1e-12,
        runs=name not in WITHOUT_KERNELS,
        x=np.array([[1, 4, 0]]) if name == "Embedding" else None,
    )
    operations = [site.operation for site in graph.sites]
    if name in IDENTITIES or name == "RandomCrop":
        # Keras 3.15 does not crop in inference. RandAugment adds an axis and takes it off again.
        assert all(isinstance(x, Routing) and x.fixed and x.copies for x in operations)
    else:
        assert len(operations) == 1


def claims(model):
    """The claims of the routings that a model consists of, taken together, as a set of names."""
    graph = trace(model)
    routings = [
        site.operation
        for site in graph.sites
        if isinstance(site.operation, Routing) and "float" in graph.specs[site.outputs[0]].dtype
    ]
    found = {name for name in MOVES if all(getattr(operation, name) for operation in routings)}
    return found | ({"fills"} if any(operation.fills for operation in routings) else set())


HIGH, LOW = np.array([0.0, 2.0, 1.0]), np.array([-1.0, 2.0, 1.0])
MOVES = {"copies", "fixed", "keeps_sign"}

CONSTANTS = {
    "where": lambda x, c: ops.where(np.array([True, False, True]), x, c),
    "where, the other way": lambda x, c: ops.where(np.array([True, False, True]), c, x),
    "concatenate": lambda x, c: ops.concatenate([x, ops.broadcast_to(c, (1, 3))], axis=0),
    "stack": lambda x, c: ops.stack([x[0], c]),
    "vstack": lambda x, c: ops.vstack([x, ops.broadcast_to(c, (1, 3))]),
    "append": lambda x, c: ops.append(x, ops.broadcast_to(c, (1, 3)), axis=0),
    "slice_update": lambda x, c: ops.slice_update(x, (0, 0), ops.broadcast_to(c, (1, 3))),
    "select": lambda x, c: ops.select([np.array([True, False, True])], [x], c),
    "Concatenate": lambda x, c: L.Concatenate(axis=0)([x, ops.broadcast_to(c, (1, 3))]),
}


@pytest.mark.parametrize("form", ["array", "tensor", "variable"])
@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_among_the_data_are_seen(name, form):
    """A class token or a fill value counts: signs are kept only where it is known and not negative."""
    make = {"array": np.array, "tensor": tf.constant, "variable": keras.Variable}[form]
    for values in (HIGH, LOW):
        constant = make(values)
        x = keras.Input((3,), batch_size=1)
        if form == "variable" and name == "stack":
            pytest.skip("Keras 3.15 itself cannot stack a variable in a graph")
        if form == "variable" and name in ("concatenate", "vstack", "append", "slice_update", "Concatenate"):
            constant = keras.Variable(values[None])
            model = _with_rows(name, x, constant)
        else:
            model = keras.Model(x, CONSTANTS[name](x, constant))
        known = values is HIGH and form != "variable"
        assert claims(model) == {"copies", "fixed", "fills"} | ({"keeps_sign"} if known else set())
        check_reading(model, [*values, 0.0], x=inputs_of(model, batch=1))


def _with_rows(name, x, rows):
    made = {
        "concatenate": lambda: ops.concatenate([x, rows], axis=0),
        "vstack": lambda: ops.vstack([x, rows]),
        "append": lambda: ops.append(x, rows, axis=0),
        "slice_update": lambda: ops.slice_update(x, (0, 0), rows),
        "Concatenate": lambda: L.Concatenate(axis=0)([x, rows]),
    }[name]
    return keras.Model(x, made())


CHOOSING = {
    "a computed condition": (lambda x: ops.where(x > 0.5, x, -1.0), {"copies", "fills"}),
    "a computed condition and zero": (lambda x: ops.where(x > 0.5, x, 0.0), {"copies", "keeps_sign", "fills"}),
    "computed places": (
        lambda x: ops.take_along_axis(x, ops.cast(x > 0.0, "int32"), axis=1),
        {"copies", "keeps_sign"},
    ),
    "a computed index": (lambda x: ops.take(x, ops.cast(x[0, 0] > 0, "int32"), axis=1), {"copies", "keeps_sign"}),
    "sorting": (lambda x: ops.sort(x, axis=1), {"copies", "keeps_sign"}),
    "padding with ones": (lambda x: ops.pad(x, ((0, 0), (1, 0)), constant_values=1.0), {*MOVES, "fills"}),
    "padding with less": (lambda x: ops.pad(x, ((0, 0), (1, 0)), constant_values=-1.0), {"copies", "fixed", "fills"}),
    "reflection": (lambda x: ops.pad(x, ((0, 0), (1, 0)), mode="reflect"), MOVES),
    "masking": (lambda x: L.Masking()(x[:, :, None]), {"copies", "keeps_sign", "fills"}),
}


@pytest.mark.parametrize("name", CHOOSING)
def test_what_depends_on_values_is_not_fixed(name):
    function, expected = CHOOSING[name]
    model = built((3,), function)
    assert claims(model) == expected
    check_reading(model, constants=[-1.0, 0.0, 0.5, -0.5, 1.0])


RESIZING = {
    "nearest": ({"interpolation": "nearest"}, MOVES),
    "bilinear": ({"interpolation": "bilinear"}, {"fixed", "keeps_sign"}),
    "bicubic": ({"interpolation": "bicubic"}, {"fixed"}),
    "lanczos3": ({"interpolation": "lanczos3"}, {"fixed"}),
    "padded": ({"pad_to_aspect_ratio": True}, {"fixed", "keeps_sign", "fills"}),
    "padded below zero": ({"pad_to_aspect_ratio": True, "fill_value": -1.0}, {"fixed", "fills"}),
    "cropped": ({"crop_to_aspect_ratio": True, "interpolation": "nearest"}, MOVES),
}


@pytest.mark.parametrize("form", ["layer", "operation"])
@pytest.mark.parametrize("name", RESIZING)
def test_resizing(name, form):
    options, expected = RESIZING[name]
    if form == "layer":
        model = built((4, 6, 2), L.Resizing(5, 5, **options))
    else:
        model = built((4, 6, 2), lambda x: ops.image.resize(x, (5, 5), **options))
    found = claims(model)
    if form == "layer":
        assert found == expected
    else:
        # It is read from several operations: fewer claims are safe.
        assert expected - {"keeps_sign"} <= found | {"keeps_sign"} and found <= expected | {"fills"}
    check_reading(model, tolerance=1e-5)


# Merging layers with constants in their lists.


@pytest.mark.parametrize("form", ["array", "tensor", "variable", "missing axes"])
@pytest.mark.parametrize("name", ["Add", "Subtract", "Average", "Multiply", "Maximum", "Minimum", "Dot"])
def test_merging_layers_take_constants(name, form):
    values = np.array([[1.0, -2.0, 3.0]])
    make = {"array": np.array, "tensor": tf.constant, "variable": keras.Variable, "missing axes": tf.constant}[form]
    shape = (4, 3) if form == "missing axes" else (3,)
    if name == "Dot" and form == "missing axes":
        pytest.skip("axes of different length")
    inputs = keras.Input(shape, batch_size=1)
    layer = getattr(L, name)(**({"axes": 1} if name == "Dot" else {}))
    model = keras.Model(inputs, layer([inputs, make(values)]))
    check_reading(model, [*values[0], 0.0], x=inputs_of(model, batch=1))


@pytest.mark.parametrize("batch", [1, 3])
def test_rescaling_by_an_array_makes_more_channels(batch):
    model = built((4, 1), L.Rescaling(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, 1.0])))
    x = RANDOM.normal(size=(batch, 4, 1))
    same(trace(model)(x), model(x))
    assert trace(model)(x).shape == (batch, 4, 3)


def test_tables_that_are_looked_up_along_another_axis_have_no_rule():
    tokens = keras.Input((2,), dtype="int32")
    model = keras.Model(tokens, ops.take(KERNEL, tokens, axis=1))
    assert isinstance(trace(model).sites[-1].operation, Opaque)


def test_integers_move_and_numbers_that_are_rounded_do_not():
    x = keras.Input((3,))
    rounded = keras.Model(x, ops.cast(ops.cast(x, "int32"), "int64"))
    first, second = (site.operation for site in trace(rounded).sites)
    assert not isinstance(first, Routing)
    assert isinstance(second, Routing) and second.copies and second.fixed


INTEGERS = {
    "rescaling": lambda x: L.Rescaling(1 / 255, offset=-0.5)(x),
    "normalization": lambda x: L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 2.0])(x),
    "a quotient": lambda x: x / 255.0,
    "a product": lambda x: x * np.array([0.5, 1.0, 2.0]),
    "a cast": lambda x: ops.cast(x, "float64") - 1.0,
    "a sum with a signal": lambda x: ops.add(ops.cast(x, "float64") * 0.5, x),
    "a product with a signal": lambda x: ops.multiply(ops.sigmoid(ops.cast(x, "float64")), x),
    "a root": lambda x: ops.sqrt(x),
    "a matrix": lambda x: ops.matmul(x, KERNEL),
    "a mean": lambda x: ops.mean(x, axis=1, keepdims=True),
    "resizing": lambda x: L.Resizing(2, 3)(x[..., None])[..., 0],
    "arithmetic with integers": lambda x: ops.cast(2 * (x + 1) - x, "float64"),
    "a choice": lambda x: ops.cast(ops.where(x < 3, x + 5, x), "float64"),
}


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@pytest.mark.parametrize("name", INTEGERS)
def test_arithmetic_with_integers(name, dtype):
    if name == "a choice" and dtype == "uint8":
        pytest.skip("Keras makes other integers of them")
    inputs = keras.Input((4, 3), dtype=dtype)
    model = keras.Model(inputs, L.Dense(2)(INTEGERS[name](inputs)))
    x = np.random.default_rng(0).integers(0, 9, (2, 4, 3)).astype(dtype)
    # Keras's layers of preprocessing round integers where they do not run in a graph.
    expected = model.predict(x, verbose=0)
    for graph in (trace(model), trace(model, dtype="float32")):
        np.testing.assert_allclose(graph(x), expected, rtol=1e-5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_upsampling_of_images_of_any_size(interpolation):
    model = built((None, None, 2), L.UpSampling2D((2, 3), interpolation=interpolation))
    x = RANDOM.normal(size=(2, 3, 4, 2))
    graph = trace(model)
    computed = tf.function(lambda x: graph(x), input_signature=[tf.TensorSpec((None, None, None, 2), tf.float64)])
    same(computed(x), model(x), 1e-6)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"])
def test_upsampling_is_that_of_keras(interpolation, data_format):
    layer = L.UpSampling2D((2, 3), interpolation=interpolation, data_format=data_format)
    check_reading(built((3, 4, 2), layer), tolerance=1e-5)


NEGATIVE = {
    "where": lambda h, c: ops.where(h > 0.5, h, c),
    "where a constant says": lambda h, c: ops.where(np.array([True, False]), h, c),
    "select": lambda h, c: ops.select([h > 0.5], [h], c),
    "slice_update": lambda h, c: ops.slice_update(h, (0, 1), c[None, 1:]),
    "concatenate": lambda h, c: ops.concatenate([h[:, :1], c[None, 1:]], axis=1),
    "Concatenate": lambda h, c: L.Concatenate()([h[:, :1], c[None, 1:]]),
    "stack": lambda h, c: ops.reshape(ops.stack([h[0, 0], c[1]]), (1, 2)),
}


@pytest.mark.parametrize("form", ["array", "tensor", "variable"])
@pytest.mark.parametrize("name", NEGATIVE)
def test_negative_constants_take_part_in_alpha_1_beta_0(name, form):
    """y = 2 h + 3 with 3 = -3 * -1: of the relevance 5 the signal gets 2, and the constant keeps 3."""
    if form == "variable" and name not in ("where", "where a constant says", "select"):
        pytest.skip("a part of a variable is no variable")
    values = np.array([-1.0, -1.0])
    if form == "variable":
        values = keras.Variable(np.array([1.0, 1.0]))
    elif form == "tensor":
        values = tf.constant(values)
    x = keras.Input((2,), batch_size=1)
    head = L.Dense(1, use_bias=False)
    model = keras.Model(x, head(NEGATIVE[name](ops.relu(x), values)))
    head.set_weights([np.array([[2.0], [-3.0]])])
    analyzer = revgraph.create_analyzer("lrp.alpha_1_beta_0", model)
    if form == "variable":
        # Whatever it was when the model was read.
        values.assign([-1.0, -1.0])
    np.testing.assert_allclose(analyzer.analyze(np.array([[1.0, 0.2]])), [[2.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 1), (1, 4, 1), (4,), (1, 4), (4, 1, 1)])
def test_summands_are_added_as_keras_adds_them(shape):
    """Keras takes a summand with one axis of several entries for a bias of the channels."""
    table = np.arange(1.0, 5.0).reshape(shape)
    for size in ((4, 4), (4, 4, 4), (4, 3)):
        x = keras.Input(size)
        try:
            model = keras.Model(x, x + table)
            y = model(np.zeros((2, *size)))
        except Exception:
            # Keras itself cannot add them.
            continue
        if tuple(y.shape[1:]) == size:
            same(trace(model)(np.zeros((2, *size))), y)


def test_a_bias_of_einsum_dense_is_added_as_keras_adds_it():
    x = keras.Input((4, 4))
    model = randomized(keras.Model(x, L.EinsumDense("abc,bd->adc", (4, 4), bias_axes="d")(x)))
    values = np.random.default_rng(0).normal(size=(3, 4, 4))
    same(trace(model)(values), model(values))


@pytest.mark.skipif(OLDER_KERAS, reason="resizing by areas is newer")
@pytest.mark.parametrize("form", ["layer", "operation"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("size", [(2, 3), (4, 5), (7, 3)])
def test_resizing_by_areas_has_a_gradient(size, data_format, form):
    """TensorFlow has none. Every entry is a mean, so all relevance arrives."""
    x = keras.Input((6, 5, 2) if data_format == "channels_last" else (2, 6, 5))
    if form == "layer":
        y = L.Resizing(*size, interpolation="area", data_format=data_format)(x)
    else:
        y = ops.image.resize(x, size, interpolation="area", data_format=data_format)
    model = randomized(keras.Model(x, L.Dense(2, use_bias=False)(L.Flatten()(y))))
    values = inputs_of(model)
    np.testing.assert_allclose(trace(model)(values), model(values), rtol=1e-5, atol=1e-5)
    relevance = revgraph.create_analyzer("lrp.z", model).analyze(values, 1)
    np.testing.assert_allclose(relevance.sum((1, 2, 3)), np.asarray(model(values))[:, 1], rtol=1e-4, atol=1e-5)
