"""Models with a preprocessor of their own, without KerasHub: what goes through it, and what does not."""

import keras
import numpy as np
import pytest
from keras import layers

from revgraph import NextToken, create_analyzer
from revgraph.analyzers import TaskAnalyzer
from tests.models import randomized

TEXTS = ["the film was great", "a story"]


class Lengths:
    """Makes the lengths of the first four words of texts."""

    def __call__(self, texts):
        return np.array([[len(word) for word in (text.split() + 4 * [""])[:4]] for text in texts], "int32")


class Halves:
    """Divides numbers by two."""

    def __call__(self, x):
        return np.asarray(x) / 2


def reader():
    ids = keras.Input((4,), dtype="int32")
    return randomized(keras.Model(ids, layers.Dense(2)(layers.Flatten()(layers.Embedding(12, 3)(ids)))))


def test_texts_go_through_it_and_ids_do_not():
    model = reader()
    expected = create_analyzer("lrp.z", model).analyze(Lengths()(TEXTS), 1)
    model.preprocessor = Lengths()
    analyzer = create_analyzer("lrp.z", model)
    assert isinstance(analyzer, TaskAnalyzer)
    np.testing.assert_array_equal(analyzer.analyze(TEXTS, 1), expected)
    np.testing.assert_array_equal(analyzer.analyze(Lengths()(TEXTS), 1), expected)
    assert analyzer.tokens(TEXTS, vocabulary=[f"{n} letters" for n in range(12)])[1][0] == "1 letters"


def test_numbers_go_through_it_where_predict_does_so():
    class Task(keras.Model):
        def preprocess_samples(self, x, y=None, sample_weight=None):
            return self.preprocessor(x)

    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    given = keras.Input((3,), name="features")
    model = randomized(keras.Model(given, layers.Dense(2)(given)))
    expected = create_analyzer("input_t_gradient", model).analyze(x / 2, 1)
    task = Task(model.inputs, model.outputs)
    task.preprocessor = Halves()
    analyzer = create_analyzer("input_t_gradient", task)
    np.testing.assert_allclose(analyzer.analyze(x, 1), expected, rtol=1e-6)
    np.testing.assert_allclose(analyzer.analyze({"features": x / 2}, 1), expected, rtol=1e-6)
    # An attribute of that name alone changes nothing.
    model.preprocessor = Halves()
    np.testing.assert_allclose(create_analyzer("input_t_gradient", model).analyze(x / 2, 1), expected, rtol=1e-6)


def test_a_preprocessor_that_is_a_layer_of_the_model_runs_once():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.preprocessor, self.out = layers.Rescaling(0.5), layers.Dense(2)

        def call(self, x):
            return self.out(self.preprocessor(x))

    x = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")
    model = Own()
    y = np.asarray(model(x))
    analyzer = create_analyzer("lrp.z", model)
    assert type(analyzer) is not TaskAnalyzer
    np.testing.assert_allclose(analyzer.analyze(x, 1).sum(axis=1), y[:, 1], rtol=1e-5)
    given = keras.Input((3,))
    inside = layers.Rescaling(0.5)
    functional = keras.Model(given, layers.Dense(2)(inside(given)))
    functional.preprocessor = inside
    analyzer = create_analyzer("lrp.z", functional)
    np.testing.assert_allclose(analyzer.analyze(x, 1).sum(axis=1), np.asarray(functional(x))[:, 1], rtol=1e-5)


def test_a_preprocessor_that_fails_says_so():
    class Broken:
        def __call__(self, texts):
            raise RuntimeError("the file vocab.txt is missing")

    model = reader()
    model.preprocessor = Broken()
    with pytest.raises(ValueError, match="Broken, does not take what was given.*the file vocab.txt is missing"):
        create_analyzer("lrp.z", model).analyze(TEXTS, 1)


def test_a_next_token_needs_a_model_that_continues_texts():
    with pytest.raises(TypeError, match="A NextToken is for tasks that continue texts"):
        create_analyzer("lrp.z", reader()).analyze(Lengths()(TEXTS), NextToken(3))
