"""What all tests share: a quiet TensorFlow, seeds, and float64 where a test asks for it."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from tests.models import OLDER_KERAS, precision


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """Skips what uses a function that an older Keras does not have; the newest one has them all."""
    outcome = yield
    error = outcome.excinfo and outcome.excinfo[1]
    missing = isinstance(error, AttributeError) and "module 'keras" in str(error)
    # `ops.tril` and `ops.triu` of Keras 3.5 do not run in a graph.
    missing |= "pred must not be a Python bool" in str(error)
    if missing and OLDER_KERAS:
        outcome.force_exception(pytest.skip.Exception(f"Keras {keras.__version__}: {error}"))


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


def limited(limit):
    """Files of more bytes than this cannot be written, as if the disk were full."""
    resource = pytest.importorskip("resource")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def full_disk():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield limited
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
