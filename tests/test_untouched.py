"""The user's model is the same after an analysis: variables, seeds, losses, attributes, nodes; with threads, too."""

import collections
import random
import threading
import types

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import revgraph
from revgraph import create_analyzer
from tests.models import randomized

pytestmark = pytest.mark.filterwarnings("ignore:Relevance", "ignore:.*retracing", "ignore:The output of")

X = np.random.default_rng(0).normal(size=(2, 3)).astype("float32")


class State:
    """An object of the user's own."""

    def __init__(self):
        self.calls, self.seen = 0, []


class Restless(L.Layer):
    """Everything that a `call` may do to its layer."""

    total = 0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3)
        self.count, self.last, self.history, self.by_name = 0, None, [], {"nested": {"calls": 0}}
        self.queue, self.names, self.array = collections.deque(maxlen=3), set(), np.zeros(3)
        self.state, self.space = State(), types.SimpleNamespace(calls=0)
        self.seed_generator = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.dense.build(shape)
        self.counter = self.add_weight(shape=(), initializer="zeros", trainable=False, name="counter")

    def call(self, x):
        self.count += 1
        type(self).total += 1
        self.history.append(self.count)
        self.by_name["nested"]["calls"] += 1
        self.by_name[str(self.count)] = self.count
        self.queue.append(self.count)
        self.names.add(self.count)
        self.array += 1
        self.state.calls += 1
        self.state.seen.append(1)
        self.space.calls += 1
        self.counter.assign_add(1.0)
        self.fresh = object()
        self.add_loss(ops.mean(ops.square(x)))
        noise = keras.random.normal((3,), seed=self.seed_generator)
        random.random()
        np.random.rand()
        self.last = self.dense(x) + 0.0 * noise
        return self.last


class Model(keras.Model):
    def __init__(self):
        super().__init__()
        self.restless, self.head, self.log = Restless(), L.Dense(2), []

    def call(self, x):
        self.log.append("called")
        return self.head(self.restless(x))


def functional():
    x = keras.Input((3,))
    return keras.Model(x, L.Dense(2)(Restless(name="restless")(x)))


def state_of(model):
    """All that can be seen of a model."""
    layer = next(x for x in model._flatten_layers() if isinstance(x, Restless))
    everything = list(model._flatten_layers())
    return {
        "variables": [v.numpy().tolist() for v in model.variables],
        "paths": [v.path for v in model.variables],
        "seed": layer.seed_generator.state.numpy().tolist(),
        "losses": [float(loss) for loss in model.losses],
        "nodes": [(len(x._inbound_nodes), len(x._outbound_nodes)) for x in everything],
        "layers": [id(x) for x in everything],
        "attributes": [sorted(vars(x)) for x in everything],
        "counts": (layer.count, Restless.total, list(layer.history), repr(layer.by_name), list(layer.queue)),
        "more": (sorted(layer.names), layer.array.tolist(), layer.state.calls, layer.state.seen, layer.space.calls),
        "last": id(layer.last),
        "log": list(getattr(model, "log", [])),
        "tracked": [id(x) for x in layer._layers],
        "python": (random.getstate(), np.random.get_state()[1].tolist()),
        "trainable": [len(x.trainable_variables) for x in everything],
    }


@pytest.mark.parametrize("make", [Model, functional])
def test_nothing_is_changed(make):
    model = randomized(make())
    model(X)
    before = state_of(model)
    for name in ("lrp.epsilon", "gradient", "deep_lift", "smoothgrad"):
        analyzer = create_analyzer(name, model)
        assert state_of(model) == before, name
        analyzer.analyze(X, 0)
        assert state_of(model) == before, name
    create_analyzer("lrp.epsilon", model).conservation(X, 0)
    revgraph.check(model, "lrp.epsilon")
    assert state_of(model) == before


def test_a_layer_that_stays_whole_is_not_changed_either():
    model = randomized(functional())
    model(X)
    before = state_of(model)
    rule = revgraph.Composite((Restless, revgraph.rules.Epsilon()), (L.Dense, revgraph.rules.Epsilon()))
    analyzer = create_analyzer("lrp", model, rule=rule)
    assert analyzer.graph.sites[0].path == "restless"
    analyzer.analyze(X, 0)
    analyzer.record(X).analyze(0)
    assert state_of(model) == before


def test_nothing_is_changed_when_tracing_fails():
    class Failing(Model):
        def call(self, x):
            self.log.append("called")
            y = super().call(x)
            return y if float(ops.sum(y)) > -1e9 else x

    model = Failing()
    model(X)
    before = state_of(model)
    with pytest.raises(ValueError, match="Cannot trace"):
        create_analyzer("lrp.epsilon", model).analyze(X)
    assert state_of(model) == before
    assert model(X).shape == (2, 2)


def test_a_model_with_an_optimizer_trains_on():
    model = randomized(functional())
    model.compile("adam", "mse")
    model.fit(X, np.zeros((2, 2)), verbose=0)
    steps = int(model.optimizer.iterations)
    relevance = create_analyzer("lrp.epsilon", model).analyze(X, 0)
    model.fit(X, np.zeros((2, 2)), verbose=0)
    assert int(model.optimizer.iterations) == steps + 1
    assert np.abs(create_analyzer("lrp.epsilon", model).analyze(X, 0) - relevance).max() > 0


def test_many_threads_make_analyzers_of_one_model_that_is_in_use():
    model = randomized(functional())
    model(X)
    expected = create_analyzer("lrp.epsilon", model).record(X).analyze(0)
    before = [(len(x._inbound_nodes), sorted(vars(x))) for x in model._flatten_layers()]
    failures, stop = [], threading.Event()

    def explain():
        try:
            for _ in range(3):
                found = create_analyzer("lrp.epsilon", model).record(X).analyze(0)
                np.testing.assert_allclose(found, expected, rtol=1e-5)
        except BaseException as error:
            failures.append(error)

    def predict():
        predictor = model.get_layer("restless").dense
        value = predictor(X).numpy()
        while not stop.is_set():
            try:
                np.testing.assert_array_equal(predictor(X).numpy(), value)
            except BaseException as error:
                failures.append(error)
                return

    user = threading.Thread(target=predict)
    threads = [threading.Thread(target=explain) for _ in range(8)]
    for thread in (user, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    user.join()
    assert not failures, failures[0]
    assert [(len(x._inbound_nodes), sorted(vars(x))) for x in model._flatten_layers()] == before
