"""`concepts.collect`: rankings of samples by relevance and activation of channels, against an oracle in NumPy."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph import concepts
from revgraph.concepts.ranking import Best, Ranking
from revgraph.datasets.staging import Staging
from revgraph.reverse.walk import Question
from tests.models import cnn, make, precision

COUNT = 23
LAYERS = ["conv2", "dense"]


@pytest.fixture(scope="module")
def analyzer():
    with precision("float64"):
        return revgraph.create_analyzer("lrp.epsilon", make("cnn"))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(3).normal(size=(COUNT, 8, 8, 2))


@pytest.fixture(scope="module")
def found(analyzer, x, tmp_path_factory):
    out = tmp_path_factory.mktemp("found") / "concepts.h5"
    return collect(analyzer, x, out=out, n=5, batch_size=7)


def collect(analyzer, x, layers=LAYERS, out=None, **options):
    return concepts.collect(analyzer, x, layers, out, verbose=0, **options)


def oracle(analyzer, x, layer, selection=None):
    """Relevance and activation at the output of a layer, in one batch and by other code than that of `collect`."""
    _, found = analyzer.analyze(x, selection, return_layers=[layer], layers_at="output")
    inner = keras.Model(analyzer.model.inputs[0], analyzer.model.get_layer(layer).output)
    with precision("float64"):
        return found[layer], inner(x).numpy()


def content(path):
    """Every array in a file, and what must be equal in its attributes."""
    arrays = {}
    if Path(path).suffix == ".zarr":
        file = pytest.importorskip("zarr", minversion="3.0").open_group(path, mode="r")
        arrays = {name: item[...] for name, item in file.members(max_depth=None) if hasattr(item, "dtype")}
        stored = dict(file.attrs)
    else:
        with h5py.File(path) as file:
            file.visititems(lambda name, it: arrays.update({name: it[()]}) if isinstance(it, h5py.Dataset) else None)
            stored = dict(file.attrs)
    return arrays, {name: value for name, value in stored.items() if name not in ("run", "time", "finished")}


def assert_equal(first, second):
    (arrays, attributes), (others, other) = content(first), content(second)
    assert arrays.keys() == others.keys() and attributes == other
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)


@pytest.mark.parametrize("layer", LAYERS)
def test_vectors_are_sums_over_positions(found, analyzer, x, layer):
    relevance, activation = oracle(analyzer, x, layer)
    axes = tuple(range(1, relevance.ndim - 1))
    np.testing.assert_allclose(found.relevance(layer), relevance.sum(axes), atol=1e-12)
    np.testing.assert_allclose(found.activation(layer), activation.sum(axes), atol=1e-12)
    assert np.array_equal(found.index, np.arange(COUNT))
    assert np.array_equal(found.classes, oracle(analyzer, x, "logits")[1].argmax(1))


@pytest.mark.parametrize("over", ["sum", "max"])
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_rankings_and_positions(analyzer, x, layer, over, shares, tmp_path):
    found = collect(analyzer, x, layer, tmp_path / "c.h5", n=6, over=over, shares=shares, batch_size=4)
    for by, values in zip(("relevance", "activation"), oracle(analyzer, x, layer), strict=True):
        flat = values.reshape(COUNT, -1, values.shape[-1])
        wanted = flat.sum(1) if over == "sum" else flat.max(1)
        if shares:
            wanted = wanted / np.abs(wanted).sum(1, keepdims=True)
        for of_class in (None, *np.unique(found.classes)):
            rows = np.flatnonzero((found.classes == of_class) | (of_class is None))
            ranking = found.ranking(layer, by, of_class)
            assert ranking.samples.shape == (min(6, len(rows)), values.shape[-1])
            for channel in range(values.shape[-1]):
                best = rows[np.argsort(-wanted[rows, channel], kind="stable")][:6]
                np.testing.assert_allclose(ranking.values[:, channel], wanted[best, channel], atol=1e-12)
                distinct = len(np.unique(np.round(wanted[rows, channel], 12))) == len(rows)
                if distinct:
                    assert np.array_equal(ranking.samples[:, channel], best)
                for place, sample in enumerate(ranking.samples[:, channel]):
                    position = tuple(ranking.positions[place, channel])
                    assert values[sample][(*position, channel)] == pytest.approx(flat[sample, :, channel].max())


def test_of_equal_values_the_earlier_sample_comes_first():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, size=(30, 4)).astype(float)
    positions = rng.integers(0, 9, size=(30, 4, 2))
    kept = Best(7)
    for rows in np.split(np.arange(30), [1, 8, 9, 20]):
        kept.add(Ranking.of(rows, values[rows], positions[rows]))
    best = kept.ranking()
    for channel in range(4):
        expected = np.lexsort((np.arange(30), -values[:, channel]))[:7]
        assert np.array_equal(best.samples[:, channel], expected)
        assert np.array_equal(best.positions[:, channel], positions[expected, channel])


@pytest.mark.parametrize("selection", [2, "label", [1] * COUNT])
def test_the_class_is_the_one_that_is_explained(analyzer, x, selection, tmp_path):
    labels = np.arange(COUNT) % 3
    found = collect(analyzer, x, "conv2", tmp_path / "c.h5", neuron_selection=selection, labels=labels, n=3)
    wanted = {2: np.full(COUNT, 2), "label": labels}.get(selection if not isinstance(selection, list) else 0)
    wanted = np.ones(COUNT) if wanted is None else wanted
    assert np.array_equal(found.classes, wanted) and np.array_equal(found.labels, labels)
    relevance, _ = oracle(analyzer, x, "conv2", wanted.astype(int))
    np.testing.assert_allclose(found.relevance("conv2"), relevance.sum((1, 2)), atol=1e-12)


def test_a_single_output_speaks_for_the_label_1_and_against_0(x, tmp_path):
    with precision("float64"):
        model = keras.Sequential(
            [keras.Input((8, 8, 2)), layers.Conv2D(3, 3, name="conv"), layers.Flatten(), layers.Dense(1)]
        )
        analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    labels = np.arange(COUNT) % 2
    for given in (labels, labels[:, None].astype("float32")):
        found = collect(analyzer, x, "conv", tmp_path / "c.h5", neuron_selection="label", labels=given, overwrite=True)
        assert np.array_equal(found.classes, labels)
    relevance, _ = oracle(analyzer, x, "conv")
    signs = np.where(labels == 1, 1, -1)[:, None]
    np.testing.assert_allclose(found.relevance("conv"), signs * relevance.sum((1, 2)), atol=1e-12)
    ones = found.ranking("conv", of_class=1).samples
    assert np.isin(ones, np.flatnonzero(labels)).all()
    assert concepts.references(found, "conv", 1, analyzer, x, of_class=0, n=2)[1][0].sample % 2 == 0
    for wrong, told in ((2 * labels - 1, r"\[-1, 1\]"), (labels / 2, r"\[0.0, 0.5\]")):
        with pytest.raises(ValueError, match=f"tells the labels 0 and 1 apart.* labels {told}"):
            collect(analyzer, x, "conv", tmp_path / "d.h5", neuron_selection="label", labels=wrong)
    with pytest.raises(ValueError, match="needs labels"):
        collect(analyzer, x, "conv", tmp_path / "d.h5", neuron_selection="label")


def test_rows_are_read_one_by_one_and_in_blocks(found, monkeypatch):
    every = found.relevance("dense")
    np.testing.assert_array_equal(found.relevance("dense", np.array([2, 5, 9])), every[[2, 5, 9]])
    monkeypatch.setattr("revgraph.concepts.collection.BLOCK", 4)
    shares = np.abs(every) / np.abs(every).sum(1, keepdims=True)
    np.testing.assert_allclose(found.mean_shares("dense"), shares.mean(0))


def test_batches_do_not_matter(found, analyzer, x, tmp_path):
    def batches():
        yield x[:1]
        yield x[1:12]
        yield x[12:]

    other = collect(analyzer, batches(), out=tmp_path / "c.h5", n=5)
    for layer in LAYERS:
        np.testing.assert_allclose(found.relevance(layer), other.relevance(layer), atol=1e-12)
        assert np.array_equal(found.ranking(layer).samples, other.ranking(layer).samples)


def test_samples_that_fail_are_left_out(analyzer, x, tmp_path):
    broken = x.copy()
    broken[[4, 9]] = np.nan
    found = collect(analyzer, broken, out=tmp_path / "c.h5", n=30, batch_size=5)
    assert set(found.failures) == {4, 9} and len(found.index) == COUNT - 2
    assert not np.isin(found.ranking("dense").samples, [4, 9]).any()
    assert found.ranking("dense").samples.shape[0] == COUNT - 2
    with pytest.raises(ValueError, match="Sample 4 failed"):
        collect(analyzer, broken, out=tmp_path / "d.h5", on_failure="raise")


def test_tokens_have_positions(float64, tmp_path):
    inputs = keras.Input((5, 4))
    y = layers.Dense(3, activation="relu", name="features")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(y)))
    x = np.random.default_rng(0).normal(size=(6, 5, 4))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    found = collect(analyzer, x, "features", tmp_path / "c.h5", n=2)
    relevance, _ = oracle(analyzer, x, "features")
    ranking = found.ranking("features")
    assert ranking.positions.shape == (2, 3, 1)
    first = relevance[ranking.samples[0, 1], :, 1]
    assert ranking.positions[0, 1, 0] == first.argmax()


def test_a_function_of_the_output_has_no_class(analyzer, x, tmp_path):
    found = collect(analyzer, x, "conv2", tmp_path / "c.h5", neuron_selection=lambda y: y[:, 0] - y[:, 1])
    assert np.all(found.classes == -1)
    relevance, _ = oracle(analyzer, x, "conv2", lambda y: y[:, 0] - y[:, 1])
    np.testing.assert_allclose(found.relevance("conv2"), relevance.sum((1, 2)), atol=1e-12)


def test_gradients_have_concepts_too(x, tmp_path):
    with precision("float64"):
        analyzer = revgraph.create_analyzer("gradient", make("cnn"))
    found = collect(analyzer, x, "conv2", tmp_path / "c.h5")
    relevance, _ = oracle(analyzer, x, "conv2")
    np.testing.assert_allclose(found.relevance("conv2"), relevance.sum((1, 2)), atol=1e-12)


def test_live_weights_are_seen(x, tmp_path):
    with precision("float64"):
        model = make("cnn")
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    first = collect(analyzer, x, "dense", tmp_path / "a.h5").relevance("dense")
    model.set_weights([2 * w for w in model.get_weights()])
    second = collect(analyzer, x, "dense", tmp_path / "b.h5").relevance("dense")
    relevance, _ = oracle(analyzer, x, "dense")
    np.testing.assert_allclose(second, relevance, atol=1e-10)
    assert not np.allclose(first, second)


def test_relevance_below_the_lowest_layer_is_not_computed(analyzer, x, tmp_path):
    collect(analyzer, x, "dense", tmp_path / "c.h5")
    _, starts = analyzer.starts(None, False, False)
    slot = analyzer.traced.find("dense").outputs
    walk = analyzer.walk(Question(starts, (slot,), (*slot, *starts)))
    (program,) = walk._compiled.values()
    kinds = [op.type for op in _needed(program)]
    assert "Conv2DBackpropInput" not in kinds and "Conv2D" in kinds


def _needed(program):
    """The operations of a concrete function that its outputs need."""
    stack, seen = [t.op for t in program.outputs], {}
    while stack:
        op = stack.pop()
        if op.name not in seen:
            seen[op.name] = op
            stack += [t.op for t in op.inputs]
    return seen.values()


def test_it_prints_its_layers(found):
    assert "conv2" in str(found) and "23 samples" in repr(found)
    assert str(found.path) in repr(found)


# Runs that end early.


def interrupted(monkeypatch, after):
    add = Staging.add

    def added(self, record, arrays):
        add(self, record, arrays)
        if len(self.records) == after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Staging, "add", added)


def test_zarr_has_what_hdf5_has(analyzer, x, found, tmp_path):
    pytest.importorskip("zarr", minversion="3.0")
    stored = collect(analyzer, x, out=tmp_path / "concepts.zarr", n=np.int64(5), batch_size=7)
    arrays, others = content(stored.path)[0], content(found.path)[0]
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    assert stored.layers == found.layers and stored.n == 5 and str(stored).count("\n") == str(found).count("\n")
    assert np.array_equal(stored.relevance("conv2", np.array([2, 5])), found.relevance("conv2", np.array([2, 5])))
    of_class = int(found.classes[0])
    for one, other in zip(
        vars(stored.ranking("dense", of_class=of_class)).values(),
        vars(found.ranking("dense", of_class=of_class)).values(),
        strict=True,
    ):
        assert np.array_equal(one, other)
    stored.check_model(analyzer.model)
    with pytest.raises(ValueError, match="has no attributions: it is a collection of concepts"):
        concepts.clusters(stored.path)
    revgraph.explain_dataset(analyzer, x, tmp_path / "relevance.zarr", verbose=0)
    with pytest.raises(ValueError, match="it is relevance that explain_dataset wrote"):
        concepts.Collection(tmp_path / "relevance.zarr")


def test_a_damaged_zarr_group_says_so(analyzer, x, tmp_path):
    pytest.importorskip("zarr", minversion="3.0")
    found = collect(analyzer, x, out=tmp_path / "c.zarr")
    (tmp_path / "c.zarr" / "layers" / "dense" / "relevance" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged: 'layers/dense/relevance' cannot be read"):
        found.relevance("dense")
    (tmp_path / "c.zarr" / "zarr.json").unlink()
    with pytest.raises(ValueError, match="no file of revgraph, or damaged"):
        concepts.Collection(tmp_path / "c.zarr")


@pytest.mark.parametrize("after", [1, 3])
def test_a_run_that_is_resumed_gives_the_same_file(analyzer, x, found, after, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, after)
        with pytest.raises(KeyboardInterrupt):
            collect(analyzer, x, out=tmp_path / "concepts.h5", n=5, batch_size=7)
    assert [p.name for p in tmp_path.iterdir()] == ["concepts.h5.partial"]
    collect(analyzer, x, out=tmp_path / "concepts.h5", n=np.int64(5), batch_size=7)
    assert_equal(found.path, tmp_path / "concepts.h5")


def test_an_interrupted_run_of_another_question_is_refused(analyzer, x, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupted(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            collect(analyzer, x, out=tmp_path / "c.h5", batch_size=7)
    with pytest.raises(ValueError, match="another layers"):
        collect(analyzer, x, ["dense"], tmp_path / "c.h5", batch_size=7)
    with pytest.raises(ValueError, match="another n: 40, not 3"):
        collect(analyzer, x, out=tmp_path / "c.h5", batch_size=7, n=3)
    found = collect(analyzer, x, ["dense"], tmp_path / "c.h5", batch_size=7, overwrite=True)
    assert found.layers == ("dense",)


def test_an_output_that_exists_is_refused(analyzer, x, tmp_path):
    collect(analyzer, x, "dense", tmp_path / "c.h5")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        collect(analyzer, x, "dense", tmp_path / "c.h5")
    collect(analyzer, x, "dense", tmp_path / "c.h5", resume=True)
    collect(analyzer, x, "conv2", tmp_path / "c.h5", overwrite=True)


ZYGOTE = """
import os, sys, time
import numpy as np
import keras
from keras import layers
import revgraph, revgraph.analyzers, revgraph.concepts

class Slow:
    x = np.random.default_rng(0).normal(size=(60, 8, 8, 2)).astype("float32")
    shape = x.shape
    def __len__(self):
        return len(self.x)
    def __getitem__(self, rows):
        time.sleep(0.02)
        return self.x[rows]

Slow.x[17] = np.nan

def run(path):
    keras.utils.set_random_seed(0)
    convolution = layers.Conv2D(4, 3, activation="relu", name="conv")
    model = keras.Sequential([keras.Input((8, 8, 2)), convolution, layers.Flatten(), layers.Dense(4, name="last")])
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    print("ready", flush=True)
    revgraph.concepts.collect(analyzer, Slow(), ["conv", "last"], path, n=7, batch_size=3, resume=True, verbose=0)
    print("done", flush=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        run(line.strip())
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("over", flush=True)
"""


@pytest.mark.sweep(2)
@pytest.mark.parametrize("suffix", ["h5", "zarr"])
def test_runs_killed_at_random_moments_lose_nothing(suffix, tmp_path):
    if suffix == "zarr":
        pytest.importorskip("zarr", minversion="3.0")
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, cwd=Path(__file__).parent.parent,
    ) as process:  # fmt: skip

        def run(path, seconds=None):
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            printed = [process.stdout.readline()]
            if seconds is not None:
                time.sleep(seconds)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            while printed[-1] != "over\n":
                printed.append(process.stdout.readline())
            return "done\n" in printed

        whole, killed = tmp_path / f"whole.{suffix}", tmp_path / f"killed.{suffix}"
        assert run(whole)
        for _ in range(4):
            run(killed, random.uniform(0, 0.8))
        assert run(killed)
        assert_equal(whole, killed)
        process.stdin.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"killed.{suffix}", f"whole.{suffix}"]


# Bad input.


def test_unknown_layers_are_named_with_near_ones(analyzer, x, found, tmp_path):
    with pytest.raises(KeyError, match="has no layer 'conv3'. Did you mean 'conv2'"):
        collect(analyzer, x, ["conv3"], tmp_path / "c.h5")
    with pytest.raises(KeyError, match="'conv1' was not collected .* Did you mean 'conv2'"):
        found.ranking("conv1")
    with pytest.raises(ValueError, match="layers is empty"):
        collect(analyzer, x, [], tmp_path / "c.h5")


def test_a_layer_behind_the_start_is_refused(x, tmp_path):
    model = keras.Sequential([cnn(), layers.Softmax(name="softmax")])
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    with pytest.raises(ValueError, match="No relevance reaches the layer 'softmax'"):
        collect(analyzer, x.astype("float32"), ["softmax"], tmp_path / "c.h5")
    assert not list(tmp_path.iterdir())
    collect(analyzer, x.astype("float32"), ["logits"], tmp_path / "c.h5")


@pytest.mark.parametrize("n", [0, -1, 2.5, True])
def test_n_is_a_positive_int(analyzer, x, n, tmp_path):
    with pytest.raises(ValueError, match="n must be a positive int"):
        collect(analyzer, x, out=tmp_path / "c.h5", n=n)


def test_other_wrong_arguments(analyzer, x, found, tmp_path):
    with pytest.raises(ValueError, match='over is "sum" or "max"'):
        collect(analyzer, x, out=tmp_path / "c.h5", over="mean")
    with pytest.raises(TypeError, match="collect takes an analyzer that walks backwards"):
        collect(revgraph.create_analyzer("smoothgrad", analyzer.model), x, out=tmp_path / "c.h5")
    with pytest.raises(ValueError, match="neuron_selection takes one int per sample"):
        collect(analyzer, x, out=tmp_path / "c.h5", neuron_selection=np.zeros((COUNT, 2), int))
    with pytest.raises(ValueError, match="by is 'relevance' or 'activation'"):
        found.ranking("dense", by="gradient")
    with pytest.raises(KeyError, match="No sample in .* is of class 17. There are: "):
        found.ranking("dense", of_class=17)
    with pytest.raises(IndexError, match="has the channels 0 to 4. Received: 5"):
        found.channels("dense", 5)


def test_files_that_are_no_collections(analyzer, x, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        concepts.Collection(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="no file of revgraph, or damaged"):
        concepts.Collection(tmp_path / "text.h5")
    revgraph.explain_dataset(analyzer, x, tmp_path / "r.h5", verbose=0)
    with pytest.raises(ValueError, match="relevance that explain_dataset wrote"):
        concepts.Collection(tmp_path / "r.h5")
    with h5py.File(tmp_path / "r.h5", "a") as file:
        file.attrs["concepts"] = 99
    with pytest.raises(ValueError, match="is of format 99"):
        concepts.Collection(tmp_path / "r.h5")


def test_a_file_of_another_model_is_refused(found, analyzer):
    found.check_model(analyzer.model)
    with precision("float64"):
        other = make("cnn", seed=9)
    with pytest.raises(ValueError, match="collected from another model"):
        found.check_model(other)


def test_a_damaged_file_says_so(analyzer, x, tmp_path):
    found = collect(analyzer, x, out=tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "a") as file:
        del file["layers/dense/relevance"]
    with pytest.raises(ValueError, match="is damaged: 'layers/dense/relevance' cannot be read"):
        found.relevance("dense")
    assert json.loads(h5py.File(tmp_path / "c.h5").attrs["layers"]) == LAYERS
    assert re.match(r"^[0-9a-f]{64}$", found.origin["model_sha256"])


@pytest.mark.parametrize("name", ["found.npy", "found"])
def test_a_collection_is_hdf5_or_zarr(analyzer, x, name, tmp_path):
    with pytest.raises(ValueError, match="out ends in .h5 or .zarr"):
        collect(analyzer, x, out=tmp_path / name)
    with pytest.raises(TypeError, match="out is a path"):
        collect(analyzer, x, out=revgraph.datasets.HDF5(tmp_path / "found.h5"))
    assert not list(tmp_path.iterdir())
