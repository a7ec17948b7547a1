"""Reads SavedModels: a graph is made of the TensorFlow operations of a signature."""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from revgraph.graph.graph import Call, Graph, Spec
from revgraph.graph.types import PathLike
from revgraph.read.indices import find_indices
from revgraph.read.savedmodel import private
from revgraph.read.savedmodel.builder import Builder
from revgraph.read.savedmodel.nodes import called
from revgraph.read.savedmodel.passes import simplify
from revgraph.read.savedmodel.weights import Weight
from revgraph.read.strings import from_numbers


def read_savedmodel(path: PathLike, signature: str | None = None) -> Graph:
    """Makes a graph of a signature of a SavedModel.

    Opening a SavedModel runs a program, which can read and write files. Open only SavedModels that you trust.

    Args:
        path: The directory that `model.export`, Keras 2's `model.save` or `tf.saved_model.save` wrote.
        signature: Name of the signature. By default `"serving_default"`, or the only one.

    Returns:
        A `Graph`, which can be called like the model. Its weights are the SavedModel's variables.

    Raises:
        ValueError: It is not a SavedModel, is damaged, or has no signatures.
        KeyError: No signature has that name. The message lists the names.
    """
    folder = os.fspath(path)
    try:
        loaded = tf.saved_model.load(folder)
    except Exception as error:
        # TensorFlow raises many types of errors for a damaged file.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "Op type not registered" in reason:
            reason = _unregistered(folder) or reason
        raise ValueError(f"The SavedModel {folder!r} cannot be read: {reason}") from error
    name = os.path.basename(os.path.normpath(folder))
    function = _signature(loaded.signatures, signature, folder)
    drawn = draws(function)
    if drawn:
        warnings.warn(
            f"The outputs of the SavedModel {folder!r} depend on chance: it draws random numbers at "
            f"{', '.join(map(repr, drawn))}, as a model does in training. Export it with "
            f"training=False, and without layers that augment its inputs.",
            stacklevel=3,
        )
    return read_function(function, name, keep=loaded)


def draws(function: Any) -> list[str]:
    """The names of the nodes that draw random numbers on which a function's outputs depend, such as those of dropout.

    Args:
        function: A concrete TensorFlow function.
    """
    found, seen = [], set()
    stack = list(private.ends(private.graph_of(function))[1])
    while stack:
        tensor = stack.pop()
        operation = tensor.op
        if (id(operation), tensor.name) in seen:
            continue
        seen.add((id(operation), tensor.name))
        if _DRAWS.search(operation.type):
            found.append(operation.name)
        inner = called(operation)
        if inner is not None:
            stack.append(private.ends(inner)[1][tensor.value_index])
        for branch in _BRANCHES:
            if private.has_attribute(operation, branch):
                stack.extend(private.ends(called(operation, branch))[1])
        stack.extend(operation.inputs)
    return list(dict.fromkeys(reversed(found)))


_DRAWS = re.compile(
    r"Random(?!GetKeyCounter|GetAlg)|Multinomial|TruncatedNormal|StatefulUniform|StatefulStandardNormal"
)
"""The types of operations that draw random numbers."""

_BRANCHES = ("then_branch", "else_branch", "cond", "body")
"""Attributes with which an operation names the functions inside of it."""


def _unregistered(path: str) -> str:
    """Says which nodes have operations that this TensorFlow does not have; empty where it has all of them."""
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


def read_function(function: Any, name: str = "function", keep: Any = None, dtype: str | None = None) -> Graph:
    """Makes a graph of a concrete TensorFlow function.

    Args:
        function: A signature of a SavedModel, or the result of `tf.function(...).get_concrete_function`.
        name: Name of the graph.
        keep: An object that has to live as long as the graph does, because it owns the variables.
        dtype: The floating dtype in which the graph computes, `"float32"` or `"float64"`. By default float64 if the
            function has an input, a variable or an output of that dtype, and float32 otherwise.

    Returns:
        A `Graph`, which can be called like the function.
    """
    builder = Builder(dtype or _dtype(function))
    slots = inputs_of(builder, function)
    results = outputs_of(builder, builder.read(function, slots, keep))
    inputs, input_names = _structure(_arguments(function), slots)
    outputs, output_names = _structure(function.structured_outputs, results)
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
    read = find_indices(from_numbers(simplify(read)))
    calls = tuple(Call(s.path, s.layer, s.inputs, s.outputs) for s in read.sites)
    return dataclasses.replace(read, calls=calls, again=lambda dtype: read_function(function, name, keep, dtype))


def inputs_of(builder: Builder, function: Any) -> list[int]:
    """Makes slots for the inputs of a concrete function."""
    ends, captured = private.ends(private.graph_of(function))[0], private.captured_inputs(function)
    return [builder.new_slot(_input_spec(t)) for t in ends[: len(ends) - len(captured)]]


def outputs_of(builder: Builder, values: Iterable[int | Weight]) -> list[int]:
    """Slots for the outputs of a function. A weight gets a site of its own, which returns it."""
    return [builder.constant(v) if isinstance(v, Weight) else v for v in values]


def _dtype(function: Any) -> str:
    """float64 if any input, variable or output has that dtype, float32 otherwise."""
    tensors = [*function.inputs, *function.variables, *function.outputs]
    return "float64" if any(t.dtype == tf.float64 for t in tensors) else "float32"


def _input_spec(tensor: tf.Tensor) -> Spec:
    if tensor.shape.rank is None:
        raise ValueError(
            f"The number of axes of input {tensor.name!r} is not known. Export the model with a signature whose inputs "
            f"have a shape, with None for axes of any size: tf.TensorSpec((None, 224, 224, 3))."
        )
    return Spec(tuple(tensor.shape), tensor.dtype.name)


def _arguments(function):
    """The structure in which a function takes its inputs."""
    positional, named = function.structured_input_signature
    # Arguments such as flags are part of the function, and no inputs.
    positional = [a for a in positional if _holds_tensors(a)]
    named = {name: a for name, a in named.items() if _holds_tensors(a)}
    if named:
        return dict(named) if not positional else {**{f"input_{i}": a for i, a in enumerate(positional)}, **named}
    return positional[0] if len(positional) == 1 else list(positional)


def _holds_tensors(argument):
    return any(isinstance(part, tf.TypeSpec | tf.Tensor) for part in tf.nest.flatten(argument))


def _structure(structure, slots):
    """The slots in a structure of tensors, or a single slot without it, and the names of the tensors."""
    names = tuple(_names(structure, ""))
    return (slots[0] if len(slots) == 1 else tf.nest.pack_sequence_as(structure, slots)), names


def _names(structure, path):
    """The name of each tensor in a structure: its path of keys, or the tensor's own name."""
    if isinstance(structure, dict):
        for key in sorted(structure):
            yield from _names(structure[key], f"{path}/{key}" if path else str(key))
    elif isinstance(structure, list | tuple):
        for i, part in enumerate(structure):
            yield from _names(part, f"{path}_{i}" if path else getattr(part, "name", None) or f"output_{i}")
    else:
        yield path or getattr(structure, "name", None) or "output"
