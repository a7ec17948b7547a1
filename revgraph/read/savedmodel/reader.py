"""Reading SavedModels: the TensorFlow operations of a serving function as the same `Graph` that Keras models give."""

import os

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from revgraph.graph.graph import Call, Graph, Site, Spec
from revgraph.graph.operations import Activation, Opaque, Routing, ZeroPad
from revgraph.read.savedmodel.activations import DIRECT, POINTWISE, Piece, node_piece, recognise, start
from revgraph.read.savedmodel.nodes import (
    Node,
    ScaleAndShift,
    Weight,
    called,
    in_dtype,
    known,
    operations_between,
    runner,
)
from revgraph.read.savedmodel.normalization import Combination, Statistics
from revgraph.read.savedmodel.passes import simplify
from revgraph.read.savedmodel.views import IDENTITIES, SHAPE_ARITHMETIC, VIEWS

UNKNOWN_SIZES = (7, 12, 100_003, 250_000)
"""Sizes that stand for one not known in advance. What shape arithmetic makes of all of them alike is known."""

SOURCES = 12
"""How many tensors a piece of pointwise arithmetic is followed back over."""

DIGITS = {tf.float16: 5e-3, tf.bfloat16: 3e-2}
"""How exactly constants of half precision give the values of an activation."""


def read_savedmodel(path, signature=None) -> Graph:
    """Reads a SavedModel's serving function into a graph.

    Args:
        path: The directory that `model.export`, Keras 2's `model.save` or `tf.saved_model.save` wrote.
        signature: Name of the signature; `"serving_default"`, or the only one there is, by default.

    Returns:
        A `Graph`, which can be called like the model. Its weights are the SavedModel's variables.

    Raises:
        ValueError: Not a SavedModel, damaged, or without signatures.
        KeyError: No signature has that name; the names are listed.
    """
    path = os.fspath(path)
    try:
        loaded = tf.saved_model.load(path)
    except Exception as error:
        # TensorFlow raises whatever it stumbles on first in a damaged file.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "Op type not registered" in reason:
            reason = _unregistered(path) or reason
        raise ValueError(f"The SavedModel {path!r} cannot be read: {reason}") from error
    name = os.path.basename(os.path.normpath(path))
    return read_function(_signature(loaded.signatures, signature, path), name, keep=loaded)


def _unregistered(path) -> str:
    """Names the operations that this TensorFlow does not have, and their nodes; nothing where it has all."""
    path = os.path.join(path, "saved_model.pb")
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as file:
        graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].graph_def
    own = {function.signature.name for function in graph.library.function}.union(dir(tf.raw_ops))
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    found = {node.name: node.op for node in nodes if node.op not in own}
    if not found:
        return ""
    listed = ", ".join(f"{name!r} ({kind})" for name, kind in found.items())
    return (
        f"this TensorFlow does not have the operations of its nodes {listed}. Import the package that they come from, "
        f"or load its library with tf.load_op_library, before."
    )


def _signature(signatures, name, path):
    names = list(signatures)
    if not names:
        raise ValueError(
            f"The SavedModel {path!r} has no signatures, so nothing says which function to explain. Save it again with "
            f"one: tf.saved_model.save(module, path, signatures=module.__call__.get_concrete_function(tf.TensorSpec("
            f'(None, ...), "float32"))).'
        )
    if name is None:
        name = "serving_default" if "serving_default" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise ValueError(
            f"The SavedModel {path!r} has several signatures: choose one with signature=. They are "
            f"{', '.join(map(repr, names))}."
        )
    if name not in names:
        raise KeyError(
            f"The SavedModel {path!r} has no signature {name!r}. Its signatures are {', '.join(map(repr, names))}."
        )
    return signatures[name]


def read_function(function, name="function", keep=None) -> Graph:
    """Reads a concrete TensorFlow function into a graph.

    Args:
        function: A concrete function: a signature of a SavedModel, or what `get_concrete_function` returns.
        name: Name of the graph.
        keep: What has to live as long as the graph does.

    Returns:
        A `Graph`, which can be called like the function.
    """
    return _Reader(function, keep).graph(name)


class TensorFlowOperation(Opaque):
    """A TensorFlow operation without a rule: `operation` is the node in TensorFlow's own graph."""

    @property
    def label(self):
        return self.operation.type


class _Reader:
    """Collects sites while it walks through a function once.

    A value is a slot, or a `Weight` where it does not depend on the inputs. Slots in `inert` depend on nothing but
    shapes and comparisons, and carry no relevance.
    """

    def __init__(self, function, keep):
        self.function = function
        self.keep = keep
        self.dtype = _dtype(function)
        self.sites: list[Site] = []
        self.specs: dict[int, Spec] = {}
        self.inert: set[int] = set()
        self._made: dict[int, tuple[Site, Node]] = {}
        self._sizes: dict[int, list[np.ndarray]] = {}
        self._pieces: dict[int, dict[int, Piece]] = {}
        self._statistics = Statistics()

    def graph(self, name) -> Graph:
        function = self.function
        captured = function.captured_inputs
        tensors = function.inputs[: len(function.inputs) - len(captured)]
        variables = {id(v.handle): v for v in function.variables}
        slots = [self.new_slot(_input_spec(t)) for t in tensors]
        values = self.walk(function.graph, [*slots, *(self.captured(t, variables) for t in captured)], prefix="")
        outputs = [self.constant(v) if isinstance(v, Weight) else v for v in values]
        inputs, input_names = _structure(_arguments(function), slots)
        outputs, output_names = _structure(function.structured_outputs, outputs)
        graph = Graph(
            name=name,
            sites=tuple(self.sites),
            specs=self.specs,
            inputs=inputs,
            outputs=outputs,
            input_names=input_names,
            output_names=output_names,
            calls=(),
            dtype=self.dtype,
        )
        graph = simplify(graph)
        return graph.rewrite(graph.sites, calls=tuple(Call(s.path, s.layer, s.inputs, s.outputs) for s in graph.sites))

    def captured(self, tensor, variables) -> Weight:
        """A tensor that the function captured: a constant, or the handle of a variable or a table."""
        if tensor.dtype in (tf.resource, tf.variant):
            keep = self.keep
            return Weight(lambda dtype: (keep, tensor)[1], (), variable=variables.get(id(tensor)))
        return known(tensor.numpy())

    def constant(self, weight):
        """A slot for an output that does not depend on the inputs."""
        value = weight.read(self.dtype)
        slot = self.new_slot(Spec(tuple(value.shape), value.dtype.name))
        self.sites.append(
            Site(
                self.new_path("constant"),
                Routing(lambda: weight.read(self.dtype), "Const", keeps_sign=False),
                (),
                (slot,),
            )
        )
        return slot

    def new_slot(self, spec) -> int:
        slot = len(self.specs)
        self.specs[slot] = spec
        return slot

    def walk(self, graph, arguments, prefix) -> list:
        """Adds the sites of a TensorFlow graph and returns the values of its outputs."""
        values = {t.name: a for t, a in zip(graph.inputs, arguments, strict=True)}
        for operation in operations_between(graph):
            given = tuple(values[t.name] for t in operation.inputs)
            results = self.visit(operation, given, prefix)
            values.update(zip((t.name for t in operation.outputs), results, strict=True))
        return [values[t.name] for t in graph.outputs]

    def visit(self, operation, given, prefix):
        """The values of an operation's outputs."""
        function = called(operation)
        if function is not None:
            return self.walk(function, given, prefix + operation.name[: operation.name.rfind("/") + 1])
        node = Node(operation, given, prefix + operation.name, self.dtype)
        if operation.type in IDENTITIES:
            return given[: len(operation.outputs)]
        if not node.slots and not _is_random(operation) and not _makes_lists(operation):
            return self.weights(node)
        pieces = self.pieces(node)
        results = self.results(node, pieces)
        if pieces:
            self._pieces[results[0]] = pieces
        return results

    def results(self, node, pieces):
        """The values of the outputs of a node that reads slots."""
        if self.is_inert(node):
            return self.inert_site(node)
        if not _makes_lists(node.operation) and not any(tf.as_dtype(s.dtype).is_floating for s in node.specs):
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
            opaque = TensorFlowOperation(node.operation, node.function(), len(node.operation.outputs))
            results = self.site(node, opaque, node.slots)
        return results

    def site(self, node, operation, slots, path=None, shape=None, spec=None, inert=False) -> list[int]:
        """Adds a site and returns the slots of its outputs.

        Args:
            node: Where it comes from.
            operation: What it computes.
            slots: What it reads.
            path: Its path, where that is not the node's.
            shape: The shape of its output, where more is known of it than TensorFlow knows.
            spec: Shape and dtype of its output, where it is not the node's first.
            inert: Its outputs carry no relevance.
        """
        specs = node.specs[: operation.outputs_count]
        if shape is not None:
            spec = Spec(shape, specs[0].dtype)
        specs = specs if spec is None else (spec,)
        written = tuple(self.new_slot(spec) for spec in specs)
        site = Site(path or node.path, operation, tuple(slots), written)
        self.sites.append(site)
        self._made.update(dict.fromkeys(written, (site, node)))
        if inert:
            self.inert.update(written)
        return list(written)

    def made(self, slot) -> tuple[Site | None, Node | None]:
        """The site that writes a slot, and the node that it comes from; None for both where there is none."""
        return self._made.get(slot, (None, None))

    def scale(self, node, slot, kernel=None, bias=None) -> list[int]:
        """x * kernel + bias; nothing where both change nothing."""
        shape = node.specs[0].shape
        before = self.specs[slot].shape
        if len(before) != len(shape) or any(a == 1 and b != 1 for a, b in zip(before, shape, strict=True)):
            (slot,) = self.site(node, Routing(_broadcast([w for w in (kernel, bias) if w]), "BroadcastTo"), (slot,))
        kernel = None if kernel is not None and _is_all(kernel, 1) else kernel
        bias = None if bias is not None and _is_all(bias, 0) else bias
        if kernel is None and bias is None:
            return [slot]
        return self.site(node, ScaleAndShift(kernel, bias), (slot,))

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
        padding = ZeroPad(lambda x: tf.pad(x, around), "Pad", widths=tuple(around))
        (slot,) = self.site(node, padding, (slot,), path=f"{node.path}/pad", shape=shape)
        return slot

    def uncast(self, slot) -> int:
        """What was cast to the integers in a slot, else the slot: a lookup casts by itself."""
        _, node = self.made(slot)
        return self.uncast(node.slots[0]) if node is not None and node.type == "Cast" else slot

    def weights(self, node):
        """What is computed from weights alone is a weight: constants now, others whenever they are read."""
        operation, arguments = node.operation, node.arguments
        if node.type == "Const":
            return [known(tf.make_ndarray(operation.get_attr("value")))]
        made_by = frozenset({node.type}).union(*(a.made_by for a in arguments))
        if node.type == "ReadVariableOp" and arguments[0].variable is not None:
            return [arguments[0].content()]
        if all(a.value is not None for a in arguments) and not operation.op_def.is_stateful:
            widest = "float64" if self.dtype == "float64" else None
            values = _constants(operation, [a.value for a in arguments], widest)
            return [known(value, made_by) for value in values]
        function = node.function()
        return [
            Weight(lambda dtype, i=i: in_dtype(tf.nest.flatten(function())[i], dtype), spec.shape, made_by=made_by)
            for i, spec in enumerate(node.specs)
        ]

    def is_inert(self, node) -> bool:
        """Whether the outputs of a node carry no relevance: shapes, comparisons, and what is made of them alone."""
        if node.type in ("Shape", "ShapeN", "Size", "Rank") or all(slot in self.inert for slot in node.slots):
            return True
        specs = node.specs
        if any(tf.as_dtype(spec.dtype).is_floating for spec in specs) or node.type == "Cast":
            return False
        if _makes_lists(node.operation):
            return False
        if all(spec.dtype == "bool" for spec in specs):
            return True
        return all(tf.as_dtype(self.specs[slot].dtype).is_floating for slot in node.slots)

    def inert_site(self, node):
        """A site that computes shapes or truth values, or weights where they are the same for inputs of any size."""
        sizes = self.sizes(node)
        if sizes is not None and all(_all_equal(values) for values in sizes):
            return [known(values[0]) for values in sizes]
        routing = Routing(node.function(), node.type, len(node.operation.outputs), keeps_sign=False)
        results = self.site(node, routing, node.slots, inert=True)
        if sizes is not None:
            self._sizes.update(zip(results, sizes, strict=True))
        return results

    def index(self, node):
        """A site that computes integers from integers of the input: relevance passes where it keeps their shape."""
        if node.type == "Cast":
            (x,) = node.slots
            if not tf.as_dtype(self.specs[x].dtype).is_floating:
                return [x]
        if len(node.slots) == 1 and (node.type in POINTWISE or node.type == "Cast"):
            return self.site(node, Activation(node.function(), node.type.lower()), node.slots)
        opaque = TensorFlowOperation(node.operation, node.function(), len(node.operation.outputs))
        return self.site(node, opaque, node.slots)

    def sizes(self, node):
        """What a node of shape arithmetic computes for each of `UNKNOWN_SIZES`; None where that is not to be known."""
        if node.type in ("Shape", "ShapeN", "Size", "Rank"):
            given = [self._example_shapes(argument) for argument in node.arguments]
            per_case = [[np.int64(shape) for shape in shapes] for shapes in zip(*given, strict=True)]
            dtype = node.specs[0].dtype
            results = {
                "Size": lambda shapes: [np.prod(shapes[0])],
                "Rank": lambda shapes: [np.int64(len(shapes[0]))],
            }.get(node.type, list)
            return [list(v) for v in zip(*([np.asarray(r, dtype) for r in results(c)] for c in per_case), strict=True)]
        if node.type not in SHAPE_ARITHMETIC:
            return None
        cases = []
        for i in range(len(UNKNOWN_SIZES)):
            given = [a.value if isinstance(a, Weight) else self._sizes.get(a, [None] * 9)[i] for a in node.arguments]
            if any(value is None or np.size(value) > 100 for value in given):
                return None
            cases.append(_constants(node.operation, given))
        return [list(values) for values in zip(*cases, strict=True)]

    def _example_shapes(self, value):
        """The shape of a value with each of the `UNKNOWN_SIZES`, made different from axis to axis."""
        shape, slot = (value.shape, 0) if isinstance(value, Weight) else (self.specs[value].shape, value)
        return [
            tuple(size + 17 * slot + 5 * axis if n is None else n for axis, n in enumerate(shape))
            for size in UNKNOWN_SIZES
        ]

    def integers(self, value):
        """The entries of an integer tensor, None for those not known in advance; None where none is."""
        if isinstance(value, Weight):
            return value.value
        if value not in self._sizes:
            return None
        cases = np.stack(self._sizes[value])
        return np.where((cases == cases[0]).all(axis=0), cases[0].astype(object), None)

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


def _dtype(function) -> str:
    """float64 where any input or variable is, float32 otherwise."""
    tensors = [*function.inputs, *function.variables, *function.outputs]
    return "float64" if any(t.dtype == tf.float64 for t in tensors) else "float32"


def _input_spec(tensor) -> Spec:
    if tensor.shape.rank is None:
        raise ValueError(
            f"The number of axes of input {tensor.name!r} is not known. Export the model with a signature whose inputs "
            f"have a shape, with None for axes of any size: tf.TensorSpec((None, 224, 224, 3))."
        )
    # Pixels that come as integers and are made floating at once have relevance like any others.
    pixels = tensor.dtype.is_integer and _only_made_floating(tensor)
    return Spec(tuple(tensor.shape), "float32" if pixels else tensor.dtype.name)


def _only_made_floating(tensor) -> bool:
    """Whether every reader of an integer tensor makes floating numbers of it."""
    readers = tensor.consumers()
    return bool(readers) and all(_makes_floating(reader, tensor) for reader in readers)


def _makes_floating(operation, tensor):
    function = called(operation)
    if function is not None:
        inner = [i for i, t in zip(function.inputs, operation.inputs, strict=True) if t.name == tensor.name]
        return all(map(_only_made_floating, inner))
    if operation.type in IDENTITIES:
        return all(map(_only_made_floating, operation.outputs))
    return operation.type in ("Cast", "ResizeBilinear", "ResizeArea", "ResizeBicubic") and all(
        t.dtype.is_floating for t in operation.outputs
    )


def _makes_lists(operation):
    """Whether an operation gives a list of tensors, as loops over time steps do."""
    return any(t.dtype == tf.variant for t in operation.outputs)


def _is_random(operation):
    return operation.op_def.is_stateful and "Random" in operation.type


def _constants(operation, values, floating=None):
    """Runs an operation on arrays; gives arrays."""
    tensors = [tf.convert_to_tensor(value, t.dtype) for value, t in zip(values, operation.inputs, strict=True)]
    if floating:
        tensors = [in_dtype(t, floating) for t in tensors]
    return [t.numpy() for t in runner(operation, floating)(*tensors)]


def _all_equal(values):
    return all(v.shape == values[0].shape and np.array_equal(v, values[0]) for v in values[1:])


def _is_all(weight, number):
    return weight.value is not None and bool(np.all(weight.value == number))


def _broadcast(weights):
    def broadcast(x):
        shape = tf.shape(x)
        for weight in weights:
            shape = tf.broadcast_dynamic_shape(shape, tf.shape(weight.read(x.dtype)))
        return tf.broadcast_to(x, shape)

    return broadcast


def _arguments(function):
    """The structure in which a function takes its inputs."""
    positional, named = function.structured_input_signature
    if named:
        return dict(named) if not positional else {**{f"input_{i}": a for i, a in enumerate(positional)}, **named}
    return positional[0] if len(positional) == 1 else list(positional)


def _structure(structure, slots):
    """Slots in a structure, a single one by itself, and their names."""
    names = tuple(_names(structure, ""))
    return (slots[0] if len(slots) == 1 else tf.nest.pack_sequence_as(structure, slots)), names


def _names(structure, path):
    """The name of each tensor in a structure: its keys, or its own name."""
    if isinstance(structure, dict):
        for key in sorted(structure):
            yield from _names(structure[key], f"{path}/{key}" if path else str(key))
    elif isinstance(structure, list | tuple):
        for i, part in enumerate(structure):
            yield from _names(part, f"{path}_{i}" if path else getattr(part, "name", None) or f"output_{i}")
    else:
        yield path or getattr(structure, "name", None) or "output"
