"""`Portable`: an analyzer on its way to another process."""

import dataclasses
import inspect
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.loading import CLASSES
from revgraph.analyzers.tasks import for_task
from revgraph.read import load_model
from revgraph.read.keras.private import layers_of
from revgraph.saving import archives

_KNOWN = ("builtins", "keras", "keras_hub", "numpy", "revgraph", "tensorflow")
"""The packages whose classes are the same in every process."""

SETTINGS = ("floatx", "epsilon", "image_data_format")
"""Keras's settings that a process gets from the one that sends it an analyzer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Portable:
    """The plain values of an analyzer. Another process makes an equal analyzer of them.

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
        custom_objects = {**keras.saving.get_custom_objects(), **_of_the_user(analyzer, description)}
        model: bytes | tuple[str, str | None]
        if isinstance(analyzer.model, keras.Model):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.keras")
                analyzer.model.save(file)
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
        options: dict[str, Any] = {"safe_mode": False, "custom_objects": self.custom_objects}
        if isinstance(self.model, tuple):
            path, signature = self.model
            return load_model(path, signature, **options)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.keras")
            file.write_bytes(self.model)
            return load_model(file, **options)


def _of_the_user(analyzer: Analyzer, description: Any) -> dict[str, Any]:
    """The classes and functions of the user's own that an analyzer and its model are made of, by name."""
    found = list(_named(description))
    if isinstance(analyzer.model, keras.Model):
        for layer in layers_of(analyzer.model):
            found.append(type(layer))
            # Activations, initializers, regularizers.
            found += [value if inspect.isfunction(value) else type(value) for value in vars(layer).values()]
    # A lambda has no name by which it could be found again.
    own = [v for v in found if v.__module__.partition(".")[0] not in _KNOWN and v.__name__ != "<lambda>"]
    return {value.__name__: value for value in own}


def _named(description: Any) -> Iterator[Any]:
    """The classes of rules, analyzers and layers that a description of an analyzer names."""
    if isinstance(description, list):
        for part in description:
            yield from _named(part)
    if isinstance(description, dict):
        for part in description.values():
            yield from _named(part)
        for kind in ("class", "rule", "type"):
            name, module = description.get(kind), sys.modules.get(description.get("module", ""))
            if isinstance(name, str) and hasattr(module, name):
                yield getattr(module, name)
