"""What metrics take: models of several inputs, texts, datasets; and which of their entries are units."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from scipy import stats

import revgraph
from revgraph import evaluate
from tests.models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:The output of .* is a probability")

SAMPLES = 5


@pytest.fixture(scope="module")
def model():
    """A picture and a table; each of the outputs depends on both."""
    picture, table = (
        keras.Input((4, 4, 2), name="picture", dtype="float64"),
        keras.Input((3,), name="table", dtype="float64"),
    )
    h = layers.Flatten(dtype="float64")(layers.Conv2D(3, 2, activation="relu", dtype="float64")(picture))
    h = layers.Concatenate(dtype="float64")([h, layers.Dense(4, activation="relu", dtype="float64")(table)])
    y = layers.Dense(3, activation="softmax", dtype="float64")(h)
    return randomized(keras.Model({"picture": picture, "table": table}, y))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(2)
    x = {"picture": rng.uniform(0.1, 1, (SAMPLES, 4, 4, 2)), "table": rng.uniform(0.1, 1, (SAMPLES, 3))}
    return x, rng.integers(0, 3, SAMPLES)


@pytest.fixture(scope="module")
def analyzer(model):
    return revgraph.create_analyzer("input_t_gradient", model)


def units(analyzer, x, y):
    """The relevance of 16 pixels and 3 columns."""
    found = analyzer.analyze(x, y)
    return np.concatenate([found["picture"].sum(-1).reshape(SAMPLES, 16), found["table"]], axis=1)


def output(model, x, y, taken, picture=0.0, table=0.0):
    """The output for samples some of whose 19 units are taken away."""
    pixels = taken[:, :16].reshape(SAMPLES, 4, 4, 1)
    changed = {"picture": np.where(pixels, picture, x["picture"]), "table": np.where(taken[:, 16:], table, x["table"])}
    return np.asarray(model(changed))[np.arange(SAMPLES), y]


def curve(model, x, y, relevance, shares, order=None, **fill):
    """The output while units are taken away, the most relevant ones first."""
    places = np.argsort(np.argsort(-relevance, axis=1, kind="stable"), axis=1)
    counts = [int(np.floor(s * relevance.shape[1] + 0.5)) for s in shares]
    return np.stack([output(model, x, y, places < n, **fill) for n in counts], axis=1)


def test_units_of_all_inputs_are_taken_away_in_one_order(model, analyzer, data):
    x, y = data
    shares, relevance = np.linspace(0, 1, 6), units(analyzer, x, y)
    np.testing.assert_allclose(evaluate.Deletion(5)(analyzer, x, y).curve, curve(model, x, y, relevance, shares))
    filled = evaluate.Deletion(5, {"table": 0.7, "picture": "mean"})(analyzer, x, y)
    mean = x["picture"].mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(filled.curve, curve(model, x, y, relevance, shares, picture=mean, table=0.7))
    # Only the table has units.
    taken = np.zeros((SAMPLES, 19), bool)
    expected = [output(model, x, y, taken)]
    for n in range(3):
        worst = np.argsort(-relevance[:, 16:], axis=1)[:, n]
        taken[np.arange(SAMPLES), 16 + worst] = True
        expected.append(output(model, x, y, taken))
    found = evaluate.Deletion(3)(analyzer, x, y, inputs=["table"]).curve
    np.testing.assert_allclose(found, np.stack(expected, axis=1))
    # Regions of the picture, and single columns.
    blocks = evaluate.changing.regions_of(evaluate.explained.Explained(analyzer, x, y), {"picture": 2})
    np.testing.assert_array_equal(blocks[0], [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3, 4, 5, 6])


def test_every_metric_takes_several_inputs(model, analyzer, data):
    x, y = data
    truth = {"table": np.array([[True, False, False]] * SAMPLES)}
    for name, metric in evaluate.METRICS.items():
        options = {"inputs": ["table"]} if name == "earth_movers_distance" else {}
        scores = metric()(analyzer, x, y, truth=truth, **options)
        assert scores.values.shape == (SAMPLES,) and np.isfinite(scores.values).all(), name
    relevance = units(analyzer, x, y)
    first = evaluate.PointingGame()(analyzer, x, y, truth=truth).values
    np.testing.assert_array_equal(first, relevance.argmax(axis=1) == 16)
    np.testing.assert_allclose(evaluate.Entropy()(analyzer, x, y).values, stats.entropy(np.abs(relevance), axis=1))
    falls = output(model, x, y, np.zeros((SAMPLES, 19), bool))[:, None] - np.stack(
        [output(model, x, y, np.tile(np.arange(19) == n, (SAMPLES, 1))) for n in range(19)], axis=1
    )
    expected = [stats.spearmanr(r, f).statistic for r, f in zip(relevance, falls, strict=True)]
    np.testing.assert_allclose(evaluate.LeaveOneOut()(analyzer, x, y).values, expected)
    # What all inputs have adds up, whichever of them are compared.
    path = revgraph.create_analyzer("integrated_gradients", model, steps=400)
    assert evaluate.Completeness(baseline="zero")(path, x, y).mean < 0.01
    exact = revgraph.create_analyzer("lrp.z", randomized(keras.models.clone_model(model)))
    values = [evaluate.Completeness()(exact, x, y, inputs=inputs).values for inputs in (None, ["table"])]
    np.testing.assert_allclose(*values)
    given = analyzer.analyze(x, y)
    for same in (given, [given["picture"].sum(-1), given["table"]]):
        values = evaluate.Sparseness()(analyzer, x, y, relevance=same).values
        np.testing.assert_allclose(values, evaluate.Sparseness()(analyzer, x, y).values)
    result = evaluate.compare(model, x, y, analyzers=["gradient", "random"], metrics=["deletion"], inputs=["picture"])
    np.testing.assert_array_equal(
        result.scores["gradient"]["deletion"].values,
        evaluate.Deletion()(revgraph.create_analyzer("gradient", model), x, y, inputs=["picture"]).values,
    )


def test_inputs_in_a_list(data):
    x, _ = data
    two = keras.Input((4, 4, 2)), keras.Input((3,))
    y = layers.Dense(2)(layers.Concatenate()([layers.Flatten()(two[0]), two[1]]))
    model = randomized(keras.Model(list(two), y))
    linear = revgraph.create_analyzer("input_t_gradient", model)
    scores = evaluate.FaithfulnessCorrelation((4,))(linear, [x["picture"], x["table"]])
    np.testing.assert_allclose(scores.values, 1, rtol=1e-4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"inputs": ["tables"]}, r"out of \['picture', 'table'\]. Received: \['tables'\]"),
        ({"inputs": "table"}, "inputs is a list of names"),
        ({"inputs": []}, "inputs is a list of names"),
        ({"relevance": np.zeros((SAMPLES, 3))}, "a list with an array for each"),
        ({"relevance": {"table": np.zeros((SAMPLES, 3))}}, r"not there for the inputs \['picture'\]"),
        ({"channel_axis": 0}, "channel_axis is an axis of x behind that of the samples"),
        ({"channel_axis": 7}, "Received 7 for samples of shape"),
    ],
)
def test_what_is_refused_of_several_inputs(options, message, analyzer, data):
    with pytest.raises(ValueError, match=message):
        evaluate.Deletion()(analyzer, *data, **options)


def test_options_by_input_that_fit_none(analyzer, data):
    with pytest.raises(ValueError, match=r"baseline is there for \['image'\]"):
        evaluate.Deletion(baseline={"image": 1})(analyzer, *data)
    with pytest.raises(ValueError, match=r"truth is there for \['image'\]"):
        evaluate.PointingGame()(analyzer, *data, truth={"image": np.ones((SAMPLES, 2), bool)})
    with pytest.raises(ValueError, match=r"Choose it: inputs=\[name\], one of \['picture', 'table'\]"):
        evaluate.EarthMoversDistance()(analyzer, *data, truth={"table": np.ones((SAMPLES, 3), bool)})


# Tokens, masks and texts.


@pytest.fixture(scope="module")
def reader():
    """Ids and a mask of padding, as a dict. Padding has no effect."""
    ids, mask = (
        keras.Input((6,), dtype="int32", name="token_ids"),
        keras.Input((6,), dtype="int32", name="padding_mask"),
    )
    weights = ops.cast(mask, "float32")[..., None]
    h = ops.sum(layers.Embedding(10, 4)(ids) * weights, axis=1)
    return randomized(
        keras.Model({"token_ids": ids, "padding_mask": mask}, layers.Dense(3)(layers.Dense(5, "tanh")(h)))
    )


def test_masks_stay_and_padding_is_no_unit(reader):
    rng, lengths = np.random.default_rng(0), np.array([6, 2, 4])
    mask = (np.arange(6) < lengths[:, None]).astype("int32")
    x = {"token_ids": rng.integers(1, 10, (3, 6)).astype("int32") * mask, "padding_mask": mask}
    analyzer = revgraph.create_analyzer("lrp.epsilon", reader)
    relevance = analyzer.analyze(x, 1)["token_ids"]

    def score(ids, sample):
        row = {"token_ids": ids[None], "padding_mask": mask[sample : sample + 1]}
        return float(np.asarray(reader(row))[0, 1])

    found = evaluate.Deletion(2, baseline=9)(analyzer, x, 1)
    for sample, (row, n) in enumerate(zip(relevance, lengths, strict=True)):
        order = np.argsort(-row[:n], kind="stable")
        for step, taken in enumerate((0, n // 2, n)):
            ids = x["token_ids"][sample].copy()
            ids[order[:taken]] = 9
            assert found.curve[sample, step] == pytest.approx(score(ids, sample), abs=1e-5)
    sparse = evaluate.Sparseness()(analyzer, x, 1).values
    for value, row, n in zip(sparse, relevance, lengths, strict=True):
        r = np.abs(row[:n])
        assert value == pytest.approx(np.abs(r[:, None] - r).mean() / (2 * r.mean()), rel=1e-5)
    every = evaluate.METRICS.keys() - {"max_sensitivity", "local_lipschitz"}
    truth = {"token_ids": np.arange(6) < np.ones((3, 1))}
    for name in every:
        options = {"sizes": 1} if name == "faithfulness_correlation" else {}
        assert evaluate.METRICS[name](**options)(analyzer, x, 1, truth=truth).values.shape == (3,)
    with pytest.raises(ValueError, match="'token_ids' has none: ids have no neighbours"):
        evaluate.MaxSensitivity()(analyzer, x, 1)
    with pytest.raises(ValueError, match="no tokenizer says which id hides one of 'token_ids'"):
        evaluate.Deletion(baseline="mask")(analyzer, x, 1)


def test_texts_of_a_model_with_a_tokenizer():
    hub = pytest.importorskip("keras_hub")
    from tests.test_tasks import TEXTS, backbone, spread, word_tokenizer

    preprocessor = hub.models.BertTextClassifierPreprocessor(word_tokenizer(), sequence_length=12)
    task = spread(hub.models.BertTextClassifier(backbone(), num_classes=2, preprocessor=preprocessor))
    analyzer = revgraph.create_analyzer("lrp.attnlrp", task)
    ready = {name: np.asarray(part) for name, part in analyzer.preprocess(TEXTS).items()}
    relevance, mask = analyzer.analyze(TEXTS, 1), ready["padding_mask"].astype(bool)
    for kind, keep in ((evaluate.Comprehensiveness, False), (evaluate.Sufficiency, True)):
        ids = ready["token_ids"].copy()
        for row, values, there in zip(ids, relevance, mask, strict=True):
            n = there.sum()
            order = np.argsort(-values[:n], kind="stable")
            first = order[: int(np.floor(n / 2 + 0.5))]
            hidden = np.setdiff1d(np.arange(n), first) if keep else first
            row[hidden] = preprocessor.tokenizer.mask_token_id
        before = keras.Model.predict_on_batch(task, ready)[:, 1]
        after = keras.Model.predict_on_batch(task, {**ready, "token_ids": ids})[:, 1]
        np.testing.assert_allclose(kind((0.5,), "mask")(analyzer, TEXTS, 1).values, before - after, atol=1e-5)
    result = evaluate.compare(task, TEXTS, 1, analyzers=["lrp.attnlrp", "gradient"], metrics=["deletion", "entropy"])
    np.testing.assert_allclose(
        result.scores["lrp.attnlrp"]["deletion"].values, evaluate.Deletion()(analyzer, TEXTS, 1).values, atol=1e-6
    )


def test_texts_of_a_model_that_begins_with_strings():
    texts = np.array(["the cat sat", "a dog ran home", "the dog"])
    split = layers.TextVectorization(output_sequence_length=4)
    split.adapt(texts)
    text = keras.Input((), dtype="string")
    h = layers.GlobalAveragePooling1D()(layers.Embedding(12, 3)(split(text)))
    model = randomized(keras.Model(text, layers.Dense(2, activation="softmax")(h)))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    found = evaluate.Deletion(1, baseline=1)(analyzer, texts, 0)
    ids = np.asarray(split(texts))
    inside = keras.Model(model.layers[2].input, model.output)
    expected = [np.asarray(inside(np.where(taken, 1, ids)))[:, 0] for taken in (False, True)]
    np.testing.assert_allclose(found.curve, np.stack(expected, axis=1), atol=1e-6)


# Datasets, and other models.


def test_datasets_and_generators(data):
    x = data[0]["picture"].astype("float32")
    y = np.array([0, 1, 1, 0, 1])
    model = randomized(keras.Sequential([keras.Input((4, 4, 2)), layers.Flatten(), layers.Dense(2)]))
    analyzer = revgraph.create_analyzer("input_t_gradient", model)
    expected, largest = (evaluate.Deletion(3)(analyzer, x, labels).values for labels in (y, None))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return x[2 * index : 2 * index + 2], y[2 * index : 2 * index + 2, None]

    for stream in (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(2),
        Batches(),
        iter([(x[:3], y[:3]), (x[3:], y[3:])]),
    ):
        np.testing.assert_allclose(evaluate.Deletion(3)(analyzer, stream).values, expected, rtol=1e-5)
    alone = tf.data.Dataset.from_tensor_slices(x).batch(4)
    np.testing.assert_allclose(evaluate.Deletion(3)(analyzer, alone).values, largest, rtol=1e-5)
    np.testing.assert_allclose(evaluate.Deletion(3)(analyzer, alone, y).values, expected, rtol=1e-5)
    batches = ((x[i : i + 1], y[i : i + 1]) for i in range(5))
    result = evaluate.compare(model, batches, analyzers=[analyzer, "random"], metrics=[evaluate.Deletion(3)])
    np.testing.assert_allclose(result.scores["input_t_gradient"]["deletion"].values, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="the dataset is empty"):
        evaluate.Deletion()(analyzer, iter([]))
    for given, labels in ((x, np.eye(2)[y]), (iter([(x, np.eye(2)[y])]), None)):
        with pytest.raises(ValueError, match=r"y.argmax\(axis=1\)"):
            evaluate.Deletion()(analyzer, given, labels)
    values = iter([(x, np.linspace(0, 1, 5))])
    np.testing.assert_allclose(evaluate.Deletion(3)(analyzer, values).values, largest, rtol=1e-5)


def test_integers_for_a_model_of_numbers_become_numbers():
    model = randomized(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))
    analyzer, x = revgraph.create_analyzer("input_t_gradient", model), np.arange(12).reshape(3, 4)
    half = evaluate.Deletion(1, baseline=0.5)(analyzer, x, 0).curve[:, 1]
    np.testing.assert_allclose(half, np.asarray(model(np.full((3, 4), 0.5)))[:, 0], rtol=1e-5)
    assert np.isfinite(evaluate.MaxSensitivity()(analyzer, x, 0).values).all()


def test_models_that_learn_their_sizes_from_data():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(ops.mean(x, axis=1) * x.shape[1])

    model = Own()
    model(np.zeros((1, 5, 3), "float32"))
    x = np.random.default_rng(0).normal(size=(4, 7, 3)).astype("float32")
    analyzer = revgraph.create_analyzer("input_t_gradient", model)
    for metric in (evaluate.Deletion(2), evaluate.FaithfulnessCorrelation(3), evaluate.Completeness()):
        assert metric(analyzer, x).values.shape == (4,)
    np.testing.assert_allclose(evaluate.FaithfulnessCorrelation(3)(analyzer, x).values, 1, rtol=1e-3)


def two_classes(activation):
    """A model with one output, and the same with one output for each class."""
    one = randomized(
        keras.Sequential(
            [keras.Input((4,)), layers.Dense(5, activation="tanh"), layers.Dense(1, activation=activation)]
        )
    )
    two = keras.Sequential([*one.layers[:-1], layers.Dense(2, activation=activation)])
    two.build((None, 4))
    two.layers[-1].set_weights([np.concatenate([-each, each], axis=-1) for each in one.layers[-1].get_weights()])
    return one, two


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_labels_of_a_model_with_one_output(activation):
    one, two = (revgraph.create_analyzer("lrp.epsilon", model) for model in two_classes(activation))
    x, y = np.random.default_rng(0).normal(size=(6, 4)).astype("float32"), np.array([0, 1, 1, 0, 1, 0])
    truth = np.eye(4, dtype=bool)[[0, 1, 2, 3, 0, 1]]
    for metric in (
        evaluate.Deletion(4), evaluate.FaithfulnessCorrelation(2), evaluate.LeaveOneOut(),
        evaluate.Comprehensiveness((0.3,)), evaluate.Completeness(), evaluate.Completeness(0.5), evaluate.Entropy(),
        evaluate.MaxSensitivity(2), evaluate.ImplementationInvariance(), evaluate.RelevanceMass(),
    ):  # fmt: skip
        found, expected = (metric(analyzer, x, y, truth=truth).values for analyzer in (one, two))
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5, err_msg=metric.name)
        assert np.isfinite(found).any()
    # One label for all, and no label at all.
    deletion = evaluate.Deletion(4)
    np.testing.assert_array_equal(deletion(one, x, 1).values, deletion(one, x).values)
    assert not np.allclose(deletion(one, x, 0).values, deletion(one, x).values)
    assert evaluate.ParameterRandomisation()(one, x, y).values.shape == (6,)


def test_one_output_has_the_labels_0_and_1():
    one, _ = two_classes("sigmoid")
    analyzer, x = revgraph.create_analyzer("input_t_gradient", one), np.random.default_rng(0).normal(size=(6, 4))
    for labels in ([0, 1, 2, 0, 1, 0], [0, -1, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="tells the labels 0 and 1 apart. y has the labels .*: leave y out"):
            evaluate.Deletion()(analyzer, x, np.array(labels))
    own = evaluate.FunctionAnalyzer(one, lambda model, x, y: x)
    assert evaluate.Deletion()(own, x, 1).values.shape == (6,)
    with pytest.raises(ValueError, match="the class 0 of a model with one output has none. Leave y out"):
        evaluate.Deletion()(own, x, np.array([0, 1, 1, 0, 1, 0]))


def test_a_probability_stays_one_while_samples_are_changed():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False, activation="relu")])
    model.layers[0].set_weights([np.array([[2.0], [-2.0]], "float32")])
    analyzer = revgraph.create_analyzer("input_t_gradient", model)
    # The output is 0.5, as of a probability. Without the second column it is 2.
    scores = evaluate.Deletion(2)(analyzer, np.array([[1.0, 0.75]], "float32"), 0)
    np.testing.assert_allclose(scores.curve[0], [0.5, -1, 1], atol=1e-6)
