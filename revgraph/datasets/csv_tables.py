"""Tables in CSV files, for `open_dataset`: the columns of a file, and which of them are inputs."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revgraph.graph import Graph


def columns(path: Path) -> dict[str, list[str]]:
    """The columns of a CSV file by name. The first line has the names, unless all of it are numbers.

    Args:
        path: The file, in UTF-8.

    Raises:
        ValueError: It is empty, lines differ in length, or a name occurs twice.
    """
    lines = _lines(path)
    header, first = _header(path, lines)
    rows = [*first, *lines]
    wrong = next((i for i, row in enumerate(rows) if len(row) != len(header)), None)
    if wrong is not None:
        raise ValueError(f"{str(path)!r} has {len(header)} columns, and {len(rows[wrong])} in its row {wrong}.")
    return dict(zip(header, map(list, zip(*rows, strict=True)) if rows else [[] for _ in header], strict=True))


def feature_names(path: Path, graph: Graph, labels: str | None) -> tuple[str, ...]:
    """The names of the columns that are inputs of a model. Only the first line is read."""
    if len(graph.input_slots) > 1:
        return tuple(graph.input_names)
    return tuple(name for name in _header(path, _lines(path))[0] if name != labels)


def _lines(path: Path) -> Iterator[list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            dialect = csv.Sniffer().sniff(file.read(1 << 16), delimiters=",;\t")
        except csv.Error:
            dialect = csv.excel
        file.seek(0)
        yield from (line for line in csv.reader(file, dialect) if line)


def _header(path: Path, lines: Iterator[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The names of columns, and the first line as a list if it has none."""
    first = next(lines, None)
    if first is None:
        raise ValueError(f"{str(path)!r} is empty.")
    if all(map(_is_number, first)):
        return [f"feature {i}" for i in range(len(first))], [first]
    names = [name.strip() for name in first]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"{str(path)!r} has two columns named {twice[0]!r}: rename one.")
    return names, []


def table(path: Path, graph: Graph, labels: str | None) -> tuple[Any, np.ndarray | None]:
    """The inputs of a model, and the labels.

    Args:
        path: The file.
        graph: The graph of the model. With several inputs the columns have their names; with a single one all columns
            are its features, in their order.
        labels: The name of the column that has the labels; None if there are none.

    Returns:
        Array (rows, features), or a dict with one for each of several inputs; and labels (rows,), or None.

    Raises:
        ValueError: A column is missing, or is not made of numbers.
    """
    found = columns(path)
    wanted = [*(graph.input_names if len(graph.input_slots) > 1 else ()), *([labels] if labels is not None else [])]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{str(path)!r} has no column {missing[0]!r}. It has {', '.join(map(repr, found))}.")
    y = None if labels is None else _numbers(path, {labels: found.pop(labels)})[:, 0]
    if y is not None and np.all(y == np.floor(y)):
        y = y.astype(np.int64)
    if len(graph.input_slots) == 1:
        return _numbers(path, found), y
    x: dict[str, np.ndarray] = {}
    for name, slot in zip(graph.input_names, graph.input_slots, strict=True):
        spec = graph.specs[slot]
        is_text = slot in graph.strings or spec.dtype == "string"
        column = np.array(found[name]) if is_text else _numbers(path, {name: found[name]})[:, 0]
        x[name] = column if len(spec.shape) == 1 else column[:, None]
    return x, y


def _numbers(path: Path, chosen: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Columns as an array (rows, columns) of float32. What is missing becomes NaN."""
    for name, column in chosen.items():
        wrong = next((i for i, cell in enumerate(column) if cell.strip() and not _is_number(cell)), None)
        if wrong is not None:
            raise ValueError(
                f"The column {name!r} of {str(path)!r} has {column[wrong]!r} in its row {wrong}, which is no number. "
                f"Leave the column out, or write its categories as the numbers that the model takes. If it has the "
                f"labels, name it: labels={name!r}."
            )
    return np.array([[float(cell) if cell.strip() else np.nan for cell in c] for c in chosen.values()], np.float32).T


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
