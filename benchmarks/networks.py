"""The networks that are explained, with random weights and without an output activation."""

import keras
import numpy as np
from keras import layers

SMALL = "small"
IMAGE_SIZE = {SMALL: 28}


def network(name, image_size=None) -> keras.Model:
    """A network of `keras.applications` by its name, or the small one: two convolutions and two dense layers.

    Args:
        name: `"small"` or a name of `keras.applications`.
        image_size: Height and width of the images; by default 28 for the small network, 224 for the others.
    """
    keras.utils.set_random_seed(0)
    size = image_size or IMAGE_SIZE.get(name, 224)
    if name == SMALL:
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
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(size, size, 3), classifier_activation=None)


def images(model, batch) -> np.ndarray:
    """Random images between 0 and 1."""
    return np.random.default_rng(0).random((batch, *model.input_shape[1:]), "float32")
