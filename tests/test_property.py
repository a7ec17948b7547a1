"""No silent fault survives: what must hold for every graph, on random graphs of all operations that revgraph knows.

`tests/random_graphs.py` draws the graphs; `describe(seed)` prints one as a program. Few seeds run by default, hundreds
under the marker `slow`. Everything is computed in float64. Walks are eager: what the compiler makes of them has a test
of its own.
"""

import contextlib
import dataclasses
import functools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import revgraph
from revgraph.canonize import canonize
from revgraph.composites import NotAnalyzeableModelException
from revgraph.fast.signs import nonnegative_slots, where_relevance_arrives
from revgraph.graph.analysis import Facts
from revgraph.graph.operations import Interpolation, Routing
from revgraph.read import trace
from revgraph.reverse.conditions import Gates, shortcuts
from revgraph.reverse.reverse_graph import ReverseGraph
from revgraph.reverse.walk import Question
from tests import random_graphs
from tests.models import precision
from tests.random_graphs import CATALOGUE, CUSTOM, case, describe

pytestmark = pytest.mark.usefixtures("float64")

EXACT = 1e-10
CONDITION = 1e6
"""The growth of |R| from which on a seed is skipped for a rule."""

METHODS = {
    "lrp.z": {},
    "lrp.epsilon": {},
    "lrp.gamma": {},
    "lrp.alpha_1_beta_0": {},
    "lrp.alpha_2_beta_1": {},
    "lrp.z_plus": {},
    "lrp.z_plus_fast": {},
    "lrp.flat": {},
    "lrp.w_square": {},
    "lrp.b_rule": {},
    "lrp.e_rule": {},
    "lrp.sequential_preset_a_flat": {},
    "lrp.sequential_preset_b_flat": {},
    "lrp.epsilon_gamma_box": {"low": -2.0, "high": 300.0},
    "deep_taylor": {},
}

EXPORTED = ("lrp.z", "lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.gamma", "lrp.z_plus")

KNOWN: dict[str, dict[str, str]] = {}
"""Property -> pattern in the program -> why the property does not hold yet. To be emptied."""


def spread(count, of=None):
    """This many seeds, spread over two turns through the catalogue."""
    of = of or 2 * len(CATALOGUE)
    return [int(seed) for seed in np.linspace(0, of - 1, count).round()]


def seeds(default, at_length):
    """Parameters of a test: these seeds by default, all others under `slow`."""
    slow = sorted({*spread(at_length)} - {*default})
    parameters = [*sorted(default), *(pytest.param(seed, marks=pytest.mark.slow) for seed in slow)]
    return pytest.mark.parametrize("seed", parameters)


@contextlib.contextmanager
def holds(name, seed, linear=False):
    """A failure of a property shows the program of its seed, and is expected where the reason is known."""
    try:
        yield
    except Exception as error:
        program = describe(seed, linear)
        for pattern, reason in KNOWN.get(name, {}).items():
            if re.search(pattern, program):
                pytest.xfail(reason)
        error.add_note(f"\n# seed {seed}\n{program}")
        raise


def is_resized(seed, linear=False) -> bool:
    """Whether a graph resizes images, which TensorFlow does in float32, whatever they are."""
    return re.search("Resizing|UpSampling|resize", describe(seed, linear)) is not None


def quietly(function, *args, **kwargs):
    """Calls a function without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def flat(structure):
    return [np.asarray(t) for t in keras.tree.flatten(structure)]


def same(actual, expected, tolerance=EXACT, scale=None):
    actual, expected = flat(actual), flat(expected)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
        assert np.isfinite(a).all() and np.isfinite(b).all()
        largest = np.abs(b).max(initial=0) if scale is None else scale
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(largest, 1e-300))


def analyzer_of(name, model):
    """The analyzer; skips the seed where it refuses the model, which is no silent fault."""
    options = METHODS.get(name, {})
    try:
        return quietly(revgraph.create_analyzer, name, model, max_growth=np.inf, **options)
    except NotAnalyzeableModelException as error:
        pytest.skip(f"refused: {error}")


def everything(model):
    """The selection of every neuron of every output."""
    return dict.fromkeys(model.output_names, "all")


@dataclasses.dataclass
class Run:
    """One eager walk: relevance and values of each slot."""

    relevance: dict
    values: dict
    reverse: ReverseGraph
    start: dict

    @property
    def inputs(self):
        """Relevance of each input."""
        slots = self.reverse.graph.input_slots
        return [np.asarray(self.relevance.get(slot, np.zeros(self.values[slot].shape))) for slot in slots]

    @functools.cached_property
    def condition(self):
        """How much relevance grows on its way: the product of the growth of all sites where it grows."""
        entries = self.reverse.ledger(self.values, self.start).layers
        with np.errstate(over="ignore"):
            return float(np.prod([np.maximum(1, entry.growth).max(initial=1) for entry in entries]))

    @property
    def largest(self):
        return max(float(np.abs(r).max(initial=0)) for r in self.relevance.values())


def walked(analyzer, x, fast=True, stabiliser=None) -> Run:
    """An eager walk from all neurons of all outputs, with the stabiliser of the rules or another one."""
    question = Question(analyzer.graph.output_slots)
    reverse = analyzer.walk(question).reverse
    if not fast or stabiliser is not None:
        bound = reverse.bound
        if stabiliser is not None:
            bound = tuple(dataclasses.replace(b, rule=dataclasses.replace(b.rule, epsilon=stabiliser)) for b in bound)
        reverse = ReverseGraph(reverse.graph, bound, question.starts, fast=fast)
    forward = reverse.forward([tf.convert_to_tensor(t) for t in keras.tree.flatten(x)])
    start = {slot: analyzer._own_start(forward.values[slot]) for slot in reverse.graph.output_slots}
    return Run(reverse.relevance(forward, start), forward.values, reverse, start)


def literal(analyzer, x, stabiliser=None) -> Run:
    """The same walk without the speed layer: the formula of each rule as it is written."""
    return walked(analyzer, x, fast=False, stabiliser=stabiliser)


@seeds(spread(40), 400)
def test_the_traced_graph_is_the_model(seed):
    model, x = case(seed)
    with holds("trace", seed):
        same(quietly(trace, model)(x), model(x, training=False))


@seeds(spread(40), 400)
def test_the_canonized_graph_is_the_traced_one(seed):
    model, x = case(seed)
    with holds("canonize", seed):
        graph = quietly(trace, model)
        same(canonize(graph)(x), graph(x))


def methods_of(seed, count):
    """Names of methods, other ones for other seeds, so that every one has its turn."""
    names = list(METHODS)
    return [names[(seed * count + i) % len(names)] for i in range(count)]


def check_speed_layer(seed, names):
    """Compares the engines; returns how many comparisons were skipped."""
    model, x = case(seed)
    graph, skipped = quietly(trace, model), 0
    for name in names:
        analyzer = analyzer_of(name, graph)
        expected = literal(analyzer, x)
        if not expected.condition < CONDITION:
            skipped += 1
            continue
        found = walked(analyzer, x)
        try:
            same(found.inputs, expected.inputs, EXACT * expected.condition, scale=expected.largest)
        except AssertionError as error:
            error.add_note(f"\n# {name}, condition {expected.condition:.1e}")
            raise
    return skipped


@seeds(spread(16), 250)
def test_the_speed_layer_is_the_literal_engine(seed):
    with holds("fast", seed):
        names = methods_of(seed, 5)
        if check_speed_layer(seed, names) == len(names):
            pytest.skip("relevance explodes under every rule")


def test_few_comparisons_of_the_engines_are_skipped():
    skipped = refused = total = 0
    for seed in spread(5):
        for name in ("lrp.z", "lrp.gamma", "lrp.alpha_2_beta_1", "lrp.flat"):
            total += 1
            try:
                skipped += not literal(analyzer_of(name, case(seed)[0]), case(seed)[1]).condition < CONDITION
            except pytest.skip.Exception:
                refused += 1
    assert skipped < total / 3 and refused < total / 3, (skipped, refused, total)


@seeds(spread(3), 80)
def test_an_exported_model_is_explained_as_in_memory(seed, tmp_path):
    model, x = case(seed)
    with holds("export", seed):
        try:
            quietly(model.export, str(tmp_path / "sm"))
        except (TypeError, ValueError) as error:
            pytest.skip(f"Keras cannot export it: {error}")
        saved = tf.saved_model.load(str(tmp_path / "sm"))
        if np.abs(flat(saved.serve(x))[0] - flat(model(x, training=False))[0]).max() > 1e-9:
            pytest.skip("Keras exports random layers as in training")
        loaded = quietly(revgraph.load_model, str(tmp_path / "sm"))
        arrays = keras.tree.flatten(x)
        order = _same_inputs(loaded, model)
        rounding = 1e-6 if is_resized(seed) else EXACT
        same(
            loaded.run([arrays[i] for i in order])[loaded.output_slots[0]], flat(model(x, training=False))[0], rounding
        )
        for name in EXPORTED:
            ours, theirs = analyzer_of(name, model), analyzer_of(name, loaded)
            # Some layers are more operations once exported, and each of them has a stabiliser.
            expected = walked(ours, x, stabiliser=1e-30)
            if not expected.condition < CONDITION:
                continue
            found = walked(theirs, [arrays[i] for i in order], stabiliser=1e-30)
            expected_inputs = [expected.inputs[i] for i in order]
            try:
                same(found.inputs, expected_inputs, 100 * EXACT * expected.condition, scale=expected.largest)
            except AssertionError as error:
                error.add_note(f"\n# {name}, condition {expected.condition:.1e}")
                raise


def _same_inputs(loaded, model):
    """For each input of the exported graph its position among the model's."""
    names = [x.name for x in model.inputs]
    return [names.index(name) if name in names else i for i, name in enumerate(loaded.input_names)]


@seeds(spread(30), 400)
def test_claimed_signs_hold(seed):
    model, x = case(seed)
    with holds("signs", seed):
        graph = canonize(quietly(trace, model))
        values = graph.run(keras.tree.flatten(x))
        for slot in nonnegative_slots(graph):
            if values[slot].dtype.is_floating:
                site = graph.producers().get(slot)
                assert np.min(values[slot], initial=0) >= 0, f"{site and (site.path, site.operation.label)}"


@seeds(spread(16), 250)
def test_relevance_arrives_only_where_it_is_claimed_to(seed):
    model, x = case(seed)
    with holds("arrival", seed):
        for name in ("lrp.epsilon", "lrp.flat", "lrp.sequential_preset_b_flat"):
            analyzer = analyzer_of(name, model)
            run = literal(analyzer, x)
            graph = run.reverse.graph
            positive, nonzero = where_relevance_arrives(graph, run.reverse.bound, graph.output_slots)
            for site in nonzero:
                slot = site.outputs[0]
                if slot in run.relevance:
                    value, relevance = np.asarray(run.values[slot]), np.asarray(run.relevance[slot])
                    assert not relevance[value == 0].any(), (name, site.path)
                    if site in positive:
                        assert not relevance[value <= 0].any(), (name, site.path)


@seeds(spread(30), 400)
def test_what_routings_claim_holds(seed):
    model, x = case(seed)
    with holds("routing", seed):
        graph = canonize(quietly(trace, model))
        values = graph.run(keras.tree.flatten(x))
        for site in graph.sites:
            if isinstance(site.operation, Routing):
                check_routing(site, [values[slot] for slot in site.inputs], seed)


def check_routing(site, given, seed):
    """What a routing says of itself, on random inputs of the shapes that it gets."""
    rng, operation = np.random.default_rng(seed), site.operation

    def call(f):
        inputs = [f(np.asarray(t)) if t.dtype.is_floating else t for t in given]
        return inputs, [np.asarray(t) for t in operation([tf.constant(t) for t in inputs], {})]

    a, at_a = call(lambda t: rng.normal(size=t.shape))
    b, at_b = call(lambda t: rng.normal(size=t.shape))
    where = f"{site.path}: {operation.label}"
    # TensorFlow resizes images in float32, whatever they are.
    rounding = 1e-6 if isinstance(operation, Interpolation) else 1e-9
    if operation.copies:
        entries = np.concatenate([np.ravel(t) for t in a])
        for one, other in zip(at_a, at_b, strict=True):
            # An index is no copy, and a constant may stand elsewhere in the other output.
            if one.dtype.kind == "f":
                assert (np.isin(one, entries) | np.isin(one, other)).all(), f"{where} copies"
    if operation.fixed:
        _, both = call_with(
            operation, given, [p + q if g.dtype.is_floating else g for p, q, g in zip(a, b, given, strict=True)]
        )
        _, none = call_with(operation, given, [0 * np.asarray(g) if g.dtype.is_floating else g for g in given])
        for p, q, s, zero in zip(at_a, at_b, both, none, strict=True):
            np.testing.assert_allclose(
                p + q, s + zero, atol=rounding * max(1, np.abs(s).max()), err_msg=f"{where} fixed"
            )
    if operation.keeps_sign:
        _, positive = call(lambda t: np.abs(rng.normal(size=t.shape)))
        assert all(np.min(t, initial=0) >= 0 for t in positive), f"{where} keeps_sign"


def call_with(operation, given, inputs):
    return inputs, [np.asarray(t) for t in operation([tf.constant(np.asarray(t)) for t in inputs], {})]


@seeds(spread(12), 250)
def test_the_ledger_closes(seed):
    model, x = case(seed)
    with holds("ledger", seed):
        graph = quietly(trace, model)
        for name in methods_of(seed, 4):
            analyzer = analyzer_of(name, graph)
            report = quietly(analyzer.conservation, x, everything(model))
            run = walked(analyzer, x)
            if not run.condition < CONDITION:
                continue
            absolute = sum(np.abs(np.asarray(run.relevance[s])).sum() for s in run.relevance)
            worst = max(report.layers, key=lambda entry: np.abs(entry.other).max())
            assert np.abs(report.other).max() <= 1e-6 * absolute, (name, report.other, worst)


@seeds(spread(24), 300)
def test_conditions_split_relevance_in_parts(seed):
    """What passes some channels, what passes the others, and what passes around, are the whole."""
    model, x = case(seed)
    rng = np.random.default_rng(seed)
    with holds("conditions", seed):
        analyzer = analyzer_of("lrp.epsilon", model)
        run = literal(analyzer, x)
        if not run.condition < CONDITION:
            pytest.skip("relevance explodes")
        graph = run.reverse.graph
        carrying, starts = Facts(graph).dependent, list(run.start)
        reached = [slot for site in graph.sites for slot in site.outputs if slot in run.relevance and slot in carrying]
        places = [slot for slot in reached if run.values[slot].shape.rank > 1]
        arrays = keras.tree.flatten(x)
        forward = run.reverse.forward([tf.convert_to_tensor(t) for t in arrays])

        def gates(slot, mask, ways):
            shaped = tf.reshape(tf.constant(mask), (1,) * (run.values[slot].shape.rank - 1) + (-1,))
            return Gates([slot], ways, ((shaped,), (tf.constant([True]),)), len(arrays[0]))

        def passed(slot, mask, ways):
            relevance = run.reverse.relevance(forward, run.start, gates=gates(slot, mask, ways))
            return Run(relevance, run.values, run.reverse, run.start).inputs

        tolerance = 100 * EXACT * run.condition
        absolute = sum(np.abs(np.asarray(r)).sum() for r in run.relevance.values())
        for slot in map(int, rng.choice(places, min(3, len(places)), replace=False)):
            some = rng.random(run.values[slot].shape[-1:]) < 0.5
            ways = shortcuts(graph, [slot], starts)
            first, second, through = (passed(slot, mask, ways) for mask in (some, ~some, some | True))
            around = passed(slot, some & False, {})
            same([a + b for a, b in zip(first, second, strict=True)], through, tolerance, scale=run.largest)
            same([a + b for a, b in zip(through, around, strict=True)], run.inputs, tolerance, scale=run.largest)
            report = run.reverse.ledger(run.values, run.start, gates(slot, some, ways))
            found = sum(r.sum() for r in first)
            np.testing.assert_allclose(report.input.sum(), found, rtol=1e-6, atol=tolerance * run.largest)
            assert np.abs(report.other).max() <= 1e-6 * absolute


@seeds(spread(4), 60)
def test_the_compiled_walk_and_the_ledger_tell_of_the_same_relevance(seed):
    model, x = case(seed)
    with holds("start", seed):
        (name,) = methods_of(seed, 1)
        analyzer = analyzer_of(name, model)
        relevance, delta = quietly(analyzer.analyze, x, everything(model), return_convergence_delta=True)
        report = quietly(analyzer.conservation, x, everything(model))
        arrived = sum(r.reshape(len(r), -1).sum(axis=1) for r in flat(relevance))
        for r, t in zip(flat(relevance), keras.tree.flatten(x), strict=True):
            assert r.shape == t.shape
        same(analyzer.analyze(x, everything(model)), relevance, 0)
        size = max(np.abs(report.start).max(), max(np.abs(r).max() for r in flat(relevance)))
        same(report.input, arrived, 1e-6, scale=size)
        same(report.start, arrived + delta, 1e-6, scale=size)
        run = walked(analyzer, x)
        if run.condition < CONDITION:
            same(relevance, run.inputs, EXACT * run.condition, run.largest)


@seeds(spread(20, 250), 250)
def test_lrp_0_is_input_times_gradient(seed):
    """On piecewise linear graphs, biases or not, where the stabiliser is next to nothing."""
    model, x = case(seed, linear=True)
    with holds("gradient", seed, linear=True):
        run = literal(analyzer_of("lrp.z", model), x, stabiliser=1e-30)
        if not run.condition < CONDITION:
            pytest.skip("relevance explodes")
        arrays = [tf.convert_to_tensor(t) for t in keras.tree.flatten(x)]
        floating = [t for t in arrays if t.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floating)
            y = keras.tree.flatten(model(keras.tree.pack_sequence_as(x, arrays), training=False))
            total = sum(tf.reduce_sum(t) for t in y)
        gradients = iter(tape.gradient(total, floating, unconnected_gradients="zero"))
        tolerance = 1e-5 if is_resized(seed, linear=True) else 1e-9
        for r, t in zip(run.inputs, arrays, strict=True):
            assert r.shape == tuple(t.shape)
            if t.dtype.is_floating:
                same(r, t * next(gradients), tolerance * run.condition, scale=run.largest)


@seeds(spread(10), 120)
def test_a_batch_is_its_samples(seed):
    model, x = case(seed)
    with holds("batch", seed):
        for name in methods_of(seed, 2):
            analyzer = analyzer_of(name, model)
            together = walked(analyzer, x)
            if not together.condition < CONDITION:
                continue
            again = walked(analyzer, x)
            same(again.inputs, together.inputs, 0)
            for i in range(random_graphs.BATCH):
                alone = walked(analyzer, keras.tree.map_structure(lambda t, i=i: t[i : i + 1], x))
                part = [r[i : i + 1] for r in together.inputs]
                same(alone.inputs, part, EXACT * together.condition, scale=together.largest)


def state_of(model):
    """What must not change: weights and seeds, losses, nodes, attributes of layers of one's own."""
    layers = [layer for layer in model._flatten_layers() if layer is not model]
    return {
        "weights": [keras.ops.convert_to_numpy(v) for v in model.variables],
        "losses": [keras.ops.convert_to_numpy(loss) for loss in model.losses],
        "nodes": [(len(layer._inbound_nodes), len(layer._outbound_nodes)) for layer in layers],
        "names": [layer.name for layer in layers],
        "own": [plain(vars(layer)) for layer in layers if isinstance(layer, CUSTOM)],
    }


def plain(attributes):
    kept = {}
    for name, value in attributes.items():
        if name in ("_inbound_nodes", "_outbound_nodes") or isinstance(value, keras.layers.Layer | keras.Variable):
            continue
        kept[name] = repr(value)
    return kept


@seeds(spread(10), 250)
def test_the_model_is_untouched(seed):
    model, x = random_graphs.build(seed)
    with holds("untouched", seed):
        untouched(model, x)


@pytest.mark.parametrize("text", ["Counting()({x})", "Regular()({x})", "layers.Dropout(0.4)({x})"])
def test_layers_with_state_are_untouched(text):
    (entry,) = (e for e in CATALOGUE if e.text == text)
    untouched(*random_graphs.build(3, only=entry))


def untouched(model, x):
    model(x)
    before = state_of(model)
    analyzer = analyzer_of("lrp.epsilon", model)
    walked(analyzer, x)
    quietly(analyzer.conservation, x, everything(model))
    after = state_of(model)
    for name in before:
        assert len(before[name]) == len(after[name]), name
        for b, a in zip(before[name], after[name], strict=True):
            if name in ("weights", "losses"):
                np.testing.assert_array_equal(a, b, err_msg=name)
            else:
                assert a == b, name


@seeds(spread(14), 250)
def test_weights_assigned_later_are_seen(seed):
    model, x = random_graphs.build(seed)
    with holds("live", seed):
        for name in methods_of(seed, 2):
            analyzer = analyzer_of(name, model)
            before = walked(analyzer, x)
            random_graphs.weigh(model, seed + 1000 + len(name))
            found, expected = walked(analyzer, x), walked(analyzer_of(name, model), x)
            assert before.reverse is found.reverse
            if expected.condition < CONDITION:
                same(found.inputs, expected.inputs, EXACT * expected.condition, scale=expected.largest)
                graph = analyzer.graph
                same([found.values[slot] for slot in graph.output_slots], model(x, training=False))


def test_a_graph_is_the_same_each_time():
    for seed in (0, 57, 200):
        assert describe(seed) == describe(seed)
        with precision("float64"):
            (one, x), (other, z) = random_graphs.build(seed), random_graphs.build(seed)
        same(x, z, 0)
        same(one(x), other(z), 0)
