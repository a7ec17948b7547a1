"""Normalization of samples by their own statistics, and scale and shift in all their forms."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import revgraph
from revgraph.canonize import canonize
from revgraph.graph.operations import Normalize, Scale
from revgraph.reverse_rules import Z
from tests.models import inputs_of, randomized

pytestmark = pytest.mark.usefixtures("float64")

PRECISE = Z(epsilon=1e-300)
SHAPE = (4, 6)
VECTOR = np.arange(1.0, 7.0)


def between_dense(function):
    """A network with the function between two dense layers."""
    inputs = keras.Input(SHAPE)
    x = function(layers.Dense(6)(inputs))
    return randomized(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))))


def on_inputs(function):
    inputs = keras.Input(SHAPE)
    return randomized(keras.Model(inputs, function(inputs)))


def written_out(x):
    mean, variance = ops.mean(x, axis=-1, keepdims=True), ops.var(x, axis=-1, keepdims=True)
    return (x - mean) / ops.sqrt(variance + 1e-3) * VECTOR + 0.5


NORMALIZATIONS = {
    "LayerNormalization": lambda x: layers.LayerNormalization()(x),
    "LayerNormalization over steps": lambda x: layers.LayerNormalization(axis=1)(x),
    "LayerNormalization over all": lambda x: layers.LayerNormalization(axis=(1, 2))(x),
    "LayerNormalization without parts": lambda x: layers.LayerNormalization(center=False, scale=False)(x),
    "GroupNormalization": lambda x: layers.GroupNormalization(2)(x),
    "GroupNormalization of one channel": lambda x: layers.GroupNormalization(-1)(x),
    "GroupNormalization along another axis": lambda x: layers.GroupNormalization(2, axis=1)(x),
    "UnitNormalization": lambda x: layers.UnitNormalization()(x),
    "ops.normalize": lambda x: ops.normalize(x, axis=-1),
}
if hasattr(layers, "RMSNormalization"):
    NORMALIZATIONS["RMSNormalization"] = lambda x: layers.RMSNormalization()(x)
if hasattr(ops, "layer_normalization"):
    NORMALIZATIONS["ops.layer_normalization"] = lambda x: ops.layer_normalization(x, VECTOR, np.ones(6), axis=-1)
if hasattr(ops, "rms_normalization"):
    NORMALIZATIONS["ops.rms_normalization"] = lambda x: ops.rms_normalization(x, VECTOR, axis=-1)


@pytest.mark.parametrize("name", [*NORMALIZATIONS, "written out"])
def test_canonized_it_computes_the_same_and_conserves(name):
    model = between_dense(NORMALIZATIONS.get(name, written_out))
    x = inputs_of(model)
    np.testing.assert_allclose(canonize(model)(x), model(x), rtol=1e-10, atol=1e-12)
    for method in ("lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.epsilon_plus_flat"):
        ledger = revgraph.create_analyzer(method, model).conservation(x, 1)
        assert np.abs(ledger.other).max() < 1e-9 * np.abs(ledger.start).min()


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_one_site_each(name):
    graph = canonize(between_dense(NORMALIZATIONS[name]))
    assert [type(site.operation) for site in graph.sites[1:-2]] == [Normalize]


def held(name, x, gain):
    """The matrix (inputs, outputs) of a normalization over the last axis of one sample, its deviation held constant."""
    n = x.shape[-1]
    centre = np.eye(n) - (0 if "RMS" in name or "Unit" in name else 1 / n)
    z = x @ centre
    if "Unit" in name:
        scale = 1 / np.linalg.norm(z)
    else:
        scale = 1 / np.sqrt(np.mean(z**2) + (1e-6 if "RMS" in name else 1e-3))
    return centre * scale * gain


@pytest.mark.parametrize(
    "name", [n for n in ("LayerNormalization", "RMSNormalization", "UnitNormalization") if n in NORMALIZATIONS]
)
@pytest.mark.parametrize("method", ["lrp.epsilon_IB", "lrp.alpha_1_beta_0"])
def test_relevance_by_the_formula(name, method, rng):
    """R_j = sum_k x_j a_jk / (z_k + epsilon sgn z_k) R_k with a the map of mean subtraction, scaled."""
    model = on_inputs(NORMALIZATIONS[name])
    x = inputs_of(model)
    start = rng.normal(size=x.shape)
    actual = revgraph.create_analyzer(method, model).record(x).analyze(initial_relevance=start)
    layer = model.layers[-1]
    gain = getattr(layer, "gamma", getattr(layer, "scale", None))
    gain = np.ones(6) if gain is None else np.asarray(gain)
    for sample, relevance, found in zip(x.reshape(-1, 6), start.reshape(-1, 6), actual.reshape(-1, 6), strict=True):
        a = held(name, sample, gain)
        z = sample @ a
        np.testing.assert_allclose(found, sample * (a @ (relevance / (z + 1e-7 * np.sign(z)))), rtol=1e-8)


SCALES = {
    "Rescaling": lambda x: layers.Rescaling(2.0, offset=0.3)(x),
    "Rescaling by channel": lambda x: layers.Rescaling(list(VECTOR), offset=list(VECTOR - 3))(x),
    "Normalization": lambda x: layers.Normalization(mean=VECTOR, variance=VECTOR)(x),
    "Normalization inverted": lambda x: layers.Normalization(mean=VECTOR, variance=VECTOR, invert=True)(x),
    "Normalization by numbers": lambda x: layers.Normalization(axis=None, mean=0.5, variance=2.0)(x),
    "ops.batch_normalization": lambda x: ops.batch_normalization(
        x, VECTOR, VECTOR, -1, offset=np.ones(6), scale=VECTOR - 3
    ),
    "times a vector": lambda x: x * VECTOR,
    "plus a vector": lambda x: x + VECTOR - 3.0,
    "divided": lambda x: ops.divide(x, VECTOR),
    "from a number": lambda x: ops.subtract(3.0, x),
    "negative": lambda x: -x,
    "multiplied": lambda x: ops.multiply(VECTOR, x),
}


@pytest.mark.parametrize("name", SCALES)
def test_scale_and_shift_is_folded(name):
    model = between_dense(SCALES[name])
    x, graph = inputs_of(model), canonize(model)
    assert len(graph.sites) == 3
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in SCALES if "batch" not in name])
def test_scale_and_shift_of_the_input_is_a_site_of_its_own(name):
    """Its relevance belongs to the input: LRP-0 is input times gradient there, too."""
    inputs = keras.Input(SHAPE)
    model = randomized(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(SCALES[name](inputs)))))
    graph = canonize(model)
    assert isinstance(graph.sites[0].operation, Scale)
    x = inputs_of(model)
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-10, atol=1e-12)
    relevance = revgraph.create_analyzer("lrp", model, rule=PRECISE).record(x).analyze(1)
    expected = revgraph.create_analyzer("input_t_gradient", model).record(x).analyze(1)
    np.testing.assert_allclose(relevance, expected, rtol=1e-8)


def test_the_scale_of_convnext_is_folded():
    network = keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), include_top=False)
    scale = next(type(layer) for layer in network.layers if type(layer).__name__ == "LayerScale")
    model = on_inputs(lambda x: scale(0.5, 6)(layers.Dense(6)(x)))
    x, graph = inputs_of(model), canonize(model)
    assert len(graph.sites) == 1
    np.testing.assert_allclose(graph(x), model(x), rtol=1e-10)
