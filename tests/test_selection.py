"""Where relevance starts, and which layers' relevance is returned."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.reverse.walk import Walk

NAMES = ["gradient", "lrp.epsilon", "lrp.alpha_2_beta_1"]


@pytest.fixture
def model(float64):
    x = keras.Input((8, 8, 3))
    h = layers.Conv2D(4, 3, activation="relu", name="conv", bias_initializer="normal")(x)
    h = layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, name="inner")(h))
    h = layers.Flatten(name="flat")(layers.MaxPooling2D(2, name="pool")(h))
    return keras.Model(x, layers.Dense(5, name="out", activation="softmax")(h))


@pytest.fixture
def x(rng):
    return rng.normal(size=(4, 8, 8, 3))


def make(name, model, **arguments):
    return revgraph.create_analyzer(name, model, max_growth=np.inf, **arguments)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * np.abs(b).max())


def logits(model, x):
    return (
        np.asarray(keras.Model(model.input, model.get_layer("flat").output)(x)) @ model.get_layer("out").kernel.numpy()
    )


@pytest.mark.parametrize("name", NAMES)
def test_one_neuron_in_every_spelling(name, model, x):
    analyzer = make(name, model)
    expected = analyzer.analyze(x, 3)
    mask = np.arange(5) == 3
    for selection in ([3] * 4, np.array([3] * 4), (3,), slice(3, 4), (slice(3, 4),), mask, np.tile(mask, (4, 1))):
        close(analyzer.analyze(x, selection), expected)
    close(make(name, model, neuron_selection_mode="index").analyze(x, 3), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_the_largest_logit(name, model, x):
    analyzer = make(name, model)
    largest = logits(model, x).argmax(axis=1)
    close(analyzer.analyze(x), analyzer.analyze(x, largest))
    close(analyzer.analyze(x, "max_activation"), analyzer.analyze(x))


@pytest.mark.parametrize("name", NAMES)
def test_all_is_the_sum_of_each(name, model, x):
    analyzer = make(name, model)
    close(analyzer.analyze(x, "all"), sum(analyzer.analyze(x, c) for c in range(5)))
    close(make(name, model, neuron_selection_mode="all").analyze(x), analyzer.analyze(x, "all"))
    close(analyzer.analyze(x, slice(1, 3)), analyzer.analyze(x, 1) + analyzer.analyze(x, 2))


def test_a_contrast_is_the_difference(model, x):
    for name in NAMES:
        analyzer = make(name, model)
        contrast = analyzer.analyze(x, lambda y: y[:, 3] - y[:, 1])
        close(contrast, analyzer.analyze(x, 3) - analyzer.analyze(x, 1))


@pytest.mark.parametrize(
    ("negative", "positive"),
    [
        (-1, 4),
        (-5, 0),
        ([-1, 0, -2, 3], [4, 0, 3, 3]),
        (np.array([[-1, 0], [1, -5], [2, 2], [-3, -4]]), np.array([[4, 0], [1, 0], [2, 2], [2, 1]])),
        ((-2,), (3,)),
        (slice(-2, None), slice(3, 5)),
    ],
    ids=str,
)
def test_negative_numbers_count_from_the_end(negative, positive, model, x):
    recorded = make("lrp.epsilon", model).record(x)
    np.testing.assert_array_equal(recorded.analyze(negative), recorded.analyze(positive))


def test_negative_numbers_where_the_size_is_free_and_at_inner_layers(float64, rng):
    inputs = keras.Input((None, 2))
    steps = layers.Conv1D(1, 3, name="conv")(inputs)
    analyzer = make("gradient", keras.Model(inputs, layers.Reshape((-1,))(steps)))
    x = rng.normal(size=(2, 7, 2))
    close(analyzer.analyze(x, -1), analyzer.analyze(x, 4))
    close(analyzer.analyze(x, [-1, -5]), analyzer.analyze(x, [4, 0]))
    close(analyzer.analyze(x, (-2, 0), layer="conv"), analyzer.analyze(x, (3, -1), layer="conv"))
    with pytest.raises(ValueError, match="out of range"):
        analyzer.analyze(x, -6)


@pytest.mark.parametrize("name", NAMES)
def test_several_targets_in_one_call(name, model, x):
    analyzer = make(name, model)
    targets = np.array([[0, 3, 1], [4, 4, 0], [2, 1, 0], [3, 3, 3]])
    several = analyzer.analyze(x, targets)
    assert several.shape == (4, 3, 8, 8, 3)
    for t in range(3):
        close(several[:, t], analyzer.analyze(x, targets[:, t]))
    close(analyzer.analyze(x, targets, batch_size=3), several)


@pytest.mark.parametrize("name", [*NAMES, "lrp.z_plus", "lrp.gamma", "lrp.w_square"])
def test_a_recorded_pass_starts_again_and_again(name, model, x):
    """With the weights of when it was recorded."""
    analyzer = make(name, model)
    recorded = analyzer.record(x)
    selections = (3, [0, 1, 2, 3], np.array([[1, 2]] * 4))
    expected = [analyzer.analyze(x, selection) for selection in selections]
    model.set_weights([0.5 * w for w in model.get_weights()])
    for selection, relevance in zip(selections, expected, strict=True):
        close(recorded.analyze(selection), relevance)


def test_start_relevance(model, x):
    analyzer = make("lrp.epsilon", model)
    values, expected = logits(model, x), analyzer.analyze(x, 3)
    unit = analyzer.analyze(x, 3, initial_relevance=1.0)
    close(unit * values[:, 3, None, None, None], expected)
    close(analyzer.analyze(x, 3, initial_relevance=np.arange(4.0)), unit * np.arange(4.0)[:, None, None, None])
    close(analyzer.analyze(x, initial_relevance=values * (np.arange(5) == 3)), expected)
    close(analyzer.analyze(x, 3, initial_relevance=lambda y: y), expected)
    close(analyzer.analyze(x, 3, initial_relevance=lambda y: 2.0), 2 * unit)


def test_batches_of_every_kind_of_input(model, x):
    analyzer = make("lrp.epsilon", model)
    expected = analyzer.analyze(x, 3)
    close(analyzer.analyze(x, 3, batch_size=3), expected)
    close(analyzer.analyze(tf.data.Dataset.from_tensor_slices((x, np.zeros(4))).batch(3), 3), expected)
    close(analyzer.analyze((batch for batch in (x[:1], x[1:])), 3), expected)
    close(analyzer.analyze(x, lambda y: y[:, 3], batch_size=3), expected)
    close(analyzer.analyze(x, [1, 2, 3, 0], batch_size=3)[2:3], expected[2:3])


@pytest.mark.parametrize("name", NAMES)
def test_starting_at_an_inner_layer_is_explaining_the_model_up_to_it(name, model, x):
    analyzer = make(name, model)
    for layer in ("conv", "inner", "bn"):
        part = keras.Model(model.input, layers.Flatten()(model.get_layer(layer).output))
        shape = model.get_layer(layer).output.shape[1:]
        index = int(np.ravel_multi_index((3, 1, 2), shape))
        close(analyzer.analyze(x, (3, 1, 2), layer=layer), make(name, part).analyze(x, index))
        both = analyzer.analyze(x, (3, slice(0, 2), 2), layer=layer)
        close(both, analyzer.analyze(x, (3, 0, 2), layer=layer) + analyzer.analyze(x, (3, 1, 2), layer=layer))
    at_input = analyzer.analyze(x, (3, 1, 2), layer="inner", attribute_to_neuron_input=True)
    close(at_input, analyzer.analyze(x, (3, 1, 2), layer="conv"))
    close(analyzer.analyze(x, lambda y: y[:, 3, 1, 2], layer="bn"), analyzer.analyze(x, (3, 1, 2), layer="bn"))


def test_pre_activation_selects_before_a_fused_activation(model, x):
    conv = model.get_layer("conv")
    analyzer = make("gradient", model)
    relevance = analyzer.analyze(x, (0, 0, 1), layer="conv", pre_activation=True)
    close(relevance[:, :3, :3], np.tile(conv.kernel.numpy()[..., 1], (4, 1, 1, 1)))


def test_relevance_of_layers(model, x):
    analyzer = make("lrp.epsilon", model)
    relevance, by_layer = analyzer.analyze(x, 3, return_layers=["conv", "inner", "out"])
    close(relevance, by_layer["conv"])
    assert {name: r.shape for name, r in by_layer.items()} == {
        "conv": (4, 8, 8, 3),
        "inner": (4, 6, 6, 4),
        "out": (4, 16),
    }
    _, everywhere = make("lrp.epsilon", model, epsilon=1e-13).analyze(x, 3, return_layers="all", layers_at="output")
    assert list(everywhere) == ["conv", "inner", "bn", "pool", "flat", "out"]
    # Where the output of "inner" is asked for, BatchNormalization is not folded into it: one stabiliser more, which
    # would be seen where activations are small.
    _, by_layer = make("lrp.epsilon", model, epsilon=1e-13).analyze(x, 3, return_layers=["inner", "out"])
    np.testing.assert_allclose(everywhere["conv"], by_layer["inner"], rtol=1e-8, atol=1e-10)
    close(everywhere["flat"], by_layer["out"])


def test_convergence_delta(model, x):
    analyzer = make("lrp.z", model)
    relevance, delta = analyzer.analyze(x, 3, return_convergence_delta=True)
    close(delta, logits(model, x)[:, 3] - relevance.sum(axis=(1, 2, 3)))


def test_several_outputs(float64, rng):
    x = keras.Input((6,))
    h = layers.Dense(5, activation="relu")(x)
    outputs = {"a": layers.Dense(3, name="head_a")(h), "b": layers.Dense(2, name="head_b")(h)}
    model, data = keras.Model(x, outputs), rng.normal(size=(3, 6))
    analyzer = make("lrp.epsilon", model)
    a = make("lrp.epsilon", keras.Model(x, outputs["a"])).analyze(data, 2)
    b = make("lrp.epsilon", keras.Model(x, outputs["b"])).analyze(data, [0, 1, 0])
    close(analyzer.analyze(data, {"a": 2}), a)
    close(analyzer.analyze(data, {"a": 2, "b": [0, 1, 0]}), a + b)
    with pytest.raises(ValueError, match="2 outputs: say which.*dict by output name.*'a', 'b'"):
        analyzer.analyze(data)
    with pytest.raises(KeyError, match="Unknown outputs.*'c'"):
        analyzer.analyze(data, {"c": 0})


def test_a_segmentation_mask(float64, rng):
    x = keras.Input((6, 6, 1))
    model, data = keras.Model(x, layers.Conv2D(2, 3, padding="same")(x)), rng.normal(size=(2, 6, 6, 1))
    analyzer = make("lrp.epsilon", model)
    mask = np.zeros((2, 6, 6, 2), bool)
    mask[0, 2, 3, 1] = mask[1, 4, 0, 0] = mask[1, 4, 1, 0] = True
    parts = analyzer.analyze(data, (4, 0, 0))[1] + analyzer.analyze(data, (4, 1, 0))[1]
    close(analyzer.analyze(data, mask), np.stack([analyzer.analyze(data, (2, 3, 1))[0], parts]))


@pytest.mark.parametrize(
    ("selection", "error", "text"),
    [
        (5, ValueError, "out of range: there are 5 neurons, 0 to 4"),
        (-6, ValueError, "out of range.*Negative numbers count from the end, -5 to -1"),
        ([0, 1, -6, 2], ValueError, "out of range"),
        ((-6,), ValueError, "out of range on axis 1: -6 for size 5"),
        (slice(5, 9), ValueError, "selects nothing on axis 1, whose size is 5"),
        ([1, 2], ValueError, "2 entries for 4 samples"),
        ((1, 2), ValueError, r"each of the 1 axes after the batch: the shape is \(batch, 5\)"),
        ((7,), ValueError, "out of range on axis 1: 7 for size 5"),
        ((1.5,), TypeError, "ints and slices"),
        (1.5, TypeError, "neuron_selection takes"),
        ("largest", ValueError, "neuron_selection takes.*'largest'"),
        (np.ones((4, 4), bool), ValueError, "boolean mask"),
        (lambda y: y, ValueError, r"one number per sample, a tensor of shape \(4,\)"),
        (lambda y: tf.constant(np.ones(4)), ValueError, "with TensorFlow or keras.ops"),
    ],
)
def test_bad_selections(selection, error, text, model, x):
    with pytest.raises(error, match=text):
        make("lrp.z", model).analyze(x, selection)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"layer": "convv"}, KeyError, "no layer 'convv'.*Did you mean 'conv'"),
        ({"layer": "conv", "neuron_selection": 1}, ValueError, r"shape is \(batch, 6, 6, 4\): select"),
        ({"layer": "conv", "neuron_selection": (0, 6, 0)}, ValueError, r"axis 2: 6 for size 6.*\(batch, 6, 6, 4\)"),
        ({"pre_activation": True}, ValueError, "go with layer="),
        ({"return_layers": ["nope"]}, KeyError, "no layer 'nope'"),
        ({"return_layers": "all", "layers_at": "top"}, ValueError, "layers_at"),
        ({"initial_relevance": np.ones((4, 3))}, ValueError, r"output's shape \(4, 5\).*\(4, 3\)"),
        ({"initial_relevance": "much"}, TypeError, "must be numbers"),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive int"),
    ],
)
def test_bad_starts(options, error, text, model, x):
    with pytest.raises(error, match=text):
        make("lrp.z", model).analyze(x, **options)


def test_an_ambiguous_layer_name_lists_the_paths(float64, rng):
    shared = keras.Sequential([layers.Dense(4, name="dense")], name="shared")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="head")(layers.Add()([shared(x), shared(layers.ReLU()(x))])))
    with pytest.raises(KeyError, match="called 2 times.*'shared/dense', 'shared#2/dense'"):
        make("lrp.z", model).analyze(rng.normal(size=(1, 4)), 0, layer="dense")


def test_index_mode_needs_an_index(model, x):
    with pytest.raises(ValueError, match='neuron_selection_mode="index"'):
        make("lrp.z", model, neuron_selection_mode="index").analyze(x)


@pytest.mark.parametrize("name", ["lrp.epsilon", "smoothgrad", "deep_lift"])
def test_batch_size_holds_for_generators_and_sequences(name, rng, monkeypatch):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    x = rng.normal(size=(2, 5, 3)).astype("float32")

    class Pairs(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[index], np.zeros(5)

    analyzer = revgraph.create_analyzer(name, model, **({"seed": 0} if name == "smoothgrad" else {}))
    sizes, relevance = [], Walk.relevance

    def watched(walk, inputs, chosen):
        sizes.append(len(inputs[0]))
        return relevance(walk, inputs, chosen)

    monkeypatch.setattr(Walk, "relevance", watched)
    for stream in (iter(x), Pairs()):
        found = analyzer.analyze(stream, [0, 1, 0, 1, 0], batch_size=2)
        assert max(sizes) <= 2
        expected = np.concatenate([analyzer.innermost.analyze(part, [0, 1, 0, 1, 0]) for part in x])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        sizes.clear()


@pytest.fixture
def binary(float64):
    x = keras.Input((4,))
    h = layers.Dense(5, activation="relu", bias_initializer="normal")(x)
    return keras.Model(x, layers.Dense(1, activation="sigmoid", name="p")(h))


SIDED = [
    "gradient", "input_t_gradient", "integrated_gradients", "smoothgrad", "deep_lift", "lrp.epsilon",
    "lrp.alpha_2_beta_1", "occlusion", "feature_ablation",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The output of")
@pytest.mark.parametrize("name", SIDED)
def test_the_two_classes_of_one_unit(name, binary, rng):
    x = rng.normal(size=(4, 4))
    options = {"seed": 0} if name == "smoothgrad" else {}
    analyzer = revgraph.create_analyzer(name, binary, **options)
    positive = analyzer.analyze(x, "positive")
    assert np.abs(positive).max() > 0
    close(positive, analyzer.analyze(x, 0))
    close(analyzer.analyze(x, "negative"), -positive)
    words = ["negative", "positive", "positive", "negative"]
    signs = np.array([-1, 1, 1, -1])[:, None]
    for given in (words, np.array(words)):
        close(analyzer.analyze(x, given), signs * positive)
        close(analyzer.analyze(x, given, batch_size=3), signs * positive)
    close(analyzer.analyze(x, {binary.output_names[0]: words}), signs * positive)


@pytest.mark.filterwarnings("ignore:The output of")
def test_the_negative_class_is_the_negative_logit(binary, rng):
    """Contributions to it add up to its own difference from a reference."""
    x = rng.normal(size=(4, 4))
    p = np.asarray(binary(x))[:, 0]
    zero = np.asarray(binary(np.zeros((1, 4))))[0, 0]
    difference = np.log((1 - p) / p) - np.log((1 - zero) / zero)
    found = revgraph.create_analyzer("deep_lift", binary).analyze(x, "negative")
    np.testing.assert_allclose(found.sum(axis=1), difference, rtol=1e-6)
    report = revgraph.create_analyzer("lrp.epsilon", binary).conservation(x, "negative")
    np.testing.assert_allclose(report.start, np.log((1 - p) / p), rtol=1e-6)
    recorded = revgraph.create_analyzer("lrp.epsilon", binary).record(x)
    close(recorded.analyze("negative"), -recorded.analyze("positive"))


def test_words_that_fit_no_output(model, binary, x, rng):
    with pytest.raises(ValueError, match=r"two classes of an output of one unit. The shape is \(4, 5\): select by an"):
        make("gradient", model).analyze(x, "negative")
    analyzer, x = make("gradient", binary), rng.normal(size=(3, 4))
    with pytest.raises(ValueError, match="2 words for 3 samples: pass one word, or one per sample"):
        analyzer.analyze(x, ["negative", "positive"])
    for labels in ([0, 1, 1], 1):
        with pytest.raises(ValueError, match=r'1 neuron, 0.*"negative" for the label 0 and "positive" for 1'):
            analyzer.analyze(x, labels)
    analyzer.analyze(x, ["negative", "positive", "positive"])
    with pytest.raises(ValueError, match='neuron_selection takes .*"positive" and "negative". Received: .left'):
        analyzer.analyze(x, "left")
