"""Runs the code of a model and restores the model's attributes, containers and losses afterwards."""

import collections
import contextlib
import random
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np

from revgraph.read.keras import private

LOCK = threading.RLock()
"""Held while code of a model runs, so that no two threads run and restore a model at the same time."""

CONTAINERS = (list, dict, set, collections.deque, np.ndarray)
"""Containers whose content is restored."""

CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
"""Types whose attributes are not restored, because they hold code and not the state of a model."""


@contextlib.contextmanager
def untouched(operations: Iterable[keras.Operation]) -> Iterator[None]:
    """Restores the attributes of layers and operations, and the random states of Python and NumPy, after a block.

    Variables need not be restored, because operations that assign them are added to a TensorFlow graph and never run.
    Effects of `call` outside of the model, such as printing, are not undone.

    Args:
        operations: The layers and operations.
    """
    with LOCK:
        saved, chance = _Saved(), (random.getstate(), np.random.get_state())
        for operation in operations:
            saved.take(operation)
        try:
            yield
        finally:
            saved.restore()
            random.setstate(chance[0])
            np.random.set_state(chance[1])


class _Saved:
    """The content of objects, and of the containers in their attributes."""

    def __init__(self) -> None:
        # The objects are kept, so that no other object gets the id of one of them.
        self._seen: dict[int, object] = {}
        self._undo: list[Callable[[], None]] = []

    def take(self, item: Any) -> None:
        """Remembers the content of an object or a container, and of everything inside of it."""
        if id(item) in self._seen:
            return
        if isinstance(item, CONTAINERS):
            self._seen[id(item)] = item
            self._container(item)
        elif private.is_of_model(item) or _is_plain(item):
            self._seen[id(item)] = item
            self._attributes(item)

    def _attributes(self, item):
        before = dict(vars(item))
        self._undo.append(lambda: _restore(vars(item), before))
        for value in before.values():
            self.take(value)
        if not private.is_of_library(type(item)):
            self._of_class(type(item))

    def _of_class(self, cls):
        if id(cls) in self._seen:
            return
        self._seen[id(cls)] = cls
        before = dict(vars(cls))

        def undo():
            for name in set(vars(cls)) - set(before):
                delattr(cls, name)
            for name, value in before.items():
                if vars(cls)[name] is not value:
                    setattr(cls, name, value)

        self._undo.append(undo)

    def _container(self, container):
        if isinstance(container, np.ndarray):
            entries = container.copy()
            self._undo.append(lambda: _overwrite(container, entries))
            return
        values = list(container.values() if isinstance(container, dict) else container)
        if isinstance(container, dict):
            items = dict(container)
            self._undo.append(lambda: _restore(container, items))
        else:
            self._undo.append(lambda: _refill(container, values))
        for value in values:
            self.take(value)

    def restore(self) -> None:
        """Gives every object and container its content back."""
        for undo in reversed(self._undo):
            undo()


def _overwrite(array, before):
    # Arrays that did not change may be read-only.
    if not np.array_equal(array, before):
        np.copyto(array, before)


def _restore(mapping, before):
    """Restores a dict, past the methods of Keras's own dicts, which track what is put into them."""
    if len(mapping) != len(before) or any(mapping.get(key, mapping) is not value for key, value in before.items()):
        dict.clear(mapping)
        dict.update(mapping, before)


def _refill(container, before):
    """Restores a list, a set or a queue."""
    if len(container) == len(before) and all(x is y for x, y in zip(container, before, strict=True)):
        return
    # The methods of the base class, because Keras's own lists and sets track what is put into them.
    kind: Any = next(kind for kind in CONTAINERS if isinstance(container, kind))
    kind.clear(container)
    (kind.update if kind is set else kind.extend)(container, before)


def _is_plain(item):
    """Whether an object has attributes and a class of the user's own."""
    library = type(item).__module__.partition(".")[0] in ("keras", "tensorflow", "numpy", "builtins", "collections")
    return hasattr(item, "__dict__") and not isinstance(item, CODE) and not library
