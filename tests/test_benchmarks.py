"""The benchmarks, on networks so small that nothing takes long; what they measure is not tested."""

import dataclasses
import itertools
import json
import sys
import time

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import curves, jobs, programs, report, sections
from benchmarks.goals import METHODS
from benchmarks.networks import GRU, LSTM, SMALL, network, samples, text_encoder, vision_transformer
from benchmarks.peers import environments, side_by_side
from benchmarks.processes import ROOT, Failed, Worker, run_job
from benchmarks.timing import Effort, against, interleaved, spread

ONCE = {"rounds": 1, "seconds": 0.0, "most": 1}
SIZE = 12


def answering(*answers):
    """A command that answers each line that it is sent, and the question that it is started with."""
    lines = "".join(f"print({json.dumps(a)!r}, flush=True); input();" for a in answers)
    return [sys.executable, "-c", lines]


def test_rounds_follow_from_the_time_that_things_take():
    effort = Effort(rounds=3, seconds=1.0, most=10)
    assert [effort.of(t) for t in (10.0, 0.25, 0.001)] == [3, 4, 10]


def test_spread():
    assert spread([3, 1, 2, 5, 4], "x") == {"x": 3, "x_low": 2, "x_high": 4}
    assert spread([7], "x") == {"x": 7, "x_low": 7, "x_high": 7}


def test_every_round_runs_every_function_once():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleaved(functions, Effort(**ONCE | {"rounds": 2}))
    assert {name: len(t) for name, t in times.items()} == dict.fromkeys("abc", 2)
    assert calls.count("a") == 2 + 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_function_has_a_reference_beside_it(count):
    calls = []
    functions = {i: lambda i=i: calls.append(i) for i in range(count)}
    references, times, ratios = against(lambda: calls.append("r"), functions, Effort(**ONCE))
    measured = calls[2 * (count + 1) :]
    assert all("r" in (before, after) for before, x, after in windows(measured) if x != "r")
    assert len(references) == measured.count("r") and all(len(t) == 1 for t in (*times.values(), *ratios.values()))


def test_a_slow_first_call_does_not_cost_rounds():
    effort = Effort(rounds=1, seconds=0.2, most=7)

    def slow_at_first(left):
        return lambda: time.sleep(left.pop() if left else 0)

    references, times, _ = against(slow_at_first([0.2]), {"a": slow_at_first([0.2])}, effort)
    assert len(references) == len(times["a"]) == 7
    assert len(interleaved({"a": slow_at_first([0.2])}, effort)["a"]) == 7


def windows(items):
    """Every item with its neighbours."""
    return zip([None, *items], items, [*items[1:], None], strict=False)


@pytest.mark.parametrize("method", METHODS)
def test_there_is_an_analyzer_for_every_method(method):
    model = network(SMALL, SIZE)
    relevance = programs.explain(programs.make_analyzer(method, model), np.ones((1, SIZE, SIZE, 1), "float32"))()
    assert relevance.shape == (1, SIZE, SIZE, 1) and np.isfinite(relevance).all()


@pytest.mark.parametrize("method", ["lrp.cp", "lrp.attnlrp", "lrp.vit"])
def test_transformers_are_explained_beside_their_gradient(method):
    """That of ids is with respect to the rows of the embedding."""
    sees = vision_transformer(8, depth=1, width=8, heads=2, patch=4)
    reads = text_encoder(4, depth=1, width=8, heads=2)
    for model, explained, shape in ((sees, (2, 8, 8, 3), (2, 8, 8, 3)), (reads, (2, 4), (2, 4, 8))):
        x = samples(model, 2)
        assert programs.explain(programs.make_analyzer(method, model), x)().shape == explained
        found = programs.gradient(model, x)()
        assert found.shape == shape and found.any()


@pytest.mark.parametrize("name", [LSTM, GRU])
def test_recurrent_networks_are_explained_beside_their_gradient(name):
    model = network(name, 5)
    x = samples(model, 2)
    for run in (programs.explain(programs.make_analyzer("lrp.epsilon", model), x), programs.gradient(model, x)):
        assert run().shape == x.shape == (2, 5, 32) and run().any()


def test_each_network_has_its_methods():
    plan = sections.Plan(methods=("lrp.epsilon", "lrp.vit"))
    assert [plan.methods_on(name) for name in ("VGG16", "BERT", SMALL)] == [
        ("lrp.epsilon",),
        ("lrp.vit",),
        plan.methods,
    ]


def test_ratios_come_with_peak_memory():
    plan = dataclasses.replace(
        command.quick(sections.Plan()), batch_sizes=(32,), methods=("lrp.epsilon",), image_size=28
    )
    found = list(sections.ratios(plan))
    assert [row["method"] for row in found] == [jobs.GRADIENT, "lrp.epsilon"]
    assert all(row[key] > 0 for row in found for key in ("ratio", "seconds", "megabytes", "memory"))


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        (jobs.first_call, {}),
        (jobs.overhead, {"effort": ONCE}),
        (jobs.targets, {"effort": ONCE, "count": 3}),
        (jobs.conditions, {"effort": ONCE, "count": 3}),
        (jobs.throughput, {"effort": ONCE, "batch": 2, "batches": 2}),
        (jobs.collect, {"effort": ONCE, "batch": 2, "batches": 2}),
        (jobs.dataset_memory, {"batch": 2, "batches": 2}),
        (jobs.dataset_memory, {"batch": 2, "batches": 2, "what": "concepts"}),
        (jobs.dataset_workers, {"batch": 2, "batches": 6, "workers": 1}),
        (jobs.stub, {"batch": 2, "batches": 6, "workers": 1}),
        (jobs.xla, {"effort": ONCE, "batch": 1}),
    ],
)
def test_jobs_give_numbers(job, arguments):
    found = job(name=SMALL, method="lrp.alpha_1_beta_0", image_size=SIZE, **arguments)
    assert found and all(np.isfinite(value) for value in found.values() if not isinstance(value, str))


def test_xla_changes_nothing():
    assert jobs.xla(SMALL, "lrp.epsilon", 1, ONCE, SIZE)["difference"] < 1e-4


def test_a_worker_answers_and_says_why_it_does_not():
    with Worker(answering({"a": 1}, {"error": "no such thing"}), {}) as worker:
        assert worker.answer() == {"a": 1}
        with pytest.raises(Failed, match="no such thing"):
            worker.ask({})
    with (
        Worker([sys.executable, "-c", "raise SystemExit('torn')"], {}) as worker,
        pytest.raises(Failed, match="torn"),
    ):
        worker.answer()
    with (
        Worker([sys.executable, "-c", "import time; time.sleep(60)"], {}) as worker,
        pytest.raises(Failed, match="not done within 0 s"),
    ):
        worker.answer(0.2)


def test_an_environment_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    impossible = environments.Environment(((2, 0), (2, 1)), ())
    monkeypatch.setitem(environments.ENVIRONMENTS, "zennit", impossible)
    plan = sections.Plan(environments=tmp_path)
    (row,) = side_by_side.compare("zennit", plan)
    assert row == {"library": "zennit", "error": "needs Python 3.0 to 3.1, and none was found"}
    assert "needs Python" in report.markdown({"zennit": measured([row])})


def test_a_package_that_cannot_be_installed_is_told(tmp_path, monkeypatch):
    here = sys.version_info[:2]
    environment = environments.Environment((here, here), ("no-such-package==0",), options=("--no-index",))
    monkeypatch.setitem(environments.ENVIRONMENTS, "zennit", environment)
    with pytest.raises(Failed, match="zennit could not be installed: ERROR: .*no-such-package"):
        environments.ready("zennit", tmp_path)


def test_peers_take_turns(monkeypatch, tmp_path):
    monkeypatch.setattr(side_by_side, "ready", lambda *_: sys.executable)
    first, run = {"first_call": 2.0, "versions": {"other": "1"}}, {"seconds": 0.5}
    workers = itertools.repeat(answering(first, *[run] * 20))
    monkeypatch.setattr(side_by_side, "Worker", lambda command, *rest: Worker(next(workers), *rest))
    plan = sections.Plan(networks=(SMALL,), batch_sizes=(1,), methods=("lrp.z",), effort=Effort(**ONCE))
    rows = list(side_by_side.compare("zennit", plan))
    assert [row["method"] for row in rows] == [jobs.GRADIENT, "lrp.z"]
    assert all(row["speedup"] == 1 and row["peer_first_call"] == 2 for row in rows)


def measured(rows):
    """A section as the command stores it."""
    return {"date": "2020-01-01", "machine": {"cpu": "a cpu", "cores": 2}, "versions": {"x": "1"}, "rows": rows}


@pytest.fixture
def answers(monkeypatch):
    """Every job answers at once, with the same number for whatever is measured."""
    numbers = ("ratio seconds megabytes memory create analyze sites overhead share one_by_one samples_per_second "
               "first_call difference whole_ms gflops gigabytes").split()  # fmt: skip
    parts = {"kind": "Dense, Epsilon", "sites": 1, "operations": {"_MatMul": 1.0}}
    parts |= dict.fromkeys(("forward_ms", "backward_ms", "floor_ms", "gflop"), 1.0)

    def job(job, methods=(), **arguments):
        numbered = dict.fromkeys(numbers, 0.5)
        if job == "ratios":
            return {"rows": [{"method": method, **numbered} for method in (jobs.GRADIENT, *methods)]}
        return {**numbered, "rows": [parts]} if job == "profile" else numbered

    monkeypatch.setattr(sections, "run_job", job)


def test_every_section_is_measured_written_and_drawn(answers, tmp_path):
    command.main(["--only", *sections.SECTIONS, "--out", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == list(sections.SECTIONS)
    text = (tmp_path / "results.md").read_text()
    assert all(f"## {report.TITLES[name]}" in text for name in results)
    assert "≤ 1.1: met" in text and "≤ 1: **not met**" in text and "≥ 0.95: **not met**" in text
    assert (tmp_path / "scaling.png").stat().st_size > 1000


def test_sections_that_are_not_measured_anew_stay(answers, tmp_path):
    command.main(["--only", "overhead", "--out", str(tmp_path)])
    command.main(["--only", "targets", "--out", str(tmp_path)])
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["overhead", "targets"]


def test_jobs_that_fail_are_rows_that_say_so(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise Failed("out of memory")

    monkeypatch.setattr(sections, "run_job", fail)
    command.main(["--only", *sections.SECTIONS, "--networks", "VGG16", "--out", str(tmp_path)])
    assert (tmp_path / "results.md").read_text().count("out of memory") > 10


def test_the_command_line_says_what_is_measured():
    given = command.parser().parse_args("--quick --methods lrp.z --batch-sizes 3 --rounds 4".split())
    plan = command.plan_of(given)
    assert (plan.networks, plan.methods, plan.batch_sizes, plan.effort.rounds) == ((SMALL,), ("lrp.z",), (3,), 4)


def test_the_summary_says_what_is_met():
    rows = [
        {"network": "VGG16", "batch": 1, "method": method, "ratio": ratio, "goal": 1.1}
        for method, ratio in (("lrp.z", 1.04), ("lrp.epsilon", 1.2))
    ]
    assert report.summary({"ratios": measured(rows)}).splitlines()[2:] == [
        "| `lrp.z` | 1.04 (≤ 1.1) |",
        "| `lrp.epsilon` | 1.20 (**not 1.1**) |",
    ]


def test_curves_of_networks_are_drawn_by_their_depth():
    assert [curves._position(value) for value in ("ResNet50", "ResNet152", 8)] == [50, 152, 8]


def test_documents_show_the_committed_results():
    results = json.loads((ROOT / "benchmarks" / "results" / "results.json").read_text())
    page = (ROOT / "docs" / "performance.md").read_text()
    assert all(report.summary(results, section) in page for section in ("ratios", "eigen") if section in results)
    assert report.markdown(results) == (ROOT / "benchmarks" / "results" / "results.md").read_text()


def test_jobs_can_be_told_to_do_without_onednn():
    asked = []
    plan = dataclasses.replace(sections.Plan(), networks=(SMALL,), batch_sizes=(1,), methods=("lrp.z",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sections, "run_job", lambda job, **given: asked.append((job, given["environment"])) or {"rows": []}
        )
        list(sections.eigen(plan))
    assert asked == [(job, {"TF_ENABLE_ONEDNN_OPTS": "0"}) for job in ("ratios", "memory")]


def test_results_say_whether_onednn_was_on():
    assert not sections.machine({"TF_ENABLE_ONEDNN_OPTS": "0"})["onednn"]
    sections_of = {name: measured([]) for name in ("ratios", "eigen")}
    for name, on in (("ratios", True), ("eigen", False)):
        sections_of[name]["machine"]["onednn"] = on
    assert [f"oneDNN {state}" in report.markdown(sections_of) for state in ("on", "off")] == [True, True]


def test_the_profile_accounts_for_every_kind_of_site():
    found = run_job("profile", name=SMALL, method="lrp.alpha_1_beta_0", batch=1, runs=2)
    kinds = {row["kind"] for row in found["rows"]}
    assert {"Conv 3x3, AlphaBeta", "Dense, AlphaBeta", "relu, Pass"} <= kinds
    assert found["whole_ms"] > 0 and all(row["floor_ms"] >= 0 for row in found["rows"])
