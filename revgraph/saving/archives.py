"""Analyzers as files. A file is a zip archive of the model as Keras saves it, the arguments as JSON, and arrays.

Nothing in the file is executed when it is read.
"""

import dataclasses
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from revgraph import composites, reverse_rules
from revgraph.composites import Composite, Matcher, matcher
from revgraph.graph import Graph
from revgraph.graph.types import PathLike
from revgraph.reverse_rules import Rule
from revgraph.saving.configured import Configured

FORMAT = 2
"""Version of the file format. Since version 2 classes are named with their modules."""

_DESCRIPTION, _MODEL, _ARRAYS = "analyzer.json", "model.keras", "arrays.npz"


def save(analyzer: Configured, path: PathLike, overwrite: bool = False) -> None:
    """Writes an analyzer to a file, from which `load` makes an equal one.

    Args:
        analyzer: The analyzer.
        path: The file; `.revgraph` is the usual ending.
        overwrite: Replace a file that exists.

    Raises:
        FileExistsError: The file exists.
        TypeError: The analyzer has an argument that cannot be written to a file, such as a function.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Pass overwrite=True to replace it.")
    description, arrays = described(analyzer)
    model = _model_of(analyzer)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".revgraph-") as folder:
        whole, part = Path(folder, "whole"), Path(folder, _MODEL)
        model.save(part)
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr(_DESCRIPTION, json.dumps(description, indent=1))
            archive.write(part, _MODEL)
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the arrays are not options
            archive.writestr(_ARRAYS, buffer.getvalue())
        os.replace(whole, path)


def described(analyzer: Configured) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What an analyzer is but for its model: a dict for JSON, and arrays by name.

    Raises:
        TypeError: The analyzer has an argument that cannot be written to a file, such as a function.
    """
    arrays: dict[str, np.ndarray] = {}
    return {"format": FORMAT, "analyzer": _encode(analyzer, arrays, "analyzer")}, arrays


def made(
    description: dict[str, Any],
    arrays: dict[str, np.ndarray],
    model: Any,
    classes: Iterable[type],
    custom_objects: Mapping[str, Any] | None = None,
) -> Any:
    """Makes an analyzer of a model from what `described` says.

    Args:
        description, arrays: What `described` returned.
        model: The model, or the `Graph` of a model.
        classes: The classes of analyzers that may be named, all of them `Configured`.
        custom_objects: The user's own rules and analyzers by name.
    """
    return _Decoder(model, arrays, custom_objects or {}, _by_name(classes)).analyzer(description["analyzer"])


def load(
    path: PathLike,
    classes: Iterable[type],
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Reads an analyzer from a file that `save` wrote.

    Args:
        path: The file.
        classes: The classes of analyzers that may be in it, all of them `Configured`.
        custom_objects: The user's own classes and functions by name: those of the model, rules and analyzers.
        safe_mode: Refuse models with Python code in Lambda layers.

    Returns:
        The analyzer. Its class is one of `classes`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one that `save` wrote, is damaged, or needs classes that are not given.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    custom_objects = custom_objects or {}
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            description, arrays, file = _unpacked(archive, folder)
            if description["format"] > FORMAT:
                raise ValueError(f"it was written by a later revgraph (format {description['format']}).")
            model = keras.models.load_model(file, custom_objects=custom_objects, compile=False, safe_mode=safe_mode)
        return made(description, arrays, model, classes, custom_objects)
    # The kind of the error depends on where the damage is.
    except (Damaged, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{str(path)!r} is not a file of an analyzer, or it is damaged ({type(error).__name__}: {error}). "
            f"Analyzers are written by `analyzer.save(path)`."
        ) from error
    # Constructors get the values in the file, and may fail in any way.
    except Exception as error:
        raise ValueError(f"Cannot load the analyzer in {str(path)!r}: {error}") from error


def is_archive(path: PathLike) -> bool:
    """Whether `save` wrote a file."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _DESCRIPTION in archive.namelist()


class Damaged(ValueError):
    """A file does not have the form in which `save` writes analyzers."""


def _unpacked(archive, folder):
    """Description, arrays and the file of the model."""
    try:
        description = json.loads(archive.read(_DESCRIPTION))
        with np.load(io.BytesIO(archive.read(_ARRAYS)), allow_pickle=False) as stored:
            arrays = dict(stored)
        file = archive.extract(_MODEL, folder)
    # KeyError: a part is missing; RuntimeError: a part has a password; TypeError, AttributeError: it is another part.
    except (KeyError, ValueError, RuntimeError, OSError, RecursionError, TypeError, AttributeError) as error:
        raise Damaged(str(error)) from error
    if not zipfile.is_zipfile(file):
        raise Damaged(f"{_MODEL} is no model")
    version = description.get("format") if isinstance(description, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise Damaged(f"{_DESCRIPTION} is no description of an analyzer")
    if "analyzer" not in description:
        raise Damaged(f"{_DESCRIPTION} has no analyzer")
    return description, arrays, file


def _model_of(analyzer):
    if not isinstance(analyzer.model, keras.Model):
        raise TypeError(
            f"{analyzer!r} explains {analyzer.model!r}, which is not a Keras model and cannot be put into one file "
            f"with it. Keep the file of the model, and create the analyzer from it again."
        )
    return analyzer.model


def _encode(value, arrays, where):
    """A value as JSON. Arrays are put into `arrays`, and `where` names the value in errors."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays[f"a{len(arrays)}"] = value
        return {"array": f"a{len(arrays) - 1}"}
    if isinstance(value, list | tuple):
        items = [_encode(v, arrays, f"{where}[{i}]") for i, v in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        return {"dict": [[k, _encode(v, arrays, f"{where}[{k!r}]")] for k, v in value.items()]}
    if isinstance(value, keras.Model | Graph):
        return {"model": None}
    if isinstance(value, Configured):
        arguments = _encode(value.config(), arrays, where)
        # An analyzer by size has the class of the analyzer for which it stands.
        kind = {"class": value.__class__.__name__, "module": value.__class__.__module__}
        return {**kind, "name": value.name, "arguments": arguments}
    if isinstance(value, Rule):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        fields = _encode(fields, arrays, f"{where} {type(value).__name__}")
        return {"rule": type(value).__name__, **_module(value), "fields": fields}
    if isinstance(value, Composite):
        entries = [_encode(e, arrays, f"{where} {value.name}") for e in (value.entries, value.defaults)]
        return {"composite": value.name, "entries": entries}
    if isinstance(value, Matcher):
        return _encode_matcher(value, arrays, where)
    if isinstance(value, type):
        own = LAYERS.get(value.__name__) is not value
        return {"type": value.__name__, "module": value.__module__ if own else _KERAS}
    raise TypeError(
        f"The {where} of the analyzer cannot be saved: {value!r}. Numbers, strings, arrays, rules and composites that "
        f"match by class, name, position or kind can."
    )


def _module(value):
    return {"module": type(value).__module__}


def _encode_matcher(match, arrays, where):
    for name, known in MATCHERS.items():
        if known is match:
            return {"matcher": name}
    if not match.recipe:
        raise TypeError(
            f"The {where} of the analyzer cannot be saved: it matches by a function ({match}). Match by class, name, "
            f"position or kind."
        )
    make, *arguments = match.recipe
    return {"matcher": make, "of": _encode(arguments, arrays, where)}


def _by_name(classes: Iterable[Any]) -> dict[str, Any]:
    return {cls.__name__: cls for cls in classes}


_KERAS = "keras.layers"

LAYERS = _by_name(v for v in vars(keras.layers).values() if isinstance(v, type) and issubclass(v, keras.Layer))
"""The layer classes of Keras, which a composite may match. Their modules differ between versions of Keras."""

RULES = _by_name(
    v for v in (getattr(reverse_rules, n) for n in reverse_rules.__all__) if isinstance(v, type) and issubclass(v, Rule)
)
"""The rules that a file may name."""

MATCHERS = {name: value for name, value in vars(composites).items() if isinstance(value, Matcher)}
"""The matchers that have a name."""

MAKERS = {f.__name__: f for f in (composites.both, composites.name, composites.position, composites.keras_op, matcher)}
"""The functions that make a matcher from arguments that a file can hold: the first entry of a matcher's recipe."""


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """Makes values from the JSON that `_encode` wrote. It calls no classes or functions but those in its tables."""

    model: keras.Model
    arrays: dict[str, np.ndarray]
    custom_objects: Mapping[str, Any]
    classes: dict[str, type]

    def analyzer(self, code: Any) -> Any:
        """The analyzer in the file."""
        if not isinstance(code, dict) or "class" not in code:
            raise Damaged("what it describes is no analyzer")
        return self.value(code)

    def value(self, code: Any) -> Any:
        """The value that a piece of JSON stands for."""
        if isinstance(code, list):
            return [self.value(item) for item in code]
        if not isinstance(code, dict):
            return code
        for kind, decode in _KINDS.items():
            if kind in code:
                return decode(self, code)
        raise Damaged(f"it has an entry of unknown kind: {code!r}")

    def _array(self, code):
        return _entry(self.arrays, code["array"])

    def _tuple(self, code):
        return tuple(self.value(_a(list, code, "tuple")))

    def _dict(self, code):
        try:
            return {key: self.value(item) for key, item in _a(list, code, "dict")}
        except (TypeError, ValueError) as error:
            raise Damaged(f"a dict is no list of pairs: {error}") from error

    def _model(self, code):
        return self.model

    def _class(self, code):
        cls = self._named(code, "class", self.classes, Configured, "analyzer")
        value = cls(**self._arguments(code, "arguments"))
        value.name = _a(str, code, "name")
        return value

    def _rule(self, code):
        return self._named(code, "rule", RULES, Rule, "rule")(**self._arguments(code, "fields"))

    def _composite(self, code):
        entries, defaults = _a(list, {"entries": self.value(code.get("entries"))}, "entries")
        return Composite(*entries, defaults=defaults, name=_a(str, code, "composite"))

    def _matcher(self, code):
        if "of" not in code:
            return _entry(MATCHERS, code["matcher"])
        return _entry(MAKERS, code["matcher"])(*self.value(_a(list, code, "of")))

    def _type(self, code):
        return self._named(code, "type", LAYERS, object, "class")

    def _arguments(self, code, key):
        arguments = self.value(code.get(key))
        return _a(dict, {key: arguments}, key)

    def _named(self, code, key, known, kind, what):
        """A class by its name. It is one of revgraph's or Keras's if its module says so, and else a custom object.

        Files of format 1 have no modules, so custom objects come first there.
        """
        name, module = _a(str, code, key), code.get("module")
        ours = known.get(name)
        if module is None:
            found = self.custom_objects.get(name, ours)
        else:
            # A class may stand in another module of revgraph than when the file was written.
            is_ours = ours is not None and (module == _KERAS or module.partition(".")[0] == "revgraph")
            found = ours if is_ours else self.custom_objects.get(name)
        if found is None:
            raise ValueError(
                f"it uses the {what} {name!r}, which revgraph does not have. Pass custom_objects={{{name!r}: ...}}."
            )
        if not (isinstance(found, type) and issubclass(found, kind)):
            raise ValueError(f"custom_objects has {found!r} for the {what} {name!r}, which is no {what}.")
        return found


_KINDS = {
    "array": _Decoder._array,
    "tuple": _Decoder._tuple,
    "dict": _Decoder._dict,
    "model": _Decoder._model,
    "class": _Decoder._class,
    "rule": _Decoder._rule,
    "composite": _Decoder._composite,
    "matcher": _Decoder._matcher,
    "type": _Decoder._type,
}


def _a(kind, code, key):
    """An entry of a description, checked to be of a type."""
    if not isinstance(code.get(key), kind):
        raise Damaged(f"{key!r} is {code.get(key)!r}, and not a {kind.__name__}")
    return code[key]


def _entry(table, name):
    if not isinstance(name, str) or name not in table:
        raise Damaged(f"it names {name!r}, which is not there")
    return table[name]
