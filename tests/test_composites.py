"""Composites: which rule a site gets, and what is said when it gets none."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from revgraph import Composite, NotAnalyzeableModelException, composites, create_analyzer
from revgraph.canonize import canonize
from revgraph.composites import LINEAR, keras_op, position
from revgraph.graph.analysis import is_linear_layer
from revgraph.reverse_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Jacobian,
    Norm,
    Pass,
    WSquare,
    Z,
    ZBox,
    ZPlus,
)
from tests.models import inputs_of, make, nested, randomized

pytestmark = pytest.mark.usefixtures("float64")


def rules(model, *entries, **options):
    """Path -> rule."""
    graph = canonize(model)
    composite = entries[0] if isinstance(entries[0], Composite) else Composite(*entries, **options)
    return {bound.site.path: bound.rule for bound in composite.bind(graph)}


def linear_rules(model, *entries):
    graph = canonize(model)
    bound = Composite(*entries, (LINEAR, Epsilon())).bind(graph)
    return {b.site.path: b.rule for b in bound if is_linear_layer(b.site.operation)}


def test_the_first_match_wins():
    model = make("mlp")
    given = rules(model, ("two", Flat()), (layers.Dense, Gamma()), ("one", Z()))
    assert given == {"one": Gamma(), "one/relu": Pass(), "two": Flat(), "two/relu": Pass(), "three": Gamma()}


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (layers.Conv2D, {"conv1", "conv2"}),
        ((layers.Conv2D, layers.Dense), {"conv1", "conv2", "dense", "logits"}),
        (layers.Layer, {"conv1", "conv2", "dense", "logits"}),
        ("conv1", {"conv1"}),
        ("conv*", {"conv1", "conv2"}),
        ("*[12]", {"conv1", "conv2"}),
        (lambda layer: getattr(layer, "units", 0) == 4, {"logits"}),
        (position(0), {"conv1"}),
        (position(-1), {"logits"}),
        (position(1, 3), {"conv2", "dense"}),
        (composites.FIRST, {"conv1"}),
        (composites.CONVOLUTION, {"conv1", "conv2"}),
        (composites.DENSE, {"dense", "logits"}),
        (composites.FIRST & composites.DENSE, set()),
        (composites.CONVOLUTION & "*2", {"conv2"}),
        (composites.ANY, {"conv1", "conv2", "dense", "logits"}),
    ],
)
def test_what_may_be_matched(match, expected):
    given = linear_rules(make("cnn"), (match, Flat()))
    assert {path for path, rule in given.items() if rule == Flat()} == expected


def test_call_sites_are_matched_by_path():
    given = linear_rules(make("shared"), ("twin#2/*", Flat()), ("dense#2", Gamma()), ("twin/one", Z()))
    assert given == {
        "dense": Epsilon(),
        "twin/one": Z(),
        "twin/two": Epsilon(),
        "dense#2": Gamma(),
        "twin#2/one": Flat(),
        "twin#2/two": Flat(),
        "logits": Epsilon(),
    }
    assert linear_rules(make("nested"), ("block/*", Flat()))["block/two"] == Flat()


@pytest.mark.parametrize("match", ["one", "o*", "*", layers.Dense, lambda layer: layer.name == "one"])
def test_a_rule_for_a_layer_is_not_one_for_its_activation(match):
    """The activation that a layer is fused with passes relevance, whatever rule the layer has."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="tanh", name="one")])
    assert rules(model, (match, WSquare())) == {"one": WSquare(), "one/tanh": Pass()}
    assert rules(model, ("one/tanh", Jacobian()), (match, WSquare())) == {"one": WSquare(), "one/tanh": Jacobian()}


def test_raw_operations_are_matched_by_name():
    model = make("operators")
    given = rules(model, (keras_op("relu"), Jacobian()), (keras_op(ops.add), ZPlus()), (LINEAR, Epsilon()))
    chosen = {path.rsplit("_", 1)[0] for path, rule in given.items() if rule == Jacobian() and "relu" in path}
    assert chosen == {"relu"}
    assert [rule for path, rule in given.items() if path.startswith("add")] == [ZPlus()]


def pad_and_scale(x):
    x = layers.RandomFlip()(x)
    x = layers.Rescaling(1 / 255)(x)
    x = layers.Normalization(mean=[0.1, 0.2], variance=[1.0, 2.0])(x)
    return layers.ZeroPadding2D(1)(x)


@pytest.mark.parametrize(
    ("before", "first"),
    [
        (lambda x: x, True),
        (pad_and_scale, True),
        (lambda x: layers.Permute((2, 1, 3))(x), True),
        (lambda x: layers.Reshape((8, 2, 2))(x), True),
        (lambda x: layers.Cropping2D(1)(x), True),
        (lambda x: x / 255.0 - 0.5, True),
        (lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), True),
        (lambda x: layers.BatchNormalization()(x), True),
        (lambda x: layers.ReLU()(x), False),
        (lambda x: layers.MaxPooling2D(2)(x), False),
        (lambda x: layers.Conv2D(2, 1, name="earlier")(x), False),
    ],
)
def test_the_first_linear_layer_is_found_in_the_graph(before, first):
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 2, name="conv")(before(inputs))
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="later")(x))
    given = linear_rules(model, (composites.FIRST, Flat()))
    assert (given["conv"] == Flat()) == first and given["later"] == Epsilon()


def test_every_input_has_its_first_layer():
    given = linear_rules(make("two_inputs"), (composites.FIRST, Flat()))
    assert given == {"conv": Flat(), "dense": Flat(), "logits": Epsilon()}


def test_what_has_no_kernel_has_a_rule_by_default():
    given = rules(make("residual"), (LINEAR, Gamma()))
    assert given["add"] == Epsilon() and given["pool"] == Norm() and given["relu1"] == Pass()
    given = rules(make("cnn"), (LINEAR, Gamma()))
    assert given["max"] == Jacobian() and given["flatten"] == Jacobian() and given["average"] == Norm()


def test_a_composite_prints_as_a_table():
    composite = Composite(
        (composites.FIRST, Flat()), (layers.Conv2D, Gamma(0.5)), ("logits", Epsilon(0.01)), name="mine"
    )
    text = str(composite)
    assert text.splitlines()[0] == "Composite 'mine': 3 entries"
    for line in ("first linear layer", "Flat()", "Conv2D", "Gamma(gamma=0.5)", "'logits'", "Epsilon(epsilon=0.01)"):
        assert line in text
    assert text.index("Conv2D") < text.index("'logits'") < text.index("activations")


def test_a_composite_may_be_an_entry_of_another():
    model = make("cnn")
    preset = composites.epsilon_plus()
    given = rules(model, ("conv1", Flat()), preset)
    assert given == {**rules(model, preset), "conv1": Flat()}
    flat = composites.epsilon_plus_flat()
    assert rules(model, ("conv2", Flat()), flat) == {**rules(model, flat), "conv2": Flat()}
    x = inputs_of(model)
    by_preset = create_analyzer("lrp", model, rule=Composite(("conv1", Flat()), preset)).analyze(x, 1)
    np.testing.assert_allclose(by_preset, create_analyzer("lrp.epsilon_plus_flat", model).analyze(x, 1), rtol=1e-5)
    # With it come its defaults, unless others are given: those of Z share sums out as precisely as it does.
    z = composites.everywhere(Z())
    assert Composite(("conv1", Flat()), z).defaults == z.defaults
    assert Composite(z, defaults=()).defaults == ()
    with pytest.raises(TypeError, match="composite that stands for its entries. Received: Flat"):
        Composite(Flat())


def test_a_site_without_a_rule_is_an_error_that_says_how_to_give_it_one():
    inputs = keras.Input((4, 3))
    inner = keras.Sequential([keras.Input((4, 3)), layers.LSTM(5, name="memory"), layers.Dense(2)], name="inner")
    model = keras.Model(inputs, inner(inputs))
    with pytest.raises(NotAnalyzeableModelException, match=r"No rule for 'inner/memory/while' \(Loop of") as error:
        create_analyzer("lrp.epsilon", model, convention="innvestigate")
    assert "leave that argument out" in str(error.value) and "Epsilon()" not in str(error.value)
    with pytest.raises(NotAnalyzeableModelException, match=r"'three' \(Dense\).*composite 'few'"):
        rules(make("mlp"), Composite(("one", Z()), ("two", Z()), name="few"))


def test_a_rule_given_for_such_a_layer_makes_it_work(rng):
    inputs = keras.Input((4, 3))
    model = randomized(keras.Model(inputs, layers.Dense(2)(layers.LSTM(5)(inputs))))
    x = rng.normal(size=(2, 4, 3))
    composite = Composite((layers.LSTM, Jacobian()), (LINEAR, Epsilon()))
    relevance = create_analyzer("lrp", model, rule=composite).analyze(x)
    assert relevance.shape == x.shape and np.isfinite(relevance).all() and np.abs(relevance).max() > 0


class Doubled(layers.Layer):
    """A layer of the user's own."""

    def call(self, x):
        return 2 * ops.relu(x)


def test_an_own_layer_named_by_an_entry_stays_whole():
    inputs = keras.Input((3,))
    model = keras.Model(inputs, Doubled(name="own")(inputs))
    bound = create_analyzer("lrp", model, rule=Composite((Doubled, Pass()))).summary()
    assert "Doubled" in str(bound) and "Relu" not in str(bound)
    assert "own/Relu" in str(create_analyzer("lrp.z", model).summary())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([Flat()], r"entry is a pair \(match, rule\), or a composite .* Received: Flat"),
        ([("conv",)], "entry is a pair"),
        ([("conv", "Flat")], r"second half .* is a rule.*Received: 'Flat'"),
        ([("conv", Flat)], "second half"),
        ([(3, Flat())], "names sites by a layer class.*Received: 3"),
        ([((), Flat())], "names sites by a layer class"),
    ],
)
def test_entries_that_are_none(entries, message):
    with pytest.raises(TypeError, match=message):
        Composite(*entries)


EPSILON = Epsilon(1e-6)
PRESETS = {
    "epsilon_plus": ({}, [ZPlus(), ZPlus(), EPSILON, EPSILON]),
    "epsilon_plus_flat": ({}, [Flat(), ZPlus(), EPSILON, EPSILON]),
    "epsilon_alpha2_beta1": ({}, [AlphaBeta(2, 1), AlphaBeta(2, 1), EPSILON, EPSILON]),
    "epsilon_alpha2_beta1_flat": ({}, [Flat(), AlphaBeta(2, 1), EPSILON, EPSILON]),
    "excitation_backprop": ({}, [ZPlus(bias=False)] * 4),
    "sequential_preset": (
        {"alpha": 2, "beta": 1},
        [AlphaBeta(2, 1), AlphaBeta(2, 1), Epsilon(0.1), Epsilon(0.1)],
    ),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    options, expected = PRESETS[name]
    given = rules(make("cnn"), getattr(composites, name)(**options))
    assert [given[path] for path in ("conv1", "conv2", "dense", "logits")] == expected


def test_the_preset_with_a_box():
    given = rules(make("cnn"), composites.epsilon_gamma_box(low=-1, high=2, gamma=0.5))
    assert isinstance(given["conv1"], ZBox) and (given["conv1"].low, given["conv1"].high) == (-1, 2)
    assert (given["conv2"], given["dense"]) == (Gamma(0.5), EPSILON)
    # The box is for convolutions: a first layer that is dense keeps epsilon.
    assert rules(make("mlp"), composites.epsilon_gamma_box(-1, 1))["one"] == EPSILON


def test_a_composite_does_not_change_the_model():
    model = nested()
    x = inputs_of(model)
    before = model(x)
    create_analyzer("lrp", model, rule=Composite((layers.Dense, Flat()))).analyze(x)
    np.testing.assert_array_equal(model(x), before)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("logit", "Did you mean 'logits'"), ("bn", "It is folded into 'conv1'"), ("block7_*", "is not used.$")],
)
def test_names_that_no_site_has_are_warned_of(pattern, hint):
    composite = Composite((pattern, Flat()), ("dense", Z()), (LINEAR, Epsilon()))
    with pytest.warns(UserWarning, match=rf"The entry '{re.escape(pattern)}' matches no site: .*{hint}") as caught:
        create_analyzer("lrp", make("cnn"), rule=composite)
    assert len(caught) == 1 and caught[0].filename == __file__
