"""`Sink`: an output of a run, whatever its format."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from revgraph.datasets import hdf5
from revgraph.datasets.staging import Staging
from revgraph.graph import Graph
from revgraph.graph.types import PathLike

PROVENANCE = "provenance.json"
"""The name of the file that says where `.npy` shards come from."""


@dataclasses.dataclass(frozen=True)
class Sink:
    """An output for the results of a run.

    Args:
        path: The file or directory.
    """

    path: PathLike

    kind: ClassVar[str] = "sink"

    @property
    def with_inputs(self) -> bool:
        """Whether inputs are written too."""
        return False

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the classes; None if the sink has not been given any."""
        return None

    @property
    def target(self) -> Path:
        """The file or directory."""
        return Path(self.path)

    def outputs(self) -> list[Path]:
        """All files and directories that are written. The output itself is the last."""
        return [self.target]

    def check(self, graph: Graph) -> None:
        """Raises a ValueError if the sink does not fit a model with that graph."""

    def write(self, folder: Path, staging: Staging, origin: dict[str, Any], progress: Callable[[], Any]) -> None:
        """Writes all files from finished batches.

        Args:
            folder: The directory to write into. Files have the names of `outputs`.
            staging: The finished batches. Arrays are named `index`, `label`, `attribution`, `prediction`, `input` and
                `ledger`. `attribution`, `prediction` and `input` are followed by `/name` if there are several.
            origin: Where the results come from, a dict for JSON.
            progress: Called after each batch.
        """
        raise NotImplementedError

    def origin(self) -> dict[str, Any]:
        """Where the results in a finished output come from; empty if no run has written it."""
        raise NotImplementedError


def noted(path: Path) -> dict[str, Any]:
    """What a JSON file says of the run that wrote it; empty if no run did."""
    try:
        return hdf5.whole(json.loads(path.read_bytes()))
    # RecursionError: JSON that is nested too deep.
    except (OSError, ValueError, RecursionError):
        return {}
