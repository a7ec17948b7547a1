"""The graph of a model: its sites, in the order of execution.

A *site* is one call of one operation, so a layer that is called twice is two sites. A *slot* is the place of one
tensor, and has a number. Sites read slots and write slots.
"""

import dataclasses
import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.graph.operations import Operation
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import Tensors, Weights


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape and dtype of the tensor in a slot.

    Args:
        shape: The size of each axis, the batch axis first. None where a size is not known.
        dtype: The dtype, such as `"float32"`.
    """

    shape: tuple[int | None, ...]
    dtype: str


def by_name(inputs: Tensors, names: Sequence[str]) -> Tensors:
    """The entries of a dict in the order of the names; what is no dict with all these names is returned as it is.

    Args:
        inputs: What a model takes.
        names: The names of the model's inputs.
    """
    named = isinstance(inputs, dict) and set(names) <= set(inputs)
    return [inputs[name] for name in names] if named else inputs


def holds_strings(value: Any) -> bool:
    """Whether a tensor, an array, or nested lists hold strings."""
    dtype = getattr(value, "dtype", None)
    if dtype is not None:
        return _are_strings(value) if isinstance(dtype, np.dtype) else dtype == tf.string
    flat = value
    while isinstance(flat, list | tuple) and flat:
        flat = flat[0]
    return isinstance(flat, str | bytes)


def _are_strings(array):
    """Whether a NumPy array has strings, perhaps as objects."""
    objects = array.dtype.kind == "O" and array.size > 0
    return array.dtype.kind in "US" or (objects and isinstance(array.flat[0], str | bytes))


def common_layer(paths: Iterable[str]) -> str:
    """The path of the innermost layer or model in which all these sites are; empty where they have none in common."""
    return "/".join(os.path.commonprefix([path.split("/")[:-1] for path in paths]))


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One call of one operation.

    Args:
        path: The names of the layer and of the models around it, such as `backbone/block1/conv`. The second call of the
            same layer is `backbone/block1/conv#2`.
        operation: What the site computes.
        inputs: Slots that it reads.
        outputs: Slots that it writes.
        layer: The Keras layer or operation from which it comes.
        merged: Paths of the sites that canonization folded into this one.
    """

    path: str
    operation: Operation
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    layer: Any = None
    merged: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call of a layer in the user's model.

    Args:
        path: As in `Site`.
        layer: The layer.
        inputs: Slots of its inputs.
        outputs: Slots of its outputs.
    """

    path: str
    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph(Tabular):
    """A model as a flat, immutable list of sites. It can be called like the model.

    Args:
        name: Name of the model.
        sites: Sites in the order of execution.
        specs: Shape and dtype of each slot.
        inputs: Slots of the model's inputs, nested as the model takes them.
        outputs: Slots of the model's outputs, nested as the model returns them.
        input_names: Name of each input, in flat order.
        output_names: Name of each output, in flat order.
        calls: Every call of a layer in the model, nested models included. Layers are found by name here.
        dtype: The floating dtype in which the graph computes, `"float32"` or `"float64"`.
        again: Function that reads the same model in another dtype. None for a graph that was rewritten.
        strings: For the slots of inputs that the model takes as strings: the graph that makes numbers of them, such as
            the ids of words. The slot has these numbers.
    """

    name: str
    sites: tuple[Site, ...]
    specs: Mapping[int, Spec]
    inputs: Any
    outputs: Any
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    calls: tuple[Call, ...]
    dtype: str
    again: Callable[[str], "Graph"] | None = None
    strings: Mapping[int, "Graph"] = dataclasses.field(default_factory=dict)

    @property
    def input_slots(self) -> tuple[int, ...]:
        """Slots of the inputs, in flat order."""
        return tuple(keras.tree.flatten(self.inputs))

    @property
    def output_slots(self) -> tuple[int, ...]:
        """Slots of the outputs, in flat order."""
        return tuple(keras.tree.flatten(self.outputs))

    def cast(self, slot: int, value: Any) -> tf.Tensor:
        """Converts the value of an input to the dtype in which the graph computes. Integers stay integers.

        Strings become the numbers that the model makes of them.
        """
        if self.specs[slot].dtype == "string":
            return tf.convert_to_tensor(value, tf.string)
        if slot in self.strings and holds_strings(value):
            value = self.strings[slot](tf.convert_to_tensor(value))
        floating = self.specs[slot].dtype.startswith(("float", "bfloat"))
        return tf.cast(value, self.dtype if floating else self.specs[slot].dtype)

    def run(self, inputs: Iterable[Any]) -> dict[int, tf.Tensor]:
        """Computes the tensor of every slot from the inputs, which are in flat order."""
        values = {slot: self.cast(slot, x) for slot, x in zip(self.input_slots, inputs, strict=True)}
        return self.compute(values, lambda i, site, arguments: site.operation.weights(self.dtype, arguments))

    def compute(
        self,
        values: Mapping[int, tf.Tensor],
        weights: Callable[[int, Site, Sequence[tf.Tensor]], Weights],
    ) -> dict[int, tf.Tensor]:
        """Computes the tensor of every slot.

        Args:
            values: The tensors of the input slots.
            weights: Function that gives the weights of a site. It takes the site's place among the sites, the site, and
                the input tensors of the site.

        Returns:
            The tensor of each slot.
        """
        values = dict(values)
        for i, site in enumerate(self.sites):
            arguments = [values[slot] for slot in site.inputs]
            outputs = site.operation(arguments, weights(i, site, arguments))
            values.update(zip(site.outputs, outputs, strict=True))
        return values

    def __call__(self, inputs: Tensors) -> Tensors:
        """Runs the graph forward, as the model runs in inference.

        Args:
            inputs: Array or tensor `(batch, ...)`, or several, nested as the model takes them; or a dict by input name.

        Returns:
            The outputs, nested as the model returns them.
        """
        values = self.run(keras.tree.flatten(by_name(inputs, self.input_names)))
        return keras.tree.map_structure(lambda slot: values[slot], self.outputs)

    def rewrite(self, sites: Iterable[Site], **changes: Any) -> "Graph":
        """A copy of the graph with other sites, and with other values for the fields that are named."""
        return dataclasses.replace(self, sites=tuple(sites), again=None, **changes)

    def with_slot(self, spec: Spec) -> tuple["Graph", int]:
        """A copy of the graph that has one slot more, and the number of that slot."""
        slot = max(self.specs) + 1
        return dataclasses.replace(self, specs={**self.specs, slot: spec}), slot

    def producers(self) -> dict[int, Site]:
        """The site that writes each slot."""
        return {slot: site for site in self.sites for slot in site.outputs}

    def consumers(self) -> dict[int, list[Site]]:
        """The sites that read each slot."""
        readers: dict[int, list[Site]] = {slot: [] for slot in self.specs}
        for site in self.sites:
            for slot in dict.fromkeys(site.inputs):
                readers[slot].append(site)
        return readers

    def find(self, name: Any) -> Call:
        """The call of a layer.

        Args:
            name: Name of the layer, path of the call, or the layer itself.

        Raises:
            KeyError: The model has no such layer, or calls it more than once. The message lists names or paths that
                exist.
        """
        if not isinstance(name, str):
            matches = [call for call in self.calls if call.layer is name]
        else:
            matches = [call for call in self.calls if call.path == name] or [
                call for call in self.calls if getattr(call.layer, "name", None) == name
            ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            several = ", ".join(repr(call.path) for call in matches)
            raise KeyError(f"Layer {name!r} is called {len(matches)} times; name one of the calls: {several}.")
        paths = [call.path for call in self.calls]
        names = list(dict.fromkeys([*paths, *(p.rsplit("/", 1)[-1] for p in paths)]))
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) or names[:10]
        raise KeyError(f"The model {self.name!r} has no layer {name!r}. Did you mean {', '.join(map(repr, near))}?")

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: {len(self.sites)} sites, {self.dtype}>"

    def table(self) -> Table:
        """One row per site: what it computes, the shapes of its outputs, and what was folded into it."""
        rows = [(s.path, s.operation.label, self._shapes(s.outputs), ", ".join(s.merged)) for s in self.sites]
        return Table(("site", "operation", "output", "merged"), rows, title=repr(self)[1:-1])

    def _shapes(self, slots):
        shapes = (tuple("?" if n is None else n for n in self.specs[slot].shape) for slot in slots)
        return ", ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes)
