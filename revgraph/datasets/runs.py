"""Runs over a dataset that may end at any moment: what is computed batch by batch, and written when all is there."""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import keras

from revgraph.datasets.engines import Engine, Job
from revgraph.datasets.outputs import Sink
from revgraph.datasets.staging import Staging, sync_folder
from revgraph.datasets.tasks import Task
from revgraph.datasets.work import Finished, Work
from revgraph.graph.tables import Table, Tabular
from revgraph.saving.names import file_name
from revgraph.saving.provenance import now

LISTED = 20
"""A printed report lists so many failures."""

WRITERS = 4
"""So many batches of several processes are written at once."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Report(Tabular):
    """The result of a run. It prints as a table of the samples that failed.

    Args:
        path: The output.
        samples: Number of samples in the dataset.
        failures: The reasons why samples failed, by index.
        resumed: Number of samples that an earlier run had finished.
    """

    path: str
    samples: int
    failures: dict[int, str]
    resumed: int = 0

    @property
    def explained(self) -> int:
        """Number of samples whose relevance was written."""
        return self.samples - len(self.failures)

    def table(self) -> Table:
        """The samples that failed."""
        rows = [(index, why) for index, why in sorted(self.failures.items())[:LISTED]]
        rest = len(self.failures) - len(rows)
        footer = f"and {rest} more" if rest else None
        return Table(("sample", "failed because"), rows, title=repr(self)[1:-1], footer=footer)

    def __repr__(self):
        return f"<{self.path}: {self.explained} of {self.samples} samples explained>"


class Run:
    """Has the batches computed that are not finished yet, and keeps them.

    Args:
        task: What is computed, and of what.
        work: What is computed for a batch.
        staging: The directory of finished batches.
        engine: What computes.
    """

    def __init__(self, task: Task, work: Work, staging: Staging, engine: Engine):
        self.task, self.work, self.staging, self.engine = task, work, staging, engine
        self.data = task.data
        self.shapes = {name: shape[1:] for name, (shape, _) in staging.specs().items()}
        self._read = 0

    def run(self, verbose: int) -> None:
        """Computes and keeps all batches. `verbose` is that of `explain_dataset`."""
        progress = keras.utils.Progbar(self.data.length, verbose=int(verbose), unit_name="batch")
        writing: set[Future] = set()
        # Several batches may be written at once, because the disk takes as long as a small model.
        with (
            ThreadPoolExecutor(WRITERS) as writers,
            contextlib.closing(self.engine.computed(self.work, self._unfinished(progress))) as computed,
        ):
            for finished in computed:
                self._check(finished)
                writing.add(writers.submit(self.staging.add, finished.record, finished.arrays))
                writing = self._written(writing, WRITERS if self.engine.ahead else 0, progress)
            self._written(writing, 0, progress)
        count = len(self.staging.records)
        if self._read < count:
            raise ValueError(
                f"The dataset is not the one that the interrupted run had: it ends after {self._read} batches, and "
                f"{count} are finished. A generator has to be made anew. overwrite=True begins anew."
            )
        if self.data.length is None:
            # Keras 3.5 writes its last line only where it knows how many there should be.
            progress.target = count
            progress.update(count, finalize=True)
        if not self.staging.samples:
            raise ValueError("Nothing to explain: the dataset is empty.")
        if not self.staging.explained:
            index, why = next(iter(self.staging.failures.items()))
            raise ValueError(f"All {self.staging.samples} samples failed. Sample {index}: {why}")

    def _unfinished(self, progress: keras.utils.Progbar) -> Iterator[Job]:
        """The batches that are not finished. Those that are, and are read again, must be the same."""
        records = dict(self.staging.records)
        missing = next(number for number in itertools.count() if number not in records)
        # The batch before the first that is missing is read again, to check that the data is the same.
        number = max(missing - 1, 0) if self.data.seekable else 0
        self._read = number
        for batch in self.data.batches(number, records[number].first if number in records else 0):
            self._read = number + 1
            if number not in records:
                yield number, batch
            elif batch.digest() != records[number].digest:
                raise ValueError(
                    f"The dataset is not the one that the interrupted run had: samples {batch.first} to "
                    f"{batch.first + batch.count - 1} differ. It has to give the same samples in the same order; a "
                    f"dataset that shuffles needs a seed. overwrite=True begins anew."
                )
            else:
                progress.update(len(self.staging.records))
            number += 1

    def _check(self, finished: Finished) -> None:
        """Raises a ValueError if a batch cannot be kept."""
        record = finished.record
        if record.failures and self.task.on_failure == "raise":
            index, why = min(record.failures.items())
            raise ValueError(f"Sample {index} failed: {why}")
        for name, array in finished.arrays.items():
            if array.shape[1:] != self.shapes.setdefault(name, array.shape[1:]):
                raise ValueError(
                    f"All samples need the same shape in one output. From sample {record.first} on {name!r} has "
                    f"{array.shape[1:]}, before that {self.shapes[name]}. Resize the samples, or explain those of "
                    f"one shape after the other."
                )

    def _written(self, writing: set[Future], most: int, progress: keras.utils.Progbar) -> set[Future]:
        """Waits until at most so many batches are being written, and returns these."""
        while len(writing) > most:
            done, writing = concurrent.futures.wait(writing, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                future.result()
            progress.update(len(self.staging.records))
        return writing


def to_the_end(
    task: Task,
    output: Sink,
    resume: bool | None,
    overwrite: bool,
    verbose: int,
    work: Work,
    engine: Engine,
) -> Report:
    """Runs, or goes on with an interrupted run, until the output is written.

    Args:
        task: What is computed.
        output: What is written.
        resume, overwrite, verbose: See `explain_dataset`.
        work: What is computed for a batch.
        engine: What computes.

    Raises:
        FileExistsError: The output exists, or there is an interrupted run.
        ValueError: The interrupted run has another question or other data, or all samples failed.
        OSError: Writing failed. Finished batches are kept.
    """
    head = task.head(overwrite)
    staging = Staging(output.target)
    if not staging.exists() and (report := _finished(output, head, resume, overwrite)):
        return report
    with staging.locked():
        try:
            if not _taken_up(staging, output, head, resume, overwrite):
                if report := _finished(output, head, resume, overwrite):
                    # What is left was being removed when the run was killed.
                    staging.remove()
                    return report
                staging.begin(head)
            resumed = staging.samples
            Run(task, work, staging, engine).run(verbose)
            _finish(output, staging, verbose)
        finally:
            if not staging.has_batches():
                staging.remove()
    return Report(str(output.target), staging.samples, staging.failures, resumed)


def _finished(sink, head, resume, overwrite):
    """The report of a finished run that answers the same question; None if a run may begin.

    Raises a FileExistsError if the output exists and must not be replaced.
    """
    existing = [path for path in sink.outputs() if path.exists()]
    if not existing or (overwrite and not resume):
        return None
    origin = sink.origin() if resume and sink.target.exists() else {}
    if origin.get("question") == _hash(head["question"]):
        failures = {int(index): why for index, why in origin["failures"].items()}
        return Report(str(sink.target), origin["samples"], failures, origin["samples"])
    if overwrite:
        return None
    which = "comes from another run" if resume and origin else "exists"
    raise FileExistsError(f"{str(existing[-1])!r} {which}. Pass overwrite=True to replace it, or name another output.")


def _taken_up(staging, sink, head, resume, overwrite):
    """Whether the run in the directory is continued."""
    if (overwrite and not resume) or not staging.resume():
        return False
    if sink.target.exists() and sink.origin().get("run") == staging.head["run"]:
        # It had finished, and was interrupted when it tidied up.
        staging.remove()
        staging.records = {}
        staging.folder.mkdir(exist_ok=True)
        return False
    where = str(staging.folder)
    if resume is False:
        raise FileExistsError(
            f"An interrupted run is in {where!r}. Pass resume=True to go on with it, or overwrite=True to begin anew."
        )
    other = _other(staging.head["question"], head["question"])
    if other:
        raise ValueError(
            f"The interrupted run in {where!r} has another {other}: {_short(staging.head['question'].get(other))}, not "
            f"{_short(head['question'][other])}. Ask the same, or pass overwrite=True to begin anew."
        )
    if sink.target.exists() and not (overwrite or staging.head["overwrite"]):
        raise FileExistsError(f"{str(sink.target)!r} exists. Pass overwrite=True to replace it.")
    return True


def _other(before, after):
    """The first respect in which two questions differ; None if they are equal."""
    return next((name for name in after if before.get(name) != after[name]), None)


def _hash(question):
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()


def _short(value):
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def _finish(sink, staging, verbose):
    """Writes the output from the finished batches, and gives it its name when it is whole."""
    head = staging.head
    origin = {
        **head["origin"],
        "samples": staging.samples,
        "explained": staging.explained,
        "failures": {str(index): why for index, why in staging.failures.items()},
        "finished": now(),
        "run": head["run"],
        "question": _hash(head["question"]),
    }
    folder = staging.folder / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    progress = keras.utils.Progbar(len(staging.records), verbose=int(verbose), unit_name="batch written")
    try:
        folder.mkdir()
        sink.write(folder, staging, origin, lambda: progress.add(1))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise staging.unwritten(error) from error
    for path in sink.outputs():
        if path.is_dir():
            os.replace(path, staging.folder / file_name(f"replaced-{now()}"))
        os.replace(folder / path.name, path)
    sync_folder(sink.target.parent)
    staging.remove()
