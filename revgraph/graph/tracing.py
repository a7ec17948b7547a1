"""`trace`: the only code that reads Keras's internals. Flattens a model into a `Graph` of call sites."""

import contextlib
import dataclasses
import inspect
import re
from typing import Any

import keras
from keras import KerasTensor

from revgraph.graph.graph import Call, Graph, Site, Spec
from revgraph.graph.keras_layers import IDENTITIES, OPAQUE, layer_operation
from revgraph.graph.keras_ops import tensor_operation
from revgraph.graph.operations import Opaque


def trace(model, keep=()) -> Graph:
    """Flattens a Keras model into a graph of call sites.

    Nested models are inlined, shared layers give one site per call, raw `keras.ops` and operators are sites like
    layers, and layers of the user's own are looked into by running their `call` on symbolic inputs. The model is left
    as it was.

    Args:
        model: A built `keras.Model`.
        keep: Layer classes that stay one site, even where revgraph could look inside.

    Returns:
        A `Graph`, which can be called like the model.

    Raises:
        TypeError: `model` is not a Keras model.
        ValueError: `model` is not built, or its Python code depends on the values of its inputs.

    Example:

        graph = trace(keras.applications.ResNet50(weights=None))
        print(graph)
    """
    if isinstance(model, Graph):
        return model
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"Expected a Keras model (keras.Sequential, functional or subclassed keras.Model). "
            f"Received: {model!r} of type {type(model).__module__}.{type(model).__name__}."
        )
    return _Tracer(tuple(keep)).graph(model)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands for a tensor in the arguments of a call: position in the site's inputs."""

    index: int


class _Tracer:
    """Collects sites while it walks through the model once."""

    def __init__(self, keep):
        self.keep = keep
        self.sites: list[Site] = []
        self.calls: list[Call] = []
        self.specs: dict[int, Spec] = {}
        self.paths: dict[str, int] = {}

    def graph(self, model) -> Graph:
        with _untouched(model):
            inputs, outputs, input_names, output_names = self._ends(model)
            slots = {id(x): self.new_slot(x) for x in keras.tree.flatten(inputs)}
            fresh = _functional(model) is None
            self.walk(keras.tree.flatten(inputs), keras.tree.flatten(outputs), slots, prefix="", fresh=fresh)
            return Graph(
                name=model.name,
                sites=tuple(self.sites),
                specs=self.specs,
                inputs=keras.tree.map_structure(lambda x: slots[id(x)], inputs),
                outputs=keras.tree.map_structure(lambda x: slots[id(x)], outputs),
                input_names=input_names,
                output_names=output_names,
                calls=tuple(self.calls),
                dtype=_dtype(model),
            )

    def _ends(self, model):
        """The symbolic inputs and outputs of the model, in its own structures, and their names."""
        functional = _functional(model)
        if functional is None:
            inputs, arguments = _symbolic_inputs(model)
            outputs = _call_symbolically(model, arguments, {}, model.name)
        else:
            inputs, outputs = functional._inputs_struct, functional._outputs_struct
        names = [re.sub(":0$", "", x.name) for x in keras.tree.flatten(inputs)]
        if functional is None:
            output_names = [f"output_{i}" for i in range(len(keras.tree.flatten(outputs)))]
        else:
            output_names = list(functional.output_names)
        if isinstance(outputs, dict):
            output_names = sorted(outputs) if len(outputs) == len(output_names) else output_names
        if isinstance(inputs, dict) and len(inputs) == len(names):
            names = sorted(inputs)
        return inputs, outputs, tuple(names), tuple(output_names)

    def new_slot(self, tensor) -> int:
        slot = len(self.specs)
        self.specs[slot] = Spec(tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        return slot

    def new_path(self, prefix, name) -> str:
        path = f"{prefix}/{name}" if prefix else name
        self.paths[path] = self.paths.get(path, 0) + 1
        return path if self.paths[path] == 1 else f"{path}#{self.paths[path]}"

    def walk(self, inputs, outputs, slots, prefix, fresh=False):
        """Adds the sites between symbolic inputs and outputs; `slots` maps ids of tensors to slots.

        With `fresh`, operations were just made by a symbolic call, and are named after their class: their automatic
        names differ from one trace to the next.
        """
        for node in _nodes_between(inputs, outputs):
            operation, tensors = node.operation, list(node.arguments.keras_tensors)
            if node.is_input or isinstance(operation, keras.layers.InputLayer):
                raise ValueError(
                    f"The output of the model depends on an input that is not one of the model's: {operation.name!r}."
                )
            is_layer = isinstance(operation, keras.layers.Layer)
            name = operation.name if is_layer or not fresh else _snake(type(operation).__name__)
            path = self.new_path(prefix, name)
            read = tuple(slots[id(t)] for t in tensors)
            written = self.add(operation, node.arguments, read, tensors, node.outputs, path)
            slots.update({id(t): slot for t, slot in zip(node.outputs, written, strict=True)})
            self.calls.append(Call(path, operation, read, tuple(written)))

    def add(self, operation, arguments, read, tensors, outputs, path) -> tuple[int, ...]:
        """Adds the sites of one call and returns the slots of its outputs."""
        template = _template(arguments, tensors)
        if not isinstance(operation, self.keep):
            if isinstance(operation, IDENTITIES):
                return read[:1]
            if isinstance(operation, keras.Model | keras.Sequential):
                return self.inline_model(operation, arguments, read, tensors, path)
            known = self._known(operation, template, outputs)
            if known is not None:
                return self.site(path, known, read, outputs, operation)
            if not isinstance(operation, OPAQUE) and isinstance(operation, keras.layers.Layer):
                inlined = self.inline_layer(operation, arguments, read, tensors, path)
                if inlined is not None:
                    return inlined
        opaque = Opaque(operation, template.bind(operation.call), len(outputs))
        return self.site(path, opaque, read, outputs, operation)

    @staticmethod
    def _known(operation, template, outputs):
        if isinstance(operation, keras.layers.Layer):
            return layer_operation(operation, template, outputs)
        return tensor_operation(operation, template, outputs)

    def site(self, path, operation, read, outputs, layer):
        written = tuple(self.new_slot(t) for t in outputs)
        self.sites.append(Site(path, operation, tuple(read), written, layer))
        return written

    def inline_model(self, model, arguments, read, tensors, path):
        functional = _functional(model)
        if functional is None:
            written = self.inline_layer(model, arguments, read, tensors, path, required=True)
            return written
        inner = keras.tree.flatten(functional._inputs_struct)
        slots = {id(x): slot for x, slot in zip(inner, read, strict=True)}
        outputs = keras.tree.flatten(functional._outputs_struct)
        self.walk(inner, outputs, slots, path)
        return tuple(slots[id(t)] for t in outputs)

    def inline_layer(self, layer, arguments, read, tensors, path, required=False):
        """Looks into a layer by running its `call` on symbolic inputs; None where that is not possible."""
        symbols = [KerasTensor(t.shape, t.dtype) for t in tensors]
        stand_in = {id(t): s for t, s in zip(tensors, symbols, strict=True)}
        args, kwargs = arguments.convert(lambda a: stand_in.get(id(a), a))
        try:
            outputs = keras.tree.flatten(_call_symbolically(layer, args, kwargs, path))
        except Exception:
            # Whatever a user's `call` raises on symbolic tensors means the same: revgraph cannot look inside.
            if required:
                raise
            return None
        if not all(isinstance(t, KerasTensor) for t in outputs):
            return None
        slots = {id(s): slot for s, slot in zip(symbols, read, strict=True)}
        mark = len(self.sites), len(self.calls), dict(self.specs), dict(self.paths)
        self.walk(symbols, outputs, slots, path, fresh=True)
        inside = self.sites[mark[0] :]
        pieces = any(isinstance(s.operation, Opaque) and not isinstance(s.layer, keras.layers.Layer) for s in inside)
        if pieces and not required:
            # Half a layer in pieces that have no rule helps nobody: it stays whole, so that one rule can be given.
            del self.sites[mark[0] :], self.calls[mark[1] :]
            self.specs, self.paths = mark[2], mark[3]
            return None
        return tuple(slots[id(t)] for t in outputs)


@dataclasses.dataclass(frozen=True)
class Template:
    """The arguments of a call, with `Slot`s where tensors stood."""

    args: tuple
    kwargs: dict[str, Any]

    def bind(self, function):
        """The function of the tensors alone; `training` is False where `function` takes it."""
        kwargs = {k: v for k, v in self.kwargs.items() if k != "training"}
        if "training" in _parameters(function):
            kwargs["training"] = False

        def bound(*tensors):
            args, named = keras.tree.map_structure(
                lambda a: tensors[a.index] if isinstance(a, Slot) else a, (self.args, kwargs)
            )
            return function(*args, **named)

        return bound

    def argument(self, function, name, default=None):
        """The value that the parameter `name` of `function` was given."""
        bound = inspect.signature(function).bind_partial(*self.args, **self.kwargs)
        return bound.arguments.get(name, default)


def _template(arguments, tensors) -> Template:
    index = {}
    for i, t in enumerate(tensors):
        index.setdefault(id(t), i)
    args, kwargs = arguments.convert(lambda a: Slot(index[id(a)]) if isinstance(a, KerasTensor) else a)
    return Template(tuple(args), kwargs)


def _parameters(function):
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _nodes_between(inputs, outputs):
    """Keras nodes that lead from inputs to outputs, each after those that it depends on."""
    done = {id(x) for x in inputs}
    ordered, seen = [], set()
    stack = [(t, False) for t in reversed(outputs)]
    while stack:
        tensor, expanded = stack.pop()
        if id(tensor) in done and not expanded:
            continue
        history = getattr(tensor, "_keras_history", None)
        if history is None or history.operation is None:
            raise ValueError("The model returns a tensor that does not come from its inputs.")
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) in seen:
            continue
        if expanded:
            seen.add(id(node))
            ordered.append(node)
            done.update(id(t) for t in node.outputs)
            continue
        stack.append((tensor, True))
        stack.extend((t, False) for t in reversed(node.arguments.keras_tensors))
    return ordered


def _functional(model):
    """The functional graph of a model; None for a subclassed one."""
    if isinstance(model, keras.Sequential):
        model = getattr(model, "_functional", None) or model
        if isinstance(model, keras.Sequential):
            raise ValueError(
                f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data, "
                f"or `model.build(input_shape)`, or add a `keras.Input(shape)` as the first layer."
            )
    functional = [cls for cls in type(model).__mro__ if cls.__name__ == "Functional"]
    return model if functional and type(model).call is functional[0].call else None


def _symbolic_inputs(model):
    """Fresh symbolic inputs of the shapes on which a subclassed model was built: (structure, call arguments)."""
    if hasattr(model, "_inputs_struct"):
        inputs = keras.tree.map_structure(lambda x: KerasTensor(x.shape, x.dtype, name=x.name), model._inputs_struct)
        return inputs, (inputs,)
    shapes = getattr(model, "_build_shapes_dict", None)
    if not model.built or not shapes:
        raise ValueError(
            f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data before "
            f"explaining it, for example `model(x[:1])`."
        )
    arguments = [_symbols(shape, re.sub("_shape$", "", name)) for name, shape in shapes.items()]
    return (arguments[0] if len(arguments) == 1 else arguments), tuple(arguments)


def _symbols(shape, name):
    """Symbolic tensors for a shape, or for a structure of shapes."""
    if isinstance(shape, dict):
        return {key: _symbols(value, key) for key, value in shape.items()}
    if shape and isinstance(shape[0], list | tuple):
        return [_symbols(value, f"{name}_{i}") for i, value in enumerate(shape)]
    return KerasTensor((None, *shape[1:]), name=name)


def _call_symbolically(layer, args, kwargs, path):
    kwargs = {k: v for k, v in kwargs.items() if k != "training"}
    if "training" in _parameters(layer.call):
        kwargs["training"] = False
    try:
        return layer.call(*args, **kwargs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(
            f"Cannot trace {path!r} ({type(layer).__name__}): running its `call` on symbolic inputs failed with "
            f"{type(error).__name__}: {reason} A `call` that revgraph can trace uses layers and `keras.ops`, and "
            f"its Python code does not depend on the values of tensors."
        ) from error


@contextlib.contextmanager
def _untouched(model):
    """Restores the inbound and outbound nodes of all layers when the block ends."""
    layers = list(model._flatten_layers())
    before = [(x, list(x._inbound_nodes), list(x._outbound_nodes)) for x in layers]
    try:
        yield
    finally:
        for layer, inbound, outbound in before:
            layer._inbound_nodes[:] = inbound
            layer._outbound_nodes[:] = outbound


def _dtype(model) -> str:
    """float64 where any weight is, float32 otherwise, whatever the compute dtype."""
    wide = any(keras.backend.standardize_dtype(v.dtype) == "float64" for v in model.variables)
    return "float64" if wide or model.dtype_policy.variable_dtype == "float64" else "float32"


def _snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
