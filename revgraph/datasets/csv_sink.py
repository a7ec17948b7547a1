"""`CSV`: relevance of tables in a CSV file."""

import csv
import dataclasses
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from revgraph.datasets.outputs import PROVENANCE, Sink, noted
from revgraph.datasets.staging import Staging
from revgraph.graph import Graph


@dataclasses.dataclass(frozen=True)
class CSV(Sink):
    """A CSV file with a line for each row of a table, for models whose inputs are features.

    Its columns are `index`, the position in the dataset; the relevance of each feature, under the feature's name;
    `prediction`, or `prediction 0` and so on; and `label`. `NAME.provenance.json` says where the numbers come from, and
    which samples failed.

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
        specs = staging.specs()
        parts = [name for name in specs if name.startswith(("attribution", "prediction"))]
        with open(folder / self.target.name, "w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["index", *self._header(specs), *(["label"] if "label" in specs else [])])
            for batch in staging.batches():
                columns = [batch[name].reshape(len(batch["index"]), -1) for name in parts]
                labels = [batch["label"].reshape(len(batch["index"]), -1)] if "label" in specs else []
                for index, *row in zip(batch["index"], *columns, *labels, strict=True):
                    lines.writerow([index, *(value for part in row for value in part)])
                progress()
            file.flush()
            os.fsync(file.fileno())
        with open(folder / self._notes.name, "w", encoding="utf-8") as file:
            json.dump(origin, file, indent=1)

    def _header(self, specs):
        """The names of the columns with relevance and predictions."""
        features: list[str] = []
        predictions: list[str] = []
        for name, ((_, *shape), _) in specs.items():
            kind, _, part = name.partition("/")
            count, label = math.prod(shape), part or ("feature" if kind == "attribution" else kind)
            columns = [f"{label} {i}" for i in range(count)] if count > 1 or label == "feature" else [label]
            if kind == "attribution":
                features += columns
            elif kind == "prediction":
                predictions += columns
        return [*(self.feature_names or features), *predictions]

    def origin(self) -> dict[str, Any]:
        return noted(self._notes)
