"""Passes for the bodies of loops: the affine part of a recurrent cell becomes one site, such as x W + h U + b."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.graph.analysis import is_linear_layer
from revgraph.graph.graph import Graph, Site, common_layer
from revgraph.graph.operations import Activation, Dense, Joined, Operation, Product, Routing, Scale, Source, Sum

PROBES = 3


def slice_kernels(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Makes a dense layer whose units are split into several tensors one dense layer for each of them.

    A cell computes what its gates and its candidate need by one product, and cuts the result into pieces.

    Args:
        graph: The graph.
        keep: Slots that must survive.

    Returns:
        A graph with the same outputs.
    """
    readers, held = graph.consumers(), {*graph.output_slots, *keep}
    sites: list[Site] = []
    cut: dict[int, Any] = {}
    for site in graph.sites:
        layer = cut.get(site.inputs[0]) if site.inputs else None
        if layer is not None:
            pieces = _columns(site.operation, graph.specs[layer.outputs[0]].shape[-1]) or []
            for i, (slot, columns) in enumerate(zip(site.outputs, pieces, strict=True)):
                path = layer.path if len(pieces) == 1 else f"{layer.path}/{i}"
                sites.append(
                    dataclasses.replace(layer, path=path, operation=_some_of(layer.operation, columns), outputs=(slot,))
                )
            continue
        if isinstance(site.operation, Dense) and len(graph.specs[site.outputs[0]].shape) == 2:
            (slot,) = site.outputs
            width = graph.specs[slot].shape[-1]
            behind = readers[slot]
            if slot not in held and behind and all(_columns(each.operation, width) for each in behind):
                cut[slot] = site
                continue
        sites.append(site)
    return graph.rewrite(sites)


def _columns(operation: Operation, width: int | None) -> list[np.ndarray] | None:
    """Which columns of a matrix each output of a move has; None where it does something else than to select columns."""
    if not isinstance(operation, Routing) or not operation.copies or operation.fills or width is None:
        return None
    probe = np.arange(PROBES * width, dtype="float32").reshape(PROBES, width)
    try:
        outputs = [np.asarray(t) for t in operation([tf.constant(probe)], {})]
    # A move that also reads other tensors, or does not take such a matrix, selects no columns.
    except (tf.errors.OpError, ValueError, TypeError, IndexError):
        return None
    found = []
    for piece in outputs:
        if piece.ndim != 2 or len(piece) != PROBES or np.any(piece != piece[:1] + width * np.arange(PROBES)[:, None]):
            return None
        found.append(piece[0].astype(int))
    return found


def _some_of(dense: Dense, columns: np.ndarray) -> Dense:
    """A dense layer with some of the units of another one."""

    def reader(dtype):
        return {name: tf.gather(w, columns, axis=-1) for name, w in dense.read(dtype).items()}

    return Dense(reader)


def join_cells(graph: Graph, keep: Iterable[int] = frozenset(), gates: bool = True) -> Graph:
    """Makes a sum of linear layers one site, z = x W + h U + b, so that it has one denominator and one rule.

    A layer may be multiplied by a gate, as the state of a GRU is by its reset gate. Sums of other tensors stay.

    Args:
        graph: The graph.
        keep: Slots that must survive.
        gates: Whether a layer behind a gate is joined, too. The gate is a constant then, so it gets no relevance.

    Returns:
        A graph with the same outputs.
    """
    producers, readers = graph.producers(), graph.consumers()
    held = {*graph.output_slots, *keep}
    gone: set[Site] = set()
    joined: dict[Site, Site] = {}
    for site in reversed(graph.sites):
        if site in gone or not isinstance(site.operation, Sum | Scale):
            continue
        tree = _Tree(graph, producers, readers, held, gates)
        if tree.collect(site, top=True) and len(tree.parts) > 1:
            joined[site] = tree.site(site)
            gone.update(each for each in tree.sites if each is not site)
    seen = collections.Counter[str]()

    def numbered(site):
        seen[site.path] += 1
        return site if seen[site.path] == 1 else dataclasses.replace(site, path=f"{site.path}#{seen[site.path]}")

    return graph.rewrite(numbered(joined[site]) if site in joined else site for site in graph.sites if site not in gone)


class _Tree:
    """The linear layers, gates and biases of a sum.

    Args:
        graph: The graph.
        producers, readers: The site that writes each slot, and the sites that read it.
        held: Slots that must survive.
        gates: Whether a layer behind a gate is joined.
    """

    def __init__(self, graph, producers, readers, held, gates):
        self.gates = gates
        self.graph, self.producers, self.readers, self.held = graph, producers, readers, held
        self.sites: list[Site] = []
        self.parts: list[tuple[Site, tuple[int, ...]]] = []
        self.biases: list[Callable[[Any], tf.Tensor]] = []

    def collect(self, site: Site, gates: tuple[int, ...] = (), top: bool = False) -> bool:
        """Takes a site and what is in front of it into the tree; False where it is not affine in linear layers."""
        operation, (slot, *others) = site.operation, site.outputs
        if not top and (others or slot in self.held or len(self.readers[slot]) != 1):
            return False
        self.sites.append(site)
        if is_linear_layer(operation) and not isinstance(operation, Joined):
            self.parts.append((site, gates))
            return True
        if isinstance(operation, Sum):
            same = self.graph.specs[slot].shape
            ones = np.all(np.asarray(operation.read("float32")["kernel"]) == 1)
            alike = all(self.graph.specs[each].shape == same for each in site.inputs)
            if "bias" in operation.read("float32") or not ones or not alike or len(set(site.inputs)) < len(site.inputs):
                return False
            return all(self._behind(each, gates) for each in site.inputs)
        if isinstance(operation, Scale):
            weights = operation.read("float32")
            if (
                gates
                or operation.bias_is_table
                or set(weights) != {"bias", "kernel"}
                or not np.all(weights["kernel"] == 1)
            ):
                return False
            self.biases.append(lambda dtype: operation.read(dtype)["bias"])
            return self._behind(site.inputs[0], gates)
        if isinstance(operation, Product):
            signals = [i for i in site.inputs if not self._is_gate(i)]
            same = {self.graph.specs[i].shape for i in (*site.inputs, slot)}
            if not self.gates or len(signals) != 1 or len(same) > 1:
                return False
            return self._behind(signals[0], (*gates, *(i for i in site.inputs if i != signals[0])))
        return False

    def _is_gate(self, slot):
        """Whether a tensor is a gate without negative entries, such as a sigmoid."""
        site = self.producers.get(slot)
        while site is not None and isinstance(site.operation, Routing) and len(site.inputs) == 1:
            site = self.producers.get(site.inputs[0])
        traits = None if site is None or not isinstance(site.operation, Activation) else site.operation.traits
        return traits is not None and traits.gate and traits.nonnegative

    def _behind(self, slot, gates):
        return slot in self.producers and self.collect(self.producers[slot], gates)

    def site(self, top: Site) -> Site:
        """The joined site in the place of the sum."""
        inputs = [part.inputs[0] for part, _ in self.parts]
        positions, count = [], len(inputs)
        for _, gates in self.parts:
            positions.append(tuple(range(count, count + len(gates))))
            inputs.extend(gates)
            count += len(gates)
        operations: tuple[Any, ...] = tuple(part.operation for part, _ in self.parts)
        operation = Joined(operations[0].reader, operations, tuple(positions), _sum_of(self.biases))
        return Site(
            _path(self.sites), operation, tuple(inputs), top.outputs, top.layer, tuple(s.path for s in self.sites)
        )


def _sum_of(sources: list[Source]) -> Source | None:
    if not sources:
        return None
    return lambda dtype: sum((source(dtype) for source in sources[1:]), sources[0](dtype))


def _path(sites):
    """The layer of all sites, such as the cell, or the path of the first where they have none in common."""
    return re.sub(r"#\d+$", "", common_layer(site.path for site in sites) or sites[0].path)
