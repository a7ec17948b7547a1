"""`trace` makes a `Graph` of a Keras model."""

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping

import keras
import tensorflow as tf
from keras import layers

from revgraph.graph.graph import Call, Graph, Site, Spec
from revgraph.graph.log import timed
from revgraph.graph.operations import Activation, Fused, Opaque
from revgraph.read.indices import find_indices
from revgraph.read.keras import private
from revgraph.read.keras.layers import MASKED, layer_operation, sees_mask
from revgraph.read.keras.recording import Recording
from revgraph.read.keras.signature import Sized, SizesUnknown, arguments_of, names_of, widest_dtype
from revgraph.read.keras.template import is_symbolic, template_of
from revgraph.read.keras.untouched import untouched
from revgraph.read.savedmodel import private as graphs
from revgraph.read.savedmodel.builder import Builder
from revgraph.read.savedmodel.passes import simplify
from revgraph.read.savedmodel.reader import inputs_of, outputs_of
from revgraph.read.savedmodel.weights import Weight
from revgraph.read.savedmodel.wholes import Whole
from revgraph.read.strings import from_numbers


def trace(model: keras.Model | Sized | Graph, keep: Iterable[type] = (), dtype: str | None = None) -> Graph:
    """Makes a graph of a Keras model: a flat list of sites, where a site is one call of one operation.

    The model's `call` runs once, in a TensorFlow graph. A call of a layer that revgraph knows, such as Dense, becomes
    one site. All other code is read from the TensorFlow operations that it made, as in a SavedModel. The model is
    restored afterwards.

    Args:
        model: A built `keras.Model`, or a `Sized` one. A `Graph` is returned as it is, or is read again in `dtype`.
        keep: Layer classes whose calls become one site, even where revgraph could look inside.
        dtype: The floating dtype in which the graph computes, `"float32"` or `"float64"`. By default float64 if the
            model has a float64 weight, and float32 otherwise.

    Returns:
        A `Graph`, which can be called like the model.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: `model` is not built, or its Python code depends on the values of its inputs.
        SizesUnknown: Its Python code depends on a size that the model does not give, such as the number of time steps.

    Example:

        graph = trace(keras.applications.ResNet50(weights=None))
        print(graph)
    """
    if isinstance(model, Graph):
        return model if dtype in (None, model.dtype) or model.again is None else model.again(dtype)
    if isinstance(model, Sized):
        model, example = model.model, model.example
    else:
        example = None
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected a Keras model (keras.Sequential, functional or subclassed keras.Model). "
            f"Received: {model!r} of type {type(model).__module__}.{type(model).__name__}."
        )
    with timed("trace", model):
        arguments = arguments_of(model, example)
        unknown = example is None and any(None in spec.shape[1:] for spec in keras.tree.flatten(arguments))
        try:
            recording = Recording(model, arguments)
        except Exception as error:
            # The model's code may raise any type of error for a size that is None.
            raise (SizesUnknown if unknown else ValueError)(_failure(model, error)) from error
        graph, undecided = _graph(model, recording, arguments, tuple(keep), dtype or widest_dtype(model))
        if unknown and undecided:
            raise SizesUnknown(
                f"Cannot trace {model.name!r} ({type(model).__name__}): which operations {undecided[0]!r} runs depends "
                f"on a size that the model does not say. `create_analyzer` makes an analyzer that learns it from the "
                f"data."
            )
        return graph


def _failure(model: keras.Model, error: Exception) -> str:
    # The message of Keras begins with the place, and has the reason in bold.
    reasons = re.findall(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL) or [str(error)]
    reason = next(iter(reasons[-1].strip().splitlines()), "")
    return (
        f"Cannot trace {model.name!r} ({type(model).__name__}): running its `call` in a TensorFlow graph failed with "
        f"{type(error).__name__}: {reason} A `call` that revgraph can trace computes with layers, `keras.ops` and "
        f"TensorFlow, and its Python code does not depend on the values of tensors."
    )


def _graph(
    model: keras.Model, recording: Recording, arguments: tuple, keep: tuple[type, ...], dtype: str
) -> tuple[Graph, list[str]]:
    """The graph of a recording, and the branches in it whose condition depends on a size that is not known."""
    wholes = _wholes(recording, keep, dtype)

    def path_of(name):
        call, rest = recording.call_of(name)
        local = re.sub(r"_\d+$", "", rest)
        return (f"{call.path}/{local}" if call.path else local), (None if call.is_layer else call.layer)

    builder = Builder(dtype, wholes, path_of)
    function = recording.function
    slots = inputs_of(builder, function)
    values = builder.read(function, slots)
    specs = keras.tree.flatten(arguments)
    structure = keras.tree.pack_sequence_as(arguments, slots[: len(specs)])
    output_slots = outputs_of(builder, values)
    input_names, output_names = names_of(model, arguments, recording.outputs)
    returned = _returned(recording, builder)
    calls = _calls(recording, builder, returned)
    graph = Graph(
        name=model.name,
        sites=tuple(builder.sites),
        specs=builder.specs,
        inputs=structure[0] if len(structure) == 1 else structure,
        outputs=keras.tree.map_structure(lambda i: output_slots[i], recording.outputs),
        input_names=input_names,
        output_names=output_names,
        calls=calls,
        dtype=dtype,
    )
    held = {slot for call in calls if isinstance(call.layer, layers.Layer) for slot in (*call.inputs, *call.outputs)}
    graph = find_indices(from_numbers(_named(simplify(graph, held, returned), recording)))
    written = set(graph.input_slots).union(*(site.outputs for site in graph.sites))
    calls = tuple(c for c in calls if written.issuperset(c.inputs) and written.issuperset(c.outputs))

    # Another dtype needs no second run of the model's code.
    def again(dtype):
        return _graph(model, recording, arguments, keep, dtype)[0]

    return dataclasses.replace(graph, calls=calls, again=again), builder.undecided


def _named(graph: Graph, recording: Recording) -> Graph:
    """The graph in which a site has the name of a Keras operation if it is the only site of that operation."""
    names = {call.path for call in recording.calls if not call.is_layer}
    inside: dict[str | None, list[Site]] = {}
    for site in graph.sites:
        name = next((site.path[:i] for i, c in enumerate(site.path) if c == "/" and site.path[:i] in names), None)
        inside.setdefault(name, []).append(site)
    alone = {sites[0]: name for name, sites in inside.items() if name is not None and len(sites) == 1}
    return graph.rewrite(dataclasses.replace(site, path=alone[site]) if site in alone else site for site in graph.sites)


def _wholes(recording: Recording, keep: tuple[type, ...], dtype: str) -> dict[int, dict[str, Whole]]:
    """The calls that become one site, because the layer has a view, or is to be kept.

    Returns:
        By the id of a TensorFlow graph, a dict from the name of a tensor to the call that returned the tensor.
    """
    found: dict[int, tuple[dict[str, Whole], set[str]]] = {}
    for call in recording.calls:
        kwargs = call.kwargs if sees_mask(call.layer) else {k: v for k, v in call.kwargs.items() if k != "mask"}
        tensors = [t for t in keras.tree.flatten((call.args, kwargs)) if is_symbolic(t)]
        outputs = call.outputs if call.before is None or isinstance(call.layer, keep) else call.before
        if not call.is_layer or not call.path or not all(map(is_symbolic, outputs)) or not tensors:
            continue
        graph = outputs[0].graph
        # A call that returns one of its arguments is no site.
        passes = not {*map(id, tensors)}.isdisjoint(map(id, outputs))
        if passes or any(t.graph is not graph for t in (*tensors, *outputs)):
            continue
        if id(graph) not in found:
            found[id(graph)] = {}, _dependent(graph)
        wholes, dependent = found[id(graph)]
        if not all(t.name in dependent for t in tensors):
            continue
        template, read = template_of(call.args, kwargs, dtype)
        operation = _operation(call, template, read, outputs, keep)
        if operation is not None:
            whole = Whole(call.path, operation, read, tuple(outputs), call.layer)
            for tensor in outputs:
                # A layer returns the output of its activation, which may be another layer that ended before.
                wholes.setdefault(tensor.name, whole)
    return {key: wholes for key, (wholes, _) in found.items()}


RECURRENT = (
    layers.RNN, layers.Bidirectional, layers.LSTMCell, layers.GRUCell, layers.SimpleRNNCell, layers.StackedRNNCells
)  # fmt: skip
"""Classes of layers with a loop inside, and of cells. Composites give rules to the sites of the loop."""


def _operation(call, template, read, outputs, keep):
    """The operation of a call; None where its code is to be read."""
    layer = call.layer
    # The rules of entries that name a recurrent layer are for the sites inside of it.
    if isinstance(layer, keep) and not isinstance(layer, RECURRENT):
        return Opaque(layer, template.bind(_without_a_trace(layer)), len(outputs))
    if isinstance(layer, MASKED) and call.masked:
        return None
    outputs = [keras.KerasTensor(t.shape.as_list(), t.dtype.name) for t in outputs]
    known = layer_operation(layer, template, outputs)
    if call.before is not None and isinstance(known, Fused):
        known = known.affine
    reshapes = isinstance(known, Activation) and outputs[0].shape != tuple(read[0].shape.as_list())
    return None if reshapes else known


def _without_a_trace(layer):
    """The `call` of a layer that stays one site. It runs at every analysis, and the layer is restored each time."""

    @functools.wraps(layer.call)
    def call(*args, **kwargs):
        with untouched(private.layers_of(layer)):
            return layer.call(*args, **kwargs)

    return call


def _dependent(graph: tf.Graph) -> set[str]:
    """The names of the tensors of a graph that depend on its inputs. Captured variables do not count as inputs."""
    captured = {t.name for t in graphs.internal_captures(graph)}
    found = {t.name for t in graphs.ends(graph)[0] if t.name not in captured}
    for operation in graph.get_operations():
        if any(t.name in found for t in operation.inputs):
            found.update(t.name for t in operation.outputs)
    return found


def _returned(recording: Recording, builder: Builder) -> dict[int, int]:
    """New slots for the weights that layers return, such as a table of positions, by the id of the weight."""
    tensors = [t for call in recording.calls if call.is_layer for t in filter(is_symbolic, call.outputs)]
    weights = [builder.values.get((id(t.graph), t.name)) for t in tensors if t.dtype.is_floating]
    found = {id(w): w for w in weights if isinstance(w, Weight)}
    return {key: builder.new_slot(Spec(tuple(w.shape), builder.dtype)) for key, w in found.items()}


def _calls(recording: Recording, builder: Builder, returned: Mapping[int, int]) -> tuple[Call, ...]:
    """The calls whose outputs are all in the graph, in the order in which they ended."""
    found = []
    for call in sorted(recording.calls, key=lambda call: call.done):
        read = _slots((t for t in keras.tree.flatten((call.args, call.kwargs)) if is_symbolic(t)), builder)
        written = _slots(filter(is_symbolic, call.outputs), builder, returned)
        # A mask says which entries count, and is no input of its own.
        read = [slot for slot in read if builder.specs[slot].dtype != "bool"]
        if call.path and len(written) == len(call.outputs):
            found.append(Call(call.path, call.layer, tuple(dict.fromkeys(read)), tuple(written)))
    return tuple(found)


def _slots(tensors: Iterable[tf.Tensor], builder: Builder, returned: Mapping[int, int] | None = None) -> list[int]:
    """The slots of those tensors that have one."""
    values = [builder.values.get((id(t.graph), t.name)) for t in tensors]
    values = [(returned or {}).get(id(value)) if isinstance(value, Weight) else value for value in values]
    return [value for value in values if isinstance(value, int)]
