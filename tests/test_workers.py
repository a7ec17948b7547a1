"""Runs over datasets by several processes: out of order, killed, and equal to the run of one process."""

import multiprocessing
import os
import pickle
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
from revgraph import composites
from revgraph.analyzers.portable import Portable
from revgraph.datasets import engines, explain
from revgraph.datasets.engines import Engine, Processes
from revgraph.datasets.staging import Staging
from revgraph.datasets.streams import source
from revgraph.datasets.work import Work
from revgraph.rules import Epsilon
from tests.models import cnn, inputs_of, randomized, subclassed, two_inputs, two_outputs
from tests.test_datasets import Interrupting, assert_same, read

COUNT = 23


@pytest.fixture(scope="module")
def analyzer():
    keras.utils.set_random_seed(0)
    return revgraph.create_analyzer("lrp.epsilon", randomized(cnn()))


@pytest.fixture
def x(analyzer):
    x = inputs_of(analyzer.model, batch=COUNT)
    x[6] = np.nan
    return x


def run(analyzer, dataset, where, **options):
    return revgraph.explain_dataset(analyzer, dataset, where, batch_size=2, **{"verbose": 0, **options})


class OutOfOrder(Engine):
    """Computes in this process, in an order that is drawn. It holds some batches back, as slow workers do."""

    ahead = 5

    def computed(self, work, jobs):
        draw, held = random.Random(1), []
        for job in jobs:
            held.append(job)
            if len(held) == self.ahead:
                yield work.finished(*held.pop(draw.randrange(len(held))))
        for job in reversed(held):
            yield work.finished(*job)


@pytest.fixture
def out_of_order(monkeypatch):
    monkeypatch.setattr(explain, "engine_of", lambda name, workers: OutOfOrder())


@pytest.mark.parametrize("where", ["out", "out.h5", "out.zarr"])
def test_batches_may_be_finished_in_any_order(where, analyzer, x, tmp_path, monkeypatch):
    if where.endswith(".zarr"):
        pytest.importorskip("zarr", minversion="3.0")
    x[[1, 14]], y = np.nan, np.arange(COUNT) % 4
    options = {"labels": y, "neuron_selection": np.arange(COUNT) % 3}
    expected = run(analyzer, x, tmp_path / f"plain-{where}", **options)
    monkeypatch.setattr(explain, "engine_of", lambda name, workers: OutOfOrder())
    report = run(analyzer, x, tmp_path / where, **options)
    assert report.samples == expected.samples and list(report.failures) == list(expected.failures) == [1, 6, 14]
    written, plain = tmp_path / where, tmp_path / f"plain-{where}"
    if where.endswith(".zarr"):
        for name in ("attribution", "index", "label", "prediction"):
            np.testing.assert_array_equal(zarr_array(written, name), zarr_array(plain, name))
    else:
        assert_same(read(written), read(plain))


def zarr_array(path, name):
    import zarr

    return zarr.open_group(path, mode="r")[name][:]


@pytest.mark.parametrize("at", [12, 14, 22])
@pytest.mark.parametrize("goes_on", ["in order", "out of order"])
def test_a_run_with_gaps_is_resumed(at, goes_on, analyzer, x, tmp_path, out_of_order, monkeypatch):
    """What was finished behind a gap is kept, and no sample is computed twice."""
    rows = Interrupting(x, at=at)
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, rows, tmp_path / "out.h5")
    staging = Staging(tmp_path / "out.h5")
    assert staging.resume()
    done = set(staging.records)
    assert done != set(range(len(done)))
    if goes_on == "in order":
        monkeypatch.undo()
    rows.at, computed = None, []
    compute = explain.Explanations._compute

    def noted(self, batch):
        computed.append(batch.first // 2)
        return compute(self, batch)

    monkeypatch.setattr(explain.Explanations, "_compute", noted)
    report = run(analyzer, rows, tmp_path / "out.h5")
    assert report.resumed == staging.samples and report.failures == {6: "the input contains NaN"}
    assert sorted({*computed, *done}) == list(range(12)) and not done.intersection(computed)
    monkeypatch.undo()
    run(analyzer, x, tmp_path / "plain.h5")
    assert_same(read(tmp_path / "out.h5"), read(tmp_path / "plain.h5"))


def test_other_data_behind_a_gap_is_refused(analyzer, x, tmp_path, out_of_order):
    rows = Interrupting(x, at=14)
    with pytest.raises(KeyboardInterrupt):
        run(analyzer, rows, tmp_path / "out")
    staging = Staging(tmp_path / "out")
    staging.resume()
    last = max(staging.records)
    rows.at = None
    rows.x = x.copy()
    rows.x[2 * last] += 1
    with pytest.raises(ValueError, match=f"samples {2 * last} to {2 * last + 1} differ"):
        run(analyzer, rows, tmp_path / "out")


def test_a_stream_that_ends_before_what_is_finished_is_refused(analyzer, x, tmp_path, out_of_order):
    def batches(count, fails=False):
        for i in range(count):
            yield x[2 * i : 2 * i + 2]
        if fails:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        revgraph.explain_dataset(analyzer, batches(9, True), tmp_path / "out", verbose=0)
    with pytest.raises(ValueError, match="it ends after 2 batches"):
        revgraph.explain_dataset(analyzer, batches(2), tmp_path / "out", verbose=0)
    assert revgraph.explain_dataset(analyzer, batches(10), tmp_path / "out", verbose=0).samples == 20


@pytest.mark.parametrize("limit, resumed", [(1_500, 0), (5_000, COUNT)])
def test_a_full_disk_keeps_what_is_done(limit, resumed, analyzer, x, tmp_path, out_of_order, full_disk):
    """The lower limit hits a batch, the higher one the output."""
    run(analyzer, x[:4], tmp_path / "warm-up")
    full_disk(limit)
    with pytest.raises(OSError, match=f"{resumed} samples are finished and kept. Make room"):
        run(analyzer, x, tmp_path / "out")
    full_disk(-1)
    assert run(analyzer, x, tmp_path / "out").resumed == resumed
    assert len(read(tmp_path / "out")["index"]) == COUNT - 1
    assert {path.name for path in tmp_path.iterdir()} == {"warm-up", "out"}


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * keras.ops.relu(x)


def cubed(x):
    return x**3


class Mine(Epsilon):
    pass


def of_the_users_own():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation=cubed), Doubled(), layers.Dense(3)])
    return revgraph.analyzers.LRP(model, rule=composites.Composite((Doubled, Mine(0.1)), composites.epsilon_plus()))


ANALYZERS = {
    "a preset": lambda: revgraph.create_analyzer("lrp.epsilon_plus_flat", cnn()),
    "arguments": lambda: revgraph.create_analyzer("lrp.epsilon", cnn(), epsilon=0.3),
    "arrays": lambda: revgraph.create_analyzer("integrated_gradients", cnn(), reference_inputs=np.ones((1, 8, 8, 2))),
    "a seed": lambda: revgraph.create_analyzer("smoothgrad", cnn(), augment_by_n=3, seed=5),
    "several inputs": lambda: revgraph.create_analyzer("lrp.epsilon", two_inputs()),
    "several outputs": lambda: revgraph.create_analyzer("gradient", two_outputs()),
    "any size": lambda: revgraph.create_analyzer("lrp.epsilon", subclassed()),
    "the user's own": of_the_users_own,
}


@pytest.mark.parametrize("name", ANALYZERS)
def test_an_analyzer_is_the_same_in_another_process(name):
    keras.utils.set_random_seed(0)
    before = ANALYZERS[name]()
    randomized(before.model)
    after = pickle.loads(pickle.dumps(Portable.of(before))).load()
    x = inputs_of(before.model)
    assert (after.name, after.model_path) == (before.name, before.model_path)
    chosen = {"kind": 0} if name == "several outputs" else None
    both = (keras.tree.flatten(analyzer.analyze(x, chosen)) for analyzer in (before, after))
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["model.keras", "exported"])
def test_the_path_of_a_model_goes_along(kind, tmp_path):
    model = randomized(cnn())
    if kind == "exported":
        model.export(tmp_path / kind, verbose=False)
    else:
        model.save(tmp_path / kind)
    before = revgraph.create_analyzer("lrp.epsilon", tmp_path / kind)
    after = pickle.loads(pickle.dumps(Portable.of(before))).load()
    assert after.model_path == str(tmp_path / kind)
    x = inputs_of(model)
    np.testing.assert_array_equal(before.analyze(x), after.analyze(x))


def test_what_cannot_be_sent_is_refused(analyzer, x, tmp_path):
    by_function = composites.Composite((composites.matcher(lambda site: True), Epsilon()))
    with pytest.raises(TypeError, match="cannot be sent to other processes: .*function.*Leave out workers="):
        run(revgraph.analyzers.LRP(analyzer.model, rule=by_function), x, tmp_path / "out", workers=2)
    graph = revgraph.read.trace(analyzer.model)
    with pytest.raises(TypeError, match="in the memory of this process alone.*from the path of the model"):
        run(revgraph.create_analyzer("lrp.epsilon", graph), x, tmp_path / "out", workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"workers": 0}, ValueError, "workers"),
        ({"workers": 1.5}, (TypeError, ValueError), "workers"),
        ({"engine": "spark"}, ValueError, 'engine is None for processes of this machine, or "ray". Received: .spark'),
    ],
)
def test_bad_workers(options, error, message, analyzer, x, tmp_path):
    with pytest.raises(error, match=message):
        run(analyzer, x, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


class Deadly:
    """Rows of an array. Reading some of them kills a worker."""

    def __init__(self, x, at):
        self.x, self.at, self.shape, self.killed = x, set(at), x.shape, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        if rows.start in self.at and (workers := multiprocessing.active_children()):
            self.at.discard(rows.start)
            os.kill(workers[0].pid, signal.SIGKILL)
            self.killed += 1
        return self.x[rows]


def test_a_worker_that_dies_loses_nothing(analyzer, x, tmp_path):
    expected = run(analyzer, x, tmp_path / "plain.h5")
    rows = Deadly(x, at=[16])
    report = run(analyzer, rows, tmp_path / "out.h5", workers=2)
    assert rows.killed == 1
    assert (report.samples, report.failures) == (expected.samples, expected.failures)
    plain, written = read(tmp_path / "plain.h5"), read(tmp_path / "out.h5")
    assert list(plain) == list(written)
    for name, array in plain.items():
        np.testing.assert_allclose(written[name], array, rtol=1e-5, atol=1e-7)
    assert not multiprocessing.active_children()


def test_a_worker_that_is_told_to_end_has_no_error(monkeypatch):
    """Where one is killed, the others are told to end. They must not be taken for such as end by themselves."""
    lives, holds = multiprocessing.Pipe(duplex=False)
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    holds.close()
    engines._end_with(lives)
    assert codes == [0]


class Killed(Work):
    """Every batch kills the process."""

    def _compute(self, batch):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_batches_that_kill_every_worker_end_the_run(analyzer, x):
    jobs = enumerate(source(x, analyzer.graph, 4).batches())
    with pytest.raises(RuntimeError, match="were killed 3 times before.*2 workers need 2 times that of one"):
        list(Processes(2).computed(Killed(analyzer, None), jobs))
    assert not multiprocessing.active_children()


SCRIPT = """
import sys, time
import numpy as np
import keras
from keras import layers
import revgraph

class Doubled(layers.Layer):
    def call(self, x):
        return 2 * keras.ops.relu(x)

class Slow:
    x = np.random.default_rng(0).normal(size=(120, 8, 8, 2)).astype("float32")
    x[17] = np.nan
    shape = x.shape
    def __len__(self):
        return len(self.x)
    def __getitem__(self, rows):
        time.sleep(0.05)
        return self.x[rows]

def main(workers, path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 2)), layers.Conv2D(4, 3), Doubled(), layers.Flatten()])
    model.add(layers.Dense(4))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    print("ready", flush=True)
    report = revgraph.explain_dataset(
        analyzer, Slow(), path, batch_size=3, resume=True, verbose=0, workers=workers, neuron_selection=1
    )
    print("done", report.samples, report.failures, flush=True)
"""

GUARD = """
if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
"""


def children(pid):
    """The processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def workers_of(pid):
    """The workers of a run. Python's `multiprocessing` also starts a process that tracks resources."""
    return [c for c in children(pid) if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def alive(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("seed", range(4))
def test_workers_and_the_first_process_killed_at_random_moments(seed, tmp_path):
    """Five kills in each run: nothing is lost, nothing is there twice, and no worker stays behind."""
    script, draw = tmp_path / "script.py", random.Random(seed)
    script.write_text(SCRIPT + GUARD)

    def started(workers, path):
        command = [sys.executable, str(script), str(workers), str(tmp_path / path)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, stderr=subprocess.PIPE)

    plain = started(1, "plain.h5")
    out, err = plain.communicate()
    assert "done 120 {17: 'the input contains NaN'}" in out, err
    process, kills, out = started(2, "out.h5"), 0, ""
    while "done" not in out:
        line = process.stdout.readline()
        if line and kills < 5:
            kills += 1
            time.sleep(draw.uniform(0, 12))
            if process.poll() is None:
                running = workers_of(process.pid)
                if running and draw.random() < 0.6:
                    os.kill(draw.choice(running), signal.SIGKILL)
                else:
                    process.kill()
        out += process.communicate()[0]
        running = [pid for pid in running if alive(pid)] if kills else []
        deadline = time.monotonic() + 10
        while any(map(alive, running)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(alive, running)), "workers stayed behind"
        if "done" not in out:
            process = started(2, "out.h5")
    assert "{17: 'the input contains NaN'}" in out
    written, expected = read(tmp_path / "out.h5"), read(tmp_path / "plain.h5")
    assert list(written["index"]) == [i for i in range(120) if i != 17]
    for name, array in expected.items():
        np.testing.assert_allclose(written[name], array, rtol=1e-5, atol=1e-7)
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "plain.h5", "out.h5"}


@pytest.mark.slow
def test_the_same_bits_with_the_same_threads(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + GUARD)
    cores = engines._cores()
    for workers, path, threads in ((1, "plain.h5", max(1, cores // 2)), (2, "out.h5", 0)):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        environment["TF_NUM_INTRAOP_THREADS"] = str(threads)
        subprocess.run([sys.executable, script, str(workers), str(tmp_path / path)], env=environment, check=True)
    assert_same(read(tmp_path / "plain.h5"), read(tmp_path / "out.h5"))


@pytest.mark.slow
def test_a_script_may_come_from_stdin(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    script = SCRIPT.replace("Doubled(), ", "") + f"main(2, {str(tmp_path / 'out.h5')!r})"
    done = subprocess.run([sys.executable, "-"], input=script, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "done 120 {17:" in done.stdout, done.stderr


class Strict(keras.Model):
    """A model that Keras can save and not read: its constructor takes no name."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def test_a_worker_says_why_it_cannot_load_a_model():
    model = Strict()
    model(np.zeros((1, 4), "float32"))
    analyzer = revgraph.create_analyzer("lrp.epsilon", model)
    work = explain.Explanations(analyzer, None, inputs=False, ledger=False, class_names=None)
    with pytest.raises(RuntimeError, match="unexpected keyword argument.*must survive `model.save`"):
        engines.unpacked_work(engines.packed_work(work))


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + f"main(2, {str(tmp_path / 'out.h5')!r})")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "A worker process ended by itself" in done.stderr
    # The workers of one pool have begun, and no others.
    assert done.stderr.count("An attempt has been made to start a new process") <= 2
    assert 'A script has to begin its work behind `if __name__ == "__main__":`' in done.stderr
