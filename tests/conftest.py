"""What all tests share: a quiet TensorFlow, seeds, and float64 where a test asks for it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from tests.models import precision


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def float64():
    """Layers and inputs made by the test are float64."""
    with precision("float64"):
        yield
