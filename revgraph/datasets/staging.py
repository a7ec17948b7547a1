"""`NAME.partial`: the finished batches of a run, one file each. A run may end at any moment and be resumed.

The file of a batch gets its name when all of it is on the disk, so no file is half-written. Batches are numbered, and
may be finished in any order. A resumed run computes those that are missing.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from revgraph.graph.types import PathLike

fcntl: Any
try:
    import fcntl
except ImportError:
    # Windows has no such locks, so a second run on the same output is not noticed there.
    fcntl = None

FORMAT = 1
"""Version of the files in the directory."""

_HEAD, _LOCK, _RECORD, _NEW = "run.json", "lock", "record", "new"

# RuntimeError stands for methods of compression that are not there, and for JSON that is nested too deep.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError, AttributeError, RuntimeError)
"""What reading a damaged file raises, which depends on where the damage is."""


@dataclasses.dataclass(frozen=True)
class Record:
    """A note on a finished batch.

    Args:
        number: Its position among the batches of the dataset.
        first: Index of its first sample.
        count: Number of its samples, those that failed included.
        digest: Hash of its data.
        failures: The reasons why samples failed, by index.
    """

    number: int
    first: int
    count: int
    digest: str
    failures: dict[int, str]


class Staging:
    """The directory of a run that is not finished.

    Args:
        target: The path of the output.

    Attributes:
        records: A `Record` for each finished batch, by the number of the batch.
        head: The question that the run answers, and where it comes from; empty before the run begins.
    """

    def __init__(self, target: PathLike):
        target = Path(target)
        self.folder = target.with_name(target.name + ".partial")
        self.records: dict[int, Record] = {}
        self.head: dict[str, Any] = {}
        self._removed = False

    def exists(self) -> bool:
        """Whether there is a directory of an unfinished run."""
        return self.folder.exists()

    def has_batches(self) -> bool:
        """Whether files of finished batches are there, of whatever version."""
        return any(self.folder.glob("batch-*"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out. The lock ends with the process, even if that is killed.

        Raises:
            BlockingIOError: Another process has the lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / _LOCK, "wb") as lock:
            try:
                if fcntl:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(f"Another process is writing to {str(self.folder)!r}. Wait for it.") from error
            yield
        # Windows keeps a file that is open, so `remove` has left the lock there.
        if self._removed and not fcntl:
            shutil.rmtree(self.folder, ignore_errors=True)

    def begin(self, head: dict[str, Any]) -> None:
        """Begins a new run, and removes the files of an earlier one."""
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.records = {}
        self.head = {"format": FORMAT, "run": uuid.uuid4().hex, **head}
        self._put(_HEAD, lambda file: file.write(json.dumps(self.head, indent=1).encode()))

    def resume(self) -> bool:
        """Continues the run in the directory.

        Returns:
            Whether there is one. A run whose notes are damaged is none.

        Raises:
            ValueError: Another version of revgraph began the run.
        """
        self.records = {}
        try:
            self.head = json.loads((self.folder / _HEAD).read_bytes())
            version = self.head["format"]
            whole = isinstance(self.head["run"], str) and isinstance(self.head["question"], dict)
        except (FileNotFoundError, *_DAMAGE):
            return False
        if version != FORMAT:
            raise ValueError(
                f"The interrupted run in {str(self.folder)!r} is of format {version!r}, and this revgraph reads format "
                f"{FORMAT}. Go on with the version that began it, or pass overwrite=True to begin anew."
            )
        # Where a batch is damaged, those behind it are not trusted either, and are computed again.
        with contextlib.suppress(*_DAMAGE):
            for path in sorted(self.folder.glob("batch-*.npz")) if whole else ():
                with np.load(path, allow_pickle=False) as stored:
                    record = json.loads(stored[_RECORD].item())
                record["number"] = int(path.stem.partition("-")[2])
                record["failures"] = {int(index): why for index, why in record["failures"].items()}
                self.records[record["number"]] = Record(**record)
        return whole

    def add(self, record: Record, arrays: dict[str, np.ndarray]) -> None:
        """Writes a finished batch. Several threads may do it at once.

        Args:
            record: The note on the batch.
            arrays: What is kept of its samples by name, (samples, ...) each.
        """
        stored: dict[str, Any] = {**arrays, _RECORD: json.dumps(dataclasses.asdict(record))}
        self._put(self._path(record.number).name, lambda file: np.savez(file, **stored))
        self.records[record.number] = record

    def batches(self, *names: str) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of each finished batch by name, in the order of the dataset, without batches that have none.

        Args:
            *names: The names of the arrays; by default all.
        """
        for number in sorted(self.records):
            with self._stored(number) as stored:
                wanted = names or [name for name in stored.files if name != _RECORD]
                arrays = {name: stored[name] for name in wanted if name in stored.files}
            if arrays:
                yield arrays

    def specs(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """The shape and the dtype of every array by name. The first axis is the number of all explained samples."""
        found: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for number, record in self.records.items():
            if record.count > len(record.failures):
                with self._stored(number) as stored:
                    found = {name: (stored[name].shape[1:], stored[name].dtype) for name in stored.files}
                break
        found.pop(_RECORD, None)
        return {name: ((self.explained, *shape), dtype) for name, (shape, dtype) in found.items()}

    @property
    def samples(self) -> int:
        """Number of samples in all finished batches."""
        return sum(record.count for record in self._notes())

    @property
    def failures(self) -> dict[int, str]:
        """The reasons why samples failed, by index."""
        return {index: why for record in self._notes() for index, why in sorted(record.failures.items())}

    @property
    def explained(self) -> int:
        """Number of samples in all finished batches that did not fail."""
        return self.samples - sum(len(record.failures) for record in self._notes())

    def _notes(self):
        """The records in the order of the dataset. Other threads may add some meanwhile."""
        return [record for _, record in sorted(self.records.copy().items())]

    def remove(self) -> None:
        """Removes the directory with its content."""
        self._removed = True
        shutil.rmtree(self.folder, ignore_errors=True)

    def unwritten(self, error: OSError) -> OSError:
        """An error that adds to another error of writing that finished samples are kept."""
        what = f"{error.strerror or error}; {self.samples} samples are finished and kept. Make room and run it again"
        return OSError(error.errno, what, str(self.folder))

    @contextlib.contextmanager
    def _stored(self, number):
        """The arrays of a finished batch."""
        path = self._path(number)
        try:
            with np.load(path, allow_pickle=False) as stored:
                yield stored
        except _DAMAGE as error:
            raise ValueError(
                f"The finished batch {str(path)!r} is damaged ({type(error).__name__}: {error}). Delete this file and "
                f"run it again: its samples and those after them are then computed again."
            ) from error

    def _path(self, number):
        return self.folder / f"batch-{number:08d}.npz"

    def _put(self, name: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Writes a file that gets its name when it is whole."""
        new = self.folder / f"{_NEW}-{name}"
        try:
            with open(new, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.folder / name)
        except OSError as error:
            # The disk may be full, so the room is needed.
            with contextlib.suppress(OSError):
                new.unlink()
            raise self.unwritten(error) from error
        sync_folder(self.folder)


def sync_folder(folder: PathLike) -> None:
    """Makes the system write the names of new files in a directory to the disk."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
