"""Datasets on Ray: the engine of `explain_dataset`, and datasets of Ray Data. Both give what one process gives."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.datasets import actors, rows
from revgraph.datasets.actors import Actors, share
from revgraph.datasets.ray import explain
from revgraph.datasets.streams import source
from revgraph.datasets.work import Work
from revgraph.reverse.ledger import FIELDS
from tests.models import cnn, inputs_of, mlp, randomized, two_inputs, two_outputs
from tests.test_datasets import Interrupting, assert_same, read

ray = pytest.importorskip("ray", minversion="2.55")
pytest.importorskip("ray.data")

COUNT = 23

# A worker takes seconds to import TensorFlow, so most tests run what a worker runs in this process.


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def analyzer():
    keras.utils.set_random_seed(0)
    return revgraph.create_analyzer("lrp.epsilon", randomized(cnn()))


@pytest.fixture
def x(analyzer):
    return inputs_of(analyzer.model, batch=COUNT)


@pytest.fixture
def here(monkeypatch):
    """Has `explain` return its rows by their ids, computed in this process."""
    monkeypatch.setattr(rows, "prepare", lambda threads: None)

    def map_batches(self, kind, fn_constructor_args, batch_size, batch_format, **options):
        explainer, found = kind(*fn_constructor_args), {}
        for batch in self.iter_batches(batch_size=batch_size, batch_format=batch_format):
            columns = explainer(batch)
            (id_column, *_) = columns
            for i, name in enumerate(columns[id_column].tolist()):
                assert name not in found
                found[name] = {column: values[i] for column, values in columns.items()}
        return found

    monkeypatch.setattr(ray.data.Dataset, "map_batches", map_batches)


def table(**columns):
    """A dataset with ids `s0`, `s1`, and so on."""
    count = len(next(iter(columns.values())))
    columns = {"id": [f"s{i}" for i in range(count)], **columns}
    return ray.data.from_items([{name: values[i] for name, values in columns.items()} for i in range(count)])


def explained(dataset, analyzer, **options):
    options = {"columns": "x", "id_column": "id", "concurrency": 1, "batch_size": 5, "num_cpus": 0.5, **options}
    return explain(dataset, analyzer, **options)


def stored(path):
    """The rows of a directory of Parquet files. Ray would start dozens of processes to read it."""
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(path)
    columns = {name: found[name].combine_chunks() for name in found.column_names}
    arrays = {n: c.to_numpy_ndarray() if hasattr(c, "to_numpy_ndarray") else c.to_pylist() for n, c in columns.items()}
    return [{name: values[i] for name, values in arrays.items()} for i in range(len(found))]


def column(found, name):
    return np.stack([found[f"s{i}"][name] for i in range(len(found))])


def run(analyzer, dataset, where, **options):
    return revgraph.explain_dataset(analyzer, dataset, where, batch_size=2, verbose=0, **options)


# The engine.


class Doubled(layers.Layer):
    """A layer of a user's own."""

    def call(self, x):
        return 2 * x


def test_actors_give_what_one_process_gives(tmp_path):
    inputs = keras.Input((8, 8, 2))
    outputs = layers.Dense(4)(layers.Flatten()(Doubled()(layers.Conv2D(3, 3, activation="relu")(inputs))))
    analyzer = revgraph.create_analyzer("lrp.epsilon", keras.Model(inputs, outputs))
    x = inputs_of(analyzer.model, batch=COUNT)
    x[6] = np.nan
    plain = run(analyzer, x, tmp_path / "plain.h5")
    report = run(analyzer, x, tmp_path / "ray.h5", engine="ray", workers=2)
    assert (report.samples, report.failures) == (COUNT, {6: "the input contains NaN"}) == (COUNT, plain.failures)
    written, expected = read(tmp_path / "ray.h5"), read(tmp_path / "plain.h5")
    assert written.keys() == expected.keys()
    for name, array in written.items():
        np.testing.assert_allclose(array, expected[name], 1e-5, 1e-7, err_msg=name)


def test_a_run_is_continued_by_the_other_engine(analyzer, x, tmp_path):
    run(analyzer, x, tmp_path / "plain.h5")
    interrupted = Interrupting(x, at=8)
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, interrupted, tmp_path / "first-plain.h5")
    interrupted.at = None
    report = run(analyzer, interrupted, tmp_path / "first-plain.h5", engine="ray", workers=1)
    assert report.resumed == 8
    interrupted.at = 20
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, interrupted, tmp_path / "first-ray.h5", engine="ray", workers=1)
    interrupted.at = None
    report = run(analyzer, interrupted, tmp_path / "first-ray.h5")
    assert report.resumed >= 16
    assert_same(read(tmp_path / "first-plain.h5"), read(tmp_path / "plain.h5"))
    assert_same(read(tmp_path / "first-ray.h5"), read(tmp_path / "plain.h5"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["out", "out.zarr", "out.csv"])
def test_actors_write_every_kind_of_output(where, tmp_path):
    if where.endswith(".zarr"):
        pytest.importorskip("zarr", minversion="3.0")
    analyzer = revgraph.create_analyzer("lrp.epsilon", randomized(mlp()))
    x = inputs_of(analyzer.model, batch=COUNT)
    run(analyzer, x, tmp_path / f"plain-{where}")
    run(analyzer, x, tmp_path / where, engine="ray", workers=2)
    if where.endswith(".csv"):
        assert (tmp_path / where).read_text() == (tmp_path / f"plain-{where}").read_text()
    elif where.endswith(".zarr"):
        import zarr

        for name in ("attribution", "index", "label", "prediction"):
            written, plain = (zarr.open_group(tmp_path / p, mode="r")[name][:] for p in (where, f"plain-{where}"))
            np.testing.assert_array_equal(written, plain)
    else:
        assert_same(read(tmp_path / where), read(tmp_path / f"plain-{where}"))


class Failing(Work):
    """Raises an error for the third batch, or ends its process."""

    def finished(self, number, batch):
        if number == 2:
            if self.selection == "die":
                os._exit(1)
            raise KeyError("the third")
        return super().finished(number, batch)

    def _compute(self, batch):
        return [], []

    def _arrays(self, batch, relevance, outputs):
        return {"index": batch.index}


@pytest.mark.parametrize(
    "selection, kind, message",
    [
        ("raise", KeyError, "^'the third'$"),
        pytest.param("die", RuntimeError, "a batch ended 3 times.*Memory", marks=pytest.mark.slow),
    ],
)
def test_what_goes_wrong_in_an_actor_is_raised_here(selection, kind, message, analyzer, x):
    jobs = enumerate(source(x, analyzer.graph, 2).batches())
    with pytest.raises(kind, match=message):
        list(Actors(1).computed(Failing(analyzer, selection), jobs))


def test_an_analyzer_that_cannot_be_sent_is_refused(analyzer, x, tmp_path, monkeypatch):
    monkeypatch.setattr(actors, "packed_work", lambda *_: (_ for _ in ()).throw(TypeError("cannot be sent")))
    with pytest.raises(TypeError, match="cannot be sent"):
        run(analyzer, x, tmp_path / "out", engine="ray")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "nodes, count, expected",
    [
        ([2], 2, 1),
        ([8], 2, 4),
        ([8], 3, 2),
        ([2], 8, 1 / 4),
        ([3, 3], 7, 1 / 2),
        ([4, 2], 3, 2),
        ([0], 3, 0),
        ([], 1, 0),
    ],
)
def test_the_share_of_an_actor_is_such_that_all_have_room(nodes, count, expected):
    assert share(nodes, count) == expected
    assert not expected or sum(node // expected for node in nodes) >= count


def test_ray_that_is_not_there_is_an_error_that_names_the_extra(analyzer, x, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'needs Ray: pip install "revgraph\[ray\]"'):
        run(analyzer, x, tmp_path / "out", engine="ray")


# Datasets of Ray Data.


def test_rows_come_back_with_their_ids(analyzer, x, tmp_path):
    """In actors, and through a file."""
    x[3] = np.inf
    dataset = table(x=x, label=np.arange(COUNT) % 3)
    explained(dataset, analyzer, on_error="record", concurrency=2, num_cpus=0.5).write_parquet(tmp_path / "out")
    found = {row["id"]: row for row in stored(tmp_path / "out")}
    expected = analyzer.analyze(np.delete(x, 3, 0))
    assert len(found) == COUNT and found.pop("s3")["error"] == "the input contains infinite values"
    relevance = np.stack([found[f"s{i}"]["relevance"] for i in range(COUNT) if i != 3])
    assert relevance.dtype == np.float32
    np.testing.assert_allclose(relevance, expected, 1e-5, 1e-7)
    assert {row["error"] for row in found.values()} == {""}
    (origin,) = {row["provenance"] for row in found.values()}
    assert json.loads(origin)["method"] == "lrp.epsilon"


@pytest.mark.parametrize("kind", ["analyzer", "archive", "explainer", "model", "SavedModel"])
def test_every_kind_of_analyzer_gives_the_same(kind, analyzer, x, tmp_path, here):
    path, options = tmp_path / "saved", {}
    if kind == "archive":
        analyzer.save(path)
    elif kind == "explainer":
        analyzer.export(path)
    elif kind == "model":
        path = tmp_path / "model.keras"
        analyzer.model.save(path)
    elif kind == "SavedModel":
        analyzer.model.export(path, verbose=False)
    if kind in ("model", "SavedModel"):
        options = {"method": "lrp.epsilon", "options": {"epsilon": 1e-7}}
    for selection in (None, 1):
        given = analyzer if kind == "analyzer" else path
        found = explained(table(x=x), given, neuron_selection=selection, **options)
        assert len(found) == COUNT
        outputs = analyzer.model.predict(x, verbose=0)
        np.testing.assert_allclose(column(found, "relevance"), analyzer.analyze(x, selection), 1e-4, 1e-6)
        np.testing.assert_allclose(column(found, "prediction"), outputs, 1e-4, 1e-6)
        np.testing.assert_array_equal(
            column(found, "target"), outputs.argmax(axis=1) if selection is None else np.full(COUNT, selection)
        )
        assert json.loads(found["s0"]["provenance"])["neuron_selection"] == selection


@pytest.mark.parametrize("exported", [False, True])
def test_several_inputs_have_a_column_each(exported, tmp_path, here):
    analyzer = revgraph.create_analyzer("lrp.epsilon", randomized(two_inputs()))
    x = inputs_of(analyzer.model, batch=7)
    expected = analyzer.analyze(x)
    if exported:
        analyzer = analyzer.export(tmp_path / "exported")
    found = explained(
        table(numbers=x["table"], picture=x["image"]), analyzer, columns={"image": "picture", "table": "numbers"}
    )
    for name in ("image", "table"):
        np.testing.assert_allclose(column(found, f"relevance/{name}"), expected[name], 1e-5, 1e-6)


@pytest.mark.parametrize("exported", [False, True])
def test_several_outputs_are_explained_by_name(exported, tmp_path, here):
    analyzer = revgraph.create_analyzer("lrp.epsilon", randomized(two_outputs()))
    x, selection = inputs_of(analyzer.model, batch=7), {"size": np.int64(1)}
    expected = analyzer.analyze(x, selection)
    found = explained(
        table(x=x), analyzer.export(tmp_path / "exported") if exported else analyzer, neuron_selection=selection
    )
    np.testing.assert_allclose(column(found, "relevance"), expected, 1e-5, 1e-6)
    assert column(found, "target/size").tolist() == [1] * 7 and "target/kind" not in found["s0"]
    assert column(found, "prediction/kind").shape == (7, 3)


def test_labels_are_what_is_explained(analyzer, x, here):
    labels = [0, 1, 2, *range(COUNT - 3)]
    classes = analyzer.graph.specs[analyzer.graph.output_slots[0]].shape[1]
    options = {"neuron_selection": "label", "label_column": "y", "on_error": "record"}
    found = explained(table(x=x, y=labels), analyzer, **options)
    good = [i for i, label in enumerate(labels) if label < classes]
    np.testing.assert_allclose(
        column(found, "relevance")[good], analyzer.analyze(x[good], [labels[i] for i in good]), 1e-5, 1e-6
    )
    assert [found[f"s{i}"]["target"] for i in good] == [labels[i] for i in good]
    bad = found[f"s{COUNT - 1}"]
    assert bad["error"] == f"the label {COUNT - 4} is no class, which are 0 to {classes - 1}"
    assert bad["target"] == -1 and np.isnan(bad["relevance"]).all() and np.isnan(bad["prediction"]).all()


def test_an_output_of_one_unit_has_two_classes(here):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu"), layers.Dense(1)])
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    x = inputs_of(model, batch=6)
    sides = ["positive", "negative"] * 3
    labelled = explained(table(x=x, y=[1, 0] * 3), analyzer, neuron_selection="label", label_column="y")
    np.testing.assert_allclose(column(labelled, "relevance"), analyzer.analyze(x, sides), 1e-5, 1e-6)
    assert column(labelled, "target").tolist() == [1, 0] * 3
    negative = explained(table(x=x), analyzer, neuron_selection="negative")
    np.testing.assert_allclose(column(negative, "relevance"), analyzer.analyze(x, "negative"), 1e-5, 1e-6)
    assert set(column(negative, "target").tolist()) == {0}


def test_the_ledger_has_a_column_for_each_field(analyzer, x, here):
    found = explained(table(x=x[:6]), analyzer, ledger=True)
    expected = analyzer.conservation(x[:6])
    for field in FIELDS:
        np.testing.assert_allclose(column(found, f"ledger/{field}"), getattr(expected, field), 1e-5, 1e-8)


def test_a_sample_that_cannot_be_used_is_a_row_with_a_reason(analyzer, x, here):
    samples = list(x[:12])
    samples[1], samples[4] = samples[1][:-1], np.full_like(samples[4], np.nan)
    found = explained(table(x=samples), analyzer, on_error="record", batch_size=4)
    assert len(found) == 12
    errors = {name: row["error"] for name, row in found.items() if row["error"]}
    assert errors.keys() == {"s1", "s4"} and "has the shape" in errors["s1"] and "NaN" in errors["s4"]
    good = [i for i in range(12) if i not in (1, 4)]
    np.testing.assert_allclose(column(found, "relevance")[good], analyzer.analyze(x[good]), 1e-5, 1e-6)
    with pytest.raises(ValueError, match="Sample 's4' failed: the input contains NaN"):
        explained(table(x=[*x[:4], samples[4]]), analyzer)


def test_a_batch_of_which_no_sample_can_be_used_has_rows(analyzer, x, here):
    x[:5] = np.nan
    found = explained(table(x=x), analyzer, on_error="record")
    assert column(found, "relevance").shape == x.shape and np.isnan(column(found, "relevance")[:5]).all()
    assert [bool(found[f"s{i}"]["error"]) for i in range(COUNT)] == [True] * 5 + [False] * (COUNT - 5)


def test_rows_without_an_id_are_refused(analyzer, x, here):
    with pytest.raises(ValueError, match="'id' has rows without an id"):
        explained(table(x=x[:3], id=["a", None, "b"]), analyzer)


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({"columns": "image"}, KeyError, "no column 'image'. Its columns are 'id', 'x', 'y'"),
        ({"columns": {"image": "x"}}, KeyError, "columns needs a column for each input"),
        ({"columns": "y"}, ValueError, r"'y' have the shape \(\), and the input '\w+' takes \("),
        ({"id_column": "key"}, KeyError, "no column 'key'"),
        ({"concurrency": 0}, ValueError, "concurrency must be a positive int"),
        ({"concurrency": (3, 2)}, ValueError, "the smallest and the largest number"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"num_gpus": -1}, ValueError, "num_gpus must be a number >= 0"),
        ({"num_cpus": "all"}, ValueError, "num_cpus"),
        ({"on_error": "ignore"}, ValueError, '"raise" or "record"'),
        ({"neuron_selection": 99}, ValueError, "a position in the output"),
        ({"neuron_selection": "positive"}, ValueError, "an output of one unit"),
        ({"neuron_selection": [0, 1]}, TypeError, "one selection for all rows.*label_column="),
        ({"neuron_selection": "largest"}, ValueError, "neuron_selection is None, an int"),
        ({"neuron_selection": {"a": 0}}, ValueError, "so neuron_selection is no dict"),
        ({"neuron_selection": "label"}, ValueError, "label_column= go together"),
        ({"label_column": "y"}, ValueError, "label_column= go together"),
        ({"neuron_selection": "label", "label_column": "z"}, KeyError, "no column 'z'"),
        ({"method": "gradient"}, ValueError, "for the path of a model"),
        ({"analyzer": "nowhere"}, FileNotFoundError, "'nowhere'"),
        ({"analyzer": 3}, TypeError, "an analyzer, or a path. Received: 3"),
        ({"dataset": [1, 2]}, TypeError, "dataset is a ray.data.Dataset.* Received: list"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(options, kind, message, analyzer, x):
    options = {"dataset": table(x=x[:2], y=[0, 1]), "analyzer": analyzer, **options}
    with pytest.raises(kind, match=message):
        explained(**options)


def test_actors_that_leave_no_core_are_warned_of(analyzer, x, here):
    """Ray waits without end then."""
    with pytest.warns(UserWarning, match="2 actors with 1 cores each leave none of the cluster's 2 cores"):
        explained(table(x=x[:2]), analyzer, concurrency=2, num_cpus=1)


def test_a_path_of_a_model_needs_a_method(analyzer, x, tmp_path):
    analyzer.model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="is a model: pass the name of a method"):
        explained(table(x=x[:2]), tmp_path / "model.keras")
    with pytest.raises(ValueError, match="has no ledger"):
        explained(table(x=x[:2]), analyzer.export(tmp_path / "exported"), ledger=True)


def test_the_id_column_must_not_have_the_name_of_a_result(analyzer, x):
    with pytest.raises(ValueError, match="a column 'target' of its own"):
        explained(table(x=x[:2], target=[1, 2]), analyzer, id_column="target")


# Killed processes.


DRIVER = """
import os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# By default Ray starts 32 processes to list files.
os.environ["RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"] = "1"
import keras, numpy as np, ray
from keras import layers
import revgraph
from revgraph.datasets.ray import explain

kind, folder = sys.argv[1:]
x = np.random.default_rng(0).normal(size=(120, 8, 8, 2)).astype("float32")
x[17] = np.nan

class Slow:
    shape, dtype = x.shape, x.dtype
    def __len__(self):
        return len(x)
    def __getitem__(self, rows):
        time.sleep(0.05)
        return x[rows]

class Own(layers.Dense):
    "A class of a script."

# Actors of Ray Data hold a core each, and reading needs one more.
ray.init(num_cpus=2 if kind == "engine" else 8, include_dashboard=False, logging_level="warning", log_to_driver=False)
import ray.data
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), Own(4)])
analyzer = revgraph.create_analyzer("lrp.epsilon", model)
np.save(f"{folder}/expected.npy", analyzer.analyze(np.nan_to_num(x)))
if kind == "engine":
    revgraph.explain_dataset(analyzer, Slow(), f"{folder}/out", batch_size=3, verbose=0, engine="ray", workers=2)
else:
    from ray.data.checkpoint import CheckpointConfig
    if not os.path.exists(f"{folder}/data"):
        rows = [{"id": i, "x": sample} for i, sample in enumerate(x)]
        ray.data.from_items(rows, override_num_blocks=12).write_parquet(f"{folder}/data.new")
        os.rename(f"{folder}/data.new", f"{folder}/data")
    context = ray.data.DataContext.get_current()
    # As many files as blocks, of a few rows each.
    context.target_max_block_size = 3000
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=f"{folder}/checkpoint", delete_checkpoint_on_success=False
    )
    def slow(rows):
        time.sleep(0.2)
        return rows
    data = ray.data.read_parquet(f"{folder}/data", override_num_blocks=12).map_batches(slow, batch_size=5)
    found = explain(data, analyzer, columns="x", id_column="id", concurrency=1, batch_size=5, num_cpus=0.5,
                    on_error="record")
    found.write_parquet(f"{folder}/out")
"""


def processes(mark):
    """The processes that a driver has started, with their names."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                yield int(folder.name), (folder / "cmdline").read_bytes()
        except OSError:
            continue


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["engine", "dataset"])
def test_killed_workers_and_drivers_lose_nothing(kind, tmp_path):
    """The driver is killed, and of the next one an actor. Every sample is there once."""
    files, names = (tmp_path / "out.partial", "batch-*") if kind == "engine" else (tmp_path / "out", "*.parquet")
    killed = []
    for victim in ("driver", "actor"):
        name, value = "REVGRAPH_TEST", f"{tmp_path}-{victim}"
        environment = {**os.environ, name: value, "PYTHONPATH": str(Path(__file__).parent.parent)}
        before = len(list(files.glob(names)))
        with subprocess.Popen([sys.executable, "-c", DRIVER, kind, tmp_path], env=environment) as driver:
            while driver.poll() is None and len(killed) == (victim == "actor"):
                time.sleep(0.02)
                if len(list(files.glob(names))) > before:
                    time.sleep(random.uniform(0, 0.3))
                    started = processes(f"{name}={value}".encode())
                    workers = [pid for pid, line in started if line.startswith((b"ray::_Actor", b"ray::MapWorker"))]
                    if victim == "driver" or workers:
                        os.kill(driver.pid if victim == "driver" else random.choice(workers), signal.SIGKILL)
                        killed.append(victim)
        assert driver.returncode == (-signal.SIGKILL if victim == "driver" else 0)
    assert killed == ["driver", "actor"]
    expected = np.load(tmp_path / "expected.npy")
    if kind == "engine":
        found = read(tmp_path / "out")
        index, relevance = found["index"], found["attribution"]
        assert index.tolist() == [i for i in range(120) if i != 17]
    else:
        found = stored(tmp_path / "out")
        assert sorted(row["id"] for row in found) == list(range(120))
        assert [row["id"] for row in found if row["error"]] == [17]
        good = [row for row in found if not row["error"]]
        index, relevance = [row["id"] for row in good], np.stack([row["relevance"] for row in good])
    np.testing.assert_allclose(relevance, expected[index], 1e-5, 1e-6)
