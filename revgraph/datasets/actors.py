"""`Actors`: the engine that has batches computed by a Ray cluster."""

import itertools
import math
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from revgraph.datasets.engines import (
    DEATHS,
    Engine,
    Job,
    Results,
    packed_work,
    prepare,
    that_can_be_sent,
    unpacked_work,
)
from revgraph.datasets.streams import Batch
from revgraph.datasets.work import Finished, Work
from revgraph.extras import needed

AHEAD = 2
"""So many batches are with an actor: the one that it computes, and the next."""


class Actors(Engine):
    """Computes batches in actors, the processes of a Ray cluster.

    Each gets an equal analyzer, and its share of the cluster's cores and GPUs. One that dies is replaced, on another
    machine if need be, and what it had not finished is computed again. Results come back to this process. If it is
    connected to no cluster, `ray.init()` finds one, or starts one on this machine.

    Args:
        count: Number of actors.

    Raises:
        ImportError: Ray is not installed.
    """

    def __init__(self, count: int):
        self.ray = needed("ray", 'engine="ray"')
        self.count = count
        self.ahead = AHEAD * count

    def computed(self, work: Work, jobs: Iterator[Job]) -> Results:
        connect(self.ray)
        # Classes of a script or a notebook cannot be imported elsewhere, so Ray's pickles hold their code.
        packed = self.ray.put(packed_work(work, self.ray.cloudpickle.dumps))
        actors = [self._actor() for _ in range(self.count)]
        try:
            yield from self._results(actors, packed, jobs)
        finally:
            for actor in actors:
                self.ray.kill(actor)

    def _actor(self):
        """A new actor. What it is asked while it is being replaced is asked again."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        cores, gpus = (share([node.get(kind, 0) for node in nodes], self.count) for kind in ("CPU", "GPU"))
        options = {"num_cpus": cores, "num_gpus": min(gpus, 1), "max_restarts": -1, "max_task_retries": DEATHS - 1}
        return self.ray.remote(_Actor).options(**options).remote(max(1, int(cores)))

    def _results(self, actors: Sequence[Any], packed: Any, jobs: Iterator[Job]) -> Results:
        # An actor gets its first batches when it is there, because a cluster may have no room for all of them.
        running = {actor.ready.remote(): actor for actor in actors for _ in range(AHEAD)}
        batches: set[Any] = set()
        while True:
            (done,), _ = self.ray.wait(list(running), num_returns=1)
            actor = running.pop(done)
            finished = self._result(done)
            batches.discard(done)
            for number, batch in itertools.islice(jobs, 1):
                asked = actor.finished.remote([packed], number, batch)
                running[asked] = actor
                batches.add(asked)
            if finished is not None:
                yield finished
            if not batches:
                return

    def _result(self, reference):
        """What an actor returned. What was raised there is raised here."""
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayActorError as error:
            raise RuntimeError(
                f"The actors that computed a batch ended {DEATHS} times: {_first_line(error)} What they had to say "
                f"stands above. Two causes are frequent. Memory: {self.count} workers need {self.count} times that of "
                f"one, so pass a lower workers= or batch_size=. And every machine needs the same packages."
            ) from error
        if isinstance(result, tuple):
            raised, place = result
            raise raised from RuntimeError(f"In an actor:\n{place}")
        return result


class _Actor:
    """What runs in an actor.

    Args:
        threads: So many threads compute.
    """

    def __init__(self, threads: int):
        prepare(threads)
        self.work: Work | None = None

    def ready(self) -> None:
        """Returns when the actor is there."""

    def finished(self, packed: list[Any], number: int, batch: Batch) -> Finished | tuple[Exception, str]:
        """Computes a batch. An error is returned with its traceback, because Ray prints those that nobody fetches.

        Args:
            packed: The reference to what `packed_work` returned, in a list, because Ray would look it up each time.
            number: The position of the batch in the dataset.
            batch: The batch.
        """
        try:
            if self.work is None:
                self.work = unpacked_work(needed("ray", "An actor").get(packed[0]))
            return self.work.finished(number, batch)
        except Exception as error:
            return that_can_be_sent(error), traceback.format_exc()


def connect(ray: Any) -> None:
    """Connects this process with a cluster if it is not: with a new one on this machine if there is none."""
    if not ray.is_initialized():
        ray.init(logging_level="warning", include_dashboard=False)


def share(nodes: Sequence[float], count: int) -> float:
    """The largest share of machines' cores such that all workers have room.

    Args:
        nodes: Number of cores, or of GPUs, of each machine.
        count: Number of workers.

    Returns:
        A whole number, or 1/n; 0 if there are none.
    """
    if not sum(nodes):
        return 0
    for cores in range(int(max(nodes)), 0, -1):
        if sum(node // cores for node in nodes) >= count:
            return cores
    return 1 / next(n for n in itertools.count(2) if sum(math.floor(node * n) for node in nodes) >= count)


def _first_line(error):
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
