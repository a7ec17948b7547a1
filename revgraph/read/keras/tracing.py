"""`trace`: the only code that reads Keras's internals. Flattens a model into a `Graph` of call sites."""

import contextlib
import dataclasses
import functools
import inspect
import re
import warnings
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import KerasTensor

from revgraph.graph.analysis import relevant_sites
from revgraph.graph.graph import Call, Graph, Site, Spec
from revgraph.graph.operations import Activation, Opaque, Routing
from revgraph.read.keras.layers import (
    MASKED,
    OPAQUE,
    is_identity,
    layer_expansion,
    layer_operation,
    makes_mask,
    sees_masks,
)
from revgraph.read.keras.ops import expansion, tensor_operation


def trace(model, keep=(), dtype=None) -> Graph:
    """Flattens a Keras model into a graph of call sites.

    Nested models are inlined, shared layers give one site per call, raw `keras.ops` and operators are sites like
    layers, and layers of the user's own are looked into by running their `call` on symbolic inputs. The model is left
    as it was.

    Args:
        model: A built `keras.Model`.
        keep: Layer classes that stay one site, even where revgraph could look inside.
        dtype: The floating dtype in which the graph computes; that of the widest weights by default.

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
    return _Tracer(tuple(keep), dtype or _dtype(model)).graph(model)


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands for a tensor in the arguments of a call: position in the site's inputs."""

    index: int


class _Tracer:
    """Collects sites while it walks through the model once."""

    def __init__(self, keep, dtype):
        self.keep = keep
        self.dtype = dtype
        self.sites: list[Site] = []
        self.calls: list[Call] = []
        self.specs: dict[int, Spec] = {}
        self.paths: dict[str, int] = {}
        self.masks: dict[int, Callable[[], int | None]] = {}

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
                dtype=self.dtype,
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

    def symbol(self, slot) -> KerasTensor:
        """A symbolic tensor that stands in for the tensor of a slot."""
        return KerasTensor(self.specs[slot].shape, self.specs[slot].dtype)

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
            operation = node.operation
            if node.is_input or isinstance(operation, keras.layers.InputLayer):
                raise ValueError(
                    f"The output of the model depends on an input that is not one of the model's: {operation.name!r}."
                )
            is_layer = isinstance(operation, keras.layers.Layer)
            name = operation.name if is_layer or not fresh else _snake(type(operation).__name__)
            path = self.new_path(prefix, name)
            read = tuple(slots[id(t)] for t in node.arguments.keras_tensors)
            template = _template(node.arguments, self.dtype)
            if is_layer and "mask" in template.kwargs and not sees_masks(operation):
                template, read = template.without("mask", read)
            written = self.add(operation, template, read, node.outputs, path)
            slots.update({id(t): slot for t, slot in zip(node.outputs, written, strict=True)})
            self.calls.append(Call(path, operation, read, tuple(written)))

    def add(self, operation, template, read, outputs, path) -> tuple[int, ...]:
        """Adds the sites of one call and returns the slots of its outputs."""
        if not isinstance(operation, keras.layers.Layer):
            return self.add_operation(operation, template, read, outputs, path)
        if template.kwargs.get("training") is True and _parameters(operation.call)["training"].default is not True:
            warnings.warn(
                f"{path!r} is called with training=True: its output depends on chance or on the batch. revgraph "
                f"explains the model as it is in inference, training=False.",
                stacklevel=2,
            )
        given, masked = self._with_mask(operation, template, read)
        written = self.add_layer(operation, given, masked, outputs, path)
        if operation.supports_masking and any(slot not in self.masks for slot in written):
            self._carry_mask(operation, template, read, written, path)
        return written

    def add_operation(self, operation, template, read, outputs, path):
        """Adds the site of a raw operation, or those of what it is made of."""
        known = tensor_operation(operation, template, outputs)
        if known is not None:
            return self.site(path, known, read, outputs, operation)
        expanded = expansion(operation, template)
        if expanded is not None:
            return self.inline(expanded, template, read, path)
        return self.site(path, Opaque(operation, template.bind(operation.call), len(outputs)), read, outputs, operation)

    def add_layer(self, layer, template, read, outputs, path):
        """Adds the sites of the call of a layer: its own, those inside, or none for an identity."""
        kept = isinstance(layer, self.keep)
        if not kept and is_identity(layer):
            return read[:1]
        if not kept and isinstance(layer, keras.Model):
            return self.inline_model(layer, template, read, path)
        if not kept and isinstance(layer, keras.layers.TimeDistributed):
            return self.distribute(layer, template, read, outputs, path)
        known = self._known(layer, template, read, outputs)
        if known is not None:
            return self.site(path, known, read, outputs, layer)
        expanded = layer_expansion(layer, template)
        if expanded is not None and not kept:
            return self.inline(expanded, template, read, path)
        if not kept and not isinstance(layer, OPAQUE):
            inlined = self.inline_layer(layer, template, read, path)
            if inlined is not None:
                return inlined
        return self.site(path, Opaque(layer, template.bind(layer.call), len(outputs)), read, outputs, layer)

    def _known(self, layer, template, read, outputs):
        if isinstance(layer, MASKED) and any(slot in self.masks for slot in read):
            return None
        known = layer_operation(layer, template, outputs)
        reshapes = isinstance(known, Activation) and tuple(outputs[0].shape) != self.specs[read[0]].shape
        return None if reshapes else known

    def site(self, path, operation, read, outputs, layer):
        written = tuple(self.new_slot(t) for t in outputs)
        self.sites.append(Site(path, operation, tuple(read), written, layer))
        return written

    def inline(self, function, template, read, path) -> tuple[int, ...]:
        """Adds the sites of what a function does with symbolic tensors in the place of its arguments."""
        symbols = {slot: self.symbol(slot) for slot in read}
        args, kwargs = template.fill([symbols[slot] for slot in read])
        outputs = keras.tree.flatten(function(*args, **kwargs))
        slots = {id(symbol): slot for slot, symbol in symbols.items()}
        self.walk(list(symbols.values()), outputs, slots, path, fresh=True)
        return tuple(slots[id(t)] for t in outputs)

    def inline_model(self, model, template, read, path):
        functional = _functional(model)
        if functional is None:
            return self.inline(_symbolic_call(model, path), template, read, path)
        inner = keras.tree.flatten(functional._inputs_struct)
        slots = {id(x): slot for x, slot in zip(inner, template.data(read), strict=True)}
        outputs = keras.tree.flatten(functional._outputs_struct)
        self.walk(inner, outputs, slots, path)
        return tuple(slots[id(t)] for t in outputs)

    def inline_layer(self, layer, template, read, path):
        """Looks into a layer by running its `call` on symbolic inputs; None where that is not possible."""
        symbols = {slot: self.symbol(slot) for slot in read}
        args, kwargs = template.fill([symbols[slot] for slot in read])
        mark = len(self.sites), len(self.calls), len(self.specs), dict(self.paths), dict(self.masks)
        slots = {id(symbol): slot for slot, symbol in symbols.items()}
        self._mask_symbols(symbols, slots)
        inputs = list(symbols.values())
        try:
            outputs = keras.tree.flatten(_symbolic_call(layer, path)(*args, **kwargs))
        except Exception:
            # Whatever a user's `call` raises on symbolic tensors means the same: revgraph cannot look inside.
            outputs = [None]
        if not all(isinstance(t, KerasTensor) for t in outputs):
            return None
        self.walk(inputs, outputs, slots, path, fresh=True)
        written = tuple(slots[id(t)] for t in outputs)
        if self._has_gaps(self.sites[mark[0] :], written):
            # Half a layer in pieces that have no rule helps nobody: it stays whole, so that one rule can be given.
            del self.sites[mark[0] :], self.calls[mark[1] :]
            self.specs = dict(list(self.specs.items())[: mark[2]])
            self.paths, self.masks = mark[3], mark[4]
            return None
        return written

    def _has_gaps(self, sites, outputs):
        """Whether relevance of the outputs would come to a raw operation that revgraph knows nothing of."""
        return any(
            isinstance(site.operation, Opaque) and not isinstance(site.layer, keras.layers.Layer)
            for site in relevant_sites(sites, outputs, self.specs)
        )

    def distribute(self, layer, template, read, outputs, path):
        """Adds the sites of a layer that is applied at every time step: steps become samples, and steps again."""
        (sequence,) = template.data(read)
        steps, inner = self.specs[sequence].shape[1], layer.layer
        before = KerasTensor((None, *self.specs[sequence].shape[2:]), self.specs[sequence].dtype)
        after = KerasTensor((None, *outputs[0].shape[2:]), outputs[0].dtype)
        merge = Routing(lambda x: tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0)), "Reshape")
        merged = self.site(f"{path}/merge", merge, (sequence,), [before], layer)
        inner_path = self.new_path(path, inner.name)
        written = self.add(inner, Template((Slot(0),), {}, self.dtype), merged, [after], inner_path)
        self.calls.append(Call(inner_path, inner, merged, written))
        if steps is not None:
            split = Routing(lambda y: tf.reshape(y, tf.concat([[-1, steps], tf.shape(y)[1:]], 0)), "Reshape")
            return self.site(f"{path}/split", split, written, outputs, layer)
        split = Routing(lambda y, x: tf.reshape(y, tf.concat([tf.shape(x)[:2], tf.shape(y)[1:]], 0)), "Reshape")
        return self.site(f"{path}/split", split, (*written, sequence), outputs, layer)

    def mask_of(self, slot) -> int | None:
        """The slot of a tensor's mask; its sites are added when it is first asked for."""
        return self.masks[slot]() if slot in self.masks else None

    def _with_mask(self, layer, template, read):
        """The call with the masks of its inputs, where the layer takes them and was not given them."""
        if not sees_masks(layer) or not any(slot in self.masks for slot in read):
            return template, read
        tensors = {name: value for name, value in template.named(layer.call).items() if _slots(value)}
        kwargs, read = dict(template.kwargs), list(read)

        def mask_slot(slot):
            mask = self.mask_of(read[slot.index])
            if mask is None:
                return None
            read.append(mask)
            return Slot(len(read) - 1)

        for name, value in tensors.items():
            mask_name = "mask" if len(tensors) == 1 else f"{name}_mask"
            if mask_name in _parameters(layer.call) and kwargs.get(mask_name) is None:
                kwargs[mask_name] = keras.tree.map_structure(mask_slot, value)
        return dataclasses.replace(template, kwargs=kwargs), tuple(read)

    def _mask_symbols(self, symbols, slots):
        """Attaches symbolic masks to symbolic tensors, as layers look for them there."""
        for slot, symbol in list(symbols.items()):
            mask = self.mask_of(slot)
            if mask is not None:
                symbol._keras_mask = symbols.setdefault(mask, self.symbol(mask))
                slots[id(symbol._keras_mask)] = mask

    def _carry_mask(self, layer, template, read, written, path):
        """Remembers how to compute the masks of a layer's outputs from those of its inputs."""
        if not makes_mask(layer) and not any(slot in self.masks for slot in template.data(read)):
            return

        @functools.cache
        def masks():
            return self._output_masks(layer, template, read, path)

        for i, slot in enumerate(written):
            if slot not in self.masks:
                self.masks[slot] = lambda i=i: (masks() + (None,) * len(written))[i]

    def _output_masks(self, layer, template, read, path):
        data = dict.fromkeys(template.data(read))
        symbols = {slot: self.symbol(slot) for slot in data}
        masks = {slot: self.mask_of(slot) for slot in data}
        mask_symbols = {mask: self.symbol(mask) for mask in masks.values() if mask is not None}
        (inputs, *_), _ = template.fill([symbols.get(slot) for slot in read])
        by_symbol = {id(symbols[slot]): mask_symbols.get(mask) for slot, mask in masks.items()}
        previous = keras.tree.map_structure(lambda t: by_symbol[id(t)], inputs)
        computed = keras.tree.flatten(layer.compute_mask(inputs, previous))
        slots = {id(s): slot for slot, s in (*symbols.items(), *mask_symbols.items())}
        wanted = [m for m in computed if m is not None]
        self.walk([*symbols.values(), *mask_symbols.values()], wanted, slots, f"{path}/mask", fresh=True)
        return tuple(None if m is None else slots[id(m)] for m in computed)


@dataclasses.dataclass(frozen=True)
class Template:
    """The arguments of a call, with `Slot`s where tensors stood.

    Args:
        args, kwargs: The arguments.
        dtype: The floating dtype in which the graph computes.
    """

    args: tuple
    kwargs: dict[str, Any]
    dtype: str

    def fill(self, tensors):
        """Positional and named arguments with tensors in the place of their slots, without `training`."""
        kwargs = {k: v for k, v in self.kwargs.items() if k != "training"}
        return keras.tree.map_structure(
            lambda a: tensors[a.index] if isinstance(a, Slot) else a, (tuple(self.args), kwargs)
        )

    def bind(self, function):
        """The function of the tensors alone, in inference, whose floating results have the dtype of the graph."""
        inference = {"training": False} if "training" in _parameters(function) else {}

        def bound(*tensors):
            args, kwargs = self.fill(tensors)
            return keras.tree.map_structure(self._cast, function(*args, **kwargs, **inference))

        return bound

    def _cast(self, result):
        return tf.cast(result, self.dtype) if result.dtype.is_floating else result

    def named(self, function) -> dict[str, Any]:
        """The arguments by the names of the function's parameters."""
        bound = inspect.signature(function).bind_partial(*self.args, **self.kwargs)
        return dict(bound.arguments)

    def argument(self, function, name, default=None):
        """The value that the parameter `name` of `function` was given."""
        return self.named(function).get(name, default)

    def data(self, read) -> tuple[int, ...]:
        """Slots of the first argument."""
        first = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return tuple(read[slot.index] for slot in _slots(first))

    def without(self, name, read):
        """The template and its slots without one named argument."""
        kwargs = {k: v for k, v in self.kwargs.items() if k != name}
        return dataclasses.replace(self, kwargs=kwargs).compact(read)

    def compact(self, read):
        """The template and those of the slots that it refers to, in the order in which it does."""
        used = _slots((self.args, self.kwargs))
        position = {slot: i for i, slot in enumerate(used)}
        args, kwargs = keras.tree.map_structure(
            lambda a: Slot(position[a]) if isinstance(a, Slot) else a, (tuple(self.args), self.kwargs)
        )
        return Template(args, kwargs, self.dtype), tuple(read[slot.index] for slot in used)


def _template(arguments, dtype) -> Template:
    indices = iter(range(len(arguments.keras_tensors)))
    args, kwargs = arguments.convert(lambda a: Slot(next(indices)) if isinstance(a, KerasTensor) else a)
    return Template(tuple(args), kwargs, dtype)


def _slots(structure) -> list[Slot]:
    return [a for a in keras.tree.flatten(structure) if isinstance(a, Slot)]


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
    """The functional graph of a model; None for one whose `call` has to be run to know it."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        if not model.built or not model.layers:
            raise ValueError(
                f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data, "
                f"or `model.build(input_shape)`, or add a `keras.Input(shape)` as the first layer."
            )
        return getattr(model, "_functional", None)
    functional = [cls for cls in type(model).__mro__ if cls.__name__ == "Functional"]
    return model if functional and type(model).call is functional[0].call else None


def _symbolic_inputs(model):
    """Fresh symbolic inputs of the shapes on which a subclassed model was built: (structure, call arguments)."""
    if hasattr(model, "_inputs_struct"):
        inputs = keras.tree.map_structure(lambda x: KerasTensor(x.shape, x.dtype, name=x.name), model._inputs_struct)
        return inputs, (inputs,)
    shapes = getattr(model, "_build_shapes_dict", None)
    if model.built and not shapes:
        raise ValueError(
            f"Cannot trace {model.name!r} ({type(model).__name__}): Keras could not run its `call` on symbolic inputs, "
            f"and so does not know its input shape. A `call` that revgraph can trace uses layers and `keras.ops`, and "
            f"its Python code does not depend on the values of tensors."
        )
    if not shapes:
        raise ValueError(
            f"The model {model.name!r} is not built: its input shape is unknown. Call it once on data before "
            f"explaining it, for example `model(x[:1])`."
        )
    dtype = _dtype(model)
    arguments = [_symbols(shape, re.sub("_shape$", "", name), dtype) for name, shape in shapes.items()]
    return (arguments[0] if len(arguments) == 1 else arguments), tuple(arguments)


def _symbols(shape, name, dtype):
    """Symbolic tensors for a shape, or for a structure of shapes."""
    if isinstance(shape, dict):
        return {key: _symbols(value, key, dtype) for key, value in shape.items()}
    if shape and isinstance(shape[0], list | tuple):
        return [_symbols(value, f"{name}_{i}", dtype) for i, value in enumerate(shape)]
    return KerasTensor((None, *shape[1:]), dtype, name=name)


def _symbolic_call(layer, path):
    """The layer's `call`, for symbolic arguments."""

    def call(*args, **kwargs):
        return _call_symbolically(layer, args, kwargs, path)

    return call


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
