"""Many questions, many threads, and copies: what an analyzer keeps, and what it refuses."""

import copy
import gc
import pickle
import threading
import weakref
from multiprocessing.reduction import ForkingPickler

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph.reverse import recent
from revgraph.reverse.recent import Recent
from revgraph.reverse.walk import Walk
from revgraph.reverse_rules import AlphaBeta, Gamma, Pass, SafeDivide, ZBox
from tests.models import inputs_of, mlp, randomized


def deep(depth):
    i = h = keras.Input((3,))
    for k in range(depth):
        h = layers.Dense(3, "relu", kernel_initializer="identity", name=f"d{k}")(h)
    return keras.Model(i, h)


@pytest.fixture
def traced(monkeypatch):
    """The functions that walks have compiled, as weak references."""
    made, function = [], tf.function

    def watched(*args, **kwargs):
        program = function(*args, **kwargs)
        if args and args[0].__module__.startswith("revgraph.read"):
            # Models are read in a function, too, which is no question.
            return program
        concrete = program.get_concrete_function

        def get(*specs):
            result = concrete(*specs)
            made.append(weakref.ref(result))
            return result

        program.get_concrete_function = get
        return program

    monkeypatch.setattr(tf, "function", watched)
    return made


def test_an_audit_of_many_layers_does_not_grow(traced, monkeypatch, rng):
    monkeypatch.setattr(recent.Recent.__init__, "__defaults__", (4,))
    analyzer = revgraph.create_analyzer("lrp.epsilon", deep(12))
    x = rng.uniform(0.5, 1, (2, 3)).astype("float32")
    for k in range(12):
        analyzer.analyze(x, 0, layer=f"d{k}")
        analyzer.analyze(x, 0, return_layers=[f"d{k}"])
        analyzer.conservation(x, 0, layer=f"d{k}")
    gc.collect()
    alive = [made for made in traced if made() is not None]
    assert len(traced) == 24 and len(alive) <= 4


def test_questions_that_are_repeated_are_compiled_once(traced, rng):
    analyzer = revgraph.create_analyzer("lrp.epsilon", deep(20))
    x = rng.uniform(0.5, 1, (2, 3)).astype("float32")
    for samples in (1, 2, 2):
        for k in range(20):
            analyzer.analyze(x[:samples], k % 3, layer=f"d{k}")
    assert len(traced) == 20


def test_what_was_forgotten_is_answered_again(monkeypatch, rng):
    monkeypatch.setattr(recent.Recent.__init__, "__defaults__", (2,))
    x = rng.uniform(0.5, 1, (2, 3)).astype("float32")
    analyzer = revgraph.create_analyzer("lrp.epsilon", deep(5))
    first = [analyzer.analyze(x, 0, layer=f"d{k}") for k in range(5)]
    for k in range(5):
        np.testing.assert_array_equal(analyzer.analyze(x, 0, layer=f"d{k}"), first[k])
    assert analyzer.bound and analyzer.summary()


def test_the_last_values_are_kept():
    kept, made = Recent(2), []
    for key in "abacab":
        kept.value(key, lambda key=key: made.append(key))
    assert made == ["a", "b", "c", "b"] and list(kept) == ["a", "b"]


@pytest.mark.parametrize("name", ["lrp.epsilon", "gradient", "smoothgrad", "deep_lift", "input"])
def test_pickles_and_deep_copies_name_what_to_do(name, tmp_path):
    model = randomized(mlp())
    analyzer, x = revgraph.create_analyzer(name, model), inputs_of(model)
    analyzer.analyze(x, 0)
    for attempt in (pickle.dumps, copy.deepcopy, lambda a: copy.deepcopy({"a": [a]})):
        with pytest.raises(TypeError, match=r"cannot be pickled.*analyzer\.save\(path\).*analyzer\.export\(path\)"):
            attempt(analyzer)
    analyzer.save(tmp_path / "a.revgraph")
    assert revgraph.load_analyzer(tmp_path / "a.revgraph").analyze(x, 0).shape == np.shape(x)
    assert copy.copy(analyzer).analyze(x, 0).shape == np.shape(x)


@pytest.mark.parametrize("name", ["lrp.epsilon", "integrated_gradients", "input"])
def test_inside_of_a_function_of_tensorflow(name, tmp_path):
    model = randomized(mlp())
    analyzer, x = revgraph.create_analyzer(name, model), tf.constant(inputs_of(model), tf.float32)
    message = r"does not run inside of a tf\.function.*analyzer\.export\(path\).*analyzer\.save\(path\)"
    for given in (lambda t: analyzer.analyze(t, 0), lambda t: analyzer.analyze(np.asarray(x), 0)):
        with pytest.raises(TypeError, match=message):
            tf.function(given, autograph=False)(x)
        with pytest.raises(TypeError, match=message):
            tf.data.Dataset.from_tensors(x).map(given)
    if name == "lrp.epsilon":
        with pytest.raises(TypeError, match=message):
            tf.function(lambda t: analyzer.conservation(t, 0).start, autograph=False)(x)
        analyzer.export(tmp_path / "e")
        explainer, (entry,) = tf.saved_model.load(str(tmp_path / "e")), analyzer.graph.input_names

        @tf.function
        def inside(t):
            first = tf.zeros(len(x), tf.int32)
            return explainer.signatures["serving_default"](**{entry: t, "neuron_selection": first})

        np.testing.assert_allclose(inside(x)["relevance"], analyzer.analyze(x, 0), rtol=1e-5, atol=1e-6)


def in_threads(count, work):
    """What `work(k)` returns in one thread for each k, all at once."""
    results, errors, start = [None] * count, [], threading.Barrier(count)

    def run(k):
        start.wait()
        try:
            results[k] = work(k)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results


@pytest.mark.parametrize("name", ["lrp.epsilon", "gradient", "smoothgrad"])
def test_many_threads_ask_one_analyzer(name, traced, rng):
    seeded = {"seed": 0, "augment_by_n": 4} if name == "smoothgrad" else {}
    analyzer = revgraph.create_analyzer(name, deep(4), **seeded)
    x = rng.uniform(0.5, 1, (4, 3)).astype("float32")
    results = in_threads(8, lambda k: analyzer.analyze(x, k % 3, layer=f"d{k % 4}"))
    assert len(traced) == 4
    for k, found in enumerate(results):
        np.testing.assert_allclose(found, analyzer.analyze(x, k % 3, layer=f"d{k % 4}"), rtol=1e-6)


def test_a_walk_is_compiled_once_by_many_threads(traced, rng):
    analyzer = revgraph.create_analyzer("lrp.epsilon", deep(3))
    x = rng.uniform(0.5, 1, (4, 3)).astype("float32")
    results = in_threads(8, lambda k: analyzer.analyze(x, 1))
    assert len(traced) == 1
    for found in results:
        np.testing.assert_array_equal(found, results[0])
    assert all(isinstance(walk, Walk) for walk in analyzer._walks.values())


def questions(rng, count=8):
    """Questions of different inputs, selections, batch sizes and layers, as keyword arguments of `analyze`."""
    options = [{}, {"batch_size": 2}, {"return_layers": ["d1"]}, {"layer": "d2"}, {"layer": "d2", "batch_size": 3}]
    selections = [0, 1, [0, 1, 2, 1, 0], [[0, 2]] * 5, "all", None]
    return [
        {
            "X": rng.uniform(0.5, 1, (5, 3)).astype("float32"),
            "neuron_selection": selections[k % len(selections)],
            **options[k % len(options)],
        }
        for k in range(count)
    ]


def flat(answer):
    """The arrays of an answer."""
    return [np.asarray(array) for array in keras.tree.flatten(answer)]


@pytest.mark.parametrize("name", ["lrp.gamma", "gradient"])
def test_threads_that_ask_different_questions_get_their_own_answers(name, rng):
    asked = questions(rng)
    one = revgraph.create_analyzer(name, deep(4))
    answers = in_threads(len(asked), lambda k: one.analyze(**asked[k]))
    for question, answer in zip(asked, answers, strict=True):
        expected = flat(one.analyze(**question))
        assert len(flat(answer)) == len(expected)
        for found, alone in zip(flat(answer), expected, strict=True):
            np.testing.assert_allclose(found, alone, rtol=1e-6)


def test_threads_that_record_and_ask_for_the_ledger(rng):
    one = revgraph.create_analyzer("lrp.epsilon", deep(4))
    x = rng.uniform(0.5, 1, (8, 2, 3)).astype("float32")
    recorded = in_threads(8, lambda k: one.record(x[k]).analyze(k % 3))
    reports = in_threads(4, lambda k: one.conservation(x[k], k % 3))
    for k, found in enumerate(recorded):
        np.testing.assert_allclose(found, one.record(x[k]).analyze(k % 3), rtol=1e-6)
    for k, report in enumerate(reports):
        np.testing.assert_array_equal(report.input, one.conservation(x[k], k % 3).input)


def test_analyzers_of_one_model_made_in_threads(rng):
    model, x = deep(3), rng.uniform(0.5, 1, (2, 3)).astype("float32")
    names = ["lrp.epsilon", "gradient", "lrp.z_plus", "lrp.flat"] * 2
    found = in_threads(8, lambda k: revgraph.create_analyzer(names[k], model).record(x).analyze(1))
    for name, relevance in zip(names, found, strict=True):
        expected = revgraph.create_analyzer(name, model).record(x).analyze(1)
        np.testing.assert_allclose(relevance, expected, rtol=1e-6)


def test_a_recorded_pass_refuses_to_be_pickled_as_its_analyzer_does(rng):
    recorded = revgraph.create_analyzer("lrp.epsilon", deep(1)).record(np.ones((1, 3), "float32"))
    with pytest.raises(TypeError, match=r"cannot be pickled.*analyzer\.save\(path\)"):
        pickle.dumps(recorded)


PLAIN = {
    "rules": [Gamma(0.3), AlphaBeta(2, 1), Pass()],
    "a rule with arrays": [ZBox(np.zeros(3), np.ones(3))],
    "parts of a rule": Gamma(0.3).parts(),
    "a division": [SafeDivide(0.1)],
}


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(spawned(value))])
@pytest.mark.parametrize("name", PLAIN)
def test_values_can_be_copied_and_sent_to_other_processes(name, copied):
    for value in PLAIN[name]:
        assert type(copied(value)) is type(value) and str(copied(value)) == str(value)


def spawned(value):
    """What `multiprocessing` sends to a process that it has spawned."""
    return ForkingPickler.dumps(value)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(spawned(value))])
def test_a_ledger_can_be_copied_and_sent_to_other_processes(copied):
    report = revgraph.create_analyzer("lrp.epsilon", deep(2)).conservation(np.ones((2, 3), "float32"), 0)
    again = copied(report)
    np.testing.assert_array_equal(again.input, report.input)
    assert str(again.table()) == str(report.table())
