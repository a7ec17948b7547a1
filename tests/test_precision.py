"""Precision: relevance is computed in float32 or float64, whatever the model computes in."""

import keras
import numpy as np
import pytest

from revgraph import create_analyzer
from revgraph.read import trace
from tests.models import ZOO, inputs_of, make

ANALYZERS = "lrp.epsilon", "lrp.alpha_2_beta_1", "lrp.sequential_preset_b_flat", "gradient"


def under(policy, name):
    """A model of the zoo whose layers were made under a policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return make(name)
    finally:
        keras.config.set_dtype_policy(before)


def same(actual, expected, rtol):
    for a, b in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["cnn", "residual", "subclassed", "operators", "two_inputs"])
def test_mixed_precision_is_explained_in_float32(policy, name):
    """With the weights of a float32 model come the relevances of the float32 model, to its precision."""
    mixed, plain = under(policy, name), under("float32", name)
    x = inputs_of(plain)
    assert mixed.layers[-1].compute_dtype == policy.removeprefix("mixed_")
    assert trace(mixed).dtype == "float32"
    for analyzer in ("lrp.epsilon", "gradient"):
        relevance = create_analyzer(analyzer, mixed).analyze(x, neuron_selection=1)
        assert all(r.dtype == np.float32 for r in keras.tree.flatten(relevance))
        same(relevance, create_analyzer(analyzer, plain).analyze(x, neuron_selection=1), rtol=1e-4)


@pytest.mark.parametrize("analyzer", ANALYZERS)
def test_float64_is_explained_in_float64(analyzer, float64):
    model = make("cnn")
    x = inputs_of(model)
    relevance = create_analyzer(analyzer, model).analyze(x)
    assert relevance.dtype == np.float64
    single = under("float32", "cnn")
    expected = create_analyzer(analyzer, single).analyze(x.astype("float32"))
    same(relevance, expected, rtol=2e-3)


@pytest.mark.parametrize("name", ["cnn", "residual", "operators"])
def test_float64_has_all_its_digits(name, float64):
    """The ledger closes to rounding."""
    model = make(name)
    report = create_analyzer("lrp.epsilon", model).conservation(inputs_of(model))
    np.testing.assert_allclose(report.other, 0, atol=1e-12 * np.abs(report.start).max())
    np.testing.assert_allclose(report.start, np.asarray(model(inputs_of(model))).max(1), rtol=1e-13)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "two_outputs"])
def test_float32_agrees_with_float64(name, float64):
    x = inputs_of(make(name))
    wide = create_analyzer("lrp.epsilon", make(name), epsilon=0.01).analyze(x, neuron_selection=0)
    narrow_model = under("float32", name)
    narrow = create_analyzer("lrp.epsilon", narrow_model, epsilon=0.01).analyze(x, neuron_selection=0)
    same(narrow, wide, rtol=1e-3)


def test_large_activations_of_half_precision_do_not_overflow():
    """Sums that float16 cannot hold."""
    model = under("mixed_float16", "mlp")
    for variable in model.variables:
        variable.assign(100.0 * variable)
    x = 100 * inputs_of(model)
    relevance = create_analyzer("lrp.epsilon", model).analyze(x)
    assert np.isfinite(relevance).all() and np.abs(relevance).max() > 65504
