"""What all tests share: a quiet TensorFlow, seeds, and float64 where a test asks for it."""

import collections
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

from tests.models import OLDER_KERAS, precision


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test that is marked `sweep(n)`, one in n parameters runs by default, and the others are slow.

    Every n-th runs. In the product of two lists it meets all entries of both if n has no divisor in common with the
    length of the inner list.
    """
    seen = collections.Counter()
    for item in items:
        sweep = item.get_closest_marker("sweep")
        if sweep and not any(map(item.get_closest_marker, ("slow", "applications", "kerashub"))):
            (n,) = sweep.args
            function = item.nodeid.partition("[")[0]
            if seen[function] % n:
                item.add_marker(pytest.mark.slow)
            seen[function] += 1


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
