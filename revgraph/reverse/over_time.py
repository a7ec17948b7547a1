"""`OverTime`: where relevance went in each turn of a loop."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.graph.tables import Table, Tabular


@dataclasses.dataclass(frozen=True, eq=False)
class OverTime(Tabular):
    """Where relevance went in each turn of a loop, such as each step of a recurrent layer.

    Every field but the path is an array (batch, turns). In each turn `start = input + states + absorbed`.

    Args:
        path: The path of the loop.
        start: Relevance that arrived at the turn: from its outputs, and from the turn behind it.
        input: Relevance that it gave to its inputs.
        states: Relevance that it handed back to the turn in front of it, or, for the first turn, to the first states.
        absorbed: Relevance that its biases, constants, rules and stabilisers absorbed.

    Example:

        steps = analyzer.conservation(x).over_time("lstm")
        print(steps)
        steps.plot()
    """

    path: str
    start: np.ndarray
    input: np.ndarray
    states: np.ndarray
    absorbed: np.ndarray

    def of(self, count: int) -> "OverTime":
        """The account of that many samples, where each of them has several series, as under `TimeDistributed`."""
        if len(self) == count:
            return self
        sums = (getattr(self, name).reshape(count, -1, self.start.shape[1]).sum(axis=1) for name in COLUMNS)
        return OverTime(self.path, *sums)

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, samples: int | slice | Sequence[int] | np.ndarray) -> "OverTime":
        return OverTime(self.path, *(np.atleast_2d(getattr(self, name)[samples]) for name in COLUMNS))

    def table(self) -> Table:
        """One row per turn: means over the samples."""
        rows = [(t, *(float(getattr(self, name)[:, t].mean()) for name in COLUMNS)) for t in range(self.start.shape[1])]
        samples = "1 sample" if len(self) == 1 else f"{len(self)} samples, means"
        return Table(("turn", *COLUMNS), rows, title=f"Relevance in each turn of {self.path!r}, of {samples}")

    def __repr__(self) -> str:
        return f"<OverTime of {self.path!r}: {len(self)} samples, {self.start.shape[1]} turns>"

    def plot(self) -> Any:
        """Draws what each turn gives to its input, hands back and absorbs, as means over the samples.

        Returns:
            A `Picture`, a matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from revgraph.reverse.pictures import Picture

        turns = np.arange(self.start.shape[1])
        picture = Picture(8, 3.6)
        above, below = picture.subplots(2, 1, sharex=True)
        above.bar(turns, self.states.mean(axis=0), color="0.6", width=0.8)
        above.set_ylabel("handed back", fontsize=9)
        below.bar(turns, self.input.mean(axis=0), color="#0072b2", width=0.8, label="to the input of the turn")
        bottom = np.where(
            np.sign(self.input.mean(axis=0)) == np.sign(self.absorbed.mean(axis=0)), self.input.mean(axis=0), 0
        )
        below.bar(turns, self.absorbed.mean(axis=0), bottom=bottom, color="#e69f00", width=0.8, label="absorbed")
        below.set_ylabel("given", fontsize=9)
        below.set_xlabel("turn", fontsize=9)
        below.xaxis.get_major_locator().set_params(integer=True)
        picture.legend(fontsize=8, frameon=False, loc="outside upper right", ncols=2)
        for axes in (above, below):
            axes.axhline(0, color="0.7", linewidth=0.8)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        picture.suptitle(f"Relevance in each turn of {self.path}", fontsize=10, x=0.01, ha="left")
        return picture


COLUMNS = ("start", "input", "states", "absorbed")
"""The fields of `OverTime` that are arrays."""


def joined(parts: Sequence[OverTime | None]) -> OverTime | None:
    """The turns of several batches. Where a batch has fewer turns than others, the turns that it has not are 0."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    most = max(part.start.shape[1] for part in known)

    def padded(array):
        return np.pad(array, ((0, 0), (0, most - array.shape[1])))

    return OverTime(known[0].path, *(np.concatenate([padded(getattr(part, n)) for part in known]) for n in COLUMNS))
