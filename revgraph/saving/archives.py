"""Analyzers as files: a zip archive of the model as Keras saves it, the arguments as JSON, and arrays.

Nothing in the file is executed when it is read.
"""

import dataclasses
import io
import json
import os
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np

from revgraph import composites, reverse_rules
from revgraph.analyzers.analyzer import Analyzer
from revgraph.composites import Composite, Matcher
from revgraph.reverse_rules import Rule

FORMAT = 1
"""Version of the file format."""

_DESCRIPTION, _MODEL, _ARRAYS = "analyzer.json", "model.keras", "arrays.npz"


def save(analyzer: Analyzer, path, overwrite=False):
    """Writes an analyzer to a file, from which `load_analyzer` makes an equal one.

    Args:
        analyzer: The analyzer.
        path: Where to; `.revgraph` is the usual ending.
        overwrite: Replace a file that exists.

    Raises:
        FileExistsError: The file exists.
        TypeError: The analyzer holds something that cannot be written down, such as a function.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists. Pass overwrite=True to replace it.")
    arrays = {}
    description = {"format": FORMAT, "analyzer": _encode(analyzer, arrays, "analyzer")}
    model = _model_of(analyzer)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".revgraph-") as folder:
        whole, part = Path(folder, "whole"), Path(folder, _MODEL)
        model.save(part)
        with zipfile.ZipFile(whole, "w") as archive:
            archive.writestr(_DESCRIPTION, json.dumps(description, indent=1))
            archive.write(part, _MODEL)
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)
            archive.writestr(_ARRAYS, buffer.getvalue())
        os.replace(whole, path)


def load_analyzer(path, custom_objects=None, safe_mode=True) -> Analyzer:
    """Reads an analyzer that `Analyzer.save` wrote.

    Args:
        path: The file.
        custom_objects: Dict from name to the model's own classes and functions, and to own rules, as
            `keras.models.load_model` takes it.
        safe_mode: Refuse models with Python code in Lambda layers, as `keras.models.load_model` does.

    Returns:
        An analyzer whose relevance is that of the one saved.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one of ours, is damaged, or needs classes that are not given.

    Example:

        analyzer.save("digits.revgraph")
        analyzer = revgraph.load_analyzer("digits.revgraph")
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
            description = json.loads(archive.read(_DESCRIPTION))
            with np.load(io.BytesIO(archive.read(_ARRAYS)), allow_pickle=False) as stored:
                arrays = dict(stored)
            file = archive.extract(_MODEL, folder)
            if description["format"] > FORMAT:
                raise ValueError(f"it was written by a later revgraph (format {description['format']}).")
            model = keras.models.load_model(file, custom_objects=custom_objects, compile=False, safe_mode=safe_mode)
        return _Decoder(model, arrays, custom_objects or {}).value(description["analyzer"])
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError, EOFError) as error:
        raise ValueError(
            f"{str(path)!r} is not a file of an analyzer, or it is damaged ({type(error).__name__}: {error}). "
            f"Analyzers are written by `analyzer.save(path)`."
        ) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"Cannot load the analyzer in {str(path)!r}: {error}") from error


def _model_of(analyzer):
    if not isinstance(analyzer.model, keras.Model):
        raise TypeError(
            f"{analyzer!r} explains {analyzer.model!r}, which is not a Keras model and cannot be put into one file "
            f"with it. Make it again from the model's own file."
        )
    return analyzer.model


def _encode(value, arrays, where):
    """A value as JSON; arrays go to `arrays`. `where` names it in errors."""
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
    if isinstance(value, keras.Model):
        return {"model": None}
    if isinstance(value, Analyzer):
        arguments = _encode(value.arguments(), arrays, where)
        return {"class": type(value).__name__, "name": value.name, "arguments": arguments}
    if isinstance(value, Rule):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"rule": type(value).__name__, "fields": _encode(fields, arrays, f"{where} {type(value).__name__}")}
    if isinstance(value, Composite):
        entries = [_encode(e, arrays, f"{where} {value.name}") for e in (value.entries, value.defaults)]
        return {"composite": value.name, "entries": entries}
    if isinstance(value, Matcher):
        return _encode_matcher(value, arrays, where)
    if isinstance(value, type):
        return {"type": value.__name__}
    raise TypeError(
        f"The {where} of the analyzer cannot be saved: {value!r}. Numbers, strings, arrays, rules and composites that "
        f"match by class, name, position or kind can."
    )


def _encode_matcher(match, arrays, where):
    for name, known in vars(composites).items():
        if known is match:
            return {"matcher": name}
    if not match.recipe:
        raise TypeError(
            f"The {where} of the analyzer cannot be saved: it matches by a function ({match}). Match by class, name, "
            f"position or kind."
        )
    make, *arguments = match.recipe
    return {"matcher": make, "of": _encode(arguments, arrays, where)}


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """Makes values from what `_encode` wrote."""

    model: keras.Model
    arrays: dict
    custom_objects: dict

    def value(self, code):
        if isinstance(code, list):
            return [self.value(item) for item in code]
        if not isinstance(code, dict):
            return code
        kind = next(iter(code))
        return getattr(self, f"_{kind}")(code)

    def _array(self, code):
        return self.arrays[code["array"]]

    def _tuple(self, code):
        return tuple(self.value(code["tuple"]))

    def _dict(self, code):
        return {key: self.value(item) for key, item in code["dict"]}

    def _model(self, code):
        return self.model

    def _class(self, code):
        cls = self._named(code["class"], _subclasses(Analyzer), "analyzer")
        analyzer = cls(**self.value(code["arguments"]))
        analyzer.name = code["name"]
        return analyzer

    def _rule(self, code):
        known = {name: value for name, value in vars(reverse_rules).items() if isinstance(value, type)}
        return self._named(code["rule"], known, "rule")(**self.value(code["fields"]))

    def _composite(self, code):
        entries, defaults = self.value(code["entries"])
        return Composite(*entries, defaults=defaults, name=code["composite"])

    def _matcher(self, code):
        known = getattr(composites, code["matcher"])
        return known if "of" not in code else known(*self.value(code["of"]))

    def _type(self, code):
        return self._named(code["type"], vars(keras.layers), "layer class")

    def _named(self, name, known, what):
        found = self.custom_objects.get(name, known.get(name))
        if found is None:
            raise ValueError(
                f"it uses the {what} {name!r}, which revgraph does not have. Pass custom_objects={{{name!r}: ...}}."
            )
        return found


def _subclasses(cls):
    """Every class that extends `cls`, by name."""
    found = {}
    for sub in cls.__subclasses__():
        found[sub.__name__] = sub
        found.update(_subclasses(sub))
    return found
