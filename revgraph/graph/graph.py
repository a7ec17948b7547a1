"""The graph: sites that read and write integer slots, in the order of execution."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from revgraph.graph.operations import Operation
from revgraph.graph.tables import Table, Tabular


@dataclasses.dataclass(frozen=True)
class Spec:
    """Shape, batch axis first, and dtype of the tensor in a slot."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One call of one operation.

    Args:
        path: Where the call stands, such as `backbone/block1/conv`; a second call of it is `backbone/block1/conv#2`.
        operation: What is computed.
        inputs: Slots it reads.
        outputs: Slots it writes.
        layer: The Keras layer or operation that it comes from.
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
    """A call of a layer in the user's model, with the slots of its inputs and outputs."""

    path: str
    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph(Tabular):
    """A model as a flat, immutable list of sites.

    Args:
        name: Name of the model.
        sites: Sites in the order of execution.
        specs: Shape and dtype of each slot.
        inputs: The model's inputs: slots in the structure in which the model takes them.
        outputs: The model's outputs: slots in the structure in which the model returns them.
        input_names: Name of each input, in flat order.
        output_names: Name of each output, in flat order.
        calls: Every layer call of the model, nested models included, for finding layers by name.
        dtype: The floating dtype in which the graph computes, `"float32"` or `"float64"`.
        again: Reads the same model in another dtype; None for a graph that was rewritten.
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

    @property
    def input_slots(self) -> tuple[int, ...]:
        return tuple(keras.tree.flatten(self.inputs))

    @property
    def output_slots(self) -> tuple[int, ...]:
        return tuple(keras.tree.flatten(self.outputs))

    def cast(self, slot, value):
        """Converts an input to the dtype in which the graph computes; indices stay integers."""
        floating = self.specs[slot].dtype.startswith(("float", "bfloat"))
        return tf.cast(value, self.dtype if floating else self.specs[slot].dtype)

    def run(self, inputs: Iterable) -> dict[int, tf.Tensor]:
        """Computes the tensor of every slot from the flat inputs."""
        values = {slot: self.cast(slot, x) for slot, x in zip(self.input_slots, inputs, strict=True)}
        return self.compute(values, lambda i, site, arguments: site.operation.weights(self.dtype, arguments))

    def compute(self, values, weights) -> dict[int, tf.Tensor]:
        """Computes the tensor of every slot from those of the inputs, by slot.

        Args:
            values: The tensors of the inputs.
            weights: Function of a site's place, the site and its arguments that gives its weights.
        """
        values = dict(values)
        for i, site in enumerate(self.sites):
            arguments = [values[slot] for slot in site.inputs]
            outputs = site.operation(arguments, weights(i, site, arguments))
            values.update(zip(site.outputs, outputs, strict=True))
        return values

    def __call__(self, inputs):
        """Runs the graph forward, as the model runs in inference.

        Args:
            inputs: Array or tensor, or the structure of them that the model takes.

        Returns:
            Tensors in the structure in which the model returns its outputs.
        """
        values = self.run(keras.tree.flatten(inputs))
        return keras.tree.map_structure(lambda slot: values[slot], self.outputs)

    def rewrite(self, sites, **changes) -> "Graph":
        """A graph with other sites, and other fields as named."""
        return dataclasses.replace(self, sites=tuple(sites), again=None, **changes)

    def with_slot(self, spec: Spec) -> tuple["Graph", int]:
        """A graph that has one more slot, and that slot."""
        slot = max(self.specs) + 1
        return dataclasses.replace(self, specs={**self.specs, slot: spec}), slot

    def producers(self) -> dict[int, Site]:
        """The site that writes each slot."""
        return {slot: site for site in self.sites for slot in site.outputs}

    def consumers(self) -> dict[int, list[Site]]:
        """The sites that read each slot."""
        readers = {slot: [] for slot in self.specs}
        for site in self.sites:
            for slot in dict.fromkeys(site.inputs):
                readers[slot].append(site)
        return readers

    def find(self, name) -> Call:
        """The call of the layer with this name or path.

        Args:
            name: Name of a layer, path of a call, or the layer object itself.

        Raises:
            KeyError: No such layer (the nearest names are listed), or more than one call (their paths are listed).
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
            paths = ", ".join(repr(call.path) for call in matches)
            raise KeyError(f"Layer {name!r} is called {len(matches)} times; name one of the calls: {paths}.")
        paths = [call.path for call in self.calls]
        names = list(dict.fromkeys([*paths, *(p.rsplit("/", 1)[-1] for p in paths)]))
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) or names[:10]
        raise KeyError(f"The model {self.name!r} has no layer {name!r}. Did you mean {', '.join(map(repr, near))}?")

    def __repr__(self):
        return f"<Graph {self.name!r}: {len(self.sites)} sites, {self.dtype}>"

    def table(self) -> Table:
        """The sites, what they compute, the shapes of their outputs, and what was folded into them."""
        rows = [(s.path, s.operation.label, self._shapes(s.outputs), ", ".join(s.merged)) for s in self.sites]
        return Table(("site", "operation", "output", "merged"), rows, title=repr(self)[1:-1])

    def _shapes(self, slots):
        shapes = (tuple("?" if n is None else n for n in self.specs[slot].shape) for slot in slots)
        return ", ".join("(" + ", ".join(map(str, shape)) + ")" for shape in shapes)
