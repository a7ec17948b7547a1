"""`Builder` goes through TensorFlow's operations once, and collects the sites of a graph."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Site, Spec
from revgraph.graph.operations import Activation, Inert, Operation, Routing, ZeroPad
from revgraph.read.savedmodel import lists, loops, moves, nodes, private
from revgraph.read.savedmodel.activations import DIGITS, DIRECT, POINTWISE, SOURCES, Piece, node_piece, recognise, start
from revgraph.read.savedmodel.integers import Integers
from revgraph.read.savedmodel.nodes import (
    CONTROL,
    Jump,
    Node,
    TensorFlowOperation,
    called,
    operations_between,
    runner,
)
from revgraph.read.savedmodel.normalization import Combination, Statistic, Statistics
from revgraph.read.savedmodel.shapes import ALIKE, SHAPES, Shapes, all_equal, constants
from revgraph.read.savedmodel.views import IDENTITIES, VIEWS
from revgraph.read.savedmodel.weights import Expression, ScaleAndShift, Value, Weight, captured, has_slope, known
from revgraph.read.savedmodel.wholes import Whole, add_whole
from revgraph.read.savedmodel.words import WordTable


class Builder:
    """Collects the sites of TensorFlow's operations, each after those on which it depends.

    The value of a tensor is a slot, or a `Weight` if it does not depend on the inputs, or a list of tensors (`lists`).
    A slot is *inert* if it depends on shapes and comparisons alone. It carries no relevance. A slot is *fixed* if it
    depends on shapes alone, so it is the same whatever the entries of the inputs are.

    Args:
        dtype: The floating dtype in which the graph computes.
        wholes: By the id of a TensorFlow graph, a dict from the name of a tensor to the `Whole` that returns it.
        path_of: Gives the path of a site, and its Keras operation or None, from the name of a TensorFlow operation. By
            default the path is the name.
    """

    def __init__(
        self,
        dtype: str,
        wholes: Mapping[int, Mapping[str, Whole]] | None = None,
        path_of: Callable[[str], tuple[str, Any]] = lambda name: (name, None),
    ) -> None:
        self.dtype = dtype
        self.path_of = path_of
        self.values: dict[tuple[int, str], int | Weight] = {}
        self._wholes = wholes or {}
        self.sites: list[Site] = []
        self.specs: dict[int, Spec] = {}
        self.inert: set[int] = set()
        self._made: dict[int, tuple[Site, Node]] = {}
        self._from_shapes: set[int] = set()
        self.shapes = Shapes(self.specs)
        self._pieces: dict[int, dict[int, Piece]] = {}
        self._statistics = Statistics()
        self.ids = Integers(self)
        self.undecided: list[str] = []  # Paths of branches whose condition depends on a size that is not known.

    def constant(self, weight: Weight) -> int:
        """Adds a site that returns a weight, and returns its slot."""
        value = weight.read(self.dtype)
        slot = self.new_slot(Spec(tuple(value.shape), value.dtype.name))
        known = {"copies": True, "fixed": True, "keeps_sign": moves.is_nonnegative(weight), "fills": True}
        self.sites.append(Site("constant", Routing(lambda: weight.read(self.dtype), "Const", **known), (), (slot,)))
        return slot

    def as_slot(self, value: int | Weight) -> int:
        """The slot of a value. A weight gets a site of its own."""
        return self.constant(value) if isinstance(value, Weight) else value

    def spec(self, value: int | Weight) -> Spec:
        """Shape and dtype of a value."""
        if not isinstance(value, Weight):
            return self.specs[value]
        return Spec(tuple(value.shape), value.read(self.dtype).dtype.name)

    def new_slot(self, spec: Spec) -> int:
        """Makes a slot for tensors of this shape and dtype."""
        slot = len(self.specs)
        self.specs[slot] = spec
        return slot

    def read(self, function: Any, slots: Sequence[int], keep: Any = None) -> list[Value]:
        """Adds the sites of a concrete TensorFlow function, and returns the values of its outputs.

        Args:
            function: The function.
            slots: The slots of its inputs.
            keep: An object that has to live as long as the graph does, because it owns the variables.
        """
        handles = {id(private.handle(v)): v for v in function.variables}
        constants = [captured(t, handles, keep) for t in private.captured_inputs(function)]
        return self.inline(private.graph_of(function), [*slots, *constants], prefix="")

    def inline(self, graph: tf.Graph, arguments: Sequence[Value], prefix: str) -> list[Value]:
        """Adds the sites of a TensorFlow graph, and returns the values of its outputs.

        `self.values` then has the value of every tensor. If a function is called twice, it has those of the last call.
        """
        inputs, outputs = private.ends(graph)
        values = {t.name: a for t, a in zip(inputs, arguments, strict=True)}
        for step in operations_between(graph, self._wholes.get(id(graph))):
            # A loop of TensorFlow 1 reads tensors that are computed later.
            jumps = not isinstance(step, Whole) and step.type in CONTROL
            given = tuple(values[t.name] for t in step.inputs if t.name in values or not jumps)
            results = add_whole(self, step, given) if isinstance(step, Whole) else self.visit(step, given, prefix)
            values.update(zip((t.name for t in step.outputs), results, strict=True))
        self.values.update({(id(graph), name): value for name, value in values.items()})
        return [values[t.name] for t in outputs]

    def visit(self, operation: tf.Operation, given: tuple[Value, ...], prefix: str) -> Sequence[Value]:
        """Adds the sites of an operation, and returns the values of its outputs.

        Args:
            operation: The operation.
            given: The values of its inputs.
            prefix: The path of the call of a function in which it stands.
        """
        function, arguments = self._function(operation, given)
        if function is not None:
            return self.inline(function, arguments, prefix + operation.name[: operation.name.rfind("/") + 1])
        path, layer = self.path_of(prefix + operation.name)
        node = Node(operation, given, path, self.dtype, layer)
        if operation.type in nodes.CONDITIONALS and self.is_fixed(given[0]):
            self.undecided.append(path)
        if operation.type in CONTROL:
            return self.site(node, Jump(operation), node.slots)
        if operation.type in IDENTITIES:
            return given[: len(operation.outputs)]
        results = loops.visit(self, node)
        if results is not None:
            return results
        given = tuple(value.whole(self, node) if lists.is_list(value) else value for value in given)
        node = dataclasses.replace(node, arguments=given)
        if not node.slots and not _is_random(operation) and not _makes_lists(operation):
            return self.weights(node)
        pieces, followed = self.pieces(node), self.ids.follow(node)
        results = self.results(node, pieces)
        if pieces:
            self._pieces[results[0]] = pieces
        if followed is not None and results[0] not in node.slots:
            self.ids.note(results[0], followed)
        return results

    @staticmethod
    def _function(operation, given):
        """The graph of the function that an operation calls, or of the branch that is known, and its arguments."""
        if operation.type in nodes.CONDITIONALS and isinstance(given[0], Weight) and given[0].value is not None:
            return called(operation, "then_branch" if np.any(given[0].value) else "else_branch"), given[1:]
        return called(operation), given

    def results(self, node: Node, pieces: Mapping[int, Piece]) -> Sequence[Value]:
        """Adds the sites of a node that reads slots, and returns the values of its outputs."""
        if self.is_inert(node):
            return self.inert_site(node)
        if not _makes_lists(node.operation) and not any(has_slope(s.dtype) for s in node.specs):
            return self.ids.index(node)
        found = self.statistic(node)
        if isinstance(found, Combination) and found.is_complete():
            return self.normalize(node, found)
        activation = self.activation(node, pieces) if found is None else None
        if activation is not None:
            return activation
        results = self.viewed(node)
        if results[0] not in node.slots:
            self._statistics.note(results[0], found)
        return results

    def viewed(self, node: Node) -> Sequence[Value]:
        """Adds what the view of a node says, or an operation without a rule. Returns the values of the outputs."""
        view = VIEWS.get(node.type)
        results = view(self, node) if view is not None else None
        if results is None:
            results = self.site(node, self.opaque(node), node.slots)
        return results

    def site(
        self,
        node: Node,
        operation: Operation,
        slots: Sequence[int],
        path: str | None = None,
        shape: tuple[int | None, ...] | None = None,
        spec: Spec | None = None,
        specs: Sequence[Spec] | None = None,
        inert: bool = False,
        fixed: bool = False,
    ) -> list[int]:
        """Adds a site and returns the slots of its outputs.

        Args:
            node: The node from which it is made.
            operation: Its operation.
            slots: The slots that it reads.
            path: Its path; by default that of the node.
            shape: The shape of its only output; by default that of the node's first output.
            spec: Shape and dtype of its only output.
            specs: Shapes and dtypes of its outputs; by default those of the node.
            inert: Whether its outputs carry no relevance.
            fixed: Whether its outputs are the same whatever the entries of the inputs are.
        """
        specs = node.specs[: operation.outputs_count] if specs is None else specs
        if shape is not None:
            spec = Spec(shape, specs[0].dtype)
        specs = specs if spec is None else (spec,)
        if isinstance(operation, Activation | ScaleAndShift):
            slots = (self.spread(node, slots[0], operation),)
        written = tuple(self.new_slot(spec) for spec in specs)
        site = Site(path or node.path, operation, tuple(slots), written, node.layer)
        self.sites.append(site)
        self._made.update(dict.fromkeys(written, (site, node)))
        for slot in written:
            self.note(slot, inert, fixed)
        return list(written)

    def note(self, slot: int, inert: bool = False, fixed: bool = False) -> None:
        """Remembers that a slot is inert, and that it is fixed."""
        if inert:
            self.inert.add(slot)
        if fixed:
            self._from_shapes.add(slot)

    def inside(self) -> "Builder":
        """A builder for a graph inside of an operation, such as the body of a loop."""
        return Builder(self.dtype, self._wholes, self.path_of)

    def take(self, slot: int, outer: "Builder", outside: int) -> None:
        """Copies what the builder `outer` knows of its slot `outside` to `slot`, which has the same tensor here."""
        self.note(slot, outside in outer.inert, outer.is_fixed(outside))
        values = outer.shapes.values(outside)
        if values is not None:
            self.shapes.note([slot], [values])

    def made(self, slot: int) -> tuple[Site | None, Node | None]:
        """The site that writes a slot, and the node from which it was made; None for both where there is none."""
        return self._made.get(slot, (None, None))

    def scale(self, node: Node, slot: int, kernel: Weight | None = None, bias: Weight | None = None) -> list[int]:
        """Adds x * kernel + bias; None stands for 1 and for 0. A kernel of ones and a bias of zeros are left out."""
        slot = self.spread(node, slot, ScaleAndShift(kernel, bias))
        kernel = None if kernel is not None and kernel.is_all(1) else kernel
        bias = None if bias is not None and bias.is_all(0) else bias
        if kernel is None and bias is None:
            return [slot]
        return self.site(node, ScaleAndShift(kernel, bias), (slot,))

    def spread(self, node: Node, slot: int, operation: Operation) -> int:
        """Broadcasts a slot where an operation that acts entry by entry has weights of a larger shape.

        Args:
            node: The node, whose output has the larger shape.
            slot: The slot that the operation reads.
            operation: The operation, a function of this slot alone.
        """
        before, after = self.specs[slot].shape, node.specs[0].shape
        if len(before) == len(after) and all(m == n or m not in (1, None) for m, n in zip(before, after, strict=True)):
            return slot

        def spread(x):
            return tf.broadcast_to(x, tf.shape(operation((x,), operation.read(x.dtype))[0]))

        routing = Routing(spread, "BroadcastTo", copies=True, fixed=True, keeps_sign=True)
        spec = Spec(after, self.specs[slot].dtype)
        return self.site(node, routing, (slot,), path=f"{node.path}/broadcast", spec=spec)[0]

    def is_fixed(self, value: int | Weight) -> bool:
        """Whether a value is a weight, or a slot that is the same whatever the entries of the inputs are."""
        return isinstance(value, Weight) or value in self._from_shapes

    def integers(self, value: int | Weight) -> np.ndarray | None:
        """The entries of an integer tensor, with None for an entry that is not known; None where nothing is known."""
        return self.shapes.integers(value)

    def known_integers(self, value: int | Weight) -> list[int] | None:
        """The integers in a tensor, such as axes, as a flat list; None unless all of them are known."""
        entries = self.integers(value)
        flat: list[Any] = [None] if entries is None else list(np.ravel(entries))
        return None if None in flat else [int(entry) for entry in flat]

    def statistic(self, node: Node) -> Statistic | Combination | None:
        """The statistic or combination that a node computes; None if it has no part in a normalization."""
        if node.type not in ("Mean", "Sum"):
            return self._statistics.describe(node)
        axes, rank = self.known_integers(node.arguments[1]), len(self.specs[node.slots[0]].shape)
        return self._statistics.describe(node, axes, rank)

    def normalize(self, node: Node, combination: Combination) -> list[int]:
        """Adds the site of a complete normalization, whose last operation is the node."""
        results = self.site(node, combination.operation(), (combination.statistic.source,))
        self._statistics.note(results[0], combination)
        return results

    def number(self, value: int | Weight) -> float | None:
        """The number that every entry of a tensor has; None where that is not known."""
        _, node = (None, None) if isinstance(value, Weight) else self.made(value)
        if node is not None and node.type == "Fill":
            value = node.arguments[1]
        if not isinstance(value, Weight) or value.value is None or value.value.size == 0:
            return None
        first = value.value.ravel()[0]
        return float(first) if np.all(value.value == first) else None

    def pad(self, node: Node, slot: int, around: Iterable) -> int:
        """Adds padding with zeros. `around` has the widths before and after along each axis."""
        widths = tuple((int(before), int(after)) for before, after in around)
        shape = tuple(n if n is None else n + sum(pair) for n, pair in zip(self.specs[slot].shape, widths, strict=True))
        known = dict.fromkeys(("copies", "fixed", "keeps_sign", "fills"), True)
        padding = ZeroPad(lambda x: tf.pad(x, widths), "Pad", widths=widths, **known)
        (slot,) = self.site(node, padding, (slot,), path=f"{node.path}/pad", shape=shape)
        return slot

    def weights(self, node: Node) -> list[Weight]:
        """The outputs of a node that reads weights alone. Constants are computed now, others when they are read."""
        operation, arguments = node.operation, node.arguments
        if node.type == "Const":
            return [known(tf.make_ndarray(operation.get_attr("value")))]
        made_by = frozenset({node.type}).union(*(a.made_by for a in arguments))
        if node.type == "ReadVariableOp" and arguments[0].variable is not None:
            return [arguments[0].content()]
        if all(a.value is not None for a in arguments) and not private.definition(operation).is_stateful:
            widest = "float64" if self.dtype == "float64" else None
            values = constants(operation, [a.value for a in arguments], widest)
            return [known(value, made_by) for value in values]
        run = functools.cache(lambda dtype: runner(operation, dtype))
        expression = Expression(arguments, lambda dtype, *given: run(tf.as_dtype(dtype))(*given))
        return [Weight(expression, spec.shape, made_by=made_by, index=i) for i, spec in enumerate(node.specs)]

    def is_inert(self, node: Node) -> bool:
        """Whether the outputs of a node carry no relevance: shapes, comparisons, and results of these alone."""
        if node.type in SHAPES | ALIKE or all(slot in self.inert for slot in node.slots):
            return True
        specs = node.specs
        if any(has_slope(spec.dtype) for spec in specs) or node.type == "Cast":
            return False
        if _makes_lists(node.operation):
            return False
        if all(spec.dtype == "bool" for spec in specs):
            return True
        return all(tf.as_dtype(self.specs[slot].dtype).is_floating for slot in node.slots)

    def inert_site(self, node: Node) -> Sequence[Value]:
        """Adds a site that computes shapes or truth values. A shape that is the same for all sizes is a weight."""
        sizes = self.shapes.of(node)
        if sizes is not None and all(all_equal(values) for values in sizes):
            return [known(values[0]) for values in sizes]
        fixed = not private.definition(node.operation).is_stateful and (
            node.type in SHAPES | ALIKE or all(slot in self._from_shapes for slot in node.slots)
        )
        # It counts as a constant, which absorbs the relevance that it gets.
        known_of_it = {"copies": fixed, "fixed": fixed, "keeps_sign": node.type in SHAPES | ALIKE, "fills": True}
        routing = Inert(node.function(), node.type, len(node.operation.outputs), **known_of_it)
        results = self.site(node, routing, node.slots, inert=True, fixed=fixed)
        if sizes is not None:
            self.shapes.note(results, sizes)
        return results

    def opaque(self, node: Node) -> TensorFlowOperation:
        """The operation of a node that has no rule."""
        if node.type == "LookupTableFindV2":
            table, _, unknown = node.arguments
            strings = node.operation.inputs[1].dtype == tf.string and node.operation.outputs[0].dtype.is_integer
            if strings and isinstance(table, Weight) and isinstance(unknown, Weight):
                return WordTable(node.operation, node.function(), 1, table=table, unknown=unknown)
        return TensorFlowOperation(node.operation, node.function(), len(node.operation.outputs))

    def pieces(self, node: Node) -> dict[int, Piece]:
        """A pointwise node as a function of one slot, for each slot on which it depends and on no other."""
        if node.type not in POINTWISE or len(node.operation.outputs) != 1:
            return {}
        scalars = [a.value for a in node.arguments if isinstance(a, Weight)]
        integers = any(tf.as_dtype(self.specs[slot].dtype).is_integer for slot in node.slots)
        if integers or any(value is None or value.size != 1 for value in scalars):
            return {}
        # A boolean is no start of a piece, because pieces are functions of numbers.
        starts = {slot: start() for slot in node.slots if tf.as_dtype(self.specs[slot].dtype).is_floating}
        sources = [
            {**self._pieces.get(slot, {}), **{s: p for s, p in starts.items() if s == slot}} for slot in node.slots
        ]
        common = [slot for slot in sources[0] if all(slot in source for source in sources)]
        return {slot: node_piece(node, [source[slot] for source in sources]) for slot in common[-SOURCES:]}

    def activation(self, node: Node, pieces: Mapping[int, Piece]) -> list[int] | None:
        """Adds the activation that a pointwise piece up to this node computes; None if it is none that is known."""
        if node.type in DIRECT:
            return None
        tolerance = DIGITS.get(node.operation.outputs[0].dtype, 1e-5)
        for slot, piece in pieces.items():
            if slot in self.inert or not piece.values.dtype.is_floating:
                continue
            activation = recognise(piece.values.numpy(), tolerance, piece.function)
            if activation is not None:
                return self.site(node, activation, (slot,))
        return None


def _makes_lists(operation):
    """Whether an operation returns a list of tensors, as loops over time steps do."""
    return any(t.dtype == tf.variant for t in operation.outputs)


def _is_random(operation):
    return private.definition(operation).is_stateful and "Random" in operation.type
