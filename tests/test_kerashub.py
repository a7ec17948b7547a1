"""Every family of KerasHub with random weights: five checks each. And every task, from texts and images to relevance.

The fast suite has about fifteen of them, `make test-kerashub` has all and writes the table of the documentation.
"""

import contextlib
import functools
import inspect
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import revgraph
from revgraph.analyzers.prepared import mask_of
from revgraph.read import trace
from revgraph.read.keras.signature import Sized
from revgraph.reverse.targets import why_nothing_starts
from tests.models import precision

pytest.importorskip("keras_hub")

from tests.kerashub_families import FAMILIES, LENGTH, REFUSED
from tests.kerashub_tasks import REFUSED_TASKS, TASKS

FAST = (
    "BERT", "BART", "CLIP", "DeBERTa V3", "Falcon", "FNet", "GPT-2", "Gemma 2", "Llama 3", "MiT", "Mixtral", "RQ-VAE",
    "SAM", "T5", "ViT",
)  # fmt: skip
"""Families of the fast suite: each has something that the others do not."""

FAST_TASKS = ("BertMaskedLM", "ESMProteinClassifier", "Gemma4CausalLM", "T5Seq2SeqLM", "ViTImageClassifier")
"""Tasks of the fast suite."""

SINGLE = {"BLIP-2", "D-FINE", "T5", "T5Gemma 2", "Qwen 3.5", "Qwen 3.5 MoE", "SAM 3", "SmolLM3"}
"""Families whose own code computes in float32. The others are checked in float64."""

CONSTANT = {"RQ-VAE"}
"""Families whose outputs do not depend smoothly on the inputs: a code book holds what the output is made of."""

LOGITS = {"BASNet"}
"""Families that end with a sigmoid. Relevance starts in front of it."""


class Model:
    """A small model of a family, its inputs, and the neurons whose relevance is asked for.

    Args:
        name: The name of the family.
    """

    def __init__(self, name):
        self.name, self.dtype = name, "float32" if name in SINGLE else "float64"
        keras.utils.set_random_seed(0)
        with precision(self.dtype):
            self.model = FAMILIES[name].build()
            drawn = FAMILIES[name].draw()
            self.inputs = keras.tree.map_structure(lambda x: x.astype(self.dtype) if x.dtype.kind == "f" else x, drawn)
            shake(self.model)
            self.outputs = self.run(self.inputs)
            self.graph = trace(Sized(self.model, self.inputs), dtype=self.dtype)
        self.neurons = {
            name: in_the_middle(np.asarray(output))
            for name, slot, output in zip(self.graph.output_names, self.graph.output_slots, self.outputs, strict=True)
            if why_nothing_starts(self.graph, slot) is None
        }

    @property
    def tolerance(self):
        return 2e-3 if self.dtype == "float32" else 1e-5

    def run(self, inputs):
        with precision(self.dtype):
            return keras.tree.flatten(self.model(inputs, training=False))

    def analyzer(self, method):
        with precision(self.dtype):
            return revgraph.create_analyzer(method, self.model)

    @functools.cache  # noqa: B019
    def kept_analyzer(self, method):
        return self.analyzer(method)

    def relevance(self, analyzer):
        """The relevance of each input, in the order of the graph."""
        with precision(self.dtype):
            found = analyzer.record(self.inputs).analyze(self.neurons)
        found = [found[n] for n in self.graph.input_names] if isinstance(found, dict) else keras.tree.flatten(found)
        return dict(zip(self.graph.input_names, map(np.asarray, found), strict=True))

    def named_inputs(self):
        if isinstance(self.inputs, dict):
            return {name: self.inputs[name] for name in self.graph.input_names}
        return {self.graph.input_names[0]: self.inputs}


def in_the_middle(output):
    """The place of the neuron in the middle of an output, (batch, ...). If a ReLU has shut it, the largest there."""
    place = tuple(size // 2 for size in output.shape[1:])
    if place and not np.any(output[(slice(None), *place)]):
        place = (*place[:-1], int(np.abs(output[(slice(None), *place[:-1])]).min(axis=0).argmax()))
    return place


def shake(model, seed=0):
    """Adds noise to all weights, so that no bias is zero and no scale is one."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "float" in weight.dtype and "seed_generator" not in weight.path:
            value = np.asarray(weight)
            weight.assign(value * (1 + 0.1 * rng.uniform(-1, 1, value.shape)) + 0.01 * rng.uniform(-1, 1, value.shape))


@contextlib.contextmanager
def looking_up():
    """Notes what embeddings look up, and has a tape watch it."""
    found, call = [], keras.layers.Embedding.call

    def noted(layer, ids, *args, **kwargs):
        output = tf.convert_to_tensor(call(layer, ids, *args, **kwargs))
        found.append((np.asarray(ids), output))
        for tape in tapes:
            tape.watch(output)
        return output

    tapes = []
    keras.layers.Embedding.call = noted
    try:
        yield found, tapes
    finally:
        keras.layers.Embedding.call = call


def by_a_tape(model):
    """Input times gradient of each input, as a tape of TensorFlow gives it, and the largest sum of summands.

    The relevance of ids is that of the vectors which are looked up. None for integers that are not looked up.
    """
    tensors = {name: tf.constant(x) for name, x in model.named_inputs().items()}
    with looking_up() as (found, tapes), tf.GradientTape(persistent=True) as tape:
        tapes.append(tape)
        for tensor in tensors.values():
            if tensor.dtype.is_floating:
                tape.watch(tensor)
        outputs = model.run(tensors if isinstance(model.inputs, dict) else next(iter(tensors.values())))
        if model.name in LOGITS:
            outputs = [tf.math.log(y / (1 - y)) for y in outputs]
        chosen = zip(model.graph.output_names, outputs, strict=True)
        total = sum(tf.reduce_sum(y[(slice(None), *model.neurons[n])]) for n, y in chosen if n in model.neurons)

    def product(x):
        gradient = tape.gradient(total, x)
        return np.zeros(x.shape) if gradient is None else x.numpy() * tf.convert_to_tensor(gradient).numpy()

    expected, largest = {}, 0.0
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating:
            expected[name] = product(tensor)
            largest = max(largest, np.abs(expected[name]).max(initial=0))
            continue
        looked_up = [product(y) for ids, y in found if np.array_equal(ids, tensor)]
        expected[name] = sum(p.sum(axis=-1) for p in looked_up) if looked_up else None
        largest = max([largest, *(np.abs(p).sum(axis=-1).max() for p in looked_up)])
    return expected, largest


def marks(name):
    # With `--dist loadgroup` one worker has all tests of a family, and builds the model once.
    group = [pytest.mark.xdist_group(name)]
    fast = name in FAST or name in FAST_TASKS
    return pytest.param(name, id=name, marks=group if fast else [*group, pytest.mark.kerashub])


@pytest.fixture(scope="module", params=[marks(name) for name in FAMILIES])
def model(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Model(request.param)
    keras.backend.clear_session()


def test_the_graph_computes_what_the_model_computes(model):
    with precision(model.dtype):
        found = keras.tree.flatten(model.graph(model.inputs))
    for one, other in zip(found, model.outputs, strict=True):
        size = np.abs(np.asarray(other, "float64")).max(initial=1e-3)
        np.testing.assert_allclose(np.asarray(one, "float64"), np.asarray(other, "float64"), atol=1e-5 * size)


def test_the_gradient_is_that_of_a_tape(model):
    expected, largest = by_a_tape(model)
    found = model.relevance(model.analyzer("input_t_gradient"))
    assert (largest == 0) == (model.name in CONSTANT)
    for name, relevance in expected.items():
        if relevance is not None:
            np.testing.assert_allclose(found[name], relevance, rtol=0, atol=model.tolerance * largest, err_msg=name)


def check_relevance(model, method):
    """Relevance is finite, and the ledger closes and agrees with it."""
    analyzer = model.kept_analyzer(method)
    with precision(model.dtype):
        ledger = analyzer.conservation(model.inputs, model.neurons)
    size = np.abs(ledger.start).max()
    assert np.isfinite(ledger.other).all() and np.isfinite(ledger.start).all() and size > 0
    np.testing.assert_allclose(ledger.other, 0, atol=1e-4 * size)
    relevance = model.relevance(analyzer).values()
    assert all(np.isfinite(r).all() for r in relevance)
    total = sum(r.sum(dtype="float64") for r in relevance)
    largest = sum(np.abs(r).sum(dtype="float64") for r in relevance)
    np.testing.assert_allclose(total, ledger.input.sum(), atol=model.tolerance * max(size, largest))


def test_relevance_and_its_ledger(model):
    check_relevance(model, "lrp.epsilon")


@pytest.mark.sweep(2)
def test_relevance_by_a_preset_for_attention(model):
    check_relevance(model, "lrp.attnlrp")


@pytest.mark.sweep(3)
def test_weights_that_are_assigned_later_are_seen(model):
    """An analyzer that was made before gives what a new one gives."""
    analyzer = model.kept_analyzer("lrp.epsilon")
    before = model.relevance(analyzer)
    kept = [np.asarray(weight) for weight in model.model.weights]
    shake(model.model, seed=1)
    after, expected = (model.relevance(each) for each in (analyzer, model.analyzer("lrp.epsilon")))
    for weight, value in zip(model.model.weights, kept, strict=True):
        weight.assign(value)
    size = max(np.abs(r).max(initial=0) for r in expected.values())
    for name, relevance in expected.items():
        np.testing.assert_allclose(after[name], relevance, rtol=0, atol=model.tolerance * size, err_msg=name)
    changed = any(np.abs(after[name] - before[name]).max(initial=0) > 0 for name in after)
    assert changed == (model.name not in CONSTANT)


@pytest.mark.parametrize("name", ["BERT", "Llama 3"])
def test_lengths_and_padding(name):
    """One analyzer takes sequences of any length. Padding gets nothing, and changes nothing."""
    with precision("float64"):
        keras.utils.set_random_seed(0)
        model, x = FAMILIES[name].build(), FAMILIES[name].draw(samples=1)
        shake(model)
        short = {key: value[:, :4] for key, value in x.items()}
        padded = {key: np.pad(value, [(0, 0), (0, 2)]) for key, value in short.items()}
        analyzer = revgraph.create_analyzer("lrp.epsilon", model)
        hidden = next(n for n in analyzer.graph.output_names if "pooled" not in n)
        alone, longer, filled = (analyzer.analyze(given, {hidden: (2, 5)}) for given in (short, x, padded))
    assert longer["token_ids"].shape == (1, LENGTH)
    # A decoder sees no tokens behind the one that is asked for.
    assert np.all((longer["token_ids"][0] != 0) == (np.arange(LENGTH) <= 2 if name == "Llama 3" else True))
    np.testing.assert_allclose(filled["token_ids"][:, :4], alone["token_ids"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(filled["token_ids"][:, 4:], 0, atol=1e-9)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.kerashub) for name in REFUSED])
def test_models_whose_own_code_needs_values(name):
    """Their code reads values of tensors, so `predict` fails, too. The error says so, and no number is wrong."""
    family = REFUSED[name]
    model, x = family.build(), family.draw()
    with pytest.raises(Exception, match=r"symbolic|SymbolicTensor"):
        model.predict(x, verbose=0)
    with pytest.raises(ValueError, match="its Python code does not depend on the values of tensors"):
        revgraph.create_analyzer("lrp.epsilon", model).analyze(x)


class Made:
    """A small task, its analyzer, and what is asked of it.

    Args:
        name: The name of the task's class.
    """

    def __init__(self, name):
        keras.utils.set_random_seed(0)
        task = TASKS[name]
        self.model, self.x = task.build(), task.given()
        shake(self.model)
        reads_text = getattr(getattr(self.model, "preprocessor", None), "tokenizer", None) is not None
        self.analyzer = revgraph.create_analyzer("lrp.attnlrp" if reads_text else "lrp.epsilon_plus", self.model)
        if task.once:
            self.x, _, _ = keras.utils.unpack_x_y_sample_weight(self.model.preprocessor(self.x))
        self.prepared = self.analyzer.preprocess(self.x)
        self.graph = self.analyzer.inner.at(self.prepared).graph if hasattr(self.analyzer.inner, "at") else None
        self.graph = self.analyzer.graph if self.graph is None else self.graph
        self.outputs = keras.tree.flatten(self.graph(self.prepared))
        # The next token of a model that continues texts, and the neuron in the middle of each output of others.
        outputs = zip(self.graph.output_names, self.graph.output_slots, self.outputs, strict=True)
        self.selection = None if self.analyzer.preprocessing.generates else {
            name: in_the_middle(np.asarray(output))
            for name, slot, output in outputs
            if why_nothing_starts(self.graph, slot) is None
        }  # fmt: skip


@pytest.fixture(scope="module", params=[marks(name) for name in TASKS])
def task(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Made(request.param)
    keras.backend.clear_session()


def test_a_task_is_explained_from_what_predict_takes(task):
    """Relevance is finite and not zero, it is that of the tokens or pixels, and its ledger closes."""
    relevance = task.analyzer.analyze(task.x, task.selection)
    ledger = task.analyzer.conservation(task.x, task.selection)
    parts = [np.asarray(part) for part in keras.tree.flatten(relevance)]
    assert all(np.isfinite(part).all() for part in parts) and any(np.any(part) for part in parts)
    size = np.abs(ledger.start).max()
    assert size > 0
    np.testing.assert_allclose(ledger.other, 0, atol=1e-4 * size)
    taken = [np.asarray(part) for part in keras.tree.flatten(task.prepared)]
    assert all(any(part.shape == each.shape for each in taken) for part in parts)
    if isinstance(relevance, dict) or len(taken) == 1:
        total, most = sum(part.sum(dtype="float64") for part in parts), sum(np.abs(part).sum() for part in parts)
        np.testing.assert_allclose(total, ledger.input.sum(), atol=1e-3 * max(size, most))


def test_the_tokens_of_a_task_are_those_that_have_relevance(task):
    """Tokens have texts. Padding has no relevance where the model takes a mask of it; FNet takes none, and reads it."""
    if getattr(getattr(task.model, "preprocessor", None), "tokenizer", None) is None:
        with pytest.raises(ValueError, match="no tokenizer"):
            task.analyzer.tokens(task.x)
        return
    relevance, tokens = task.analyzer.analyze(task.prepared, task.selection), task.analyzer.tokens(task.x)
    named = tokens if isinstance(tokens, dict) else {next(n for n in relevance if n.endswith("token_ids")): tokens}
    for name, each in named.items():
        assert relevance[name].shape == each.ids.shape and all(map(len, each))
        size = np.abs(relevance[name]).max() if mask_of(name, relevance) is not None else np.inf
        np.testing.assert_allclose(relevance[name][each.padding], 0, atol=1e-5 * size, err_msg=name)


def test_every_task_has_a_row():
    """A class with two names has one row. Base classes have none."""
    import keras_hub

    classes = {kind for kind in vars(keras_hub.models).values() if inspect.isclass(kind)}
    tasks = {kind.__name__ for kind in classes if issubclass(kind, keras_hub.models.Task) and kind.backbone_cls}
    assert tasks == TASKS.keys() | REFUSED_TASKS.keys()
