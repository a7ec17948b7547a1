"""Engines: what computes the batches of a run. This process does, or several processes of this machine."""

import concurrent.futures
import contextlib
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf

from revgraph.analyzers.portable import Portable
from revgraph.datasets.streams import Batch
from revgraph.datasets.work import Finished, Work
from revgraph.graph.arguments import check_count

Job: TypeAlias = tuple[int, Batch]
"""A batch with its number."""

Results: TypeAlias = Generator[Finished, None, None]
"""What was computed for batches. Closing it ends what computes."""

DEATHS = 3
"""A run ends when processes have been killed so many times, and no batch was finished in between."""


class Engine:
    """Computes batches.

    Attributes:
        ahead: How many batches are read before they can be computed.
    """

    ahead: int = 0

    def computed(self, work: Work, jobs: Iterator[Job]) -> Results:
        """Computes batches, and gives each when it is finished, in any order.

        Args:
            work: What is computed for a batch.
            jobs: The batches with their numbers. They are read one after the other.
        """
        raise NotImplementedError


class Here(Engine):
    """Computes one batch after the other in this process."""

    def computed(self, work: Work, jobs: Iterator[Job]) -> Results:
        for number, batch in jobs:
            yield work.finished(number, batch)


class Processes(Engine):
    """Computes batches in several processes of this machine.

    The processes are new ones, and no copies of this one. Each gets an equal analyzer, and its share of the processor's
    cores. If one is killed, all of them are replaced, and what they had not finished is computed again.

    Args:
        count: Number of processes.
    """

    def __init__(self, count: int):
        self.count = count
        # While a process computes, its next batch waits for it.
        self.ahead = 2 * count

    def computed(self, work: Work, jobs: Iterator[Job]) -> Results:
        waiting: dict[int, Batch] = {}
        deaths = 0
        with tempfile.TemporaryDirectory() as folder, _main_that_can_be_imported():
            file = Path(folder, "work")
            file.write_bytes(packed_work(work))
            while True:
                started: set[Any] = set()
                try:
                    with self._pool(file) as pool:
                        submit = functools.partial(_submit, pool, started)
                        for finished in in_flight(submit, jobs, waiting, self.ahead):
                            deaths = 0
                            yield finished
                    return
                except BrokenProcessPool as error:
                    deaths += 1
                    # Signals kill with negative codes. A process that ends by itself would do so again.
                    if any((process.exitcode or 0) > 0 for process in started):
                        raise RuntimeError(
                            "A worker process ended by itself. What it had to say stands above. A script has to begin "
                            'its work behind `if __name__ == "__main__":`, because each worker imports it.'
                        ) from error
                    if deaths == DEATHS:
                        raise RuntimeError(
                            f"Worker processes were killed {DEATHS} times before they had finished a batch. The most "
                            f"frequent cause is memory: {self.count} workers need {self.count} times that of one. Pass "
                            f"a lower workers= or batch_size=."
                        ) from error

    @contextlib.contextmanager
    def _pool(self, file):
        """The processes, which end at once when this block, or this process, is left before its end."""
        context = multiprocessing.get_context("spawn")
        threads = max(1, _cores() // self.count)
        lives, holds = context.Pipe(duplex=False)
        with ProcessPoolExecutor(self.count, context, _begin, (lives, file, threads)) as pool, lives:
            try:
                yield pool
            except BaseException:
                holds.close()
                raise
        holds.close()


def engine_of(name: str | None, workers: int) -> Engine:
    """The engine of a name.

    Args:
        name: None for this machine, or `"ray"`.
        workers: Number of processes.

    Raises:
        ValueError: There is no such engine, or the number is not positive.
        ImportError: Ray is not installed.
    """
    check_count("workers", workers)
    if name == "ray":
        from revgraph.datasets.actors import Actors

        return Actors(workers)
    if name is not None:
        raise ValueError(f'engine is None for processes of this machine, or "ray". Received: {name!r}.')
    return Here() if workers == 1 else Processes(workers)


@contextlib.contextmanager
def _main_that_can_be_imported():
    """Keeps workers from importing a script that is not in a file, such as one that is read from stdin."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or os.path.exists(file):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file


def _submit(pool, started, number, batch):
    """Hands out a batch, and notes the processes that are there."""
    future = pool.submit(_finished, number, batch)
    started.update(multiprocessing.active_children())
    return future


def in_flight(
    submit: Callable[[int, Batch], Future], jobs: Iterator[Job], waiting: dict[int, Batch], ahead: int
) -> Results:
    """Hands out batches, and gives each when it is finished.

    Args:
        submit: Hands out a batch with its number.
        jobs: The batches with their numbers.
        waiting: Those that were read and are not finished, by number. They come first, and are kept up to date.
        ahead: So many batches are handed out at once.
    """
    running = {submit(number, batch) for number, batch in waiting.items()}
    while True:
        for number, batch in itertools.islice(jobs, ahead - len(running)):
            waiting[number] = batch
            running.add(submit(number, batch))
        if not running:
            return
        done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            finished = future.result()
            del waiting[finished.record.number]
            yield finished


def packed_work(work: Work, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """What another process needs to do the work; see `unpacked_work`.

    Raises:
        TypeError: The analyzer cannot be sent.
    """
    try:
        return dumps((type(work), Portable.of(work.analyzer), work.selection, work.options))
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise TypeError(
            f"The analyzer cannot be sent to other processes: {error} Leave out workers=, or define your own classes "
            f"and functions at the top of a module."
        ) from error


def unpacked_work(content: bytes) -> Work:
    """The work that `packed_work` packed.

    Raises:
        RuntimeError: The analyzer cannot be loaded in this process.
    """
    try:
        kind, portable, selection, options = pickle.loads(content)
        return kind(portable.load(), selection, **options)
    # Constructors of the user's own classes may fail in any way.
    except Exception as error:
        raise RuntimeError(
            f"A worker cannot load the analyzer: {type(error).__name__}: {error} Workers find your own classes and "
            f"functions by their names, so these stand at the top of a module or of the script, and not in a function "
            f"or a notebook. A model of a class of yours must survive `model.save` and `keras.models.load_model`, or "
            f"be given as the path of a SavedModel."
        ) from error


_work: Work | None = None
_file: Path


def _begin(lives, file, threads):
    """Prepares a new process."""
    global _file
    _file = file
    # Ctrl-C reaches all processes, and the first one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prepare(threads)
    threading.Thread(target=_end_with, args=(lives,), daemon=True).start()


def prepare(threads: int) -> None:
    """Prepares a worker process before it uses TensorFlow.

    Args:
        threads: So many threads compute.
    """
    # Code of the user's that was imported may have used TensorFlow, and then it is too late.
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        # By default one process takes all memory of a GPU, and several may share it.
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    # The line that a warning would name is in this package.
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"


def _end_with(lives):
    """Ends this process as soon as the first one closes its end of a pipe, or dies."""
    multiprocessing.connection.wait([lives])
    # No error: it was told to end.
    os._exit(0)


def _finished(number: int, batch: Batch) -> Finished:
    global _work
    if _work is None:
        _work = unpacked_work(_file.read_bytes())
    try:
        return _work.finished(number, batch)
    except Exception as error:
        raise that_can_be_sent(error) from error


def that_can_be_sent(error: Exception) -> Exception:
    """An error that another process can read: the same if possible."""
    try:
        pickle.loads(pickle.dumps(error))
    # The constructor of an error may need what its pickle does not have, and fail in any way.
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
