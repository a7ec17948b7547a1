"""The reference models of the problems: small networks of the usual kinds."""

import keras
from keras import layers, ops


def dense(shape: tuple[int, ...], outputs: int, width: int = 64, depth: int = 2) -> keras.Model:
    """Dense layers with ReLU."""
    flat = [layers.Flatten()] if len(shape) > 1 else []
    hidden = [layers.Dense(width, activation="relu") for _ in range(depth)]
    return keras.Sequential([keras.Input(shape), *flat, *hidden, layers.Dense(outputs)])


def convolutional(shape: tuple[int, ...], outputs: int, width: int = 16) -> keras.Model:
    """Convolutions with ReLU, one max pooling, and a dense layer at the end."""
    stack = [
        layers.Conv2D(width, 3, padding="same", activation="relu"),
        layers.Conv2D(width, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(2 * width, 3, padding="same", activation="relu"),
        layers.Flatten(),
        layers.Dense(2 * width, activation="relu"),
    ]
    return keras.Sequential([keras.Input(shape), *stack, layers.Dense(outputs)])


def over_time(shape: tuple[int, ...], outputs: int, width: int = 32) -> keras.Model:
    """Convolutions along time with ReLU, and the largest response of each."""
    stack = [
        layers.Conv1D(width, 7, padding="same", activation="relu"),
        layers.Conv1D(width, 5, padding="same", activation="relu"),
        layers.GlobalMaxPooling1D(),
    ]
    return keras.Sequential([keras.Input(shape), *stack, layers.Dense(outputs)])


def adding(features: int) -> keras.Model:
    """An LSTM without biases that reads series of any length."""
    stack = [layers.Masking(), layers.LSTM(16, use_bias=False), layers.Dense(1, use_bias=False)]
    return keras.Sequential([keras.Input((None, features)), *stack])


@keras.saving.register_keras_serializable("revgraph")
class Positions(layers.Layer):
    """Adds a learned vector to each token that says where the token stands."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.positions = self.add_weight(shape=(1, *shape[1:]), initializer="random_normal", name="positions")

    def call(self, tokens: keras.KerasTensor) -> keras.KerasTensor:
        return tokens + self.positions


def transformer(length: int, words: int, outputs: int, width: int = 64, heads: int = 2) -> keras.Model:
    """Two layers of causal attention, read at the last token."""
    ids = keras.Input((length,), dtype="int32")
    # Embeddings begin at the size of what layers add to them. Keras's default is small, and the words would drown.
    large = keras.initializers.RandomNormal(stddev=1)
    h = Positions()(layers.Embedding(words, width, embeddings_initializer=large)(ids))
    for _ in range(2):
        n = layers.LayerNormalization()(h)
        h = h + layers.MultiHeadAttention(heads, width // heads)(n, n, use_causal_mask=True)
        n = layers.LayerNormalization()(h)
        h = h + layers.Dense(width)(layers.Dense(width, activation="gelu")(n))
    return keras.Model(ids, layers.Dense(outputs)(layers.LayerNormalization()(h[:, -1])))


def relational(size: int, cells: int, outputs: int, width: int = 64) -> keras.Model:
    """A relation network: every pair of cells of a picture is compared, and the results are summed.

    Santoro et al.: *A Simple Neural Network Module for Relational Reasoning.* NeurIPS, 2017. The first cell has the
    question, so the pairs are those of the question with each cell.
    """
    picture = keras.Input((size, size, 3))
    step = size // cells
    objects = layers.Conv2D(width, step, strides=step, activation="relu", name="objects")(picture)
    objects = layers.Reshape((cells * cells, width))(objects)
    question = layers.Cropping1D((0, cells * cells - 1))(objects)
    pairs = layers.Concatenate()([objects, ops.repeat(question, cells * cells, axis=1)])
    related = layers.Dense(width, activation="relu")(layers.Dense(width, activation="relu", name="pairs")(pairs))
    summed = layers.GlobalAveragePooling1D()(related)
    return keras.Model(picture, layers.Dense(outputs)(layers.Dense(width, activation="relu")(summed)))
