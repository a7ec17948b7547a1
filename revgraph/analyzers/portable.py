"""`Portable`: an analyzer on its way to another process."""

import dataclasses
import json
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.loading import CLASSES
from revgraph.analyzers.tasks import for_task
from revgraph.read import load_model
from revgraph.saving import archives

SETTINGS = ("floatx", "epsilon", "image_data_format")
"""Keras's settings that a process gets from the one that sends it an analyzer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Portable:
    """An analyzer as plain values, of which another process makes an equal one.

    Args:
        description, arrays: What the analyzer is but for its model.
        model: The content of the `.keras` file of a Keras model, or the path of a SavedModel and its signature.
        model_path: The path that `create_analyzer` was given.
        custom_objects: The classes and functions of the user, by the names by which the analyzer and its model know
            them.
        settings: How Keras is set.
    """

    description: dict[str, Any]
    arrays: dict[str, np.ndarray]
    model: bytes | tuple[str, str | None]
    model_path: str | None
    custom_objects: dict[str, Any]
    settings: dict[str, Any]

    @classmethod
    def of(cls, analyzer: Analyzer) -> "Portable":
        """The analyzer as plain values.

        Raises:
            TypeError: The analyzer has an argument that cannot be written down, such as a function, or its model comes
                neither from Keras nor from a path.
        """
        description, arrays = archives.described(analyzer)
        custom_objects = {**keras.saving.get_custom_objects(), **dict(_own(description))}
        model: bytes | tuple[str, str | None]
        if isinstance(analyzer.model, keras.Model):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.keras")
                analyzer.model.save(file)
                with zipfile.ZipFile(file) as parts:
                    custom_objects |= dict(_own(json.loads(parts.read("config.json"))))
                model = file.read_bytes()
        elif analyzer.model_path is not None:
            model = (str(Path(analyzer.model_path).resolve()), analyzer.model_signature)
        else:
            raise TypeError(
                f"{analyzer!r} explains {analyzer.model!r}, which is in the memory of this process alone. Create it "
                f"from the path of the model: create_analyzer({analyzer.name!r}, path)."
            )
        settings = {name: getattr(keras.config, name)() for name in SETTINGS}
        return cls(description, arrays, model, analyzer.model_path, custom_objects, settings)

    def load(self) -> Analyzer:
        """An equal analyzer in this process."""
        for name, value in self.settings.items():
            getattr(keras.config, f"set_{name}")(value)
        analyzer: Analyzer = archives.made(self.description, self.arrays, self._model(), CLASSES, self.custom_objects)
        analyzer.model_path = self.model_path
        return for_task(analyzer)

    def _model(self):
        # The code that is run was this user's, in the process that sent it.
        if isinstance(self.model, tuple):
            path, signature = self.model
            return load_model(path, signature, safe_mode=False, custom_objects=self.custom_objects)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.keras")
            file.write_bytes(self.model)
            return keras.models.load_model(file, self.custom_objects, compile=False, safe_mode=False)


def _own(code: Any) -> Iterator[tuple[str, Any]]:
    """The user's own classes that a description of JSON names, by name."""
    if isinstance(code, list):
        for item in code:
            yield from _own(item)
    if not isinstance(code, dict):
        return
    for item in code.values():
        yield from _own(item)
    module = code.get("module")
    if not isinstance(module, str) or module.partition(".")[0] in ("keras", "keras_hub", "revgraph", "builtins"):
        return
    for kind in ("class_name", "class", "rule", "type"):
        name = code.get(kind)
        if isinstance(name, str) and hasattr(sys.modules.get(module), name):
            yield name, getattr(sys.modules[module], name)
