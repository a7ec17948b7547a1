"""A zoo of tiny models that have what real ones have: `ZOO[name]()` makes one, `inputs_of(model)` data for it."""

import contextlib

import keras
import numpy as np
from keras import layers, ops
from packaging.version import Version

OLDER_KERAS = Version(keras.__version__) < Version("3.15")
"""Whether Keras is older than the version for which the tests are written; revgraph itself supports it."""

ALIVE = 2
"""A seed that leaves active and inactive units in every activation of the zoo."""


@contextlib.contextmanager
def precision(dtype):
    """Layers and inputs that are made meanwhile are of this dtype."""
    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def randomized(model, seed=ALIVE):
    """The model with random weights, biases and statistics; variances stay positive."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "seed_generator" in variable.path:
            continue
        value = rng.normal(size=variable.shape, scale=1 / np.sqrt(max(1, np.prod(variable.shape[:-1]))))
        if "variance" in variable.path:
            value = np.abs(value) + 0.5
        variable.assign(value)
    return model


def inputs_of(model, batch=3, seed=1, positive=False):
    """Random inputs in the structure in which the model takes them."""
    rng = np.random.default_rng(seed)

    def array(x):
        value = rng.normal(size=(batch, *x.shape[1:])).astype(keras.backend.standardize_dtype(x.dtype))
        return np.abs(value) if positive else value

    if isinstance(model, Subclassed):
        return array(keras.KerasTensor((None, 6), dtype=keras.config.floatx()))
    if model.name == "two_inputs":
        return {x.name: array(x) for x in model.inputs}
    arrays = [array(x) for x in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


def mlp(activation="relu", name="mlp"):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation=activation, name="one"),
            layers.Dense(4, activation=activation, name="two"),
            layers.Dense(3, name="three"),
        ],
        name=name,
    )


def cnn(name="cnn", last=None):
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv1"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(name="relu"),
            layers.AveragePooling2D(2, name="average"),
            layers.Conv2D(3, 2, activation="relu", name="conv2"),
            layers.MaxPooling2D(2, 1, name="max"),
            layers.Flatten(name="flatten"),
            layers.Dense(5, activation="relu", name="dense"),
            layers.Dropout(0.5, name="dropout"),
            layers.Dense(4, activation=last, name="logits"),
        ],
        name=name,
    )


def residual():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(3, 3, padding="same", name="conv1")(x)
    y = layers.BatchNormalization(name="bn1")(y)
    y = layers.ReLU(name="relu1")(y)
    y = layers.Conv2D(3, 3, padding="same", name="conv2")(y)
    y = layers.BatchNormalization(name="bn2")(y)
    x = layers.ReLU(name="relu2")(layers.Add(name="add")([x, y]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="residual")


def block(name="block"):
    """Dense and ReLU as a model of its own."""
    inputs = keras.Input((5,))
    x = layers.Dense(5, activation="relu", name="one")(inputs)
    return keras.Model(inputs, layers.Dense(5, name="two")(x), name=name)


def nested():
    inputs = keras.Input((5,))
    inner = block()
    x = layers.Activation("relu", name="act")(inner(inputs))
    outer = keras.Sequential([keras.Input((5,)), block("deep"), layers.Dense(3, name="logits")], name="head")
    return keras.Model(inputs, outer(x), name="nested")


def inlined(model=None):
    """`nested`, written flat; with the weights of `model`."""
    inputs = keras.Input((5,))
    x = layers.Dense(5, activation="relu")(inputs)
    x = layers.Activation("relu")(layers.Dense(5)(x))
    x = layers.Dense(5)(layers.Dense(5, activation="relu")(x))
    flat = keras.Model(inputs, layers.Dense(3)(x), name="inlined")
    if model is not None:
        flat.set_weights(model.get_weights())
    return flat


def shared():
    """A layer called twice, and a model called twice."""
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    dense, inner = layers.Dense(5, activation="relu", name="dense"), block("twin")
    x = layers.Concatenate(name="join")([inner(dense(a)), inner(dense(b))])
    return keras.Model([a, b], layers.Dense(3, name="logits")(x), name="shared")


def two_inputs():
    inputs = {"image": keras.Input((6, 6, 1), name="image"), "table": keras.Input((4,), name="table")}
    x = layers.Flatten(name="flatten")(layers.Conv2D(2, 3, activation="relu", name="conv")(inputs["image"]))
    y = layers.Dense(4, activation="relu", name="dense")(inputs["table"])
    x = layers.Concatenate(name="join")([x, y])
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="two_inputs")


def two_outputs():
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="trunk")(inputs)
    outputs = {"kind": layers.Dense(3, name="kind")(x), "size": layers.Dense(2, name="size")(x)}
    return keras.Model(inputs, outputs, name="two_outputs")


@keras.saving.register_keras_serializable("revgraph_tests")
class Subclassed(keras.Model):
    """Layers in attributes and a list, put together in `call` with operators."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Dense(5, activation="relu", name="stem")
        self.steps = [layers.Dense(5, name=f"step{i}") for i in range(2)]
        self.head = layers.Dense(3, name="head")

    def call(self, x, training=False):
        x = self.stem(x)
        for step in self.steps:
            x = ops.relu(step(x)) + x
        return self.head(x)


def subclassed():
    model = Subclassed(name="subclassed")
    model(np.zeros((1, 6)))
    return model


def operators():
    """Raw `keras.ops` and operators between layers."""
    inputs = keras.Input((4, 4, 2))
    x = ops.relu(inputs * 2.0 - 0.5)
    y = layers.Conv2D(2, 3, padding="same", name="conv")(x)
    x = ops.concatenate([x, y + x], axis=-1)
    x = ops.mean(x, axis=(1, 2))
    x = ops.relu(layers.Dense(4, name="dense")(x))
    x = x[:, 1:] / 2.0 - ops.negative(x[:, :3])
    return keras.Model(inputs, layers.Dense(3, name="logits")(ops.reshape(x, (-1, 3))), name="operators")


ZOO = {
    "mlp": mlp,
    "cnn": cnn,
    "residual": residual,
    "nested": nested,
    "shared": shared,
    "two_inputs": two_inputs,
    "two_outputs": two_outputs,
    "subclassed": subclassed,
    "operators": operators,
}


def make(name, seed=ALIVE):
    return randomized(ZOO[name](), seed)
