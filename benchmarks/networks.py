"""The networks that are explained, with random weights and without an output activation."""

import keras
import numpy as np
from keras import layers

SMALL = "small"
VIT = "ViT-B/16"
BERT = "BERT"
LSTM = "LSTM"
GRU = "GRU"
IMAGE_SIZE = {SMALL: 28, LSTM: 200, GRU: 200}
"""The size of a network's input where it is not 224. That of a recurrent network is its number of steps."""

TOKENS = 128
"""How many ids a text has."""

WORDS = 30522
"""How many ids BERT knows."""


def network(name, image_size=None) -> keras.Model:
    """A network by its name: the small one, a transformer, or one of `keras.applications`.

    Args:
        name: `"small"` for two convolutions and two dense layers; `"ViT-B/16"` for the vision transformer of that name;
            `"BERT"` for an encoder of texts as large as BERT-base; `"LSTM"` or `"GRU"` for a recurrent layer; or a name
            of `keras.applications`.
        image_size: Height and width of the images, or the steps of series; by default 28 for the small network, 200 for
            recurrent ones, 224 for the others.
    """
    keras.utils.set_random_seed(0)
    size = image_size or IMAGE_SIZE.get(name, 224)
    if name in MADE_HERE:
        return MADE_HERE[name](size)
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classifier_activation=None)


def _small(size):
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ],
        name=SMALL,
    )


def vision_transformer(size, depth=12, width=768, heads=12, patch=16) -> keras.Model:
    """A vision transformer with normalization in front of attention and feed-forward layers; by default ViT-B/16.

    Args:
        size: Height and width of the images.
        depth: How many blocks it has.
        width: Channels of a token.
        heads: Heads of the attention.
        patch: Height and width of a patch.
    """
    image = keras.Input((size, size, 3))
    h = layers.Conv2D(width, patch, strides=patch, name="patches")(image)
    h = Learned(front=True, name="class_token")(layers.Reshape((-1, width))(h))
    h = Learned(name="positions")(h)
    for _ in range(depth):
        x = layers.LayerNormalization(epsilon=1e-6)(h)
        h = layers.Add()([h, layers.MultiHeadAttention(heads, width // heads)(x, x)])
        x = layers.LayerNormalization(epsilon=1e-6)(h)
        h = layers.Add()([h, layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(x))])
    h = layers.LayerNormalization(epsilon=1e-6)(h)
    return keras.Model(image, layers.Dense(1000, name="head")(h[:, 0]), name="vit")


def text_encoder(tokens=TOKENS, depth=12, width=768, heads=12, words=WORDS) -> keras.Model:
    """An encoder of texts with normalization behind each sum; by default as large as BERT-base.

    Args:
        tokens: Ids of a text.
        depth: How many blocks it has.
        width: Channels of a token.
        heads: Heads of the attention.
        words: How many ids there are.
    """
    ids = keras.Input((tokens,), dtype="int32")
    h = layers.Embedding(words, width, name="embedding")(ids)
    h = layers.LayerNormalization(epsilon=1e-12)(Learned(name="positions")(h))
    for _ in range(depth):
        x = layers.MultiHeadAttention(heads, width // heads)(h, h)
        h = layers.LayerNormalization(epsilon=1e-12)(layers.Add()([h, x]))
        x = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(h))
        h = layers.LayerNormalization(epsilon=1e-12)(layers.Add()([h, x]))
    h = layers.Dense(width, activation="tanh", name="pooler")(h[:, 0])
    return keras.Model(ids, layers.Dense(10, name="classifier")(h), name="bert")


def recurrent(layer, steps, units=128, features=32) -> keras.Model:
    """A recurrent layer that reads a series, and a dense layer behind its last step.

    Args:
        layer: The class of the recurrent layer.
        steps: Steps of the series.
        units: Units of the layer.
        features: Channels of the series.
    """
    return keras.Sequential([keras.Input((steps, features)), layer(units), layers.Dense(10)])


class Learned(layers.Layer):
    """Adds a learned row to each token, as position tables do, or puts one learned token in front of the others.

    Args:
        front: Whether it puts a token in front.
    """

    def __init__(self, front=False, **options):
        super().__init__(**options)
        self.front = front

    def build(self, shape):
        """Makes the rows."""
        self.rows = self.add_weight(shape=(1, 1 if self.front else shape[1], shape[2]), initializer="random_normal")

    def call(self, x):
        """The tokens, with the rows added or in front."""
        if not self.front:
            return x + self.rows
        rows = keras.ops.broadcast_to(self.rows, (keras.ops.shape(x)[0], 1, x.shape[2]))
        return keras.ops.concatenate([rows, x], axis=1)


MADE_HERE = {
    SMALL: _small,
    VIT: vision_transformer,
    BERT: lambda size: text_encoder(),
    LSTM: lambda steps: recurrent(layers.LSTM, steps),
    GRU: lambda steps: recurrent(layers.GRU, steps),
}
"""Functions of the size of the input that make the networks which are not in `keras.applications`."""


def samples(model, batch) -> np.ndarray:
    """Random images or series between 0 and 1, or random ids."""
    random = np.random.default_rng(0)
    shape = (batch, *model.input_shape[1:])
    (given,) = model.inputs
    return (
        random.integers(WORDS, size=shape, dtype="int32") if given.dtype == "int32" else random.random(shape, "float32")
    )
