"""Bad input: every mistake gets an error that says what was received and what to do."""

import inspect
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import NotAnalyzeableModelException, composites, create_analyzer
from revgraph.reverse_rules import Epsilon, Jacobian
from tests.models import inputs_of, make, randomized

TINY = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(2)])


@pytest.fixture(scope="module")
def model():
    return make("cnn")


@pytest.fixture(scope="module")
def x(model):
    return inputs_of(model)


@pytest.fixture(scope="module")
def analyzer(model):
    return create_analyzer("lrp.epsilon", model)


# Which analyzer, and with which arguments.


def test_unknown_analyzer(model):
    with pytest.raises(KeyError, match=r"No analyzer is named 'lrp.epsilom'. Did you mean 'lrp.epsilon'") as error:
        create_analyzer("lrp.epsilom", model)
    for name in revgraph.ANALYZERS:
        assert name in str(error.value)
    with pytest.raises(KeyError, match=r"No analyzer is named 'shap'\. The analyzers are: input, random, gradient"):
        create_analyzer("shap", model)
    with pytest.raises(KeyError, match="No analyzer is named None"):
        create_analyzer(None, model)


def test_name_and_model_in_the_wrong_order(model):
    with pytest.raises(TypeError, match=r"name first and the model second: create_analyzer\('lrp.z', model\)"):
        create_analyzer(model, "lrp.z")
    with pytest.raises(TypeError, match=r"model first and the name second: check\(model, 'lrp.z'\)"):
        revgraph.check("lrp.z", model)
    with pytest.raises(TypeError, match=r"Expected a rule.*function that makes a composite: epsilon_plus\(...\)"):
        create_analyzer("lrp", model, rule=composites.epsilon_plus)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("lrp.epsilon", {"epsilom": 1}, TypeError, r"'lrp.epsilon' does not take 'epsilom'. Did you mean 'epsilon'"),
        ("gradient", {"rule": "Z"}, TypeError, "'gradient' does not take 'rule'.* It takes: .*postprocess"),
        ("lrp.epsilon", {"epsilon": -1}, ValueError, r"epsilon must be a number >= 0. Received: -1"),
        ("lrp.alpha_beta", {"alpha": 2, "beta": 2}, ValueError, "alpha - beta must be 1.*alpha=2, beta=2"),
        ("lrp.alpha_beta", {"alpha": 0.5}, ValueError, "alpha >= 1"),
        ("lrp.gamma", {"gamma": -0.1}, ValueError, "gamma must be a number >= 0. Received: -0.1"),
        ("deep_taylor.bounded", {"low": 1, "high": 0}, ValueError, "low must not exceed high.*low=1, high=0"),
        ("deep_taylor.bounded", {}, (TypeError, ValueError), "low=.*high="),
        ("lrp.epsilon_gamma_box", {"low": [0, 3], "high": [1, 1]}, ValueError, "low must not exceed high"),
        ("lrp.epsilon_gamma_box", {}, (TypeError, ValueError), "low=.*high="),
        ("lrp", {}, TypeError, 'The analyzer "lrp" needs a rule'),
        ("lrp", {"rule": "Epsilom"}, KeyError, "No rule is named 'Epsilom'. The rules are Z,"),
        ("lrp", {"rule": 3}, TypeError, "Expected a rule.*Received: 3"),
        ("lrp", {"rule": []}, ValueError, "The list of rules is empty"),
        ("lrp", {"rule": ["Z", "Z"]}, ValueError, r"the model's 4 linear layers.*Received 2 rules"),
        ("lrp.z", {"convention": "torch"}, ValueError, 'convention is "paper" or "innvestigate". Received: .torch'),
        ("lrp.z", {"neuron_selection_mode": "best"}, ValueError, "neuron_selection_mode is one of.*Received: 'best'"),
        ("lrp.sequential_preset_b_flat_until_idx", {}, TypeError, "needs until_layer_idx"),
        (
            "lrp.sequential_preset_b_flat_until_idx",
            {"until_layer_idx": 99},
            ValueError,
            "model's 10 layers. Received: 99",
        ),
        ("gradient", {"postprocess": "sqrt"}, ValueError, 'postprocess is None, "abs" or "square". Received: .sqrt'),
        ("random", {"stddev": -1}, ValueError, "stddev must be a number >= 0. Received: -1"),
    ],
)
def test_illegal_arguments(model, name, options, error, message):
    with pytest.raises(error, match=message):
        create_analyzer(name, model, **options)


def numbers_of(method):
    """The arguments of a method whose default is a number, and numbers that have none."""
    classes = [method.make, *getattr(method.make, "__mro__", ()), *getattr(method.options, "__mro__", ())]
    makers = [maker.__init__ if inspect.isclass(maker) else maker for maker in classes if maker is not object]
    parameters = [p for maker in makers for p in inspect.signature(maker).parameters.values()]
    given = {p.name for p in parameters if type(p.default) in (int, float)} | {"alpha", "beta", "seed"}
    return sorted(given.intersection(method.arguments()) - {"reference_inputs"})


ARGUMENTS = [(name, number) for name, method in revgraph.ANALYZERS.items() for number in numbers_of(method)]


def test_every_kind_of_number_is_among_the_arguments():
    assert {number for _, number in ARGUMENTS} >= {
        "alpha", "augment_by_n", "beta", "epsilon", "exponent", "gamma", "max_growth", "noise_scale", "seed", "stddev",
        "steps",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["0.1", np.nan, [0.5]], ids=str)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_the_message_names_the_argument_that_is_no_number(name, argument, wrong):
    needed = {"lrp": {"rule": "Z"}, "lrp.sequential_preset_b_flat_until_idx": {"until_layer_idx": 0}}
    options = needed.get(name, {})
    with pytest.raises(ValueError, match=rf"\b{argument}\b.*Received: .*{re.escape(repr(wrong))}"):
        create_analyzer(name, TINY, **{**options, argument: wrong})


@pytest.mark.parametrize(
    "bounds", [("0", 1), (0, "1"), (np.nan, 1), (0, np.inf), (0, [1, "2"]), (0, object()), (False, True)]
)
@pytest.mark.parametrize("name", ["deep_taylor.bounded", "lrp.epsilon_gamma_box"])
def test_bounds_that_are_no_numbers(name, bounds):
    with pytest.raises(ValueError, match=r"low and high must be finite numbers, or arrays of them.*Received: low="):
        create_analyzer(name, TINY, low=bounds[0], high=bounds[1])
    with pytest.raises(ValueError, match=r"input_bounds is a pair \(low, high\) of numbers.*Received"):
        create_analyzer("lrp.z", TINY, input_bounds=bounds)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True])
@pytest.mark.parametrize(("name", "argument"), [("integrated_gradients", "steps"), ("smoothgrad", "augment_by_n")])
def test_the_message_names_the_count(name, argument, wrong):
    with pytest.raises(ValueError, match=rf"^{argument} must be a positive int. Received: {wrong!r}"):
        create_analyzer(name, TINY, **{argument: wrong})


# Which model.


@pytest.mark.parametrize("wrong", [None, 3, lambda x: x, layers.Dense(3), np.ones(3), keras.Input((3,))])
def test_not_a_model(wrong):
    with pytest.raises(TypeError, match=r"Expected a Keras model .*Received: .* of type"):
        create_analyzer("lrp.epsilon", wrong)


class Unbuilt(keras.Model):
    def __init__(self):
        super().__init__(name="unbuilt")
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_an_unbuilt_model():
    with pytest.raises(ValueError, match=r"'open' is not built: its input shape is unknown"):
        create_analyzer("lrp.epsilon", keras.Sequential([layers.Dense(3)], name="open"))
    with pytest.raises(ValueError, match=r"'unbuilt' is not built.*`model\(x\[:1\]\)`"):
        create_analyzer("lrp.epsilon", Unbuilt())


def with_layer(layer, shape=(4, 3)):
    inputs = keras.Input(shape)
    block = keras.Sequential([keras.Input(shape), layer], name="block")
    return randomized(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(block(inputs)))))


def unsupported():
    return layers.Lambda(lambda x: ops.cumprod(x, axis=-1), name="odd")


def test_a_layer_without_a_rule(rng):
    """The error names path, operation and remedy; a rule for the layer as a whole makes it work."""
    model = with_layer(unsupported())
    with pytest.raises(NotAnalyzeableModelException, match=r"No rule for 'block/odd/.*' \(Cumprod") as error:
        create_analyzer("lrp.epsilon", model)
    assert "use a gradient method" in str(error.value) and "Epsilon()" not in str(error.value)
    assert isinstance(error.value, ValueError)
    composite = revgraph.Composite((layers.Lambda, Jacobian()), (layers.Dense, Epsilon()))
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    assert np.isfinite(create_analyzer("lrp", model, rule=composite).analyze(x)).all()
    assert np.abs(create_analyzer("gradient", model).analyze(x)).max() > 0


def test_lambda_layers_can_be_allowed(rng):
    model = with_layer(unsupported())
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    relevance = create_analyzer("lrp.epsilon", model, allow_lambda_layers=True).analyze(x)
    assert np.isfinite(relevance).all() and np.abs(relevance).max() > 0


# Which data.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x[:, :7], ValueError, r"wrong shape: expected \(batch, 8, 8, 2\), received \(3, 7, 8, 2\)"),
        (lambda x: x[..., :1], ValueError, r"wrong shape: expected \(batch, 8, 8, 2\), received \(3, 8, 8, 1\)"),
        (lambda x: x[0], ValueError, r"lacks an axis.*received \(8, 8, 2\).*x\[None\]"),
        (lambda x: x[0, 0], ValueError, r"wrong shape"),
        (lambda x: x[None], ValueError, r"wrong shape.*received \(1, 3, 8, 8, 2\)"),
        (lambda x: x.astype(str), TypeError, "must be an array of numbers"),
        (lambda x: "digits.png", TypeError, "must be an array of numbers. Received: str"),
        (lambda x: x.astype(complex), TypeError, "number"),
        (lambda x: x.astype(object), TypeError, "must be an array of numbers"),
        (lambda x: None, (TypeError, ValueError), "."),
        (lambda x: x[:0], ValueError, "the batch is empty"),
        (lambda x: x.astype("float16"), TypeError, r'is float16.*x.astype\("float32"\)'),
        (lambda x: tf.cast(x, tf.bfloat16), TypeError, "is bfloat16"),
        (lambda x: [x, x], ValueError, "takes 1 input .*Received 2"),
        (lambda x: {"picture": x}, ValueError, r"inputs are named \[.*\]. Received a dict with keys \['picture'\]"),
        (lambda x: iter([]), ValueError, "the dataset is empty"),
    ],
)
def test_illegal_data(analyzer, x, change, error, message):
    with pytest.raises(error, match=message):
        analyzer.analyze(change(x))


def test_wrong_number_of_inputs():
    model = make("shared")
    a, b = inputs_of(model)
    analyzer = create_analyzer("lrp.epsilon", model)
    for wrong in (a, [a], [a, b, b]):
        with pytest.raises(ValueError, match=r"'shared' takes 2 inputs \(a, b\). Received"):
            analyzer.analyze(wrong)
    with pytest.raises(ValueError, match=r"same number of samples. Received: \[2, 3\]"):
        analyzer.analyze([a, b[:2]])
    with pytest.raises(ValueError, match=r"named \['a', 'b'\]. Received a dict with keys \['a'\]"):
        analyzer.analyze({"a": a})


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (np.inf, "infinite values")])
def test_data_that_are_not_finite_are_warned_of(analyzer, x, value, kind):
    bad = x.copy()
    bad[1, 2, 3, 0] = value
    with pytest.warns(UserWarning, match=rf"contains {kind} \(samples \[1\]\)"):
        relevance = analyzer.analyze(bad)
    np.testing.assert_allclose(relevance[[0, 2]], analyzer.analyze(x)[[0, 2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0, -1, 2.5, "all"])
def test_illegal_batch_size(analyzer, x, size):
    with pytest.raises(ValueError, match=rf"batch_size must be a positive int. Received: {size!r}"):
        analyzer.analyze(x, batch_size=size)


# What is selected.


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        (4, ValueError, r"out of range: there are 4 neurons, 0 to 3. Received: 4"),
        (-5, ValueError, r"out of range.*Received: -5"),
        ([0, 1, 4], ValueError, "out of range"),
        ([0, 1], ValueError, "2 entries for 3 samples: pass one index, or one per sample"),
        (1.5, TypeError, r"neuron_selection takes .*Received: 1.5 of type float"),
        ("best", ValueError, r"neuron_selection takes \"max_activation\", \"all\".*Received: 'best'"),
        ([[0], [1]], ValueError, "2 entries for 3 samples"),
    ],
)
def test_illegal_selection(analyzer, x, selection, error, message):
    with pytest.raises(error, match=message):
        analyzer.analyze(x, neuron_selection=selection)


def test_a_probability_is_warned_of_once():
    for activation in ("softmax", "sigmoid"):
        inputs = keras.Input((3,))
        model = keras.Model(inputs, layers.Dense(2, activation=activation)(inputs), name="probable")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            analyzer = create_analyzer("lrp.epsilon", model)
            analyzer.analyze(np.ones((1, 3)))
            analyzer.analyze(np.ones((2, 3)), 1)
        told = [str(w.message) for w in caught if "logits are explained" in str(w.message)]
        assert len(told) == 1 and "'probable'" in told[0]


def test_an_error_leaves_the_analyzer_usable(analyzer, x):
    before = analyzer.analyze(x)
    with pytest.raises(ValueError):
        analyzer.analyze(x[:, :5])
    with pytest.raises(ValueError):
        analyzer.analyze(x, 17)
    np.testing.assert_array_equal(analyzer.analyze(x), before)
