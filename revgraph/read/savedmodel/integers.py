"""Integers, such as ids of tokens, which a model moves and renumbers before it looks them up in a table.

Arithmetic on ids, such as `ids + 1`, is a `Renumbering`: each id gets another number. Relevance passes it unchanged,
because the row that is looked up belongs to the id, whatever its number is.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from revgraph.graph.graph import Spec
from revgraph.graph.operations import Renumbering, Routing
from revgraph.read.savedmodel import moves
from revgraph.read.savedmodel.activations import OF_INTEGERS, POINTWISE
from revgraph.read.savedmodel.nodes import Node
from revgraph.read.savedmodel.weights import Value, Weight

if TYPE_CHECKING:
    from revgraph.read.savedmodel.builder import Builder

LINEAR = frozenset({"Add", "AddV2", "Mul", "Neg", "Sub"})
"""Types of arithmetic that give the same result with floating numbers."""

ALONG_AXES = frozenset({"Cumsum", "Sum"})
"""Types of such arithmetic along axes, which are the second argument."""


def _floats(dtype):
    return lambda w: tf.cast(w, dtype)


class Integers:
    """The part of a `Builder` that reads integers, such as ids of tokens.

    Args:
        builder: The builder.
    """

    def __init__(self, builder: "Builder") -> None:
        self._builder = builder
        self._followed: dict[int, tuple[int, Callable]] = {}
        self._renumbered: set[int] = set()

    def index(self, node: Node) -> Sequence[Value]:
        """Adds a site whose inputs and outputs are integers: it moves them, or gives each another number."""
        followed, copies = self.follow(node), node.type in moves.MOVES and moves.MOVES[node.type].copies
        if node.type == "Cast" or (copies and (followed is None or self._chooses_one(node))):
            found = self._builder.viewed(node)
        elif followed is not None:
            source, function = followed
            known = dict.fromkeys(("copies", "fixed"), True)
            found = self._builder.site(node, Renumbering(function, node.type, **known), (source,))
            self._renumbered.update(found)
        else:
            found = self._builder.site(node, self._builder.opaque(node), node.slots)
        if node.type in ALONG_AXES or not self._renumbered.isdisjoint(node.slots):
            self._renumbered.update(found)
        return found

    def _chooses_one(self, node):
        """Whether a node chooses between one tensor and constants."""
        return node.type.startswith("Select") and any(isinstance(a, Weight) for a in node.arguments[1:])

    def is_renumbered(self, slot: int) -> bool:
        """Whether the integers in a slot are other numbers than those in the model's input."""
        return slot in self._renumbered

    def note(self, slot: int, followed: tuple[int, Callable]) -> None:
        """Remembers that a slot is a pointwise function of another slot of integers, as `follow` returns it."""
        if not self._is_choice(slot):
            self._followed[slot] = followed

    def _is_choice(self, slot):
        """Whether a slot has numbers of the input in some places and constants in others."""
        site, _ = self._builder.made(slot)
        fills = site is not None and isinstance(site.operation, Routing) and site.operation.fills
        return slot not in self._builder.inert and fills

    def floating(self, node: Node, slot: int) -> Value | None:
        """The integers in a slot as floating numbers; None where floating arithmetic would give other numbers.

        Args:
            node: The cast to floating numbers.
            slot: The slot of the integers.
        """
        if slot not in self._renumbered:
            spec = Spec(self._builder.specs[slot].shape, node.specs[0].dtype)
            return self._builder.site(node, moves.cast(node), (slot,), spec=spec)[0]
        _, made = self._builder.made(slot)
        if made is None:
            return None
        # int8 and int16 wrap around, which floating numbers do not.
        moved = moves.MOVES[made.type].data if made.type in moves.MOVES else None
        known = made.type in LINEAR | ALONG_AXES or moved is not None
        if not known or self._builder.specs[slot].dtype not in ("int32", "int64") or len(made.operation.outputs) != 1:
            return None
        numbers = range(len(made.arguments))[slice(*(moved or ((0, None) if made.type in LINEAR else (0, 1))))]
        given = list(made.arguments)
        for i in numbers:
            if isinstance(given[i], Weight):
                given[i] = given[i].map(_floats(self._builder.dtype), given[i].shape)
            else:
                given[i] = self.floating(node, given[i])
        if None in given:
            return None
        return self._builder.viewed(dataclasses.replace(made, arguments=tuple(given), floating=node.specs[0].dtype))[0]

    def follow(self, node: Node) -> tuple[int, Callable] | None:
        """The only slot of integers on which a pointwise node depends, and the node as a function of that slot."""
        if node.type not in POINTWISE | OF_INTEGERS or len(node.operation.outputs) != 1 or not node.slots:
            return None
        given = [self._followed.get(slot, (slot, lambda x: x)) for slot in node.slots]
        (source, _), *_ = given
        spec = self._builder.specs[source]
        if any(other != source for other, _ in given) or source in self._builder.inert:
            return None
        if spec.shape != node.specs[0].shape or not tf.as_dtype(spec.dtype).is_integer:
            return None
        whole = node.function()
        return source, lambda x: whole(*(function(x) for _, function in given))

    def looked_up(self, slot: int) -> tuple[int, Callable]:
        """The slot from which the indices in a slot are computed, and the function that computes them.

        Keras counts negative indices from the end by `where(i < 0, i + n, i)`, and casts them.
        """
        source, function = self._followed.get(slot, (slot, lambda x: x))
        _, node = self._builder.made(source)
        if node is None or node.type != "Cast" or not self.is_entry(node.slots[0]):
            return source, function
        dtype = self._builder.specs[source].dtype
        return node.slots[0], lambda x: function(tf.cast(x, dtype))

    def is_entry(self, slot: int) -> bool:
        """Whether the entries of a slot are entries of an input, in any order."""
        site, _ = self._builder.made(slot)
        if site is None:
            return True
        copies = isinstance(site.operation, Routing) and site.operation.copies
        return copies and all(map(self.is_entry, site.inputs))
