"""The ledger: where relevance went."""

import dataclasses

import numpy as np

from revgraph.graph.graph import format_table


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One site of the ledger; every field is an array of shape (batch,).

    Args:
        path: The site.
        start: Relevance that arrived from above.
        input: Relevance handed on below.
        bias: Absorbed by the bias.
        stabiliser: Absorbed by the stabiliser.
        other: What remains: start - input - bias - stabiliser.
    """

    path: str
    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Conservation:
    """Where relevance went: `start = input + bias + stabiliser + other`, arrays of shape (batch,).

    Args:
        start: Relevance at the start.
        input: Relevance found at the inputs.
        bias: Absorbed by biases, in all sites.
        stabiliser: Absorbed by stabilisers, in all sites.
        other: What remains.
        layers: One entry per site that relevance passed, from output to input.
    """

    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray
    layers: tuple[Entry, ...]

    def to_dict(self) -> dict:
        """The ledger as plain lists, for JSON."""

        def fields(entry):
            names = ("start", "input", "bias", "stabiliser", "other")
            return {name: np.asarray(getattr(entry, name)).tolist() for name in names}

        return {**fields(self), "layers": [{"path": e.path, **fields(e)} for e in self.layers]}

    def __str__(self):
        def row(name, entry):
            fields = (entry.start, entry.input, entry.bias, entry.stabiliser, entry.other)
            return (name, *(f"{np.mean(field):.6g}" for field in fields))

        lost = sorted(self.layers, key=lambda e: -np.mean(np.abs(e.start - e.input)))
        rows = [row("total", self), *(row(e.path, e) for e in lost)]
        return format_table(("site", "start", "input", "bias", "stabiliser", "other"), rows)


def merge(ledgers) -> Conservation:
    """One ledger of several batches."""
    ledgers = list(ledgers)

    def joined(parts):
        names = ("start", "input", "bias", "stabiliser", "other")
        return {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}

    layers = tuple(
        Entry(entries[0].path, **joined(entries)) for entries in zip(*(x.layers for x in ledgers), strict=True)
    )
    return Conservation(**joined(ledgers), layers=layers)
