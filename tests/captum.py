"""A model and data whose relevance Captum 0.9 was asked for, in float64 on PyTorch 2.13.

The recipe of its numbers: the same network in PyTorch, channels first, with these weights carried over (the rows of the
dense layer in the order channel, height, width), the same data, and class 2 for the first sample, 0 for the second.
Tests keep the sum of each sample, and row 3 of the second one.
"""

import keras
import numpy as np
from keras import layers

from tests.models import precision

TARGETS = [2, 0]


def wave(shape, step, scale=1.0):
    """Numbers scale * sin(step * k), k = 1, 2, ..., in an array."""
    return scale * np.sin(step * (1 + np.arange(np.prod(shape)))).reshape(shape)


X, REFERENCES, NOISE = wave((2, 7, 7, 2), 0.37), wave((3, 7, 7, 2), 0.81, 0.5), wave((4, 2, 7, 7, 2), 0.53, 0.3)


def model(dtype="float64"):
    """Two convolutions and a dense layer."""
    with precision(dtype):
        network = keras.Sequential(
            [
                keras.Input((7, 7, 2), name="image"),
                layers.Conv2D(4, 3, activation="relu", name="one"),
                layers.Conv2D(3, 2, strides=2, activation="relu", name="two"),
                layers.Flatten(name="flat"),
                layers.Dense(3, name="logits"),
            ],
            name="captum",
        )
    kernels = wave((3, 3, 2, 4), 1.3, 0.6), wave((2, 2, 4, 3), 2.1, 0.6), wave((12, 3), 1.7, 0.6)
    biases = wave((4,), 0.7, 0.1), wave((3,), 1.9, 0.1), wave((3,), 0.3, 0.1)
    network.set_weights([weight for pair in zip(kernels, biases, strict=True) for weight in pair])
    return network


def check(relevance, sums, row, rtol=1e-6):
    """Compares relevance (2, 7, 7, ...) with what Captum gave."""
    np.testing.assert_allclose(relevance.reshape(2, -1).sum(axis=1), sums, rtol=rtol, atol=2e-7)
    np.testing.assert_allclose(relevance[1, 3].ravel(), row, rtol=rtol, atol=2e-8)
