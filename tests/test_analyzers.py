"""Analyzers: every name, what they take and give, and that they leave model and process as they were."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph import ANALYZERS, create_analyzer
from revgraph.graph.analysis import is_linear_layer
from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse_rules import AlphaBeta, Epsilon, Flat, Gamma, WSquare, Z, ZBox, ZPlus, ZPlusFast
from tests.models import ZOO, cnn, inputs_of, make, mlp, randomized

INNVESTIGATE = (
    "input random gradient gradient.baseline input_t_gradient deconvnet guided_backprop integrated_gradients "
    "smoothgrad lrp lrp.z lrp.epsilon lrp.w_square lrp.flat lrp.alpha_beta lrp.alpha_2_beta_1 lrp.alpha_2_beta_1_IB "
    "lrp.alpha_1_beta_0 lrp.alpha_1_beta_0_IB lrp.z_plus lrp.z_plus_fast lrp.sequential_preset_a "
    "lrp.sequential_preset_b lrp.sequential_preset_a_flat lrp.sequential_preset_b_flat "
    "lrp.sequential_preset_b_flat_until_idx deep_taylor deep_taylor.bounded"
).split()
ARGUMENTS = {
    "lrp": {"rule": "Epsilon"},
    "lrp.alpha_beta": {"alpha": 2, "beta": 1},
    "lrp.sequential_preset_b_flat_until_idx": {"until_layer_idx": 4},
    "deep_taylor.bounded": {"low": -4, "high": 4},
    "lrp.epsilon_gamma_box": {"low": -4, "high": 4},
    "integrated_gradients": {"steps": 4},
    "smoothgrad": {"augment_by_n": 4},
    "expected_gradients": {"augment_by_n": 4, "background": np.zeros((1, 8, 8, 2))},
}


@pytest.fixture(scope="module")
def model():
    return randomized(cnn())


@pytest.fixture(scope="module")
def x(model):
    return inputs_of(model)


def explain(name, model, x, convention=None, **selection):
    options = dict(ARGUMENTS.get(name, {}))
    if convention and "convention" in ANALYZERS[name].arguments():
        options["convention"] = convention
    return create_analyzer(name, model, **options).analyze(x, **selection)


def test_all_names_are_there():
    assert len(INNVESTIGATE) == 28 and set(INNVESTIGATE) <= set(ANALYZERS)
    composites = {"lrp.epsilon_plus", "lrp.epsilon_plus_flat", "lrp.epsilon_alpha2_beta1", "lrp.epsilon_gamma_box"}
    assert composites | {"lrp.epsilon_alpha2_beta1_flat", "excitation_backprop"} <= set(ANALYZERS)


@pytest.mark.filterwarnings("ignore:Relevance explodes")
@pytest.mark.parametrize("name", [name for name in ANALYZERS if not name.startswith("pattern")])
def test_every_name_explains(name, model, x):
    relevance = explain(name, model, x)
    assert relevance.shape == x.shape and relevance.dtype == np.float32
    assert np.isfinite(relevance).all() and np.abs(relevance).max() > 0


@pytest.mark.filterwarnings("ignore:Relevance explodes")
@pytest.mark.parametrize(
    "name", ["lrp.epsilon", "lrp.z_plus", "lrp.alpha_2_beta_1", "lrp.sequential_preset_b_flat", "deep_taylor.bounded"]
)
def test_every_name_explains_by_innvestigates_convention(name, model, x):
    relevance = explain(name, model, x, convention="innvestigate")
    assert relevance.shape == x.shape and np.isfinite(relevance).all()


ALPHA_1, ALPHA_2, PRESET = AlphaBeta(1, 0), AlphaBeta(2, 1), Epsilon(0.1)
ASSIGNED = {
    "lrp.z": [Z()] * 4,
    "lrp.z_IB": [Z(bias=False)] * 4,
    "lrp.epsilon": [Epsilon(1e-7)] * 4,
    "lrp.epsilon_IB": [Epsilon(1e-7, bias=False)] * 4,
    "lrp.w_square": [WSquare()] * 4,
    "lrp.flat": [Flat()] * 4,
    "lrp.gamma": [Gamma(0.25)] * 4,
    "lrp.alpha_beta": [ALPHA_2] * 4,
    "lrp.alpha_2_beta_1": [ALPHA_2] * 4,
    "lrp.alpha_2_beta_1_IB": [AlphaBeta(2, 1, bias=False)] * 4,
    "lrp.alpha_1_beta_0": [ALPHA_1] * 4,
    "lrp.alpha_1_beta_0_IB": [AlphaBeta(1, 0, bias=False)] * 4,
    "lrp.z_plus": [ZPlus(bias=False)] * 4,
    "lrp.z_plus_fast": [ZPlusFast()] * 4,
    "lrp.sequential_preset_a": [ALPHA_1, ALPHA_1, PRESET, PRESET],
    "lrp.sequential_preset_b": [ALPHA_2, ALPHA_2, PRESET, PRESET],
    "lrp.sequential_preset_a_flat": [Flat(), ALPHA_1, PRESET, PRESET],
    "lrp.sequential_preset_b_flat": [Flat(), ALPHA_2, PRESET, PRESET],
    "lrp.sequential_preset_b_flat_until_idx": [Flat(), Flat(), PRESET, PRESET],
    "lrp.epsilon_plus": [ZPlus(), ZPlus(), Epsilon(1e-6), Epsilon(1e-6)],
    "lrp.epsilon_plus_flat": [Flat(), ZPlus(), Epsilon(1e-6), Epsilon(1e-6)],
    "lrp.epsilon_alpha2_beta1": [ALPHA_2, ALPHA_2, Epsilon(1e-6), Epsilon(1e-6)],
    "lrp.epsilon_alpha2_beta1_flat": [Flat(), ALPHA_2, Epsilon(1e-6), Epsilon(1e-6)],
    "excitation_backprop": [ZPlus(bias=False)] * 4,
    "deep_taylor": [ZPlus(bias=False)] * 4,
}


@pytest.mark.parametrize("name", ASSIGNED)
def test_names_assign_the_rules_they_promise(name, model):
    """One rule for conv1, conv2, dense and logits each."""
    analyzer = create_analyzer(name, model, **ARGUMENTS.get(name, {}))
    given = [bound.rule for bound in analyzer.bound if is_linear_layer(bound.site.operation)]
    assert given == ASSIGNED[name]
    lines = str(analyzer.summary()).splitlines()
    for path, rule in zip(("conv1", "conv2", "dense", "logits"), ASSIGNED[name], strict=True):
        assert any(line.startswith(f"{path} ") and str(rule) in line for line in lines)


@pytest.mark.parametrize(
    ("name", "rest"), [("deep_taylor.bounded", ZPlus(bias=False)), ("lrp.epsilon_gamma_box", Gamma())]
)
def test_names_with_a_box(name, rest, model):
    analyzer = create_analyzer(name, model, low=-1, high=3)
    first, second, *_ = [bound.rule for bound in analyzer.bound if is_linear_layer(bound.site.operation)]
    assert isinstance(first, ZBox) and (first.low, first.high) == (-1, 3) and second == rest


def test_the_summary_says_which_rule_and_why(model):
    text = str(create_analyzer("lrp.sequential_preset_b_flat", model).summary())
    assert "lrp.sequential_preset_b_flat of 'cnn': 10 sites" in text
    (line,) = [line for line in text.splitlines() if line.startswith("conv1 ")]
    assert all(word in line for word in ("Conv", "Flat()", "first linear layer", "bn"))


def test_the_table_of_analyzers_prints():
    text = str(ANALYZERS)
    assert text.splitlines()[0] == f"{len(ANALYZERS)} analyzers" and len(text.splitlines()) == len(ANALYZERS) + 3
    assert "lrp.epsilon" in text and "Bach et al., 2015" in text
    assert all(method.computes for method in ANALYZERS.values())


@pytest.mark.parametrize("name", ZOO)
def test_every_model_of_the_zoo_is_explained(name):
    model = make(name)
    x = inputs_of(model)
    selection = {"kind": 1} if name == "two_outputs" else None
    for analyzer in ("lrp.epsilon", "gradient"):
        relevance = create_analyzer(analyzer, model).analyze(x, neuron_selection=selection)
        keras.tree.assert_same_structure(relevance, x)
        for r, t in zip(keras.tree.flatten(relevance), keras.tree.flatten(x), strict=True):
            assert r.shape == t.shape and np.isfinite(r).all() and np.abs(r).max() > 0


# What is selected.


def test_what_is_explained(model, x):
    logits, analyzer = np.asarray(model(x)), create_analyzer("lrp.z", model)
    best = logits.argmax(1)
    for selection in (None, "max_activation", best, best.tolist(), tf.constant(best)):
        np.testing.assert_array_equal(analyzer.analyze(x, selection), analyzer.analyze(x, best))
    for i in range(3):
        alone = analyzer.analyze(x, neuron_selection=int(best[i]))
        np.testing.assert_allclose(alone[i], analyzer.analyze(x)[i], rtol=1e-5, atol=1e-6)
    # LRP-0 is linear in the relevance it starts from.
    single = sum(analyzer.analyze(x, neuron_selection=i) for i in range(4))
    np.testing.assert_allclose(analyzer.analyze(x, neuron_selection="all"), single, rtol=1e-5, atol=1e-6)


def test_selection_modes_of_the_constructor(model, x):
    by_index = create_analyzer("lrp.z", model, neuron_selection_mode="index")
    with pytest.raises(ValueError, match=r'neuron_selection_mode="index": pass neuron_selection'):
        by_index.analyze(x)
    plain = create_analyzer("lrp.z", model)
    np.testing.assert_array_equal(by_index.analyze(x, 2), plain.analyze(x, 2))
    of_all = create_analyzer("lrp.z", model, neuron_selection_mode="all")
    np.testing.assert_array_equal(of_all.analyze(x), plain.analyze(x, "all"))
    with pytest.raises(ValueError, match="neuron_selection_mode is one of .*'max'"):
        create_analyzer("lrp.z", model, neuron_selection_mode="max")


def test_several_outputs_are_named():
    model = make("two_outputs")
    x, analyzer = inputs_of(model), create_analyzer("lrp.z", model)
    kind, size = (analyzer.analyze(x, neuron_selection={name: 1}) for name in ("kind", "size"))
    both = analyzer.analyze(x, neuron_selection={"kind": 1, "size": 1})
    np.testing.assert_allclose(both, kind + size, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"2 outputs.*'kind', 'size'"):
        analyzer.analyze(x, neuron_selection=1)
    with pytest.raises(KeyError, match=r"Unknown outputs \['shape'\]"):
        analyzer.analyze(x, neuron_selection={"shape": 1})


# What is taken.


def test_inputs_of_every_kind(model, x):
    analyzer = create_analyzer("lrp.epsilon", model)
    expected = analyzer.analyze(x)
    for given in (tf.constant(x), x.astype("float64"), x.tolist(), tf.Variable(x), list(x), (x,), {"keras_tensor": x}):
        if isinstance(given, dict):
            given = {analyzer.graph.input_names[0]: x}
        np.testing.assert_allclose(analyzer.analyze(given), expected, rtol=1e-5)
    pixels = (10 * x).astype("uint8")
    np.testing.assert_array_equal(analyzer.analyze(pixels), analyzer.analyze(pixels.astype("float32")))


class Pairs(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i : i + 1], np.zeros(1)


def test_streams_of_every_kind(model, x):
    analyzer = create_analyzer("lrp.epsilon", model)
    expected = analyzer.analyze(x)
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(3)))
    for given in (data.batch(2), data.batch(1).map(lambda x, y: x), Pairs(x), (x[i : i + 1] for i in range(3))):
        np.testing.assert_allclose(analyzer.analyze(given), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(analyzer.analyze(data.batch(3), batch_size=2), expected, rtol=1e-5, atol=1e-6)


def test_batches_and_the_progress_bar(model, x, capsys):
    analyzer = create_analyzer("lrp.epsilon", model)
    expected = analyzer.analyze(x, [0, 1, 2])
    capsys.readouterr()
    np.testing.assert_allclose(analyzer.analyze(x, [0, 1, 2], batch_size=2), expected, rtol=1e-5, atol=1e-6)
    assert capsys.readouterr().out == ""
    analyzer.analyze(x, batch_size=2, verbose=1)
    assert "2/2" in capsys.readouterr().out


def test_inputs_keep_their_structure():
    model = make("two_inputs")
    x = inputs_of(model)
    analyzer = create_analyzer("lrp.epsilon", model)
    relevance = analyzer.analyze(x)
    assert set(relevance) == {"image", "table"}
    listed = analyzer.analyze([x["image"], x["table"]])
    np.testing.assert_array_equal(listed["image"], relevance["image"])
    model = make("shared")
    x = inputs_of(model)
    relevance = create_analyzer("lrp.epsilon", model).analyze(x)
    assert isinstance(relevance, list) and [r.shape for r in relevance] == [t.shape for t in x]
    named = create_analyzer("lrp.epsilon", model).analyze({"a": x[0], "b": x[1]})
    np.testing.assert_array_equal(named[1], relevance[1])


def test_an_input_that_nothing_depends_on_gets_no_relevance():
    a, b = keras.Input((3,)), keras.Input((2,))
    model = randomized(keras.Model([a, b], layers.Dense(2)(a)))
    relevance = create_analyzer("lrp.z", model).analyze([np.ones((2, 3)), np.ones((2, 2))])
    np.testing.assert_array_equal(relevance[1], np.zeros((2, 2)))


# The controls.


def test_the_input_is_given_back(model, x):
    np.testing.assert_array_equal(create_analyzer("input", model).analyze(x), x)


def test_noise_has_its_deviation_and_seed(model):
    x = np.zeros((200, 8, 8, 2), "float32")
    noise = create_analyzer("random", model, stddev=3, seed=1).analyze(x)
    assert noise.std() == pytest.approx(3, rel=0.05) and abs(noise.mean()) < 0.1
    np.testing.assert_array_equal(create_analyzer("random", model, stddev=3, seed=1).analyze(x), noise)
    assert np.abs(create_analyzer("random", model, stddev=3).analyze(x) - noise).max() > 0


def test_gradients_can_be_made_absolute_or_squared(model, x):
    gradient = create_analyzer("gradient", model).analyze(x)
    np.testing.assert_array_equal(create_analyzer("gradient.baseline", model).analyze(x), gradient)
    np.testing.assert_array_equal(create_analyzer("gradient", model, postprocess="abs").analyze(x), np.abs(gradient))
    squared = create_analyzer("gradient", model, postprocess="square").analyze(x)
    np.testing.assert_allclose(squared, gradient**2, rtol=1e-5)
    np.testing.assert_allclose(create_analyzer("input_t_gradient", model).analyze(x), x * gradient, rtol=1e-5)


# Contracts.


def test_conservation_adds_up(model, x):
    for name in ("lrp.epsilon", "lrp.sequential_preset_b_flat", "lrp.epsilon_alpha2_beta1"):
        analyzer = create_analyzer(name, model)
        report = analyzer.conservation(x)
        np.testing.assert_allclose(report.start, np.asarray(model(x)).max(1), rtol=1e-5)
        np.testing.assert_allclose(report.input, analyzer.analyze(x).sum((1, 2, 3)), rtol=1e-5, atol=1e-5)
        total = report.input + report.bias + report.stabiliser + report.other
        np.testing.assert_allclose(total, report.start, rtol=1e-10)
        assert report.layers[0].path == "logits" and report.layers[-1].path == "conv1"


def test_one_trace_for_all_batch_sizes_and_classes(monkeypatch, model, x):
    traced = []
    forward = ReverseGraph.forward
    monkeypatch.setattr(ReverseGraph, "forward", lambda self, inputs: traced.append(1) or forward(self, inputs))
    analyzer = create_analyzer("lrp.alpha_2_beta_1", model)
    assert not traced
    for size in (3, 1, 2):
        for selection in (None, 0, 2, [1] * size, "all", "max_activation"):
            analyzer.analyze(x[:size], selection)
    analyzer.analyze(x, batch_size=2)
    assert len(traced) == 1


def test_weights_assigned_later_are_seen():
    model = make("cnn")
    x, analyzer = inputs_of(model), create_analyzer("lrp.sequential_preset_b", model)
    before = analyzer.analyze(x)
    randomized(model, seed=3)
    after = analyzer.analyze(x)
    assert np.abs(after - before).max() > 1e-2
    np.testing.assert_array_equal(after, create_analyzer("lrp.sequential_preset_b", model).analyze(x))
    np.testing.assert_allclose(analyzer.conservation(x).start, np.asarray(model(x)).max(1), rtol=1e-5)


def test_training_goes_on_between_explanations():
    model = make("mlp")
    x = inputs_of(model, batch=8)
    model.compile("sgd", "mse")
    analyzer = create_analyzer("lrp.epsilon", model)
    before = analyzer.analyze(x)
    model.fit(x, np.ones((8, 3)), verbose=0)
    assert np.abs(analyzer.analyze(x) - before).max() > 0
    np.testing.assert_allclose(analyzer.conservation(x).start, np.asarray(model(x)).max(1), rtol=1e-5)


def test_models_with_equal_names_do_not_interfere():
    one, two = randomized(mlp(), 1), randomized(mlp(), 2)
    x = inputs_of(one)
    alone = create_analyzer("lrp.z", one).analyze(x)
    first, second = create_analyzer("lrp.z", one), create_analyzer("lrp.z", two)
    other = second.analyze(x)
    np.testing.assert_array_equal(first.analyze(x), alone)
    np.testing.assert_array_equal(second.analyze(x), other)
    assert np.abs(other - alone).max() > 1e-3


def state_of(model):
    everything = list(model._flatten_layers())
    return (
        [(id(x), list(map(id, x._inbound_nodes)), list(map(id, x._outbound_nodes)), x.trainable) for x in everything],
        [w.numpy().tobytes() for w in model.variables],
        [sorted(vars(x)) for x in everything],
        keras.config.floatx(),
        keras.config.dtype_policy().name,
    )


@pytest.mark.parametrize("name", ["cnn", "nested", "shared", "subclassed", "operators"])
def test_the_model_stays_as_it_was(name):
    model = make(name)
    model.layers[1].trainable = False
    x = inputs_of(model)
    output, before = np.asarray(model(x)), state_of(model)
    for analyzer in ("lrp.sequential_preset_a_flat", "gradient"):
        analyzer = create_analyzer(analyzer, model)
        analyzer.analyze(x)
        analyzer.summary()
    create_analyzer("lrp.epsilon", model).conservation(x)
    assert state_of(model) == before
    np.testing.assert_array_equal(model(x), output)


def test_the_same_question_has_the_same_answer(model, x):
    analyzer = create_analyzer("lrp.alpha_2_beta_1", model)
    np.testing.assert_array_equal(analyzer.analyze(x), analyzer.analyze(x))
    np.testing.assert_array_equal(create_analyzer("lrp.alpha_2_beta_1", model).analyze(x), analyzer.analyze(x))


def test_probabilities_are_explained_at_the_logit(recwarn):
    plain, soft = randomized(cnn()), randomized(cnn(last="softmax"))
    x = inputs_of(plain)
    expected = create_analyzer("lrp.epsilon", plain).analyze(x)
    assert not [w for w in recwarn if "probability" in str(w.message)]
    with pytest.warns(UserWarning, match="'cnn' is a probability: its logits are explained") as caught:
        analyzer = create_analyzer("lrp.epsilon", soft)
    assert len(caught) == 1 and caught[0].filename == __file__
    np.testing.assert_allclose(analyzer.analyze(x), expected, rtol=1e-5)


def test_models_of_any_image_size(rng):
    inputs = keras.Input((None, None, 2))
    x = layers.AveragePooling2D(2, padding="same")(layers.Conv2D(3, 3, activation="relu", padding="same")(inputs))
    model = randomized(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    analyzer = create_analyzer("lrp.sequential_preset_b_flat", model)
    for size in (5, 8):
        x = rng.normal(size=(2, size, size, 2)).astype("float32")
        assert analyzer.analyze(x).shape == x.shape


def test_everything_has_a_docstring():
    for name in revgraph.__all__:
        thing = getattr(revgraph, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name
