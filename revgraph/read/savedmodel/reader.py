"""Reading SavedModels: the TensorFlow operations of a serving function as the same `Graph` that Keras models give."""

import os

import tensorflow as tf

from revgraph.graph.graph import Call, Graph, Spec
from revgraph.read.savedmodel import private
from revgraph.read.savedmodel.builder import Builder
from revgraph.read.savedmodel.passes import simplify
from revgraph.read.savedmodel.weights import Weight, known


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
    nodes, functions = private.stored_nodes(path)
    own = functions.union(dir(tf.raw_ops))
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
    builder = Builder(_dtype(function))
    graph = private.graph_of(function)
    ends, captured = private.ends(graph)[0], private.captured_inputs(function)
    slots = [builder.new_slot(_input_spec(t)) for t in ends[: len(ends) - len(captured)]]
    handles = {id(private.handle(v)): v for v in function.variables}
    values = builder.inline(graph, [*slots, *(_captured(t, handles, keep) for t in captured)], prefix="")
    outputs = [builder.constant(v) if isinstance(v, Weight) else v for v in values]
    inputs, input_names = _structure(_arguments(function), slots)
    outputs, output_names = _structure(function.structured_outputs, outputs)
    read = Graph(
        name=name,
        sites=tuple(builder.sites),
        specs=builder.specs,
        inputs=inputs,
        outputs=outputs,
        input_names=input_names,
        output_names=output_names,
        calls=(),
        dtype=builder.dtype,
    )
    read = simplify(read)
    return read.rewrite(read.sites, calls=tuple(Call(s.path, s.layer, s.inputs, s.outputs) for s in read.sites))


def _captured(tensor, handles, keep) -> Weight:
    """A tensor that a function captured: a constant, or the handle of a variable or a table."""
    if tensor.dtype in (tf.resource, tf.variant):
        return Weight(lambda dtype: (keep, tensor)[1], (), variable=handles.get(id(tensor)))
    return known(tensor.numpy())


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
    if tensor.dtype == tf.string:
        raise ValueError(
            f"Input {tensor.name!r} has strings, which have no relevance. Export the part of the model behind the "
            f"layer that makes numbers of them, such as TextVectorization, and explain that part."
        )
    return Spec(tuple(tensor.shape), tensor.dtype.name)


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
