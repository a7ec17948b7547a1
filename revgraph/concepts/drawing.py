"""Draws attribution graphs. Needs matplotlib."""

from typing import TYPE_CHECKING, Any

import numpy as np

from revgraph.reverse.pictures import Picture
from revgraph.visualize.heatmaps import heatmap

if TYPE_CHECKING:
    from revgraph.concepts.attribution_graph import AttributionGraph, Node

FOR, AGAINST = "#d55e00", "#0072b2"
"""The colours of positive and negative relevance, from Okabe and Ito, as colour-blind people can tell them apart."""

NODE, GAP_ACROSS, GAP_DOWN = 1.05, 0.3, 0.75
"""Sizes in inches: of a node, and of the gaps between nodes."""


def draw_graph(found: "AttributionGraph", **options: Any) -> Picture:
    """Draws an attribution graph; see `AttributionGraph.plot`."""
    rows = _rows(found)
    across, down = NODE + GAP_ACROSS, NODE + GAP_DOWN
    # The names of the layers stand at the left.
    labels = 0.3 + 0.085 * max(len(line) for layer, _ in rows for line in _wrapped(layer).split("\n"))
    width = labels + across * max(len(nodes) for _, nodes in rows)
    height = down * len(rows)
    picture = Picture(width, height)
    # Nodes stand where they are put.
    picture.set_layout_engine("none")
    canvas = picture.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, width), ylim=(height, 0))
    canvas.axis("off")
    places = {}
    for row, (layer, nodes) in enumerate(rows):
        middle = row * down + GAP_DOWN / 2 + NODE / 2
        canvas.text(0.08, middle, _wrapped(layer), fontsize=9, va="center")
        first = labels + (width - labels - across * len(nodes)) / 2 + GAP_ACROSS / 2
        for i, node in enumerate(nodes):
            places[node.key] = (first + i * across + NODE / 2, middle)
            _draw_node(picture, node, first + i * across, middle - NODE / 2, (width, height), options)
    largest = max((abs(edge.share) for edge in found.edges), default=1.0)
    for edge in found.edges:
        (x1, y1), (x2, y2) = places[edge.upper], places[edge.lower]
        ends = [x1, x2], [y1 + NODE / 2 + 0.04, y2 - NODE / 2 - 0.24]
        colour = FOR if edge.share >= 0 else AGAINST
        canvas.plot(
            *ends, color=colour, linewidth=0.5 + 4 * abs(edge.share) / largest, alpha=0.55, solid_capstyle="round"
        )
    return picture


def _rows(found):
    """The nodes of each layer, with those that feed the same node near each other."""
    layers = list(dict.fromkeys(node.layer for node in found.nodes))
    rows: list[tuple[str, list[Node]]] = []
    at: dict[tuple[str, int], float] = {}
    for layer in layers:
        nodes = [node for node in found.nodes if node.layer == layer]

        def place(node):
            """The mean place of the nodes that a node feeds, between 0 and 1, and its rank among those of its layer."""
            uppers = [at[edge.upper] for edge in found.edges if edge.lower == node.key and edge.upper in at]
            return (np.mean(uppers) if uppers else 0.5), -node.relevance

        nodes.sort(key=place)
        at.update({node.key: (i + 0.5) / len(nodes) for i, node in enumerate(nodes)})
        rows.append((layer, nodes))
    return rows


def _draw_node(picture, node, left, top, size, options):
    width, height = size
    axes = picture.add_axes((left / width, 1 - (top + NODE) / height, NODE / width, NODE / height))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("0.6")
    name = f"{node.channel}:  {node.share:.0%}" if node.layer != "prediction" else f"{node.relevance:.3g}"
    axes.set_title(name, fontsize=8, pad=2)
    seen = node.heatmap
    if not isinstance(seen, np.ndarray):
        axes.text(0.5, 0.5, "several inputs", fontsize=7, ha="center", va="center", color="0.5")
        return
    if seen.ndim == 3:
        axes.imshow(heatmap(seen[None], **options)[0], interpolation="nearest")
        return
    values = seen.reshape(len(seen), -1).sum(axis=1)
    axes.bar(np.arange(len(values)), values, width=1.0, color=np.where(values < 0, AGAINST, FOR))
    axes.axhline(0, color="0.6", linewidth=0.6)


def _wrapped(layer):
    """The name of a layer in lines, one for each part of its path."""
    return layer.replace("/", "/\n")
