"""Every network of `keras.applications`: what canonization makes of it, and what the methods say of it.

The networks are reduced to a few blocks each, and each has a few of the methods; `make test-slow` runs all methods.
`make test-applications` runs all networks whole.
"""

import dataclasses
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import revgraph
from revgraph.canonize import canonize
from revgraph.reverse_rules import Z
from tests.applications import (
    APPLICATIONS,
    CURVED,
    FAMILIES,
    application,
    family_of,
    images_of,
    positive,
    reduced,
)
from tests.models import precision

METHODS = (
    "gradient",
    "input_t_gradient",
    "lrp.z",
    "lrp.epsilon",
    "lrp.alpha_1_beta_0",
    "lrp.sequential_preset_a_flat",
    "lrp.epsilon_plus_flat",
    "lrp.epsilon_gamma_box",
    "deep_taylor",
)
COMPILED = "lrp.epsilon_plus_flat"
"""The method that is compiled for whole networks, too."""

PRECISE = Z(epsilon=1e-300)
"""LRP-0 whose stabiliser hides nothing."""


def distance(actual, desired):
    """Relative distance in the Euclidean norm."""
    return np.linalg.norm(np.float64(actual) - np.float64(desired)) / np.linalg.norm(np.float64(desired))


def analyzer(method, model, x):
    bounds = {"low": 0, "high": 255 if x.max() > 1 else 1} if method == "lrp.epsilon_gamma_box" else {}
    return revgraph.create_analyzer(method, model, **bounds)


def test_the_table_of_families_is_complete():
    made = {n for n, make in vars(keras.applications).items() if callable(make) and n[0].isupper()}
    assert set(APPLICATIONS) == made and len(APPLICATIONS) == 40


WHOLE = [pytest.param((name, False), id=name, marks=pytest.mark.applications) for name in APPLICATIONS]
REDUCED = [pytest.param((family, True), id=f"{family} reduced") for family in FAMILIES]


@dataclasses.dataclass(frozen=True)
class Network:
    family: str
    whole: bool
    model: keras.Model
    x: np.ndarray


def made(name, is_reduced):
    model = reduced(name) if is_reduced else positive(application(name))
    return Network(name if is_reduced else family_of(name), not is_reduced, model, images_of(model))


@pytest.fixture(scope="module", params=REDUCED + WHOLE)
def network(request):
    """A network in float64."""
    with precision("float64"):
        yield made(*request.param)


def check_canonized(model, x, rtol):
    expected = np.asarray(model(x, training=False))
    np.testing.assert_allclose(canonize(model)(x), expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def test_canonized_it_computes_the_same(network):
    check_canonized(network.model, network.x, rtol=1e-8)


@pytest.mark.parametrize("network", REDUCED + WHOLE)
def test_canonized_in_float32(network):
    single = made(*network)
    check_canonized(single.model, single.x, rtol=1e-4)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("method", METHODS)
def test_relevance(network, method):
    """Without any warning it is finite, the same again, and the same for a sample alone.

    But biases are random, and may absorb most of the relevance.
    """
    x = network.x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Relevance vanishes")
        explain = analyzer(method, network.model, x)
        # Compiling forty networks for nine methods takes hours; eagerly they compute the same.
        compiled = not network.whole or method == COMPILED
        explained = explain.analyze if compiled else lambda x: explain.record(x).analyze()
        relevance, again, alone = explained(x), explained(x), explained(x[1:])
    assert relevance.shape == x.shape and relevance.dtype == x.dtype
    assert np.isfinite(relevance).all()
    np.testing.assert_array_equal(again, relevance)
    assert distance(alone, relevance[1:]) < 1e-8


@pytest.mark.sweep(4)
@pytest.mark.parametrize("method", [method for method in METHODS if "gradient" not in method])
def test_no_relevance_is_lost_unaccounted_for(network, method):
    ledger = analyzer(method, network.model, network.x).conservation(network.x)
    assert np.abs(ledger.start).min() > 0
    assert np.all(np.abs(ledger.other) <= 1e-4 * np.abs(ledger.start))


def test_lrp_0_is_input_times_gradient(network):
    """An identity that no mistake in folding survives, for networks that are linear in pieces."""
    if network.family in CURVED:
        pytest.skip("has activations that are not linear in pieces")
    model, x = network.model, network.x
    relevance = revgraph.create_analyzer("lrp", model, rule=PRECISE).record(x).analyze(0)
    with tf.GradientTape() as tape:
        inputs = tf.constant(x)
        tape.watch(inputs)
        logits = model(inputs, training=False)[:, 0]
    assert distance(relevance, x * tape.gradient(logits, inputs)) < 1e-6
