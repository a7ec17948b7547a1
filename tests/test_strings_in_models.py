"""Models that take strings: they are explained from the numbers on that TextVectorization and its like make of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import revgraph
from revgraph import create_analyzer, visualize
from tests.models import randomized

TEXTS, CITIES = ["the film was great", "a bad film", "great"], [["oslo"], ["paris"]]


def vectorization(**options):
    made = layers.TextVectorization(max_tokens=12, **options)
    made.adapt(["the film was great", "a bad film", "great actors"])
    return made


def words(**options):
    """From words to two numbers, with a mask of padding."""
    return [vectorization(**options), layers.Embedding(12, 4, mask_zero=True), layers.GlobalAveragePooling1D()]


def rows():
    return [layers.Embedding(5, 4), layers.Flatten()]


def model_of(*parts, shape=()):
    return randomized(keras.Sequential([keras.Input(shape, dtype="string"), *parts, layers.Dense(2)]))


MODELS = {
    "ids": lambda: (model_of(*words(output_sequence_length=6)), TEXTS),
    "ids of any length": lambda: (model_of(*words()), TEXTS),
    "pairs of words": lambda: (model_of(*words(ngrams=2, output_sequence_length=5)), TEXTS),
    "a column of texts": lambda: (model_of(*words(output_sequence_length=6), shape=(1,)), [[t] for t in TEXTS]),
    "which words": lambda: (model_of(vectorization(output_mode="multi_hot")), TEXTS),
    "how many words": lambda: (model_of(vectorization(output_mode="count")), TEXTS),
    "weighted words": lambda: (model_of(vectorization(output_mode="tf_idf")), TEXTS),
    "one of several": lambda: (
        model_of(layers.StringLookup(vocabulary=["rome", "oslo"], output_mode="one_hot"), shape=(1,)),
        CITIES,
    ),
    "an id": lambda: (model_of(layers.StringLookup(vocabulary=["rome", "oslo"]), *rows(), shape=(1,)), CITIES),
    "a hash": lambda: (model_of(layers.Hashing(5), *rows(), shape=(1,)), CITIES),
}  # fmt: skip


@pytest.mark.parametrize("source", ["in memory", "exported"])
@pytest.mark.parametrize("name", MODELS)
def test_relevance_of_what_is_made_of_strings(name, source, tmp_path):
    model, texts = MODELS[name]()
    if source == "exported":
        model.export(tmp_path / "model", verbose=False)
    given = model if source == "in memory" else revgraph.load_model(tmp_path / "model")
    analyzer = create_analyzer("lrp.z", given)
    np.testing.assert_allclose(analyzer.graph(tf.constant(texts)), model(tf.constant(texts)), rtol=1e-6)
    numbers = np.asarray(analyzer.graph.cast(*analyzer.graph.input_slots, texts))
    found = analyzer.analyze(texts, 1)
    assert found.shape == model.layers[0](tf.constant(texts)).shape
    # Padding, and words that a text does not have, have no relevance.
    assert np.any(found) and (texts is CITIES or np.all(found[numbers == 0] == 0))
    y = np.asarray(model(tf.constant(texts)))[:, 1]
    np.testing.assert_allclose(found.sum(axis=1), y - model.layers[-1].bias.numpy()[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(analyzer.conservation(texts, 1).input, found.sum(axis=1), rtol=1e-4, atol=1e-6)
    for same in (np.array(texts), tf.constant(texts), np.array(texts, object), tf.data.Dataset.from_tensors(texts)):
        np.testing.assert_array_equal(analyzer.analyze(same, 1), found)
    np.testing.assert_allclose(analyzer.analyze(numbers, 1), found, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(analyzer.record(texts).analyze(1), found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["gradient", "input_t_gradient", "integrated_gradients", "smoothgrad", "deep_lift"])
@pytest.mark.parametrize("name", ["ids", "weighted words"])
def test_every_kind_of_method_takes_strings(name, method):
    model, texts = MODELS[name]()
    found = create_analyzer(method, model).analyze(texts, 1)
    assert found.shape[0] == 3 and np.isfinite(found).all() and np.any(found)


def test_strings_beside_numbers():
    city, age = keras.Input((1,), dtype="string", name="city"), keras.Input((2,), name="age")
    rows = layers.Flatten()(layers.Embedding(3, 4)(layers.StringLookup(vocabulary=["rome", "oslo"])(city)))
    model = randomized(keras.Model({"city": city, "age": age}, layers.Dense(2)(layers.Concatenate()([rows, age]))))
    x = {"city": np.array([["oslo"], ["rome"]]), "age": np.array([[1.0, 2.0], [3.0, 4.0]], "float32")}
    found = create_analyzer("lrp.z", model).analyze(x, 0)
    assert found["city"].shape == (2, 1) and found["age"].shape == (2, 2)
    y = np.asarray(model({name: tf.constant(part) for name, part in x.items()}))[:, 0]
    total = found["city"].sum(axis=1) + found["age"].sum(axis=1) + model.layers[-1].bias.numpy()[0]
    np.testing.assert_allclose(total, y, rtol=1e-5)


def test_a_list_of_strings_and_numbers():
    """Each entry is an input, and not a text."""
    city, age = keras.Input((1,), dtype="string", name="city"), keras.Input((2,), name="age")
    rows = layers.Flatten()(layers.Embedding(3, 4)(layers.StringLookup(vocabulary=["rome", "oslo"])(city)))
    model = randomized(keras.Model([city, age], layers.Dense(2)(layers.Concatenate()([rows, age]))))
    x = [np.array([["oslo"], ["rome"]], object), np.array([[1.0, 2.0], [3.0, 4.0]], "float32")]
    found = create_analyzer("lrp.z", model).analyze(x, 0)
    assert [part.shape for part in found] == [(2, 1), (2, 2)]


def test_a_layer_of_ones_own_around_the_vectorization():
    class Reader(layers.Layer):
        def __init__(self):
            super().__init__()
            self.words, self.table = vectorization(output_sequence_length=6), layers.Embedding(12, 4)

        def call(self, texts):
            return ops.mean(self.table(self.words(texts)), axis=1)

    model = model_of(Reader())
    found = create_analyzer("lrp.z", model).analyze(TEXTS, 1)
    assert found.shape == (3, 6) and np.any(found)


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__()
        self.words, self.table = vectorization(**options), layers.Embedding(12, 4)
        self.out = layers.Dense(2)

    def call(self, texts):
        return self.out(ops.mean(self.table(self.words(texts)), axis=1))


@pytest.mark.parametrize("options", [{"output_sequence_length": 6}, {}])
def test_a_subclassed_model_says_with_its_data_that_it_takes_strings(options):
    model = Subclassed(**options)
    model(tf.constant(TEXTS))
    randomized(model)
    analyzer = create_analyzer("lrp.z", model)
    for texts in (TEXTS, np.array(TEXTS), tf.constant(TEXTS)):
        found = analyzer.analyze(texts, 1)
        y = np.asarray(model(tf.constant(TEXTS)))[:, 1]
        np.testing.assert_allclose(found.sum(axis=1), y - model.out.bias.numpy()[1], rtol=1e-4, atol=1e-5)
    assert analyzer.tokens(TEXTS)[0] == ("the", "film", "was", "great")


def test_strings_without_a_layer_for_them():
    ids = keras.Input((4,), dtype="int32", name="ids")
    model = keras.Model(ids, layers.Dense(2)(layers.Flatten()(layers.Embedding(12, 3)(ids))))
    analyzer = create_analyzer("lrp.z", model)
    for texts in (TEXTS, np.array(TEXTS), tf.constant(TEXTS), "the film"):
        with pytest.raises(TypeError, match="Input 'ids' must be an array of numbers. Received: .* no preprocessor"):
            analyzer.analyze(texts)
    # The first remedy.
    tokenizer = vectorization(output_sequence_length=4)
    assert analyzer.analyze(np.asarray(tokenizer(tf.constant(TEXTS))), 1).shape == (3, 4)
    # The last one.
    whole = keras.Sequential([keras.Input((), dtype="string"), tokenizer, model])
    assert create_analyzer("lrp.z", whole).analyze(TEXTS, 1).shape == (3, 4)


def test_strings_that_do_not_become_one_tensor_of_numbers():
    text, number = keras.Input((1,), dtype="string", name="text"), keras.Input((1,), name="number")

    class Joined(layers.Layer):
        def call(self, text, number):
            joined = tf.strings.join([text, tf.strings.as_string(number)])
            return tf.strings.to_number(joined)

    model = keras.Model([text, number], layers.Dense(2)(Joined()(text, number)))
    with pytest.raises(ValueError, match="takes strings as 'text', and mixes them with 'number'.*behind the layers"):
        create_analyzer("lrp.z", model)


def test_wrong_shapes_of_strings_are_named():
    analyzer = create_analyzer("lrp.z", MODELS["ids"]()[0])
    with pytest.raises(ValueError, match=r"expected \(batch\), received \(3, 1\)"):
        analyzer.analyze([[t] for t in TEXTS])


@pytest.mark.parametrize("name", ["ids", "a column of texts", "which words"])
def test_a_single_text_is_a_batch_of_one(name):
    model, texts = MODELS[name]()
    analyzer = create_analyzer("lrp.z", model)
    expected = analyzer.analyze(texts[:1], 1)
    text = texts[0] if isinstance(texts[0], str) else texts[0][0]
    for single in (text, np.array(text), tf.constant(text)):
        np.testing.assert_array_equal(analyzer.analyze(single, 1), expected)
    assert analyzer.tokens(text)[0] == analyzer.tokens(texts[:1])[0]


def test_lists_that_are_no_texts():
    models = [MODELS["ids"]()[0], Subclassed(output_sequence_length=6)]
    models[1](tf.constant(TEXTS))
    for model in models:
        analyzer = create_analyzer("lrp.z", model)
        with pytest.raises(ValueError, match="the batch is empty. Pass at least one sample"):
            analyzer.analyze([], 1)
        with pytest.raises(TypeError, match="holds strings alone. Received: 3 of type int beside 1 strings"):
            analyzer.analyze(["the film", 3], 1)
        assert analyzer.analyze(["the film", "3", ""], 1).shape == (3, 6)
        assert analyzer.analyze("the film", 1).shape == (1, 6)


def test_the_words_of_a_model():
    analyzer = create_analyzer("lrp.z", MODELS["ids"]()[0])
    tokens = analyzer.tokens(TEXTS)
    # The vocabulary has "actors", "bad", "film", "great", "was", and no word for what it has not seen.
    assert tokens[0] == ("the", "film", "was", "great") and tokens[2] == ("great",)
    assert tokens.texts.shape == analyzer.analyze(TEXTS, 1).shape and not tokens.special.any()
    assert tokens.padding[2].tolist() == [False] + 5 * [True]
    assert analyzer.tokens(["the robot"])[0] == ("the", "[UNK]")
    assert len(visualize.plot(tokens, analyzer.analyze(TEXTS, 1))) == 3


@pytest.mark.parametrize("name", [name for name in MODELS if name != "a hash"])
def test_the_words_of_a_savedmodel_are_those_of_its_table(name, tmp_path):
    model, texts = MODELS[name]()
    model.export(tmp_path / "model", verbose=False)
    expected = create_analyzer("lrp.z", model).tokens(texts)
    found = create_analyzer("lrp.z", revgraph.load_model(tmp_path / "model")).tokens(texts)
    np.testing.assert_array_equal(found.texts, expected.texts)
    np.testing.assert_array_equal(found.padding, expected.padding)
    unknown = [["the robot"]] if texts is CITIES else ["the robot"] if np.ndim(texts) == 1 else [["the robot"]]
    found = create_analyzer("lrp.z", revgraph.load_model(tmp_path / "model")).tokens(unknown)
    assert "[UNK]" in found[0]


class Renumbered(layers.Layer):
    """Vectorization whose numbers are changed behind it."""

    def __init__(self):
        super().__init__()
        self.words = vectorization(output_sequence_length=6)

    def call(self, texts):
        return (self.words(texts) * 5) % 12


def test_numbers_that_are_changed_behind_the_table_of_a_savedmodel(tmp_path):
    model = model_of(Renumbered(), layers.Embedding(12, 4), layers.GlobalAveragePooling1D())
    model.export(tmp_path / "model", verbose=False)
    tokens = create_analyzer("lrp.z", revgraph.load_model(tmp_path / "model")).tokens(TEXTS)
    assert list(tokens) == [tuple(text.split()) for text in TEXTS]


def test_several_numbers_for_unknown_words_stay_numbers(tmp_path):
    lookup = layers.StringLookup(vocabulary=["oslo"], num_oov_indices=2)
    model = model_of(lookup, layers.Embedding(12, 4), layers.GlobalAveragePooling1D(), shape=(1,))
    model.export(tmp_path / "model", verbose=False)
    cities = [["bergen"], ["oslo"]]
    tokens = create_analyzer("lrp.z", revgraph.load_model(tmp_path / "model")).tokens(cities)
    assert tokens.texts[0, 0] == f"#{int(lookup(cities)[0, 0])}" and not tokens.padding.any()
    assert tokens.texts[1, 0] in ("oslo", f"#{int(lookup(cities)[1, 0])}")


def test_the_words_that_a_text_has():
    analyzer = create_analyzer("lrp.z", MODELS["how many words"]()[0])
    tokens = analyzer.tokens(["great film", "great great robot"])
    assert sorted(tokens[0]) == ["film", "great"] and sorted(tokens[1]) == ["[UNK]", "great"]
    assert tokens.texts.shape == analyzer.analyze(["great film", "great great robot"], 1).shape


def test_words_of_several_inputs_and_of_ids():
    first, second = keras.Input((2,), dtype="int32", name="first"), keras.Input((2,), dtype="int32", name="second")
    rows = [layers.Flatten()(layers.Embedding(3, 4)(ids)) for ids in (first, second)]
    model = keras.Model([first, second], layers.Dense(2)(layers.Concatenate()(rows)))
    x = [np.array([[1, 2]]), np.array([[0, 1]])]
    analyzer = create_analyzer("lrp.z", model)
    with pytest.raises(ValueError, match=r"takes ids as 'first'.*analyzer.tokens\(x, vocabulary=\[...\]\)"):
        analyzer.tokens(x)
    found = analyzer.tokens(x, vocabulary=["", "a", "b"])
    assert found["first"][0] == ("a", "b") and found["second"][0] == ("a",)
    with pytest.raises(ValueError, match="The vocabulary has 2 words, and there are ids up to 2"):
        analyzer.tokens(x, vocabulary=["a", "b"])
    numbers = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="reads no words"):
        create_analyzer("lrp.z", numbers).tokens(np.ones((1, 2)))


def test_a_model_without_a_tokenizer_has_no_continuation():
    with pytest.raises(TypeError, match="has no tokenizer that says how a text continues"):
        create_analyzer("lrp.z", MODELS["ids"]()[0]).continuation("the film", " was great")


def test_tf_idf_keeps_its_words_and_entries_that_stand_for_none():
    texts = ["the film was great", "a story"]
    for options in ({"output_mode": "tf_idf"}, {"output_mode": "count", "max_tokens": 12, "pad_to_max_tokens": True}):
        vectorization = layers.TextVectorization(**options)
        vectorization.adapt(texts)
        model = keras.Sequential([keras.Input((), dtype="string"), vectorization, layers.Dense(2)])
        tokens = create_analyzer("lrp.z", model).tokens(texts)
        assert sorted(tokens[0]) == sorted("the film was great".split()) and sorted(tokens[1]) == ["a", "story"]


def test_a_vocabulary_in_other_forms_and_ids_in_floats():
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(3, 4), layers.Flatten(), layers.Dense(2)]
    )
    analyzer, ids = create_analyzer("lrp.z", model), np.array([[1, 2, 0]])
    for vocabulary in ({"c": 2, "a": 0, "b": 1}, {0: "a", 2: "c", 1: "b"}, [b"a", b"b", b"c"], ("a", "b", "c")):
        assert analyzer.tokens(ids, vocabulary=vocabulary)[0] == ("b", "c", "a")
    assert analyzer.tokens(ids.astype(float), vocabulary=["a", "b", "c"])[0] == ("b", "c", "a")
    for wrong in ({"a", "b", "c"}, "abc"):
        with pytest.raises(TypeError, match="a list of words in the order of their ids"):
            analyzer.tokens(ids, vocabulary=wrong)


@pytest.mark.parametrize("name", ["ids", "a column of texts", "which words", "an id"])
def test_whole_datasets_of_strings(name, tmp_path):
    """The results are those of `analyze`, whatever the dataset is."""
    model, texts = MODELS[name]()
    analyzer = create_analyzer("lrp.z", model)
    stream = tf.data.Dataset.from_tensor_slices(texts)
    datasets = {"list": texts, "array": np.array(texts), "samples": stream, "batches": stream.batch(2)}
    datasets["pair"] = (texts, np.zeros(len(texts), int))
    for kind, dataset in datasets.items():
        report = revgraph.explain_dataset(analyzer, dataset, tmp_path / kind, verbose=0)
        assert report.explained == len(texts)
        written = np.load(tmp_path / kind / "attribution-00000.npy")
        np.testing.assert_allclose(written, analyzer.analyze(texts), rtol=1e-5, atol=1e-7)
        prediction = np.load(tmp_path / kind / "prediction-00000.npy")
        np.testing.assert_allclose(prediction, model(tf.constant(texts)), rtol=1e-5, atol=1e-7)
