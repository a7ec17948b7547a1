"""The sections of the results: which jobs each runs, and the rows that come of it."""

import dataclasses
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.goals import (
    COLLECT,
    CONDITIONS,
    FIRST_CALL,
    FIRST_CALL_OF_SERIES,
    MEMORY_OF_SERIES,
    METHODS,
    OVERHEAD,
    RECURRENT,
    SHARE,
    SPEEDUP,
    TARGETS,
    THROUGHPUT,
    TRANSFORMERS,
    methods_of,
)
from benchmarks.peers.side_by_side import compare
from benchmarks.processes import EIGEN, Failed, run_job
from benchmarks.timing import Effort

GRADIENT = "plain gradient"
SMALL = "small"
DEPTHS = ("ResNet50", "ResNet101", "ResNet152")
FEW = ("lrp.epsilon", "lrp.alpha_1_beta_0", "lrp.alpha_2_beta_1", "lrp.cp", "lrp.attnlrp", "lrp.vit")
"""One method of each price."""

FIRST_CALLS = ("lrp.epsilon", "lrp.alpha_2_beta_1", "lrp.sequential_preset_a", "lrp.cp", "lrp.attnlrp", "lrp.vit")
"""Methods whose first call is timed."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured, and how thoroughly.

    Args:
        networks: The networks of the goals that read images by convolutions.
        transformers: Those with attention, which have methods of their own.
        recurrent: Those that read series step by step.
        batch_sizes: The batch sizes of the first two.
        series_batch_sizes: Those of recurrent networks.
        steps: Lengths of series.
        image_size: Height and width of images; None for each network's own.
        images: How many images a dataset has whose time is measured.
        lengths: Numbers of batches of the datasets whose memory is measured.
        work: Number of batches of the datasets that several processes share.
        methods: The methods.
        effort: How often things are run.
        peers: Libraries to compare with.
        environments: Folder in which their virtual environments are.
        limit: Seconds after which the first call of a peer is given up.
        curves: For scaling: lists of batch sizes, image sizes and networks of growing depth.
        environment: Environment variables of the processes that measure.
    """

    networks: tuple[str, ...] = ("VGG16", "ResNet50")
    transformers: tuple[str, ...] = TRANSFORMERS
    recurrent: tuple[str, ...] = RECURRENT
    batch_sizes: tuple[int, ...] = (1, 8)
    series_batch_sizes: tuple[int, ...] = (1, 32)
    steps: tuple[int, ...] = (20, 200, 2000)
    image_size: int | None = None
    images: int = 32
    lengths: tuple[int, ...] = (25, 100, 400)
    work: int = 40
    methods: tuple[str, ...] = tuple(METHODS)
    effort: Effort = Effort()
    peers: tuple[str, ...] = ()
    environments: Path = Path(".venv-peers")
    limit: float = 300.0
    curves: dict = dataclasses.field(
        default_factory=lambda: {
            "batch size": (1, 2, 4, 8),
            "image size": (128, 224, 320),
            "network": DEPTHS,
        }
    )
    environment: dict = dataclasses.field(default_factory=dict)

    @property
    def all_networks(self) -> tuple[str, ...]:
        """The networks of the goals of any kind."""
        return (*self.networks, *self.transformers)

    def methods_on(self, network: str) -> tuple[str, ...]:
        """The methods that are asked for and have a goal on a network; all of them on a network without goals."""
        return methods_of(network, self.methods)

    def few(self, network: str = "VGG16") -> tuple[str, ...]:
        """One method of each price, of those for a network that are asked for."""
        return tuple(method for method in self.methods_on(network) if method in FEW) or self.methods[:1]

    def hasty(self) -> "Plan":
        """The same with few rounds, for what takes long or is only to be seen at a glance."""
        rounds = min(3, self.effort.rounds)
        return dataclasses.replace(self, effort=dataclasses.replace(self.effort, rounds=rounds, most=rounds))

    def batches(self, size: int) -> int:
        """How many batches a dataset has."""
        return math.ceil(self.images / size)

    def settings(self) -> dict:
        """What of this is told with the results."""
        return {"image_size": self.image_size, **dataclasses.asdict(self.effort)}

    def job(self, job, **arguments) -> dict:
        """Runs a job on images of the plan's size."""
        return run_job(job, environment=self.environment, **{"image_size": self.image_size, **arguments})

    def timed(self, job, **arguments) -> dict:
        """Runs a job that is repeated with the plan's effort."""
        return self.job(job, effort=dataclasses.asdict(self.effort), **arguments)


def costs(plan: Plan, methods, **where) -> list[dict]:
    """Times and memory of some methods, a row each."""
    found = attempt(plan.timed, "ratios", methods=methods, **where)
    taken = attempt(plan.job, "memory", methods=methods, **where)
    by_method = {row["method"]: row for row in taken.get("rows", [])}
    return [{**row, **by_method.get(row.get("method"), taken)} for row in found.get("rows", [found])]


def ratios(plan: Plan, **options) -> Iterator[dict]:
    """Every method on every network, as a multiple of the plain gradient."""
    for name in filter(plan.methods_on, plan.all_networks):
        for batch in plan.batch_sizes:
            at = {"network": name, "batch": batch}
            for row in costs(plan, plan.methods_on(name), name=name, batch=batch, **options):
                goals = METHODS[row["method"]].goals if row.get("method") in METHODS else {}
                yield {**at, "goal": goals.get(name), **row}


def eigen(plan: Plan) -> Iterator[dict]:
    """The same without oneDNN."""
    return ratios(dataclasses.replace(plan, environment=VARIABLES["eigen"]))


def frozen(plan: Plan) -> Iterator[dict]:
    """The same with `freeze=True`."""
    return ratios(dataclasses.replace(plan, methods=plan.few(), transformers=()), freeze=True)


def first_call(plan: Plan) -> Iterator[dict]:
    """The first call in a fresh process; for the goals' networks and for growing depth."""
    names = dict.fromkeys(
        [*plan.all_networks, *plan.curves["network"], *(FIRST_CALL if len(plan.networks) > 1 else ())]
    )
    for name in names:
        with_goal = [m for m in plan.methods_on(name) if m in FIRST_CALLS]
        for method in (GRADIENT, *with_goal) if name in (*FIRST_CALL, *plan.networks) else plan.few()[:1]:
            found = attempt(plan.job, "first_call", name=name, method=method)
            if "error" not in found:
                found["seconds"] = found["create"] + found["analyze"]
            yield {"network": name, "method": method, "goal": FIRST_CALL.get(name), **found}


def overhead(plan: Plan) -> Iterator[dict]:
    """What `analyze` adds to the compiled function, for a small network and one sample."""
    thorough = dataclasses.replace(plan.effort, most=50 * plan.effort.rounds)
    for method in plan.few():
        found = attempt(run_job, "overhead", name=SMALL, method=method, effort=dataclasses.asdict(thorough))
        yield {"network": SMALL, "batch": 1, "method": method, "goal": OVERHEAD, **found}


def targets(plan: Plan) -> Iterator[dict]:
    """Ten targets of one image in one call."""
    plan = plan.hasty()
    for name in plan.networks:
        for method in plan.few():
            found = attempt(plan.timed, "targets", name=name, method=method)
            yield {"network": name, "batch": 1, "method": method, "goal": TARGETS, **found}


def conditions(plan: Plan) -> Iterator[dict]:
    """Relevance through each of 64 channels of one layer in one call."""
    plan = plan.hasty()
    for name in plan.networks:
        for method in plan.few():
            found = attempt(plan.timed, "conditions", name=name, method=method)
            yield {"network": name, "batch": 1, "method": method, "goal": CONDITIONS, **found}


def datasets(plan: Plan) -> Iterator[dict]:
    """Throughput over a dataset, and the memory of datasets of growing length."""
    plan = plan.hasty()
    batch = max(plan.batch_sizes)
    method = plan.few()[0]
    for name in plan.networks:
        found = attempt(plan.timed, "throughput", name=name, method=method, batch=batch, batches=plan.batches(batch))
        yield {"network": name, "batch": batch, "method": method, "goal": THROUGHPUT, **found}
    for batches in plan.lengths:
        found = attempt(run_job, "dataset_memory", name=SMALL, method=FEW[1], batch=64, batches=batches)
        yield {"network": SMALL, "batch": 64, "method": FEW[1], "goal": None, **found}


def concepts(plan: Plan) -> Iterator[dict]:
    """Concepts of the last block over a dataset, beside `explain_dataset`, and the memory of growing datasets."""
    plan = plan.hasty()
    batch = max(plan.batch_sizes)
    for name in plan.networks:
        found = attempt(
            plan.timed, "collect", name=name, method=plan.few()[0], batch=batch, batches=plan.batches(batch)
        )
        yield {"network": name, "batch": batch, "method": plan.few()[0], "goal": COLLECT, **found}
    for batches in plan.lengths:
        found = attempt(
            run_job, "dataset_memory", name=SMALL, method=FEW[1], batch=64, batches=batches, what="concepts"
        )
        yield {"network": SMALL, "batch": 64, "method": FEW[1], "goal": None, **found}


def workers(plan: Plan) -> Iterator[dict]:
    """Several processes on a dataset: beside one process with all cores, and where a batch only takes time."""
    method = plan.few()[0]
    batch = max(plan.batch_sizes)
    shared = [(name, "dataset_workers", batch, plan.work, 2, SHARE) for name in plan.networks]
    for name, job, size, batches, most, goal in [*shared, (SMALL, "stub", 8, 50 * plan.work, 8, SPEEDUP)]:
        of_one = None
        for count in (1, most):
            found = attempt(plan.job, job, name=name, method=method, batch=size, batches=batches, workers=count)
            rate = found.get("samples_per_second", math.nan)
            of_one = of_one or rate
            shown = name if job == "dataset_workers" else "50 ms"
            at = {"network": shown, "batch": size, "method": method, "workers": count}
            yield {**at, "goal": None if count == 1 else goal, **found, "gain": rate / of_one}


def xla(plan: Plan) -> Iterator[dict]:
    """`jit_compile=True` beside the default."""
    for name in plan.networks:
        for method in plan.few():
            found = attempt(plan.timed, "xla", name=name, method=method, batch=1)
            yield {"network": name, "batch": 1, "method": method, "goal": None, **found}


def scaling(plan: Plan) -> Iterator[dict]:
    """Time and memory over batch size, image size and depth."""
    plan = plan.hasty()
    methods = [m for m in plan.few() if m != "lrp.alpha_1_beta_0"] or plan.few()
    fixed = {"network": plan.networks[-1], "batch": 1, "image_size": plan.image_size}
    key = {"batch size": "batch", "image size": "image_size", "network": "network"}
    for curve, values in plan.curves.items():
        for value in values:
            at = {**fixed, key[curve]: value}
            where = {"name": at["network"], "batch": at["batch"], "image_size": at["image_size"]}
            for row in costs(plan, methods, **where):
                yield {"curve": curve, "value": value, **at, **row}


def recurrent(plan: Plan) -> Iterator[dict]:
    """Recurrent networks: time and memory, and the first call for series of growing length."""
    for name in plan.recurrent:
        methods = plan.methods_on(name)
        for batch in plan.series_batch_sizes:
            for row in costs(plan, methods, name=name, batch=batch, image_size=None) if methods else ():
                goals = METHODS[row["method"]].goals if row.get("method") in METHODS else {}
                limits = {"goal": goals.get(name), "memory_goal": MEMORY_OF_SERIES}
                yield {"network": name, "batch": batch, **limits, **row}
        for steps in plan.steps:
            for method in (GRADIENT, *methods):
                found = attempt(plan.job, "first_call", name=name, method=method, image_size=steps)
                if "error" not in found:
                    found["first_call"] = found["create"] + found["analyze"]
                at = {"network": name, "batch": 1, "method": method, "steps": steps}
                yield {**at, "goal": FIRST_CALL_OF_SERIES if method in METHODS else None, **found}


def profile(plan: Plan) -> Iterator[dict]:
    """Where the time goes, by kind of call site."""
    for name in plan.all_networks:
        for batch in plan.batch_sizes:
            for method in ("gradient", *plan.few(name)):
                found = attempt(plan.job, "profile", name=name, method=method, batch=batch, runs=plan.effort.rounds)
                yield {"network": name, "batch": batch, "method": method, "goal": None, **found}


def peer(library):
    """The section that compares with a library."""

    def section(plan: Plan) -> Iterator[dict]:
        return compare(library, plan)

    section.__doc__ = f"Absolute times beside those of {library}."
    return section


SECTIONS = {
    "ratios": ratios,
    "eigen": eigen,
    "frozen": frozen,
    "first_call": first_call,
    "overhead": overhead,
    "targets": targets,
    "conditions": conditions,
    "datasets": datasets,
    "concepts": concepts,
    "workers": workers,
    "xla": xla,
    "scaling": scaling,
    "recurrent": recurrent,
    "profile": profile,
}


VARIABLES = {"eigen": EIGEN}
"""Environment variables of the processes of a section."""

DEFAULT = tuple(
    "ratios eigen first_call overhead targets conditions datasets concepts workers scaling recurrent".split()
)
"""What is measured when nothing else is asked for."""


def attempt(measure, *arguments, **keywords) -> dict:
    """The result of a measurement, or why there is none."""
    try:
        return measure(*arguments, **keywords)
    except Failed as error:
        return {"error": str(error)}


def machine(environment) -> dict:
    """The processor, the memory, the system and TensorFlow's kernels; nothing that names the machine."""
    from tensorflow.python.framework.test_util import IsMklEnabled

    onednn = IsMklEnabled() and environment.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cpu": _cpu(), "cores": cores, "system": platform.system(), "onednn": onednn}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return found


def _cpu():
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict:
    """Versions of what is measured."""
    from importlib.metadata import version

    import revgraph

    packages = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"revgraph": revgraph.__version__, "python": platform.python_version(), **packages}


def load() -> float | None:
    """Processes that wanted a core during the last minute."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def say(text):
    """Tells how far it is."""
    print(text, file=sys.stderr, flush=True)


def told(row) -> str:
    """A row in a line."""
    where = [str(row[key]) for key in ("network", "method") if key in row]
    where += [f"batch {row['batch']}"] if "batch" in row else []
    shown = (
        "ratio", "seconds", "overhead", "share", "memory", "megabytes", "whole_ms", "peer_seconds", "speedup",
        "first_call",
    )  # fmt: skip
    numbers = [f"{key} {row[key]:.3g}" for key in shown if isinstance(row.get(key), float) and math.isfinite(row[key])]
    return "  ".join([*where, *numbers, *([row["error"]] if "error" in row else [])])
