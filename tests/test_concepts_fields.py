"""Receptive fields against what changes when inputs change, and against known sizes."""

import keras
import numpy as np
import pytest
from keras import layers

from revgraph.concepts.fields import Fields, box
from revgraph.read import trace
from tests.models import make, precision, randomized


def field(model, x, layer, position):
    graph = trace(model)
    (slot,) = graph.find(layer).outputs
    fields = Fields(graph, [np.asarray(part) for part in keras.tree.flatten(x)], slot)
    return [box(mask) for mask in fields.of(position)]


def changed(model, x, layer, position, tries=6):
    """The box around the pixels of the input that change a position of a layer when they are changed much."""
    inner = keras.Model(model.inputs[0], model.get_layer(layer).output)
    rng = np.random.default_rng(0)
    found = np.zeros(x.shape[1:3], bool)
    for _ in range(tries):
        base = rng.normal(size=x.shape)
        pixels = list(np.ndindex(*x.shape[1:3]))
        moved = np.repeat(base, len(pixels), axis=0)
        for i, (row, column) in enumerate(pixels):
            moved[i, row, column] += rng.choice([-9, 9])
        at = (slice(None), *position)
        with precision("float64"):
            different = np.any(np.abs(inner(moved).numpy()[at] - inner(base).numpy()[at]) > 1e-9, axis=-1)
        found |= different.reshape(x.shape[1:3])
    return box(found)


def stacked(*parts, size=13):
    return randomized(keras.Sequential([keras.Input((size, size, 2)), *parts, layers.ReLU(name="end")]))


NETWORKS = {
    "convolutions": lambda: stacked(layers.Conv2D(3, 3), layers.ReLU(), layers.Conv2D(2, 3)),
    "strides": lambda: stacked(layers.Conv2D(3, 3, strides=2, padding="same"), layers.Conv2D(2, 3, padding="same")),
    "dilation": lambda: stacked(layers.Conv2D(3, 3, dilation_rate=2)),
    "maximum": lambda: stacked(layers.Conv2D(3, 3), layers.MaxPooling2D(3, 2), layers.Conv2D(2, 2)),
    "average": lambda: stacked(layers.AveragePooling2D(2), layers.BatchNormalization(), layers.Conv2D(2, 2)),
    "depthwise": lambda: stacked(layers.DepthwiseConv2D(3), layers.Activation("gelu"), layers.MaxPooling2D(2)),
    "padding": lambda: stacked(layers.ZeroPadding2D(2), layers.Conv2D(2, 3), layers.LayerNormalization()),
    "upsampling": lambda: stacked(layers.MaxPooling2D(2), layers.UpSampling2D(2), layers.Conv2D(2, 3)),
    "global": lambda: stacked(layers.GlobalMaxPooling2D(keepdims=True)),
    "squeeze": lambda: stacked(layers.Conv2D(2, 2), layers.GroupNormalization(1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_what_changes_the_output(name, float64):
    model = NETWORKS[name]()
    x = np.zeros((1, 13, 13, 2))
    size = model.get_layer("end").output.shape[1:-1]
    for position in {(0, 0), tuple(n // 2 for n in size), tuple(n - 1 for n in size)}:
        rows, columns = field(model, x, "end", position)[0][1:3]
        assert (rows, columns) == changed(model, x, "end", position), position


def test_known_sizes(float64):
    model = stacked(layers.Conv2D(2, 3), layers.MaxPooling2D(2), layers.Conv2D(2, 3))
    ((_, rows, columns, channels),) = field(model, np.zeros((1, 13, 13, 2)), "end", (1, 0))
    # 3 + 1 + 2 * 2 = 8 pixels, and a step of 2.
    assert (rows, columns, channels) == (slice(2, 10), slice(0, 8), slice(0, 2))


def test_a_weight_of_zero_hides_nothing(float64):
    model = stacked(layers.Conv2D(2, 3, name="conv"))
    model.get_layer("conv").kernel.assign(np.zeros((3, 3, 2, 2)))
    ((_, rows, columns, _),) = field(model, np.zeros((1, 13, 13, 2)), "end", (4, 5))
    assert (rows, columns) == (slice(4, 7), slice(5, 8))


def test_shortcuts_and_several_inputs(float64):
    ((_, rows, columns, _),) = field(make("residual"), np.zeros((1, 6, 6, 2)), "add", (3, 3))
    assert (rows, columns) == (slice(0, 6), slice(0, 6))
    image, table = np.zeros((1, 6, 6, 1)), np.zeros((1, 4))
    found = field(make("two_inputs"), {"image": image, "table": table}, "conv", (0, 1))
    assert found[0][1:3] == (slice(0, 3), slice(1, 4)) and found[1] == (slice(0, 0), slice(0, 0))


def test_tokens(float64):
    inputs = keras.Input((7,), dtype="int32")
    y = layers.Embedding(10, 4, name="embedding")(inputs)
    y = layers.Conv1D(3, 3, name="conv")(y)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(y)))
    ((_, tokens),) = field(model, np.zeros((1, 7), "int32"), "conv", (2,))
    assert tokens == slice(2, 5)


def test_attention_reads_everything(float64):
    inputs = keras.Input((7, 4))
    y = layers.MultiHeadAttention(2, 2, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(y)))
    ((_, tokens, _),) = field(model, np.zeros((1, 7, 4)), "attention", (2,))
    assert tokens == slice(0, 7)
