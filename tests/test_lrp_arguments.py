"""The arguments of LRP that iNNvestigate has: rules of every form, special layers, reverse_*."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import composites
from revgraph.reverse_rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, Z, ZBox, ZPlus

pytestmark = pytest.mark.usefixtures("float64")

# Each of these is tried on its own; warnings of their size are not what is tested.
loud = pytest.mark.filterwarnings("ignore:Relevance")


def network(rng=None):
    rng = rng or np.random.default_rng(0)
    model = keras.Sequential(
        [
            layers.Input((8, 8, 2)),
            layers.Conv2D(3, 3, activation="relu", name="conv1"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(3, 3, name="conv2"),
            layers.ReLU(name="relu"),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flat"),
            layers.Dense(5, activation="relu", name="dense1"),
            layers.Dense(3, name="dense2"),
        ]
    )
    for weight in model.weights:
        weight.assign(
            np.abs(rng.normal(size=weight.shape)) if "variance" in weight.path else rng.normal(size=weight.shape)
        )
    return model


def images(n=2):
    return np.random.default_rng(1).normal(size=(n, 8, 8, 2))


def rules(analyzer):
    """Path -> rule, as printed."""
    return {bound.site.path: str(bound.rule) for bound in analyzer.composite.bind(analyzer.graph)}


LINEAR = ("conv1", "conv2", "dense1", "dense2")

EVERY_FORM = {
    "a rule": (Gamma(0.5), ["Gamma(gamma=0.5)"] * 4),
    "a class": (WSquare, ["WSquare()"] * 4),
    "a name": ("Alpha2Beta1", ["AlphaBeta(alpha=2.0, beta=1.0)"] * 4),
    "a list": (
        [Flat(), "ZPlus", AlphaBeta(1, 0), "Z"],
        ["Flat()", "ZPlus(bias=False)", "AlphaBeta(alpha=1.0, beta=0.0)", "Z()"],
    ),
    "conditions": (
        [(lambda layer: layer.name == "conv1", "WSquare"), (lambda layer: True, Epsilon(0.1))],
        ["WSquare()"] + ["Epsilon(epsilon=0.1)"] * 3,
    ),
    "classes and patterns": (
        [(keras.layers.Dense, "Z"), ("conv?", "Flat")],
        ["Flat()", "Flat()", "Z()", "Z()"],
    ),
    "a composite": (
        revgraph.Composite((composites.FIRST, Flat()), ("dense2", Z()), (composites.LINEAR, ZPlus())),
        ["Flat()", "ZPlus()", "ZPlus()", "Z()"],
    ),
}


@loud
@pytest.mark.parametrize("rule, expected", EVERY_FORM.values(), ids=EVERY_FORM)
def test_rules_of_every_form(rule, expected):
    analyzer = revgraph.create_analyzer("lrp", network(), rule=rule)
    found = rules(analyzer)
    assert [found[path] for path in LINEAR] == expected
    assert found["pool"] == found["flat"] == "Jacobian()" and found["relu"] == "Pass()"
    assert np.isfinite(analyzer.analyze(images())).all()


NAMES = (
    "Z ZIgnoreBias Epsilon EpsilonIgnoreBias WSquare Flat AlphaBeta AlphaBetaIgnoreBias Alpha2Beta1 "
    "Alpha2Beta1IgnoreBias Alpha1Beta0 Alpha1Beta0IgnoreBias ZPlus ZPlusFast Bounded"
).split()


def test_every_rule_name():
    model = network()
    for name in NAMES:
        found = rules(revgraph.create_analyzer("lrp", model, rule=name))
        assert len({found[path] for path in LINEAR}) == 1


@loud
def test_names_stand_for_their_rules():
    x, model = images(), network()
    for name, twin in (("Z", "lrp.z"), ("Alpha1Beta0IgnoreBias", "lrp.alpha_1_beta_0_IB"), ("ZPlus", "lrp.z_plus")):
        expected = revgraph.create_analyzer(twin, model).analyze(x)
        np.testing.assert_array_equal(revgraph.create_analyzer("lrp", model, rule=name).analyze(x), expected)


@loud
def test_special_layers():
    model = network()
    by = {
        "box": {"input_layer_rule": (-3, [3, 4])},
        "rule": {"input_layer_rule": Flat()},
        "until": {"until_layer_idx": 2, "until_layer_rule": "Flat"},
        "both": {"until_layer_idx": -1, "until_layer_rule": Flat(), "input_layer_rule": "WSquare"},
        "norm": {"bn_layer_rule": "Z"},
    }
    found = {
        key: rules(revgraph.create_analyzer("lrp", model, rule="Epsilon", **options)) for key, options in by.items()
    }
    assert found["box"]["conv1"] == "ZBox(low=-3, high=[3, 4])"
    assert [found["rule"][path] for path in LINEAR] == ["Flat()"] + ["Epsilon()"] * 3
    assert [found["until"][path] for path in LINEAR] == ["Flat()"] * 2 + ["Epsilon()"] * 2
    assert [found["both"][path] for path in LINEAR] == ["WSquare()"] + ["Flat()"] * 3
    assert "norm" not in found["rule"] and found["norm"]["norm"] == "Z()"


@loud
def test_presets_take_the_special_layers_too():
    analyzer = revgraph.create_analyzer("lrp.sequential_preset_a", network(), input_layer_rule=(-3, 3), epsilon=0.2)
    found = rules(analyzer)
    assert found["conv1"] == "ZBox(low=-3, high=3)" and found["dense2"] == "Epsilon(epsilon=0.2)"


ZENNIT = {
    "lrp.epsilon_plus": ({"epsilon": 1e-3}, ["ZPlus()", "ZPlus()", "Epsilon(epsilon=0.001)", "Epsilon(epsilon=0.001)"]),
    "lrp.epsilon_plus_flat": ({}, ["Flat()", "ZPlus()", "Epsilon(epsilon=1e-06)", "Epsilon(epsilon=1e-06)"]),
    "lrp.epsilon_alpha2_beta1": (
        {},
        ["AlphaBeta(alpha=2.0, beta=1.0)"] * 2 + ["Epsilon(epsilon=1e-06)"] * 2,
    ),
    "lrp.epsilon_alpha2_beta1_flat": (
        {},
        ["Flat()", "AlphaBeta(alpha=2.0, beta=1.0)"] + ["Epsilon(epsilon=1e-06)"] * 2,
    ),
    "lrp.epsilon_gamma_box": (
        {"low": -3, "high": 3, "gamma": 0.5, "epsilon": 1e-2},
        ["ZBox(low=-3, high=3)", "Gamma(gamma=0.5)"] + ["Epsilon(epsilon=0.01)"] * 2,
    ),
    "excitation_backprop": ({}, ["ZPlus(bias=False)"] * 4),
}


@loud
@pytest.mark.parametrize("name", ZENNIT)
def test_composites_of_zennit(name):
    options, expected = ZENNIT[name]
    image = layers.Input((8, 8, 2))
    h = layers.Conv2D(3, 3, name="conv1", padding="same", activation="relu")(image)
    h = layers.Add(name="add")(
        [h, layers.BatchNormalization(name="norm")(layers.Conv2D(3, 3, padding="same", name="conv2")(h))]
    )
    h = layers.Dense(4, name="dense1")(layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(h)))
    model = keras.Model(image, layers.Dense(3, name="dense2")(h))
    analyzer = revgraph.create_analyzer(name, model, **options)
    found = rules(analyzer)
    assert [found[path] for path in LINEAR] == expected
    assert found["relu"] == found["conv1/relu"] == "Pass()" and found["pool"] == "Norm()"
    assert found["add"] in ("Norm()", "Epsilon()")
    assert np.isfinite(analyzer.analyze(images())).all()


def test_mixed_composites():
    model = network()
    composite = revgraph.Composite(
        (composites.FIRST & composites.CONVOLUTION, ZBox(-3, 3)),
        ("dense2", Pass()),
        (composites.position(-2), Norm()),
        (keras.layers.Conv2D, Gamma(0.25)),
    )
    bound = composite.bind(revgraph.create_analyzer("lrp.z", model).graph)
    found = {b.site.path: str(b.rule) for b in bound}
    assert [found[path] for path in LINEAR] == ["ZBox(low=-3, high=3)", "Gamma()", "Norm()", "Pass()"]


def test_beta_smoothing():
    # relu'(z) becomes sigmoid(beta z): at z = 0.5 with beta 4 that is sigmoid(2).
    model = keras.Sequential([layers.Input((1,)), layers.Dense(1), layers.ReLU(), layers.Dense(1)])
    model.set_weights([np.array([[3.0]]), np.array([-1.0]), np.array([[5.0]]), np.zeros(1)])
    found = revgraph.create_analyzer("beta_smooth", model, beta=4).analyze(np.array([[0.5]]))
    np.testing.assert_allclose(found, [[5 * 3 / (1 + np.exp(-2))]])
    default = revgraph.create_analyzer("beta_smooth", model).analyze(np.array([[0.5]]))
    np.testing.assert_allclose(default, [[5 * 3 / (1 + np.exp(-5))]])
    with pytest.raises(ValueError, match="beta must be a number > 0"):
        revgraph.create_analyzer("beta_smooth", model, beta=0)


@loud
def test_reverse_clip_values():
    model, x = network(), images()
    free = revgraph.create_analyzer("lrp.epsilon", model, reverse_keep_tensors=True)
    free.analyze(x)
    clipped = revgraph.create_analyzer("lrp.epsilon", model, reverse_keep_tensors=True, reverse_clip_values=(-0.1, 0.2))
    relevance = clipped.analyze(x)
    assert relevance.min() >= -0.1 and relevance.max() <= 0.2
    for path, kept in clipped.reversed_tensors.items():
        assert kept.min() >= -0.1 and kept.max() <= 0.2, path
    assert max(np.abs(kept).max() for kept in free.reversed_tensors.values()) > 0.2
    # The last layer is handed the clipped start: its relevance is that of a start of 0.2.
    start = np.clip(model(x).numpy().max(axis=1), -0.1, 0.2)
    last = revgraph.create_analyzer("lrp.epsilon", model).analyze(x, initial_relevance=start, return_layers=["dense2"])
    expected = np.clip(last[1]["dense2"], -0.1, 0.2)
    np.testing.assert_allclose(clipped.reversed_tensors["dense2"], expected)


@loud
def test_reverse_project_bottleneck_layers():
    model, x = network(), images()
    analyzer = revgraph.create_analyzer(
        "lrp.epsilon", model, reverse_keep_tensors=True, reverse_project_bottleneck_layers=True
    )
    relevance = analyzer.analyze(x)
    np.testing.assert_allclose(np.abs(relevance).max(axis=(1, 2, 3)), 1)
    plain = revgraph.create_analyzer("lrp.epsilon", model).analyze(x)
    scale = np.abs(plain).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(relevance, plain / scale, atol=1e-9)
    ranged = revgraph.create_analyzer("lrp.epsilon", model, reverse_project_bottleneck_layers=(0, 10)).analyze(x)
    assert ranged.min() >= 0 and ranged.max() <= 10


def test_bottlenecks_are_the_tensors_that_everything_passes():
    image = layers.Input((4, 4, 2))
    one = layers.Conv2D(2, 1, name="one")(image)
    branch = layers.Conv2D(2, 1, name="branch")(one)
    joined = layers.Add(name="joined")([one, branch])
    model = keras.Model(image, layers.Flatten()(joined))
    analyzer = revgraph.create_analyzer(
        "gradient", model, reverse_project_bottleneck_layers=True, reverse_keep_tensors=True
    )
    analyzer.analyze(images()[:, :4, :4], "all")
    kept = analyzer.reversed_tensors
    # What leaves "one" has two readers, each of which had a share of the tensor behind their sum, scaled to 1.
    assert np.abs(kept["flatten"] if "flatten" in kept else kept[list(kept)[-1]]).max() == 1
    np.testing.assert_allclose(np.abs(kept["one"]).max(axis=(1, 2, 3)), 1)
    assert not np.allclose(np.abs(kept["joined"][1]).max(axis=(1, 2, 3)), 0)


@loud
def test_reverse_keep_tensors_agrees_with_return_layers():
    model, x = network(), images(3)
    analyzer = revgraph.create_analyzer("lrp.alpha_2_beta_1", model, reverse_keep_tensors=True)
    assert analyzer.reversed_tensors is None
    relevance = analyzer.analyze(x, batch_size=2)
    np.testing.assert_allclose(analyzer.reversed_tensors["conv1"], relevance)
    _, layer = analyzer.analyze(x, return_layers=["dense2", "flat"])
    np.testing.assert_allclose(analyzer.reversed_tensors["dense2"], layer["dense2"])
    np.testing.assert_allclose(analyzer.reversed_tensors["flat"], layer["flat"])


@loud
def test_checks_and_prints(capsys):
    model, x = network(), images()
    analyzer = revgraph.create_analyzer("lrp.epsilon", model, reverse_verbose=True, reverse_check_min_max_values=True)
    assert "dense2" in capsys.readouterr().out
    analyzer.analyze(x)
    printed = capsys.readouterr().out
    assert "min" in printed and "conv1" in printed and "dense2" in printed
    checked = revgraph.create_analyzer("lrp.epsilon", model, reverse_check_finite=True)
    with pytest.warns(UserWarning, match="not finite at the inputs of .*dense2"):
        checked.analyze(x, initial_relevance=np.inf)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"rule": None}, TypeError, "needs a rule"),
        ({"rule": "Delta"}, KeyError, "No rule is named 'Delta'. The rules are Z, "),
        ({"rule": 3}, TypeError, "Expected a rule"),
        ({"rule": []}, ValueError, "list of rules is empty"),
        ({"rule": ["Z", "Z"]}, ValueError, "4 linear layers, from input to output. Received 2 rules"),
        ({"rule": "Z", "until_layer_idx": 3}, TypeError, "go together"),
        ({"rule": "Z", "until_layer_rule": "Flat"}, TypeError, "go together"),
        ({"rule": "Z", "until_layer_idx": 20, "until_layer_rule": "Flat"}, ValueError, "one of the model's 8 layers"),
        ({"rule": "Z", "reverse_clip_values": True}, ValueError, "a pair .low, high. with low < high"),
        ({"rule": "Z", "reverse_clip_values": (1, 0)}, ValueError, "with low < high"),
        ({"rule": "Z", "reverse_project_bottleneck_layers": 3}, ValueError, "with low < high"),
        ({"rule": [(lambda layer: layer.name == "conv1", "Z")]}, ValueError, "No rule for 'conv2'"),
        ({"rule": "Z", "reverse_klip": 1}, TypeError, "Did you mean 'reverse_c"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        revgraph.create_analyzer("lrp", network(), **options)


@loud
def test_lambda_layers_are_read_or_passed_as_a_whole():
    model = keras.Sequential(
        [layers.Input((3,)), layers.Lambda(lambda x: 2 * x, name="twice"), layers.Dense(2, use_bias=False)]
    )
    x = np.array([[1.0, -2.0, 3.0]])
    kernel = model.get_weights()[0]
    largest = (2 * x @ kernel).argmax()
    read = revgraph.create_analyzer("lrp.z", model)
    np.testing.assert_allclose(read.analyze(x), 2 * x * kernel[:, largest], rtol=1e-5)
    found = revgraph.create_analyzer("lrp.z", model, allow_lambda_layers=True).analyze(x)
    # The transposed Jacobian of 2 x doubles what arrives, which is the value 2 x w.
    np.testing.assert_allclose(found, 2 * 2 * x * kernel[:, largest], rtol=1e-5)


@pytest.mark.parametrize("name", revgraph.ANALYZERS)
def test_arguments_are_those_that_an_analyzer_takes(name):
    arguments = revgraph.ANALYZERS[name].arguments()
    assert not {"self", "model", "composite", "options", "subanalyzer"} & set(arguments)
    maps = issubclass(revgraph.ANALYZERS[name].kind, revgraph.analyzers.GradCAM)
    shape = (3, 3, 1) if maps else (3,)
    first = [layers.Conv2D(1, 2, name="conv"), layers.Flatten()] if maps else []
    model = keras.Sequential([layers.Input(shape), *first, layers.Dense(2)])
    values = {
        "rule": "Z", "input_layer_rule": "Flat", "until_layer_idx": 0, "until_layer_rule": "Flat", "alpha": 2,
        "beta": 1, "bn_layer_rule": "Z", "convention": "paper", "neuron_selection_mode": "all", "low": 0, "high": 1,
        "steps": 2, "reference_inputs": 0, "augment_by_n": 2, "noise_scale": 1, "seed": 1, "postprocess": "abs",
        "epsilon": 0.1, "exponent": 1, "stddev": 1, "pattern_type": "linear", "layer": "conv",
        "relu": False, "upsample": False, "patch": 2, "stride": 1, "feature_mask": [0, 0, 1], "statistic": "squared",
        "background": np.zeros((2, 3)), "gamma": 1, "reverse_clip_values": (0, 1),
    }  # fmt: skip
    # Every listed argument is taken, one at a time; those that are needed always come along.
    needed = {
        "lrp": ("rule",),
        "lrp.sequential_preset_b_flat_until_idx": ("until_layer_idx",),
        "expected_gradients": ("background",),
    }.get(name, ())
    boxes = {"deep_taylor.bounded", "lrp.epsilon_gamma_box"} & {name} and ("low", "high")
    for argument in arguments:
        if argument in values:
            pairs = {"until_layer_idx", "until_layer_rule"} & set(arguments)
            together = pairs if argument in pairs else {argument}
            given = {key: values[key] for key in {*together, *needed, *(boxes or ())}}
            revgraph.create_analyzer(name, model, **given)


def test_a_condition_may_give_a_rule_to_the_inside_of_a_loop():
    x = keras.Input((4, 3))
    model = keras.Model(x, layers.Dense(2)(layers.LSTM(4, return_sequences=True, name="memory")(x)))
    rules = [(layers.LSTM, Epsilon(0.5)), (lambda layer: True, Epsilon())]
    summary = str(revgraph.create_analyzer("lrp", model, rule=rules).summary())
    assert "Epsilon(epsilon=0.5)" in next(line for line in summary.splitlines() if line.startswith("memory/lstm_cell"))
