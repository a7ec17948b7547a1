"""Graphs whose ids can be moved: not the ids themselves, but the rows of tables that they look up."""

import dataclasses
from collections.abc import Collection
from typing import cast

from revgraph.graph.graph import Graph, Site, Spec
from revgraph.graph.lookups import lookups
from revgraph.graph.operations import Embedding, NoisyRows, RowsOnPath


def on_path(graph: Graph, from_zero: Collection[str] = ()) -> Graph:
    """A graph in which rows of tables stand on the straight path from reference rows.

    It takes the graph's inputs as a flat list, then the reference of each input, and then t between 0 and 1 for every
    sample. At 0 the rows are those of the reference, and at 1 they are those of the ids. All else that the model does
    with ids, such as the mask of padding, it does with the ids themselves.

    Args:
        graph: The graph of a model.
        from_zero: The names of the inputs whose reference rows are zero.

    Raises:
        ValueError: Ids of inputs with zero rows are looked up together with ids of others.
    """
    found, shift, t = lookups(graph), max(graph.specs) + 1, 2 * max(graph.specs) + 2
    specs = {**graph.specs, **{slot + shift: spec for slot, spec in graph.specs.items()}, t: Spec((None,), graph.dtype)}
    sites = list[Site]()
    for site in graph.sites:
        if site in found.moves:
            sites += [site, beside(site, shift)]
        elif site in found.tables:
            lookup = cast(Embedding, site.operation)
            operation = RowsOnPath(lookup, starts_at_zero(found.sources[site], from_zero), found.in_place)
            inputs = (*site.inputs, *(slot + shift for slot in site.inputs), t)
            sites.append(dataclasses.replace(site, operation=operation, inputs=inputs))
        else:
            sites.append(site)
    inputs = (*graph.input_slots, *(slot + shift for slot in graph.input_slots), t)
    names = (*graph.input_names, *(f"{name} (reference)" for name in graph.input_names), "path")
    return graph.rewrite(sites, specs=specs, inputs=list(inputs), input_names=names, strings={})


def with_noise(graph: Graph, scale: float) -> Graph:
    """A graph in which rows of tables have Gaussian noise on them.

    It takes the graph's inputs as a flat list, and then the seed of the noise, as one number for every sample.

    Args:
        graph: The graph of a model.
        scale: The standard deviation of the noise, in the unit of the rows.
    """
    seed, tables = max(graph.specs) + 1, lookups(graph).tables
    sites = [
        dataclasses.replace(
            site,
            operation=NoisyRows(cast(Embedding, site.operation).table, scale, tables.index(site)),
            inputs=(*site.inputs, seed),
        )
        if site in tables
        else site
        for site in graph.sites
    ]
    specs = {**graph.specs, seed: Spec((None,), graph.dtype)}
    names = (*graph.input_names, "seed")
    return graph.rewrite(sites, specs=specs, inputs=[*graph.input_slots, seed], input_names=names, strings={})


def beside(site: Site, shift: int) -> Site:
    """The same site on the reference, whose slots have numbers that are larger by `shift`."""
    inputs, outputs = (tuple(slot + shift for slot in slots) for slots in (site.inputs, site.outputs))
    return dataclasses.replace(site, path=f"{site.path} (reference)", inputs=inputs, outputs=outputs)


def starts_at_zero(sources: Collection[str], from_zero: Collection[str]) -> bool:
    """Whether the reference rows of a lookup are zero.

    Args:
        sources: The names of the inputs from which its ids come.
        from_zero: The names of the inputs whose reference rows are zero.

    Raises:
        ValueError: They are for some of the sources only.
    """
    zero = [name for name in sources if name in from_zero]
    if zero and len(zero) < len(sources):
        others = sorted(set(sources).difference(zero))
        raise ValueError(
            f"The ids of {', '.join(map(repr, sorted(zero)))} are looked up together with those of "
            f"{', '.join(map(repr, others))}, so the reference rows are either zero for all of them or for none. Give "
            f"ids as the reference of all."
        )
    return bool(zero)
