"""A pass that joins nested products into one site, so that brackets do not matter."""

import collections
import dataclasses
from collections.abc import Iterable

from revgraph.graph.gates import is_self_gated, self_gates
from revgraph.graph.graph import Graph, Site
from revgraph.graph.operations import Product, Scale


def join_products(graph: Graph, keep: Iterable[int] = frozenset()) -> Graph:
    """Makes the product of n signals one `Product`: (x1 * x2) * x3 and x1 * (x2 * x3) become x1 * x2 * x3.

    Rules share relevance out among the factors of a product. They no longer depend on the brackets then. A product
    is joined with another one if nothing else reads it. A scale between two products moves behind the joined one.
    A signal times its own gate, such as x * sigmoid(x), is an activation spelt out, so it becomes a separate product,
    which is one factor of the joined one.

    Args:
        graph: The graph.
        keep: Slots that must survive. Products are not joined across them.

    Returns:
        A graph with the same outputs.
    """
    joining = _Joining(graph, keep)
    for site in graph.sites:
        joining.add(site)
    return joining.graph.rewrite(joining.sites)


class _Joining:
    """A graph while its products are joined.

    Args:
        graph: The graph.
        keep: Slots that must survive, as the outputs of the graph do.
    """

    def __init__(self, graph: Graph, keep: Iterable[int]) -> None:
        self.graph = graph
        self.sites: dict[Site, None] = {}
        self._producers: dict[int, Site] = {}
        self._held = {*graph.output_slots, *keep}
        self._reads = collections.Counter(slot for site in graph.sites for slot in site.inputs)

    def add(self, site: Site) -> None:
        """Adds a site. A product takes in the products that compute its factors."""
        scales: list[Site] = []
        if isinstance(site.operation, Product) and not is_self_gated(site, self._producers):
            site, scales = self._with_inner_products(site)
        if isinstance(site.operation, Product):
            site = self._with_own_gates(site)
        for scale in scales:
            self.graph, between = self.graph.with_slot(self.graph.specs[site.outputs[0]])
            self._put(dataclasses.replace(site, outputs=(between,)))
            site = dataclasses.replace(scale, inputs=(between,), outputs=site.outputs)
        self._put(site)

    def _put(self, site):
        self.sites[site] = None
        self._producers.update(dict.fromkeys(site.outputs, site))

    def _with_inner_products(self, site: Site) -> tuple[Site, list[Site]]:
        """The product with the factors of the products that it reads, and the scales that stood between."""
        factors: list[int] = []
        merged: list[str] = []
        moved: list[Site] = []
        for slot in site.inputs:
            inner, scales = self._inner_product(slot, site.outputs[0])
            if inner is None:
                factors.append(slot)
                continue
            factors.extend(inner.inputs)
            merged.extend((inner.path, *inner.merged))
            moved.extend(scales)
            for gone in (inner, *scales):
                del self.sites[gone]
        if not merged:
            return site, []
        return dataclasses.replace(site, inputs=tuple(factors), merged=(*site.merged, *merged)), moved

    def _inner_product(self, slot: int, output: int) -> tuple[Site | None, list[Site]]:
        """The product that computes a factor, and the scales between the two; None if they cannot be joined."""
        scales: list[Site] = []
        while slot not in self._held and self._reads[slot] == 1 and slot in self._producers:
            site = self._producers[slot]
            if isinstance(site.operation, Product):
                return (None, []) if is_self_gated(site, self._producers) else (site, scales)
            if not self._may_move(site, output):
                break
            scales.append(site)
            (slot,) = site.inputs
        return None, []

    def _may_move(self, site: Site, output: int) -> bool:
        """Whether a site is a scale without shift that gives the same result behind the joined product."""
        if not isinstance(site.operation, Scale):
            return False
        weights, shapes = site.operation.read("float32"), self.graph.specs
        same = shapes[site.inputs[0]].shape == shapes[site.outputs[0]].shape
        fits = weights["kernel"].shape.rank == 0 or shapes[output].shape == shapes[site.outputs[0]].shape
        return "bias" not in weights and same and fits

    def _with_own_gates(self, site: Site) -> Site:
        """The product in which each signal, together with its own gates, is one factor."""
        owners = self_gates(site.inputs, self._producers)
        groups: dict[int, list[int]] = {}
        for gate, signal in owners.items():
            if signal not in owners:
                groups.setdefault(signal, [signal]).append(gate)
        grouped = {i for group in groups.values() for i in group}
        if not groups or (len(groups) == 1 and len(grouped) == len(site.inputs)):
            return site
        factors = list(site.inputs)
        for signal, group in groups.items():
            inputs = tuple(site.inputs[i] for i in group)
            self.graph, factors[signal] = self.graph.with_slot(self.graph.specs[site.inputs[signal]])
            path = f"{site.path}/gated_{signal}"
            self._put(Site(path, Product(), inputs, (factors[signal],), site.layer))
        rest = (slot for i, slot in enumerate(factors) if i in groups or i not in grouped)
        return dataclasses.replace(site, inputs=tuple(rest))
