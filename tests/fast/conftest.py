"""The model of most tests of the speed layer."""

import keras
import pytest
from keras import layers


@pytest.fixture
def model(float64, rng):
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, activation="relu")(x)
    h = r = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(h))
    h = layers.Conv2D(4, 3, padding="same", activation="relu", name="positive")(layers.ReLU()(h))
    h = layers.ReLU()(layers.Add()([layers.Conv2D(4, 3, padding="same", name="summand")(h), r]))
    h = layers.Flatten()(layers.AveragePooling2D(2)(layers.MaxPooling2D(2)(h)))
    model = keras.Model(x, layers.Dense(3)(layers.Dense(16, activation="relu")(h)))
    model.set_weights(
        [rng.normal(size=w.shape) if w.ndim > 1 else rng.uniform(0.1, 1, w.shape) for w in model.get_weights()]
    )
    return model
