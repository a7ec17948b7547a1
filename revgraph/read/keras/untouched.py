"""Running a model's own code without a trace left: attributes, containers and losses are as before afterwards."""

import collections
import contextlib
import random
import threading
import types

import numpy as np

from revgraph.read.keras import private

LOCK = threading.RLock()
"""Held while code of a model runs: no two threads run it, and restore it, at once."""

CONTAINERS = (list, dict, set, collections.deque, np.ndarray)

CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)


@contextlib.contextmanager
def untouched(operations):
    """Restores the attributes of layers and operations after the block.

    Variables need no restoring, because operations that would assign them are added to a graph and never run. What
    `call` does outside of the model, such as printing, is done.

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
    """What objects and the containers in their attributes held."""

    def __init__(self):
        self._seen = {}
        self._undo = []

    def take(self, item):
        """Remembers what an object or a container holds, and what is in it."""
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
            before = container.copy()
            self._undo.append(lambda: np.array_equal(container, before) or np.copyto(container, before))
            return
        if isinstance(container, dict):
            before = dict(container)
            self._undo.append(lambda: _restore(container, before))
            inside = before.values()
        else:
            before = inside = list(container)
            self._undo.append(lambda: _refill(container, before))
        for value in inside:
            self.take(value)

    def restore(self):
        """Gives everything back what it held."""
        for undo in reversed(self._undo):
            undo()


def _restore(mapping, before):
    """Makes a dict what it was; the dicts of Keras would track what is put into them."""
    if len(mapping) != len(before) or any(mapping.get(key, mapping) is not value for key, value in before.items()):
        dict.clear(mapping)
        dict.update(mapping, before)


def _refill(container, before):
    """Makes a list, a set or a queue what it was."""
    if len(container) == len(before) and all(x is y for x, y in zip(container, before, strict=True)):
        return
    kind = next(kind for kind in CONTAINERS if isinstance(container, kind))
    kind.clear(container)
    (kind.update if kind is set else kind.extend)(container, before)


def _is_plain(item):
    """Whether an object is of a class of the user's own, which keeps attributes."""
    library = type(item).__module__.partition(".")[0] in ("keras", "tensorflow", "numpy", "builtins", "collections")
    return hasattr(item, "__dict__") and not isinstance(item, CODE) and not library
