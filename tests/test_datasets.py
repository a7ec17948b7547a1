"""Whole datasets: what is read, what is written, and what a run survives."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import revgraph
from revgraph import explain_dataset
from revgraph.datasets import HDF5, NpyShards, Samples, Unreadable, Zarr
from revgraph.datasets.staging import Staging
from tests.models import cnn, inputs_of, mlp, randomized, two_inputs, two_outputs

COUNT = 23


@pytest.fixture(scope="module")
def analyzer():
    keras.utils.set_random_seed(0)
    return revgraph.create_analyzer("lrp.epsilon", randomized(cnn()))


@pytest.fixture
def x(analyzer):
    return inputs_of(analyzer.model, batch=COUNT)


@pytest.fixture
def y():
    return np.arange(COUNT) % 4


def run(analyzer, dataset, where, *args, **options):
    return explain_dataset(analyzer, dataset, where, *args, verbose=0, **options)


def read(path) -> dict:
    """All arrays of an HDF5 file or of a directory of shards."""
    if Path(path).is_dir():
        names = sorted({file.name.rsplit("-", 1)[0] for file in Path(path).glob("*.npy")})
        return {n: np.concatenate([np.load(f) for f in sorted(Path(path).glob(f"{n}-*.npy"))]) for n in names}
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[:]} if isinstance(item, h5py.Dataset) else {}))
    return arrays


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(found[name], expected[name])


def batches(x, y=None, size=6):
    for i in range(0, len(x), size):
        yield x[i : i + size] if y is None else (x[i : i + size], y[i : i + size])


class Sequence(keras.utils.PyDataset):
    def __init__(self, x, y, size=6, broken=()):
        super().__init__()
        self.x, self.y, self.size, self.broken = x, y, size, broken

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, i):
        if i in self.broken:
            raise OSError("no such image")
        rows = slice(i * self.size, (i + 1) * self.size)
        return self.x[rows], self.y[rows]


# What is read.


def as_memmap(x, y, folder):
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r"), y


DATASETS = {
    "pair of arrays": lambda x, y, folder: (x, y),
    "memory map": as_memmap,
    "HDF5 dataset": lambda x, y, folder: (h5py.File(folder / "x.h5", "w").create_dataset("x", data=x), y),
    "tf.data of batches": lambda x, y, folder: tf.data.Dataset.from_tensor_slices((x, y)).batch(6),
    "tf.data of samples": lambda x, y, folder: tf.data.Dataset.from_tensor_slices((x, y)),
    "PyDataset": lambda x, y, folder: Sequence(x, y),
    "generator": lambda x, y, folder: batches(x, y),
    "iterable": lambda x, y, folder: type("Loader", (), {"__iter__": lambda self: batches(x, y)})(),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_every_kind_of_dataset_gives_the_relevance_of_analyze(kind, analyzer, x, y, tmp_path):
    report = run(analyzer, DATASETS[kind](x, y, tmp_path), tmp_path / "out")
    assert report.samples == report.explained == COUNT and not report.failures
    found = read(tmp_path / "out")
    np.testing.assert_allclose(found["attribution"], analyzer.analyze(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["prediction"], analyzer.model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["label"], y)
    np.testing.assert_array_equal(found["index"], np.arange(COUNT))
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".npy" and p.name != "x.h5") == ["out"]


def test_without_labels_the_label_is_what_the_model_predicts(analyzer, x, tmp_path):
    run(analyzer, x, tmp_path / "out")
    found = read(tmp_path / "out")
    np.testing.assert_array_equal(found["label"], found["prediction"].argmax(axis=1))


def test_memory_holds_a_batch_at_a_time(analyzer, x, tmp_path):
    class Rows:
        shape, asked = x.shape, []

        def __len__(self):
            return len(x)

        def __getitem__(self, rows):
            self.asked.append(rows)
            return x[rows]

    run(analyzer, Rows(), tmp_path / "out", batch_size=10)
    assert [(s.start, s.stop) for s in Rows.asked] == [(0, 10), (10, 20), (20, 30)]


def test_batches_of_tf_data_can_be_of_another_size(analyzer, x, tmp_path, monkeypatch):
    sizes = []
    analyze = analyzer.analyze
    monkeypatch.setattr(analyzer, "analyze", lambda x, *args: (sizes.append(len(x)), analyze(x, *args))[1])
    run(analyzer, tf.data.Dataset.from_tensor_slices(x).batch(6), tmp_path / "out", batch_size=20)
    assert sizes == [20, 3]


def test_several_inputs_and_outputs_have_their_names(tmp_path):
    model = two_inputs()
    x, analyzer = inputs_of(model, batch=7), revgraph.create_analyzer("gradient", model)
    run(analyzer, x, tmp_path / "in.h5")
    found, expected = read(tmp_path / "in.h5"), analyzer.analyze(x)
    np.testing.assert_allclose(found["attribution/table"][:, 0, 0], expected["table"], rtol=1e-5)
    assert found["attribution/image"].shape == (7, 1, 6, 6)
    run(analyzer, x, tmp_path / "in")
    np.testing.assert_allclose(read(tmp_path / "in")["attribution.image"], expected["image"], rtol=1e-5)

    model = two_outputs()
    x, analyzer = inputs_of(model, batch=7), revgraph.create_analyzer("lrp.epsilon", model)
    run(analyzer, x, tmp_path / "out.h5", {"kind": np.arange(7) % 3}, batch_size=3)
    found = read(tmp_path / "out.h5")
    np.testing.assert_allclose(
        found["attribution"][:, 0, 0], analyzer.analyze(x, {"kind": np.arange(7) % 3}), rtol=1e-5, atol=1e-6
    )
    assert {"prediction/kind", "prediction/size"} <= found.keys() and "label" not in found


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_label_can_be_what_is_explained(one_hot, analyzer, x, y, tmp_path):
    labels = np.eye(4)[y] if one_hot else y
    run(analyzer, (x, labels), tmp_path / "out", "label", batch_size=5)
    np.testing.assert_allclose(read(tmp_path / "out")["attribution"], analyzer.analyze(x, y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("selection", [2, "all", (slice(0, 2),), lambda y: y[:, 0] - y[:, 3], list(range(3)) * 8])
def test_the_selection_is_that_of_analyze(selection, analyzer, x, tmp_path):
    selection = selection[:COUNT] if isinstance(selection, list) else selection
    run(analyzer, x, tmp_path / "out", selection, batch_size=5)
    expected = analyzer.analyze(x, selection)
    np.testing.assert_allclose(read(tmp_path / "out")["attribution"], expected, rtol=1e-5, atol=1e-6)


# What is written.


def test_hdf5_has_the_layout_of_virelay(analyzer, x, y, tmp_path):
    path = tmp_path / "relevance.h5"
    names = ("ant", "bee", "cat: big", "dog")
    run(analyzer, (x, y), HDF5(path, project=True, class_names=names))
    with h5py.File(path) as file:
        assert sorted(file) == ["attribution", "index", "label", "prediction"]
        expected = {"attribution": "float32", "prediction": "float32", "label": "uint16", "index": "uint32"}
        assert {name: str(file[name].dtype) for name in file} == expected
        assert file["attribution"].shape == (COUNT, 2, 8, 8) and file["prediction"].shape == (COUNT, 4)
        assert file["attribution"].chunks and file["attribution"].compression == "gzip"
        relevance = np.moveaxis(file["attribution"][:], 1, -1)
    np.testing.assert_allclose(relevance, analyzer.analyze(x), rtol=1e-5, atol=1e-6)
    found = read(tmp_path / "relevance.input.h5")
    np.testing.assert_array_equal(found["data"], np.moveaxis(x, -1, 1))
    np.testing.assert_array_equal(found["label"], y)
    assert (found["data"].dtype, found["label"].dtype) == ("float32", "uint16")
    label_map = json.loads((tmp_path / "relevance.label-map.json").read_text())
    assert [(entry["index"], entry["name"]) for entry in label_map] == list(enumerate(names))
    assert all(entry.keys() == {"index", "name", "word_net_id"} for entry in label_map)
    project = (tmp_path / "project.yaml").read_text()
    for line in (
        '  model: "cnn"', '  label_map: "relevance.label-map.json"', '    path: "relevance.input.h5"', "    type: hdf5",
        '    attribution_method: "lrp.epsilon"', '    - "relevance.h5"', "    input_width: 8",
    ):  # fmt: skip
        assert f"{line}\n" in project


@pytest.mark.parametrize("shape, expected", [((5,), (1, 1, 5)), ((4, 5), (1, 4, 5)), ((3, 4, 5, 2), (2, 3, 4, 5))])
def test_samples_of_any_rank_go_to_hdf5(shape, expected, tmp_path):
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    run(revgraph.create_analyzer("gradient", model), x, tmp_path / "out.h5")
    assert read(tmp_path / "out.h5")["attribution"].shape == (4, *expected)


@pytest.mark.parametrize(
    "labels, dtype",
    [(np.arange(3), "uint16"), (np.arange(3.0), "uint16"), (np.array([1, 2, 70_000]), "uint32"),
     (np.eye(3), "bool"), (np.array([0.5, 1, 2]), "float32"), (np.array([[1], [0], [2]]), "uint16")],
)  # fmt: skip
def test_labels_are_stored_as_what_they_are(labels, dtype, tmp_path):
    x = np.ones((3, 6), "float32")
    run(revgraph.create_analyzer("gradient", mlp()), x, tmp_path / "out.h5", labels=labels)
    found = read(tmp_path / "out.h5")["label"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.squeeze(labels) if labels.shape == (3, 1) else labels)


def test_shards_have_equal_length(analyzer, x, tmp_path):
    run(analyzer, x, NpyShards(tmp_path / "out", shard_size=10, inputs=True), batch_size=4)
    shards = sorted((tmp_path / "out").glob("attribution-*.npy"))
    assert [(p.name, len(np.load(p))) for p in shards] == [
        ("attribution-00000.npy", 10), ("attribution-00001.npy", 10), ("attribution-00002.npy", 3),
    ]  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path / "out")["input"], x)


def test_zarr_has_the_arrays_of_analyze(analyzer, x, y, tmp_path):
    zarr = pytest.importorskip("zarr", minversion="3.0")
    x[3] = np.nan
    run(analyzer, (x, y), tmp_path / "out.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    good = np.delete(np.arange(COUNT), 3)
    np.testing.assert_array_equal(group["index"][:], good)
    np.testing.assert_allclose(group["attribution"][:], analyzer.analyze(x[good]), rtol=1e-5, atol=1e-6)
    assert group.attrs["method"] == "lrp.epsilon" and group.attrs["failures"] == {"3": "the input contains NaN"}
    assert run(analyzer, (x, y), tmp_path / "out.zarr", resume=True).resumed == COUNT


def test_zarr_that_is_not_there_is_an_error_that_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r'pip install "revgraph\[zarr\]"'):
        Zarr(tmp_path / "out.zarr")


def test_results_say_where_they_come_from(x, tmp_path):
    model = cnn()
    model.save(tmp_path / "model.keras")
    analyzer = revgraph.create_analyzer("smoothgrad", model, augment_by_n=2, seed=7)
    model_path = tmp_path / "model.keras"
    run(analyzer, x, tmp_path / "out", 3, model_path=model_path)
    run(analyzer, x, tmp_path / "out.h5", 3, model_path=model_path)
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())
    with h5py.File(tmp_path / "out.h5") as file:
        attributes = dict(file.attrs)
    for origin in (told, {**attributes, **{n: json.loads(attributes[n]) for n in ("parameters", "rules", "versions")}}):
        assert origin["method"] == "smoothgrad" and origin["seed"] == 7
        assert origin["parameters"]["augment_by_n"] == 2 and origin["parameters"]["noise_scale"] == 1
        assert {"site": "conv1", "operation": "Conv", "rule": "Jacobian(epsilon=1e-07)"} in origin["rules"]
        assert {"revgraph", "tensorflow", "keras", "numpy", "python"} <= origin["versions"].keys()
        checksum = subprocess.run(["sha256sum", model_path], capture_output=True, text=True, check=True).stdout
        assert origin["model_file_sha256"] == checksum.split()[0]
        assert origin["time"] <= origin["finished"]


# Samples that fail.


def test_samples_that_are_not_finite_are_recorded_and_left_out(analyzer, x, y, tmp_path):
    x[4, 1, 2, 0], x[20] = np.nan, np.inf
    report = run(analyzer, (x, y), HDF5(tmp_path / "out.h5", project=True), np.arange(COUNT) % 3, batch_size=5)
    assert report.failures == {4: "the input contains NaN", 20: "the input contains infinite values"}
    assert "21 of 23 samples" in repr(report) and "infinite" in str(report)
    good = np.delete(np.arange(COUNT), [4, 20])
    found = read(tmp_path / "out.h5")
    np.testing.assert_array_equal(found["index"], good)
    np.testing.assert_array_equal(found["label"], y[good])
    expected = np.moveaxis(analyzer.analyze(x[good], good % 3), -1, 1)
    np.testing.assert_allclose(found["attribution"], expected, rtol=1e-5, atol=1e-6)
    # The positions of the inputs are those of the dataset.
    data = read(tmp_path / "out.input.h5")["data"]
    np.testing.assert_array_equal(data[good], np.moveaxis(x, -1, 1)[good])
    assert not data[[4, 20]].any()


def test_results_that_are_not_finite_are_recorded(tmp_path):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, layers.Dense(2, use_bias=False)(keras.ops.sqrt(keras.ops.prod(inputs, -1, True))))
    model.set_weights([np.ones((1, 2))])
    x = np.array([[1, 2], [1e30, 1e30], [0, 4], [3, 4]], "float32")
    report = run(revgraph.create_analyzer("gradient", model), x, tmp_path / "out")
    assert report.failures == {
        1: "the model's output contains infinite values",
        2: "the relevance contains NaN",
    }


def test_a_batch_that_tensorflow_refuses_loses_only_the_samples_to_blame(tmp_path):
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(10, 3), layers.Flatten()])
    model.add(layers.Dense(2))
    x = np.arange(24).reshape(6, 4) % 10
    x[4, 2] = 99
    report = run(revgraph.create_analyzer("lrp.epsilon", model), x, tmp_path / "out")
    assert list(report.failures) == [4] and "has the id 99" in report.failures[4]
    np.testing.assert_array_equal(read(tmp_path / "out")["index"], [0, 1, 2, 3, 5])


def test_samples_of_tf_data_that_cannot_be_read_are_recorded(analyzer, x, tmp_path):
    def checked(i, sample):
        with tf.control_dependencies([tf.debugging.assert_none_equal(i, np.int64(7), message="cannot decode")]):
            return tf.identity(sample)

    samples = tf.data.Dataset.from_tensor_slices(x).enumerate().map(checked)
    report = run(analyzer, samples, tmp_path / "out", batch_size=5)
    assert list(report.failures) == [7] and "cannot decode" in report.failures[7]
    np.testing.assert_array_equal(read(tmp_path / "out")["index"], np.delete(np.arange(COUNT), 7))
    with pytest.raises(ValueError, match=r"(?s)cannot decode.*Leave out \.batch"):
        run(analyzer, samples.batch(5), tmp_path / "batches")


def test_a_generator_that_breaks_off_is_not_taken_for_its_end(analyzer, x, tmp_path):
    def generator():
        yield from x[:4]
        raise OSError("no such image")

    dataset = tf.data.Dataset.from_generator(generator, output_signature=tf.TensorSpec((8, 8, 2)))
    with pytest.raises(ValueError, match="ended with an error at sample 4.*no such image"):
        run(analyzer, dataset, tmp_path / "out", batch_size=2)
    assert Staging(tmp_path / "out").resume()


def test_an_item_of_a_pydataset_that_cannot_be_read_is_recorded(analyzer, x, y, tmp_path):
    report = run(analyzer, Sequence(x, y, broken=(1,)), tmp_path / "out")
    assert report.failures == dict.fromkeys(range(6, 12), "item 1 of the dataset: no such image")
    assert read(tmp_path / "out")["index"].tolist() == [*range(6), *range(12, COUNT)]
    report = run(analyzer, Sequence(x, y, broken=(0,)), tmp_path / "first")
    assert list(report.failures) == list(range(6))


def test_errors_in_the_code_of_a_dataset_are_not_failed_samples(analyzer, x, y, tmp_path):
    class Wrong(Sequence):
        def __getitem__(self, i):
            return self.images[i]

    with pytest.raises(AttributeError):
        run(analyzer, Wrong(x, y), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_failed_sample_ends_the_run_where_that_is_asked_for(analyzer, x, tmp_path):
    x[9] = np.nan
    with pytest.raises(ValueError, match="Sample 9 failed: the input contains NaN"):
        run(analyzer, x, tmp_path / "out", batch_size=4, on_failure="raise")
    assert not (tmp_path / "out").exists()
    x[9] = 1
    with pytest.raises(ValueError, match="differ"):
        run(analyzer, x + 1, tmp_path / "out", batch_size=4)
    assert run(analyzer, x, tmp_path / "out", batch_size=4).resumed == 8


def test_a_run_in_which_all_samples_fail_is_an_error(analyzer, x, tmp_path):
    with pytest.raises(ValueError, match=f"All {COUNT} samples failed. Sample 0: the input contains NaN"):
        run(analyzer, np.full_like(x, np.nan), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Pictures(Samples):
    seekable, length = True, COUNT

    def __init__(self, x, unreadable=()):
        self.x, self.unreadable, self.read = x, unreadable, []

    def samples(self, start=0):
        for i in range(start, len(self.x)):
            self.read.append(i)
            yield Unreadable("no image") if i in self.unreadable else (self.x[i], i % 4)


def test_samples_of_ones_own_can_be_unreadable(analyzer, x, tmp_path):
    report = run(analyzer, Pictures(x, unreadable=(0, 5, 6, 7, 8, 9, 22)), tmp_path / "out", batch_size=5)
    assert list(report.failures) == [0, 5, 6, 7, 8, 9, 22] and set(report.failures.values()) == {"no image"}
    good = [1, 2, 3, 4, *range(10, 22)]
    found = read(tmp_path / "out")
    np.testing.assert_array_equal(found["index"], good)
    np.testing.assert_allclose(found["attribution"], analyzer.analyze(x[good]), rtol=1e-5, atol=1e-6)


# Runs that are interrupted.


class Interrupting:
    """Rows of an array, until the interruption."""

    def __init__(self, x, at, error=KeyboardInterrupt):
        self.x, self.at, self.error, self.shape, self.read = x, at, error, x.shape, []

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        if rows.start == self.at:
            raise self.error
        self.read.append(rows.start)
        return self.x[rows]


@pytest.mark.parametrize("where", ["out", "out.h5"])
def test_an_interrupted_run_goes_on_where_it_was(where, analyzer, x, y, tmp_path):
    x[6] = np.nan
    rows = Interrupting(x, at=12)
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, rows, tmp_path / where, batch_size=4, labels=y)
    assert [path.name for path in tmp_path.iterdir()] == [f"{where}.partial"]
    rows.at, rows.read = None, []
    report = run(analyzer, rows, tmp_path / where, batch_size=4, labels=y)
    # The last finished batch is read again, to see that it is the same.
    assert rows.read == [8, 12, 16, 20] and report.resumed == 12 and list(report.failures) == [6]
    run(analyzer, x, tmp_path / f"whole{where}", batch_size=4, labels=y)
    assert_same(read(tmp_path / where), read(tmp_path / f"whole{where}"))
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("kind", ["generator", "tf.data of samples", "tf.data of batches", "PyDataset"])
def test_streams_are_resumed_without_computing_again(kind, analyzer, x, y, tmp_path, monkeypatch):
    explained = []
    analyze = analyzer.analyze

    def interrupted(x, *args):
        if len(explained) == 2:
            explained.append(None)
            raise KeyboardInterrupt
        explained.append(len(x))
        return analyze(x, *args)

    monkeypatch.setattr(analyzer, "analyze", interrupted)
    size = {"batch_size": 6} if kind == "tf.data of samples" else {}
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, DATASETS[kind](x, y, tmp_path), tmp_path / "out", **size)
    run(analyzer, DATASETS[kind](x, y, tmp_path), tmp_path / "out", **size)
    assert explained == [6, 6, None, 6, 5]
    np.testing.assert_allclose(read(tmp_path / "out")["attribution"], analyze(x), rtol=1e-5, atol=1e-6)


def test_only_the_same_question_is_resumed(analyzer, x, y, tmp_path):
    rows, out = Interrupting(x, at=12), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, rows, out, batch_size=4)
    rows.at = None
    with pytest.raises(ValueError, match="another neuron_selection: null, not 3"):
        run(analyzer, rows, out, 3, batch_size=4)
    with pytest.raises(ValueError, match="another batch_size: 4, not 5"):
        run(analyzer, rows, out, batch_size=5)
    with pytest.raises(ValueError, match="another method"):
        run(revgraph.create_analyzer("gradient", analyzer.model), rows, out, batch_size=4)
    with pytest.raises(ValueError, match="another model_sha256"):
        run(revgraph.create_analyzer("lrp.epsilon", randomized(cnn(), 5)), rows, out, batch_size=4)
    with pytest.raises(ValueError, match="samples 8 to 11 differ"):
        run(analyzer, x[::-1], out, batch_size=4)
    with pytest.raises(FileExistsError, match="resume=True to go on"):
        run(analyzer, rows, out, batch_size=4, resume=False)
    assert run(analyzer, rows, out, batch_size=4, resume=True).resumed == 12


def test_a_stream_that_is_shorter_or_shuffled_is_not_resumed(analyzer, x, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, Interrupting(x, at=12), tmp_path / "out", batch_size=4)
    head = tmp_path / "out.partial" / "run.json"
    head.write_text(head.read_text().replace(f'"samples": {COUNT}', '"samples": null'))
    with pytest.raises(ValueError, match="ends after 1 batches, and 3 are finished"):
        run(analyzer, iter([x[:4]]), tmp_path / "out", batch_size=4)
    with pytest.raises(ValueError, match="samples 4 to 7 differ"):
        run(analyzer, iter([x[:4], x[8:12], x[4:8]]), tmp_path / "out", batch_size=4)
    assert run(analyzer, batches(x, size=4), tmp_path / "out", batch_size=4).resumed == 12


def test_overwriting_begins_anew_and_keeps_the_old_output_until_the_end(analyzer, x, tmp_path):
    out = tmp_path / "out"
    run(analyzer, x, out)
    before = read(out)
    with pytest.raises(FileExistsError, match="exists. Pass overwrite=True"):
        run(analyzer, x, out)
    rows = Interrupting(2 * x, at=12)
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, rows, out, batch_size=4, overwrite=True)
    assert_same(read(out), before)
    rows.at = None
    assert run(analyzer, rows, out, batch_size=4).resumed == 12
    np.testing.assert_allclose(read(out)["attribution"], analyzer.analyze(2 * x), rtol=1e-5, atol=1e-6)
    assert run(analyzer, x, out, overwrite=True).resumed == 0
    assert_same(read(out), before)


def test_a_finished_run_is_not_done_again(analyzer, x, tmp_path):
    x[2] = np.nan
    for where in ("out", "out.h5"):
        run(analyzer, x, tmp_path / where)
        rows = Interrupting(x, at=0)
        report = run(analyzer, rows, tmp_path / where, resume=True)
        assert (report.resumed, report.failures) == (COUNT, {2: "the input contains NaN"})
        with pytest.raises(FileExistsError, match="comes from another run"):
            run(analyzer, rows, tmp_path / where, 1, resume=True)
        with pytest.raises(FileExistsError, match="exists"):
            run(analyzer, rows, tmp_path / where, resume=False)


@pytest.mark.parametrize("where", ["out", "out.h5"])
def test_an_end_between_the_last_steps_does_no_harm(where, analyzer, x, tmp_path, monkeypatch):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Staging, "remove", killed)
        run(analyzer, x, tmp_path / where)
    before = read(tmp_path / where)
    assert run(analyzer, x, tmp_path / where, resume=True).resumed == COUNT
    assert_same(read(tmp_path / where), before)
    assert [path.name for path in tmp_path.iterdir()] == [where]


def test_a_run_that_was_killed_while_it_tidied_up_leaves_nothing(analyzer, x, tmp_path):
    """Its notes are gone, and some of its batches are still there."""
    run(analyzer, x, tmp_path / "out.h5")
    (tmp_path / "out.h5.partial").mkdir()
    (tmp_path / "out.h5.partial" / "batch-00000001.npz").write_bytes(b"half")
    assert run(analyzer, x, tmp_path / "out.h5", resume=True).resumed == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


@pytest.mark.parametrize("damage", ["half a batch", "half a head", "a file that was not finished"])
def test_what_is_damaged_is_computed_again(damage, analyzer, x, tmp_path):
    rows = Interrupting(x, at=12)
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, rows, tmp_path / "out", batch_size=4)
    rows.at, folder = None, tmp_path / "out.partial"
    if damage == "a file that was not finished":
        (folder / "new").write_bytes(b"half")
    else:
        path = folder / ("batch-00000001.npz" if damage == "half a batch" else "run.json")
        path.write_bytes(path.read_bytes()[:-50])
    resumed = {"half a batch": 4, "half a head": 0, "a file that was not finished": 12}[damage]
    assert run(analyzer, rows, tmp_path / "out", batch_size=4).resumed == resumed
    assert len(read(tmp_path / "out")["index"]) == COUNT


def test_one_run_at_a_time(analyzer, x, tmp_path):
    pytest.importorskip("fcntl")
    with Staging(tmp_path / "out").locked(), pytest.raises(BlockingIOError, match="Another process"):
        run(analyzer, x, tmp_path / "out")


@pytest.mark.parametrize("where", ["out", "out.h5"])
@pytest.mark.parametrize("limit", [3_000, 8_000])
def test_a_full_disk_ends_the_run_and_keeps_what_is_done(limit, where, analyzer, x, tmp_path, full_disk):
    """The lower limit hits a batch, the higher one the output."""
    sink = HDF5(tmp_path / where, compression=None) if where == "out.h5" else tmp_path / where
    run(analyzer, x[:4], tmp_path / "warm-up")
    full_disk(limit)
    with pytest.raises(OSError, match="samples are finished and kept. Make room") as raised:
        run(analyzer, x, sink, batch_size=4)
    full_disk(-1)
    assert raised.value.errno == errno.EFBIG
    assert not (tmp_path / where).exists()
    report = run(analyzer, x, sink, batch_size=4)
    assert report.resumed == (COUNT if limit == 8_000 else 0)
    assert len(read(tmp_path / where)["index"]) == COUNT
    assert {path.name for path in tmp_path.iterdir()} == {"warm-up", where}


ZYGOTE = """
import os, sys, time
import numpy as np
import keras
from keras import layers
import revgraph, revgraph.analyzers, revgraph.datasets

class Slow:
    x = np.random.default_rng(0).normal(size=(60, 8, 8, 2)).astype("float32")
    shape = x.shape
    def __len__(self):
        return len(self.x)
    def __getitem__(self, rows):
        time.sleep(0.02)
        return self.x[rows]

Slow.x[17] = np.nan

def run(paths):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten()])
    model.add(layers.Dense(4))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    print("ready", flush=True)
    for path in paths:
        revgraph.explain_dataset(analyzer, Slow(), path, batch_size=3, resume=True, verbose=0)
    print("done", flush=True)

for line in sys.stdin:
    child = os.fork()
    if not child:
        run(line.split())
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("over", flush=True)
"""


@pytest.fixture
def zygote():
    """A process that has imported TensorFlow, which takes seconds, and forks a run for each line that it gets."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, cwd=Path(__file__).parent.parent,
    ) as process:  # fmt: skip

        def run(paths, seconds=None):
            """Runs to the end, or is killed; whether it came to its end."""
            process.stdin.write(" ".join(map(str, paths)) + "\n")
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

        yield run
        process.stdin.close()


def test_runs_killed_at_random_moments_lose_nothing(zygote, tmp_path):
    """One run goes through; another one is killed again and again until it has."""
    whole, killed = ([tmp_path / f"{name}{suffix}" for suffix in ("", ".h5")] for name in ("whole", "killed"))
    assert zygote(whole)
    for _ in range(5):
        zygote(killed, seconds=random.uniform(0, 1.0))
        for path, expected in zip(killed, whole, strict=True):
            # What has the final name is whole.
            if path.exists():
                assert_same(read(path), read(expected))
    assert zygote(killed)
    for path, expected in zip(killed, whole, strict=True):
        assert_same(read(path), read(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "killed.h5", "whole", "whole.h5"]


# Bad input.


@pytest.mark.parametrize(
    "dataset, error, message",
    [
        (lambda x: x[:0], ValueError, "Nothing to explain|empty"),
        (lambda x: iter([]), ValueError, "the dataset is empty"),
        (lambda x: x[0], ValueError, "lacks an axis|shape"),
        (lambda x: x[..., :1], ValueError, "expected"),
        (lambda x: (x, np.arange(3)), ValueError, r"same number of samples. Received: \[3, 23\]"),
        (lambda x: (x, np.array(["cat"] * COUNT)), TypeError, "Labels are numbers"),
        (lambda x: x.astype(str), TypeError, "numbers"),
        (lambda x: 5, TypeError, "iterable of batches"),
        (lambda x: tf.data.Dataset.from_tensor_slices(x).repeat(), ValueError, "without end"),
        (lambda x: iter([x[:2], x[2:, :4]]), ValueError, "wrong shape"),
    ],
)
def test_datasets_that_cannot_be_explained(dataset, error, message, analyzer, x, tmp_path):
    with pytest.raises(error, match=message):
        run(analyzer, dataset(x), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"sink": "out.npy"}, ValueError, "name one, such as 'out'"),
        ({"sink": 3}, TypeError, "sink is a path"),
        ({"batch_size": 0}, ValueError, "positive int"),
        ({"on_failure": "ignore"}, ValueError, "on_failure is"),
        ({"neuron_selection": [1, 2]}, ValueError, "2 entries for 23 samples"),
        ({"neuron_selection": np.ones((COUNT, 2), int)}, ValueError, "one int per sample"),
        ({"neuron_selection": "label"}, ValueError, "needs labels"),
        ({"neuron_selection": 9}, ValueError, "out of range"),
        ({"analyzer": "lrp.z"}, TypeError, "takes an analyzer"),
    ],
)
def test_illegal_arguments(options, error, message, analyzer, x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"analyzer": analyzer, "dataset": x, "sink": "out", **options}
    with pytest.raises(error, match=message):
        explain_dataset(**arguments, verbose=0)
    assert not list(tmp_path.iterdir())


def test_samples_of_other_sizes_need_an_output_of_their_own(tmp_path):
    model = keras.Sequential([keras.Input((None, None, 1)), layers.Conv2D(2, 3), layers.GlobalAveragePooling2D()])
    analyzer = revgraph.create_analyzer("gradient", model)
    x = np.ones((4, 8, 8, 1), "float32")
    with pytest.raises(ValueError, match="From sample 4 on 'attribution' has \\(6, 6, 1\\), before that \\(8, 8, 1\\)"):
        run(analyzer, iter([x, x[:, :6, :6]]), tmp_path / "out")


def test_the_progress_bar_is_that_of_keras(analyzer, x, tmp_path, capsys):
    explain_dataset(analyzer, x, tmp_path / "out", batch_size=4)
    printed = capsys.readouterr().out
    assert "6/6" in printed and "/batch" in printed


@pytest.mark.parametrize("size", [0, -1, "0.1", None, 1.5])
def test_a_shard_has_samples(size, tmp_path):
    with pytest.raises(ValueError, match=rf"shard_size must be a positive int. Received: {size!r}"):
        revgraph.datasets.NpyShards(tmp_path / "out", shard_size=size)


@pytest.mark.parametrize("name", ["out.parquet", "out.zip", "out.tfrecord", "out.JSON"])
def test_a_file_of_another_format_is_refused(name, analyzer, x, tmp_path):
    with pytest.raises(ValueError, match="would be a directory of .npy shards.*ends in .h5, .zarr or .csv"):
        run(analyzer, x, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_labels_that_are_no_classes_are_recorded(analyzer, x, tmp_path):
    """-1 is not the last class, and 1.5 is not the second one."""
    y = np.arange(COUNT) % 3 + 0.0
    y[[4, 5, 9, 11]] = -1, 1.5, 99, np.nan
    report = run(analyzer, (x, y), tmp_path / "out", "label")
    no_class = "the label {} is no class, which are 0 to {}"
    last = analyzer.graph.specs[analyzer.graph.output_slots[0]].shape[1] - 1
    assert report.failures == {
        i: no_class.format(text, last) for i, text in ((4, "-1"), (5, "1.5"), (9, "99"), (11, "nan"))
    }
    kept = np.delete(np.arange(COUNT), [4, 5, 9, 11])
    expected = analyzer.analyze(x[kept], y[kept].astype(int))
    np.testing.assert_allclose(read(tmp_path / "out")["attribution"], expected, rtol=1e-5, atol=1e-7)
