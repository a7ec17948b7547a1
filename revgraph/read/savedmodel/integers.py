"""Integers on their way to a table or to floating numbers: they are moved, and get other numbers."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from revgraph.graph.graph import Spec
from revgraph.graph.operations import Renumbering, Routing
from revgraph.read.savedmodel import moves
from revgraph.read.savedmodel.activations import OF_INTEGERS, POINTWISE
from revgraph.read.savedmodel.weights import Weight

LINEAR = frozenset({"Add", "AddV2", "Mul", "Neg", "Sub"})
"""Arithmetic that is the same with floating numbers."""

ALONG_AXES = frozenset({"Cumsum", "Sum"})
"""The same along axes, which are the second argument."""


def _floats(dtype):
    return lambda w: tf.cast(w, dtype)


class Integers:
    """The part of a `Builder` that reads integers."""

    def __init__(self):
        self._followed: dict[int, tuple[int, Callable]] = {}
        self._renumbered: set[int] = set()

    def index(self, node):
        """A site that makes integers of integers: it moves them, or gives each another number."""
        followed, copies = self.follow(node), node.type in moves.MOVES and moves.MOVES[node.type].copies
        if node.type == "Cast" or (copies and (followed is None or self._chooses_one(node))):
            found = self.viewed(node)
        elif followed is not None:
            source, function = followed
            known = dict.fromkeys(("copies", "fixed"), True)
            found = self.site(node, Renumbering(function, node.type, **known), (source,))
            self._renumbered.update(found)
        else:
            found = self.site(node, self.opaque(node), node.slots)
        if node.type in ALONG_AXES or not self._renumbered.isdisjoint(node.slots):
            self._renumbered.update(found)
        return found

    def _chooses_one(self, node):
        """Whether a node chooses between one tensor and constants."""
        return node.type.startswith("Select") and any(isinstance(a, Weight) for a in node.arguments[1:])

    def is_renumbered(self, slot) -> bool:
        """Whether a slot has other numbers than those of the input."""
        return slot in self._renumbered

    def _is_choice(self, slot):
        """Whether a slot has numbers of the input in some places, and constants in others."""
        site, _ = self.made(slot)
        return slot not in self.inert and isinstance(site.operation, Routing) and site.operation.fills

    def floating(self, node, slot) -> int | None:
        """Integers as floating numbers, as `node` makes them; None for arithmetic that has no other like it."""
        if slot not in self._renumbered:
            spec = Spec(self.specs[slot].shape, node.specs[0].dtype)
            return self.site(node, moves.cast(node), (slot,), spec=spec)[0]
        _, made = self.made(slot)
        # Smaller integers wrap around.
        moved = moves.MOVES[made.type].data if made.type in moves.MOVES else None
        known = made.type in LINEAR | ALONG_AXES or moved is not None
        if not known or self.specs[slot].dtype not in ("int32", "int64") or len(made.operation.outputs) != 1:
            return None
        numbers = range(len(made.arguments))[slice(*(moved or ((0, None) if made.type in LINEAR else (0, 1))))]
        given = list(made.arguments)
        for i in numbers:
            weight = isinstance(given[i], Weight)
            given[i] = given[i].map(_floats(self.dtype), given[i].shape) if weight else self.floating(node, given[i])
        if None in given:
            return None
        return self.viewed(dataclasses.replace(made, arguments=tuple(given), floating=node.specs[0].dtype))[0]

    def follow(self, node) -> tuple[int, Callable] | None:
        """The slot of integers on which a pointwise node alone depends, and the node as a function of it."""
        if node.type not in POINTWISE | OF_INTEGERS or len(node.operation.outputs) != 1 or not node.slots:
            return None
        given = [self._followed.get(slot, (slot, lambda x: x)) for slot in node.slots]
        (source, _), *_ = given
        spec = self.specs[source]
        if any(other != source for other, _ in given) or source in self.inert or spec.shape != node.specs[0].shape:
            return None
        if not tf.as_dtype(spec.dtype).is_integer:
            return None
        whole = node.function()
        return source, lambda x: whole(*(function(x) for _, function in given))

    def looked_up(self, slot) -> tuple[int, Callable]:
        """What the indices in a slot are worked out from, and the function that does it.

        Keras counts negative indices from the end by `where(i < 0, i + n, i)`, and casts them.
        """
        source, function = self._followed.get(slot, (slot, lambda x: x))
        _, node = self.made(source)
        if node is None or node.type != "Cast" or not self._is_entry(node.slots[0]):
            return source, function
        dtype = self.specs[source].dtype
        return node.slots[0], lambda x: function(tf.cast(x, dtype))

    def _is_entry(self, slot):
        """Whether the entries of a slot are entries of an input, in whatever place."""
        site, _ = self.made(slot)
        if site is None:
            return True
        copies = isinstance(site.operation, Routing) and site.operation.copies
        return copies and all(map(self._is_entry, site.inputs))
