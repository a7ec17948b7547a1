"""`trace` flattens a Keras model into a `Graph` of call sites."""

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import KerasTensor

from revgraph.graph.analysis import relevant_sites
from revgraph.graph.graph import Call, Graph, Site, Spec
from revgraph.graph.operations import (
    Activation,
    Affine,
    Contraction,
    Opaque,
    Product,
    Quotient,
    Routing,
    Scale,
)
from revgraph.read.keras import private
from revgraph.read.keras.activations import snake
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
from revgraph.read.keras.routing import MOVES, broadcast
from revgraph.read.keras.scaling import broadcasts
from revgraph.read.keras.symbolic import (
    call_symbolically,
    functional_of,
    nodes_between,
    symbolic_call,
    symbolic_inputs,
    widest_dtype,
)
from revgraph.read.keras.template import Slot, Template, parameters, slots_in, template_of


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
    return _Tracer(tuple(keep), dtype or widest_dtype(model)).graph(model)


class _Tracer:
    """Collects the sites of a model, call by call."""

    def __init__(self, keep, dtype):
        self.keep = keep
        self.dtype = dtype
        self.sites: list[Site] = []
        self.calls: list[Call] = []
        self.specs: dict[int, Spec] = {}
        self.paths: dict[str, int] = {}
        self.masks: dict[int, Callable[[], int | None]] = {}

    def graph(self, model) -> Graph:
        with private.nodes_restored(private.layers_of(model)):
            inputs, outputs, input_names, output_names = self._ends(model)
            slots = {id(x): self.new_slot(x) for x in keras.tree.flatten(inputs)}
            fresh = functional_of(model) is None
            self.add_nodes(keras.tree.flatten(inputs), keras.tree.flatten(outputs), slots, prefix="", fresh=fresh)
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
        functional = functional_of(model)
        if functional is None:
            inputs, arguments = symbolic_inputs(model)
            outputs = call_symbolically(model, arguments, {}, model.name)
        else:
            inputs, outputs = private.symbolic_inputs(functional), private.symbolic_outputs(functional)
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

    def add_nodes(self, inputs, outputs, slots, prefix, fresh=False):
        """Adds the sites between symbolic inputs and outputs; `slots` maps ids of tensors to slots.

        With `fresh`, operations were just made by a symbolic call, and are named after their class: their automatic
        names differ from one trace to the next.
        """
        for node in nodes_between(inputs, outputs):
            operation = node.operation
            if private.is_input(node):
                raise ValueError(
                    f"The output of the model depends on an input that is not one of the model's: {operation.name!r}."
                )
            is_layer = isinstance(operation, keras.layers.Layer)
            name = operation.name if is_layer or not fresh else snake(type(operation).__name__)
            path = self.new_path(prefix, name)
            read = tuple(slots[id(t)] for t in private.tensors_read(node))
            template = template_of(node.arguments, self.dtype)
            if is_layer and "mask" in template.kwargs and not sees_masks(operation):
                template, read = template.without("mask", read)
            written = self.add(operation, template, read, node.outputs, path)
            slots.update({id(t): slot for t, slot in zip(node.outputs, written, strict=True)})
            self.calls.append(Call(path, operation, read, tuple(written)))

    def add(self, operation, template, read, outputs, path) -> tuple[int, ...]:
        """Adds the sites of one call and returns the slots of its outputs."""
        if not isinstance(operation, keras.layers.Layer):
            return self.add_operation(operation, template, read, outputs, path)
        if template.kwargs.get("training") is True and parameters(operation.call)["training"].default is not True:
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
        """Adds one site.

        Sites in front of it make floating numbers of integers, and a signal as large as the constants that it meets.
        """
        if isinstance(operation, Affine | Product | Quotient | Contraction | Activation):
            read = tuple(self._floating(path, slot, outputs[0].dtype, layer) for slot in read)
        if isinstance(operation, Scale | Activation):
            read = self._as_large(path, read, outputs[0].shape, layer)
        written = tuple(self.new_slot(t) for t in outputs)
        self.sites.append(Site(path, operation, tuple(read), written, layer))
        return written

    def _floating(self, path, slot, dtype, layer):
        """The slot, or that of its tensor as floating numbers where it has integers."""
        if "float" in self.specs[slot].dtype:
            return slot
        cast = Routing(lambda x: tf.cast(x, self.dtype), "Cast", **MOVES)
        made = [KerasTensor(self.specs[slot].shape, dtype)]
        return self.site(self.new_path(path, "cast"), cast, (slot,), made, layer)[0]

    def _as_large(self, path, read, shape, layer):
        """The slots, or that of the tensor broadcast to a shape where it is smaller."""
        if not broadcasts(self.specs[read[0]].shape, shape):
            return read
        made = [KerasTensor(shape, self.specs[read[0]].dtype)]
        return self.site(self.new_path(path, "broadcast"), broadcast(tuple(shape)), read, made, layer)

    def inline(self, function, template, read, path) -> tuple[int, ...]:
        """Adds the sites of what a function does with symbolic tensors in the place of its arguments."""
        symbols = {slot: self.symbol(slot) for slot in read}
        args, kwargs = template.fill([symbols[slot] for slot in read])
        outputs = keras.tree.flatten(function(*args, **kwargs))
        slots = {id(symbol): slot for slot, symbol in symbols.items()}
        self.add_nodes(list(symbols.values()), outputs, slots, path, fresh=True)
        return tuple(slots[id(t)] for t in outputs)

    def inline_model(self, model, template, read, path):
        functional = functional_of(model)
        if functional is None:
            return self.inline(symbolic_call(model, path), template, read, path)
        inner = keras.tree.flatten(private.symbolic_inputs(functional))
        slots = {id(x): slot for x, slot in zip(inner, template.data(read), strict=True)}
        outputs = keras.tree.flatten(private.symbolic_outputs(functional))
        self.add_nodes(inner, outputs, slots, path)
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
            outputs = keras.tree.flatten(symbolic_call(layer, path)(*args, **kwargs))
        except Exception:
            # Whatever a user's `call` raises on symbolic tensors means the same: revgraph cannot look inside.
            outputs = [None]
        if not all(isinstance(t, KerasTensor) for t in outputs):
            return None
        self.add_nodes(inputs, outputs, slots, path, fresh=True)
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
        merge = Routing(lambda x: tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0)), "Reshape", **MOVES)
        merged = self.site(f"{path}/merge", merge, (sequence,), [before], layer)
        inner_path = self.new_path(path, inner.name)
        written = self.add(inner, Template((Slot(0, before.dtype),), {}, self.dtype), merged, [after], inner_path)
        self.calls.append(Call(inner_path, inner, merged, written))
        if steps is not None:
            split = Routing(lambda y: tf.reshape(y, tf.concat([[-1, steps], tf.shape(y)[1:]], 0)), "Reshape", **MOVES)
            return self.site(f"{path}/split", split, written, outputs, layer)
        split = Routing(
            lambda y, x: tf.reshape(y, tf.concat([tf.shape(x)[:2], tf.shape(y)[1:]], 0)), "Reshape", **MOVES
        )
        return self.site(f"{path}/split", split, (*written, sequence), outputs, layer)

    def mask_of(self, slot) -> int | None:
        """The slot of a tensor's mask; its sites are added when it is first asked for."""
        return self.masks[slot]() if slot in self.masks else None

    def _with_mask(self, layer, template, read):
        """The call with the masks of its inputs, where the layer takes them and was not given them."""
        if not sees_masks(layer) or not any(slot in self.masks for slot in read):
            return template, read
        tensors = {name: value for name, value in template.named(layer.call).items() if slots_in(value)}
        kwargs, read = dict(template.kwargs), list(read)

        def mask_slot(slot):
            mask = self.mask_of(read[slot.index])
            if mask is None:
                return None
            read.append(mask)
            return Slot(len(read) - 1, self.specs[mask].dtype)

        for name, value in tensors.items():
            mask_name = "mask" if len(tensors) == 1 else f"{name}_mask"
            if mask_name in parameters(layer.call) and template.argument(layer.call, mask_name) is None:
                kwargs[mask_name] = keras.tree.map_structure(mask_slot, value)
        return dataclasses.replace(template, kwargs=kwargs), tuple(read)

    def _mask_symbols(self, symbols, slots):
        """Attaches symbolic masks to symbolic tensors, as layers look for them there."""
        for slot, symbol in list(symbols.items()):
            mask = self.mask_of(slot)
            if mask is not None:
                of_mask = symbols.setdefault(mask, self.symbol(mask))
                private.attach_mask(symbol, of_mask)
                slots[id(of_mask)] = mask

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
        self.add_nodes([*symbols.values(), *mask_symbols.values()], wanted, slots, f"{path}/mask", fresh=True)
        return tuple(None if m is None else slots[id(m)] for m in computed)
