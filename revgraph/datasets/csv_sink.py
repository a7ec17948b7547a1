"""`CSV`: relevance of tables in a CSV file."""

import csv
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from revgraph.datasets.outputs import PROVENANCE, Sink, noted
from revgraph.datasets.staging import Staging
from revgraph.graph import Graph

ORDER = ("index", "attribution", "prediction", "label", "ledger")
"""The arrays of a run in the order of their columns."""


@dataclasses.dataclass(frozen=True)
class CSV(Sink):
    """A CSV file with a line for each row of a table, for models whose inputs are features.

    Its columns are `index`, the position in the dataset; the relevance of each feature, under the feature's name;
    `prediction`, or `prediction 0` and so on; `label`, likewise; and with `ledger=True` those of the ledger.
    `NAME.provenance.json` says where the numbers come from, and which samples failed.

    Args:
        path: The file.
        feature_names: Names of the features, in the order of the model's inputs.

    Example:

        revgraph.explain_dataset(analyzer, table, CSV("relevance.csv", ("age", "income")))
    """

    feature_names: tuple[str, ...] | None = None

    kind: ClassVar[str] = "csv"

    def outputs(self) -> list[Path]:
        return [self._notes, self.target]

    @property
    def _notes(self):
        return self.target.with_name(f"{self.target.stem}.{PROVENANCE}")

    def check(self, graph: Graph) -> None:
        count = 0
        for name, slot in zip(graph.input_names, graph.input_slots, strict=True):
            shape = graph.specs[slot].shape[1:]
            if len(shape) > 1 or None in shape:
                raise ValueError(
                    f"A CSV file has rows of features, and the input {name!r} of {graph.name!r} has the shape "
                    f"{('batch', *shape)}. Write to a file that ends in .h5 or .zarr, or to a directory."
                )
            count += math.prod(size or 0 for size in shape)
        if self.feature_names is not None and len(self.feature_names) != count:
            raise ValueError(f"There are {len(self.feature_names)} feature names, and {graph.name!r} takes {count}.")

    def write(self, folder: Path, staging: Staging, origin: dict[str, Any], progress: Callable[[], Any]) -> None:
        columns = self._columns(staging.specs(), origin)
        with open(folder / self.target.name, "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow([name for names in columns.values() for name in names])
            for batch in staging.batches():
                parts = [batch[name].reshape(len(batch["index"]), -1) for name in columns]
                for row in zip(*parts, strict=True):
                    lines.writerow([value for part in row for value in part])
                progress()
            file.flush()
            os.fsync(file.fileno())
        with open(folder / self._notes.name, "w", encoding="utf-8") as file:
            json.dump(origin, file, indent=1)

    def _columns(self, specs, origin):
        """The names of the columns of each array, by its name."""
        found, given = {}, iter(self.feature_names or ())
        for name, ((_, *shape), _) in sorted(specs.items(), key=lambda item: ORDER.index(item[0].partition("/")[0])):
            kind, _, part = name.partition("/")
            count = math.prod(shape)
            if kind == "ledger":
                found[name] = [f"ledger {column}" for column in origin["ledger"]]
            elif kind == "attribution" and self.feature_names is not None:
                found[name] = list(itertools.islice(given, count))
            elif kind == "attribution" and not part:
                found[name] = [f"feature {i}" for i in range(count)]
            else:
                found[name] = [f"{part or kind} {i}" for i in range(count)] if count > 1 else [part or kind]
        return found

    def origin(self) -> dict[str, Any]:
        return noted(self._notes)
