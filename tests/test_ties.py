"""Several equal maxima: relevance is shared or goes to one of them, and is never multiplied."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import revgraph
from revgraph.read import trace

CHOOSING = {
    "MaxPooling": lambda n: getattr(L, f"MaxPooling{n}D")(2),
    "MaxPooling, overlapping": lambda n: getattr(L, f"MaxPooling{n}D")(3, 2, padding="same"),
    "GlobalMaxPooling": lambda n: getattr(L, f"GlobalMaxPooling{n}D")(),
    "AdaptiveMaxPooling": lambda n: getattr(L, f"AdaptiveMaxPooling{n}D")(3),
    "max_pool": lambda n: lambda x: ops.max_pool(x, 2),
    "max": lambda n: lambda x: ops.max(x, axis=tuple(range(1, n + 1))),
    "amax": lambda n: lambda x: ops.amax(x, axis=1),
    "maximum": lambda n: lambda x: ops.maximum(x, x * 1.0),
    "fmin": lambda n: lambda x: ops.fmin(x, x * 1.0),
    "Maximum": lambda n: lambda x: L.Maximum()([x, x, x]),
    "Minimum": lambda n: lambda x: L.Minimum()([x, x]),
    "sort": lambda n: lambda x: ops.sort(x, axis=1),
    "top_k": lambda n: lambda x: ops.top_k(x, 1)[0],
}
CASES = [
    (name, n)
    for name in CHOOSING
    for n in (1, 2, 3)
    if name != "AdaptiveMaxPooling" or hasattr(L, "AdaptiveMaxPooling1D")
]


def network(name, n, data_format="channels_last"):
    shape = (*(4,) * n, 2)
    x = keras.Input(shape)
    y = CHOOSING[name](n)(x)
    head = L.Dense(1, use_bias=False, kernel_initializer=keras.initializers.RandomUniform(0.5, 1.0, seed=1))
    return keras.Model(x, head(L.Flatten()(y))), np.ones((2, *shape), keras.config.floatx())


def check(name, n):
    model, x = network(name, n)
    start = trace(model)(x).numpy()[:, 0]
    analyzer = revgraph.create_analyzer("lrp.z", model)
    relevance = analyzer.record(x).analyze()
    np.testing.assert_allclose(relevance.reshape(2, -1).sum(1), start, rtol=1e-4)
    np.testing.assert_allclose(analyzer.conservation(x).input, start, rtol=1e-4)
    assert np.abs(relevance).max() <= np.abs(start).max() * (1 + 1e-4)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_equal_maxima_in_float32(name, n):
    check(name, n)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_equal_maxima_in_float64(name, n, float64):
    check(name, n)


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_equal_maxima_in_three_dimensions_with_either_library(onednn):
    """TensorFlow's own kernels and oneDNN's differ in what they do with equal maxima."""
    code = "from tests.test_ties import CASES, check\nfor name, n in CASES:\n    if n == 3: check(name, n)"
    root = Path(__file__).parent.parent
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env=environment)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_one_of_several_equal_maxima_gets_all(padding, data_format):
    """As in two dimensions: the winner of each window takes all of its relevance."""
    shape = (4, 4, 4, 1) if data_format == "channels_last" else (1, 4, 4, 4)
    pool = L.MaxPooling3D(2, padding=padding, data_format=data_format)
    model = keras.Sequential([keras.Input(shape), pool, L.Flatten(), L.Dense(1, use_bias=False)])
    model.set_weights([np.arange(1.0, 9.0)[:, None]])
    relevance = (
        revgraph.create_analyzer("lrp.z", model).analyze(np.ones((1, *shape), "float32")).reshape(2, 2, 2, 2, 2, 2)
    )
    windows = np.moveaxis(relevance, (0, 2, 4), (0, 1, 2)).reshape(8, 8)
    np.testing.assert_allclose(windows.sum(1), np.arange(1.0, 9.0), rtol=1e-5)
    assert ((windows != 0).sum(1) == 1).all()
