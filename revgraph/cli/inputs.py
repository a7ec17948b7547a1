"""Inputs of the commands other than the model: images and arrays, preprocessing, names of classes, targets."""

import dataclasses
import difflib
import importlib
import json
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revgraph.analyzers.inputs import flat_inputs, packed
from revgraph.class_names import counted, is_binary, units_of
from revgraph.cli.answers import UsageError
from revgraph.datasets.images import Images
from revgraph.graph import Graph
from revgraph.graph.types import PathLike
from revgraph.reverse.sides import SIDES


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """A sample to explain.

    Args:
        name: The name of its file, with its position in an array.
        stem: The beginning of the names of the files that are written.
        x: The model's input, a batch of one.
        picture: The image (height, width, channels), in any range, under the relevance; None if it is no image.
    """

    name: str
    stem: str
    x: Any
    picture: np.ndarray | None


def items(
    paths: Iterable[PathLike],
    graph: Graph,
    size: tuple[int, int] | None,
    preprocess: Callable[[np.ndarray], Any] | None,
) -> list[Item]:
    """The samples in image files, `.npy` and `.npz`.

    Args:
        paths: The files.
        graph: The graph of the model.
        size: (width, height) to which images are resized.
        preprocess: As `preprocessing` returns it.

    Raises:
        FileNotFoundError: There is no such file.
        UsageError: A size is given for arrays.
        ValueError: A file cannot be read, or does not fit the model.
    """
    found: list[Item] = []
    images = None
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"There is no file {str(path)!r}.")
        if path.is_dir():
            raise ValueError(f"{str(path)!r} is a directory: `revgraph explain-dataset` explains all images in one.")
        if path.suffix.lower() in (".npy", ".npz"):
            if size is not None:
                raise UsageError(f"--size is for images, and {str(path)!r} has arrays, which keep their size.")
            found += _of_arrays(path, graph, preprocess)
        else:
            # One reader for all files notices if their sizes differ.
            images = images or Images.of(graph, size, preprocess)
            image = images.read(path)
            found.append(Item(str(path), path.stem, images.prepared(image)[None], image / 255))
    for i, item in enumerate(found):
        before = sum(other.stem == item.stem for other in found[:i])
        if before:
            found[i] = dataclasses.replace(item, stem=f"{item.stem}~{before + 1}")
    return found


def _of_arrays(path, graph, preprocess):
    try:
        stored = np.load(path, allow_pickle=False)
        arrays: dict[str, np.ndarray] = dict(stored) if path.suffix.lower() == ".npz" else {"": stored}
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as an array: {error}") from error
    names = graph.input_names
    if len(names) > 1:
        if arrays.keys() != set(names):
            raise ValueError(
                f"The model has {len(names)} inputs: hand in an .npz with the arrays {', '.join(map(repr, names))}. "
                f"{str(path)!r} has {', '.join(map(repr, sorted(arrays)))}."
            )
        x: Any = arrays
        pictures = None
    else:
        if len(arrays) > 1:
            raise ValueError(f"Which array is meant? {str(path)!r} has {', '.join(map(repr, sorted(arrays)))}.")
        x = next(iter(arrays.values()))
        single = x.ndim == len(graph.specs[graph.input_slots[0]].shape) - 1
        pictures = x = x[None] if single else x
        x = x if preprocess is None else np.asarray(preprocess(x.astype(np.float32)))
    flat = flat_inputs(x, graph)
    found = []
    for i in range(len(flat[0])):
        part = packed([np.asarray(array[i : i + 1]) for array in flat], graph)
        picture = pictures[i] if pictures is not None and pictures.ndim == 4 else None
        number = "" if len(flat[0]) == 1 else f"-{i}"
        found.append(Item(f"{path}{number and f'[{i}]'}", f"{path.stem}{number}", part, picture))
    return found


def preprocessing(options: Namespace) -> Callable[[np.ndarray], Any] | None:
    """The function that `--preprocess`, or `--scale` and `--offset`, ask for; None without these options.

    Raises:
        UsageError: There is no such function, or the options exclude each other.
    """
    if options.preprocess is not None:
        if options.offset is not None:
            raise UsageError("--offset goes with --scale, not with --preprocess.")
        return _imported(options.preprocess)
    if options.scale is None and options.offset is None:
        return None
    scale, offset = np.float32(1 if options.scale is None else options.scale), np.float32(options.offset or 0)
    return lambda x: x * scale + offset


def _imported(name):
    """`preprocess_input` of a module, or a function by its full name."""
    module, _, function = name.rpartition(".")
    tries = ((name, "preprocess_input"), (f"keras.applications.{name}", "preprocess_input"), (module, function))
    for module, function in tries:
        found = _attribute(module, function)
        if callable(found):
            return found
    raise UsageError(
        f"--preprocess {name}: there is no such module with a preprocess_input, and no such function. Name one like "
        f"keras.applications.vgg16."
    )


def _attribute(module, name):
    try:
        # Keras has its applications as attributes, and not all of them can be imported.
        package, _, last = module.rpartition(".")
        home = getattr(importlib.import_module(package), last, None) if package else None
        return getattr(home or importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def class_names(options: Namespace) -> list[str] | None:
    """Names of the classes from the file that `--classes` names; None without this option.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has no names of classes.
    """
    path = options.classes
    if path is None:
        return None
    try:
        text = Path(path).read_text(encoding="utf-8")
        return _names_in(json.loads(text)) if Path(path).suffix == ".json" else text.splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {str(path)!r}.") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{str(path)!r} has no names of classes: it should have one per line, or be a JSON list ({error})."
        ) from error


def _names_in(content):
    """Names from JSON: a list, ViRelAy's label map, or a dict by number as Keras has for ImageNet."""
    if isinstance(content, dict):
        content = [content[str(i)] for i in range(len(content))]
    if content and isinstance(content[0], dict):
        return [str(entry["name"]) for entry in sorted(content, key=lambda entry: entry["index"])]
    return [str(entry[-1] if isinstance(entry, list) else entry) for entry in content]


def output_index(graph: Graph, name: str | None) -> int:
    """The position of the output that `--output` names.

    Raises:
        UsageError: There is no such output, or there are several and none is named.
    """
    names = graph.output_names
    if name is None and len(names) == 1:
        return 0
    if name not in names:
        what = "the model has several outputs" if name is None else f"the model has no output {name!r}"
        raise UsageError(f"{what}; choose one with --output: {', '.join(names)}.")
    return names.index(name)


def check_names(options: Namespace, names: Sequence[str] | None, graph: Graph, output: int) -> None:
    """Raises a ValueError if the names do not fit the output at this position."""
    units = units_of(graph, output)
    if names is not None and units not in (None, len(names)) and not is_binary(names, units):
        two = ", or two for the classes that the only output tells apart" if units == 1 else ""
        raise ValueError(
            f"{options.classes!r} has {len(names)} names, and the model {counted(units)}: it needs one for each, in "
            f"their order{two}."
        )


def class_index(target: str, names: Sequence[str] | None, count: int | None) -> int:
    """The class of a target that is a number or a name.

    Args:
        target: The value of `--target`.
        names: Names of the classes, or None.
        count: Number of outputs; None if that is not known.

    Raises:
        UsageError: There is no such class, or no output stands for it.
    """
    if names and is_binary(names, count):
        index = class_index(target, names, None)
        if index > 1:
            raise UsageError(f"--target {target}: there are 2 classes, 0 to 1.")
        return index
    if re.fullmatch(r"\d+", target) and target not in (names or ()):
        index = int(target)
    else:
        folded = [name.casefold() for name in names or ()]
        if target.casefold() not in folded:
            raise UsageError(_unknown(target, names))
        index = folded.index(target.casefold())
    if count is not None and index >= count:
        numbers = "0" if count == 1 else f"0 to {count - 1}"
        raise UsageError(f"--target {target}: the model has {counted(count)}, {numbers}.")
    return index


def _unknown(target, names):
    if not names:
        return f"--target {target}: names of classes need --classes FILE. Otherwise it is top1, top3, ... or a number."
    near = difflib.get_close_matches(target, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"--target {target}: no class has that name.{hint}"


def targets(target: str, y: np.ndarray, names: Sequence[str] | None) -> Sequence[int | None]:
    """The classes that a target asks for.

    Args:
        target: The value of `--target`.
        y: The output for one sample, (classes,), or with more axes.
        names: Names of the classes, or None.

    Returns:
        Numbers of classes; only None, which stands for the largest value, if the output has more axes.

    Raises:
        UsageError: There is no such class.
    """
    largest = re.fullmatch(r"top([1-9]\d*)", target)
    if y.ndim != 1:
        if target != "top1":
            raise UsageError(f"--target {target}: the output has {y.ndim} axes; only top1 can be explained.")
        return [None]
    if not largest:
        return [class_index(target, names, len(y))]
    if int(largest[1]) > len(y):
        raise UsageError(f"--target {target}: the model has {counted(len(y))}.")
    if is_binary(names, len(y)):
        # The only output stands for the second class.
        return [1]
    return [int(i) for i in np.argsort(-y, kind="stable")[: int(largest[1])]]


def selection_of_class(index: int | None, names: Sequence[str] | None, units: int | None) -> int | str | None:
    """What is selected for a class: its index, or a word for one of the two that a single unit tells apart."""
    return index if index is None or not is_binary(names, units) else list(SIDES)[index]


def named_class(index: int, value: float, names: Sequence[str] | None) -> dict[str, Any]:
    """A class with its index, name and value, for JSON."""
    named = {"name": names[index]} if names and index < len(names) else {}
    return {"index": int(index), **named, "value": float(value)}
