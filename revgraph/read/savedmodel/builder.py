"""The sites of a graph, collected on one way through TensorFlow's operations."""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Site, Spec
from revgraph.graph.operations import Activation, Inert, Routing, ZeroPad
from revgraph.read.savedmodel import lists, loops, moves, private
from revgraph.read.savedmodel.activations import DIRECT, POINTWISE, Piece, node_piece, recognise, start
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
from revgraph.read.savedmodel.normalization import Combination, Statistics
from revgraph.read.savedmodel.shapes import SHAPES, Shapes, all_equal, constants
from revgraph.read.savedmodel.views import IDENTITIES, VIEWS
from revgraph.read.savedmodel.weights import Expression, ScaleAndShift, Weight, has_slope, known
from revgraph.read.savedmodel.wholes import Whole, add_whole

SOURCES = 12
"""How many tensors a piece of pointwise arithmetic is followed back over."""

DIGITS = {tf.float16: 5e-3, tf.bfloat16: 3e-2}
"""How exactly constants of half precision give the values of an activation."""

ALIKE = frozenset({"OnesLike", "ZerosLike"})
"""Operations that take nothing but the shape of a tensor, and fill it with a constant."""


class Builder(Integers):
    """Collects the sites of TensorFlow's operations, each after those that it depends on.

    A value is a slot, or a `Weight` where it does not depend on the inputs; `lists` has values that are lists of
    tensors. Slots in `inert` depend on nothing but shapes and comparisons, and carry no relevance. Those of them that
    depend on shapes alone are the same whatever the entries of the inputs are.

    Args:
        dtype: The dtype in which the graph computes.
        wholes: What is one site rather than its operations, by the graph and the name of each tensor that it gives.
        path_of: The path and the layer of an operation, by its name; its own name by default.
    """

    def __init__(self, dtype, wholes=None, path_of=lambda name: (name, None)):
        super().__init__()
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

    def constant(self, weight):
        """A slot for an output that does not depend on the inputs."""
        value = weight.read(self.dtype)
        slot = self.new_slot(Spec(tuple(value.shape), value.dtype.name))
        known = {"copies": True, "fixed": True, "keeps_sign": moves.is_nonnegative(weight), "fills": True}
        self.sites.append(Site("constant", Routing(lambda: weight.read(self.dtype), "Const", **known), (), (slot,)))
        return slot

    def as_slot(self, value) -> int:
        """The slot of a value, one for a constant if it is a weight."""
        return self.constant(value) if isinstance(value, Weight) else value

    def spec(self, value) -> Spec:
        """Shape and dtype of a value."""
        if not isinstance(value, Weight):
            return self.specs[value]
        return Spec(tuple(value.shape), value.read(self.dtype).dtype.name)

    def new_slot(self, spec) -> int:
        slot = len(self.specs)
        self.specs[slot] = spec
        return slot

    def read(self, function, slots, keep=None) -> list:
        """Adds the sites of a concrete function and returns the values of its outputs.

        Args:
            function: The function.
            slots: The slots of its inputs.
            keep: What has to live as long as the graph does.
        """
        handles = {id(private.handle(v)): v for v in function.variables}
        captured = [_captured(t, handles, keep) for t in private.captured_inputs(function)]
        return self.inline(private.graph_of(function), [*slots, *captured], prefix="")

    def inline(self, graph, arguments, prefix) -> list:
        """Adds the sites of a TensorFlow graph and returns the values of its outputs.

        `values` has the value of every tensor; of a function that is called twice, that of the last call.
        """
        inputs, outputs = private.ends(graph)
        values = {t.name: a for t, a in zip(inputs, arguments, strict=True)}
        for step in operations_between(graph, self._wholes.get(id(graph))):
            # A loop of TensorFlow 1 reads what is computed later.
            jumps = not isinstance(step, Whole) and step.type in CONTROL
            given = tuple(values[t.name] for t in step.inputs if t.name in values or not jumps)
            results = add_whole(self, step, given) if isinstance(step, Whole) else self.visit(step, given, prefix)
            values.update(zip((t.name for t in step.outputs), results, strict=True))
        self.values.update({(id(graph), name): value for name, value in values.items()})
        return [values[t.name] for t in outputs]

    def visit(self, operation, given, prefix):
        """The values of an operation's outputs."""
        function, arguments = self._function(operation, given)
        if function is not None:
            return self.inline(function, arguments, prefix + operation.name[: operation.name.rfind("/") + 1])
        path, layer = self.path_of(prefix + operation.name)
        node = Node(operation, given, path, self.dtype, layer)
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
        pieces, followed = self.pieces(node), self.follow(node)
        results = self.results(node, pieces)
        if pieces:
            self._pieces[results[0]] = pieces
        if followed is not None and results[0] not in node.slots and not self._is_choice(results[0]):
            self._followed[results[0]] = followed
        return results

    @staticmethod
    def _function(operation, given):
        """The function that an operation calls, and its arguments: also the branch that a known condition chooses."""
        if operation.type in ("If", "StatelessIf") and isinstance(given[0], Weight) and given[0].value is not None:
            return called(operation, "then_branch" if np.any(given[0].value) else "else_branch"), given[1:]
        return called(operation), given

    def results(self, node, pieces):
        """The values of the outputs of a node that reads slots."""
        if self.is_inert(node):
            return self.inert_site(node)
        if not _makes_lists(node.operation) and not any(has_slope(s.dtype) for s in node.specs):
            return self.index(node)
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

    def viewed(self, node):
        """The values of the outputs of a node as its own view has them, or as an operation without a rule."""
        view = VIEWS.get(node.type)
        results = view(self, node) if view is not None else None
        if results is None:
            results = self.site(node, self.opaque(node), node.slots)
        return results

    def site(
        self, node, operation, slots, path=None, shape=None, spec=None, specs=None, inert=False, fixed=False
    ) -> list[int]:
        """Adds a site and returns the slots of its outputs.

        Args:
            node: Where it comes from.
            operation: What it computes.
            slots: What it reads.
            path: Its path, where that is not the node's.
            shape: The shape of its output, where more is known of it than TensorFlow knows.
            spec: Shape and dtype of its output, where it is not the node's first.
            specs: Those of all its outputs, where they are not the node's.
            inert: Its outputs carry no relevance.
            fixed: Its outputs are the same whatever the entries of the inputs are.
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

    def note(self, slot, inert=False, fixed=False):
        """Notes that a slot carries no relevance, and that it is the same whatever the entries of the inputs are."""
        if inert:
            self.inert.add(slot)
        if fixed:
            self._from_shapes.add(slot)

    def inside(self) -> "Builder":
        """A builder for a graph inside an operation of this one."""
        return Builder(self.dtype, self._wholes, self.path_of)

    def take(self, slot, outer, outside):
        """Takes over what another builder knows of its slot `outside`, which is given to this graph as `slot`."""
        self.note(slot, outside in outer.inert, outer.is_fixed(outside))
        values = outer.shapes.values(outside)
        if values is not None:
            self.shapes.note([slot], [values])

    def made(self, slot) -> tuple[Site | None, Node | None]:
        """The site that writes a slot, and the node that it comes from; None for both where there is none."""
        return self._made.get(slot, (None, None))

    def scale(self, node, slot, kernel=None, bias=None) -> list[int]:
        """x * kernel + bias; nothing where both change nothing."""
        slot = self.spread(node, slot, ScaleAndShift(kernel, bias))
        kernel = None if kernel is not None and _is_all(kernel, 1) else kernel
        bias = None if bias is not None and _is_all(bias, 0) else bias
        if kernel is None and bias is None:
            return [slot]
        return self.site(node, ScaleAndShift(kernel, bias), (slot,))

    def spread(self, node, slot, operation) -> int:
        """The tensor in a slot, repeated where weights make the output of an entry-by-entry operation larger.

        Args:
            node: The node, whose output has the larger shape.
            slot: What the operation reads.
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

    def is_fixed(self, value) -> bool:
        """Whether a value is the same whatever the entries of the inputs are."""
        return isinstance(value, Weight) or value in self._from_shapes

    def integers(self, value):
        """The entries of an integer tensor, None for those not known in advance; None where none is."""
        return self.shapes.integers(value)

    def statistic(self, node):
        """What a node has to do with a normalization."""
        if node.type in ("Mean", "Sum"):
            axes = self.integers(node.arguments[1])
            return self._statistics.describe(node, np.ravel(axes), len(self.specs[node.slots[0]].shape))
        return self._statistics.describe(node)

    def normalize(self, node, combination) -> list[int]:
        """A site for a normalization that ends here."""
        results = self.site(node, combination.operation(), (combination.statistic.source,))
        self._statistics.note(results[0], combination)
        return results

    def number(self, value) -> float | None:
        """The one number that fills a tensor; None where that is not known."""
        _, node = self.made(value)
        if node is not None and node.type == "Fill":
            value = node.arguments[1]
        if not isinstance(value, Weight) or value.value is None or value.value.size == 0:
            return None
        first = value.value.ravel()[0]
        return float(first) if np.all(value.value == first) else None

    def pad(self, node, slot, around) -> int:
        """The tensor with zeros around it; `around` has a pair for each axis."""
        around = [tuple(map(int, pair)) for pair in around]
        shape = tuple(n if n is None else n + sum(pair) for n, pair in zip(self.specs[slot].shape, around, strict=True))
        known = dict.fromkeys(("copies", "fixed", "keeps_sign", "fills"), True)
        padding = ZeroPad(lambda x: tf.pad(x, around), "Pad", widths=tuple(around), **known)
        (slot,) = self.site(node, padding, (slot,), path=f"{node.path}/pad", shape=shape)
        return slot

    def weights(self, node):
        """What is computed from weights alone is a weight: constants now, others whenever they are read."""
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

    def is_inert(self, node) -> bool:
        """Whether the outputs of a node carry no relevance: shapes, comparisons, and what is made of them alone."""
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

    def inert_site(self, node):
        """A site that computes shapes or truth values, or weights where they are the same for inputs of any size."""
        sizes = self.shapes.of(node)
        if sizes is not None and all(all_equal(values) for values in sizes):
            return [known(values[0]) for values in sizes]
        fixed = not private.definition(node.operation).is_stateful and (
            node.type in SHAPES | ALIKE or all(slot in self._from_shapes for slot in node.slots)
        )
        # To whoever differentiates it is a constant, which absorbs what it gets.
        known_of_it = {"copies": fixed, "fixed": fixed, "keeps_sign": node.type in SHAPES | ALIKE, "fills": True}
        routing = Inert(node.function(), node.type, len(node.operation.outputs), **known_of_it)
        results = self.site(node, routing, node.slots, inert=True, fixed=fixed)
        if sizes is not None:
            self.shapes.note(results, sizes)
        return results

    def opaque(self, node):
        """A node as an operation without a rule."""
        return TensorFlowOperation(node.operation, node.function(), len(node.operation.outputs))

    def pieces(self, node) -> dict[int, Piece]:
        """A pointwise node as a function of each slot that it alone depends on."""
        if node.type not in POINTWISE or len(node.operation.outputs) != 1:
            return {}
        scalars = [a.value for a in node.arguments if isinstance(a, Weight)]
        integers = any(tf.as_dtype(self.specs[slot].dtype).is_integer for slot in node.slots)
        if integers or any(value is None or value.size != 1 for value in scalars):
            return {}
        # A condition is no tensor of numbers to begin with.
        starts = {slot: start() for slot in node.slots if tf.as_dtype(self.specs[slot].dtype).is_floating}
        sources = [
            {**self._pieces.get(slot, {}), **{s: p for s, p in starts.items() if s == slot}} for slot in node.slots
        ]
        common = [slot for slot in sources[0] if all(slot in source for source in sources)]
        return {slot: node_piece(node, [source[slot] for source in sources]) for slot in common[-SOURCES:]}

    def activation(self, node, pieces):
        """A site for a pointwise piece that ends here and is an activation as a whole."""
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


def _captured(tensor, handles, keep) -> Weight:
    """A tensor that a function captured: a constant, or the handle of a variable or a table."""
    if tensor.dtype in (tf.resource, tf.variant):
        return Weight(lambda dtype: (keep, tensor)[1], (), variable=handles.get(id(tensor)))
    return known(tensor.numpy())


def _makes_lists(operation):
    """Whether an operation gives a list of tensors, as loops over time steps do."""
    return any(t.dtype == tf.variant for t in operation.outputs)


def _is_random(operation):
    return private.definition(operation).is_stateful and "Random" in operation.type


def _is_all(weight, number):
    return weight.value is not None and bool(np.all(weight.value == number))
