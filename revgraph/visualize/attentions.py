"""`plot_heads`, `plot_tokens` and `plot_attention`: the inside of a transformer. Needs matplotlib."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.analyzers import Attentions
from revgraph.reverse.pictures import Picture
from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import heatmap

WRITTEN = 12
"""A table of up to so many columns has its numbers written into it."""

NAMED = 40
"""Up to so many tokens are named at an axis."""


def plot_heads(attentions: Attentions, sample: int = 0, cmap_type: Any = DEFAULT, **options: Any) -> Picture:
    """Draws the relevance of each head of each layer: one row per layer, one column per head.

    Args:
        attentions: What `analyzer.attentions(x)` returns.
        sample: Which sample of the batch.
        cmap_type: Colour map; see `heatmap`.
        **options: `absmax`, `percentile`, `gamma` of `heatmap`.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        IndexError: There is no such sample.

    Example:

        revgraph.visualize.plot_heads(analyzer.attentions(x, 3))
    """
    _check(attentions, sample)
    rows = {path: heads[sample].sum(axis=-1) for path, heads in attentions.heads.items()}
    return _table(rows, "head", "Relevance of each head", None, cmap_type, options)


def plot_tokens(
    attentions: Attentions,
    sample: int = 0,
    tokens: Sequence[str] | None = None,
    cmap_type: Any = DEFAULT,
    **options: Any,
) -> Picture:
    """Draws the relevance of each token in front of each layer: one row per layer, one column per token.

    Args:
        attentions: What `analyzer.attentions(x)` returns.
        sample: Which sample of the batch.
        tokens: The tokens as text. Relevance beyond the last one belongs to the padding and is not shown.
        cmap_type: Colour map; see `heatmap`.
        **options: `absmax`, `percentile`, `gamma` of `heatmap`.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        IndexError: There is no such sample.
        ValueError: There are more names than tokens.

    Example:

        revgraph.visualize.plot_tokens(analyzer.attentions(ids), tokens=words)
    """
    _check(attentions, sample)
    rows = {path: _up_to(relevance[sample], tokens) for path, relevance in attentions.tokens.items()}
    return _table(rows, "token", "Relevance of each token in front of each layer", tokens, cmap_type, options)


def plot_attention(
    attentions: Attentions,
    layer: str | int = -1,
    sample: int = 0,
    tokens: Sequence[str] | None = None,
    columns: int = 4,
) -> Picture:
    """Draws the attention weights of each head of one layer, with the head's relevance above them.

    Each row is a query, and each column a key: how much the query looks there. The darker, the more,
    on one scale for all heads.

    Args:
        attentions: What `analyzer.attentions(x)` returns.
        layer: Path of the layer, or its place in the order of execution.
        sample: Which sample of the batch.
        tokens: The tokens as text. What is beyond the last one belongs to the padding and is not shown.
        columns: How many heads stand side by side.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        IndexError: There is no such sample or place.
        KeyError: There is no such layer.
        ValueError: There are more names than tokens.

    Example:

        revgraph.visualize.plot_attention(inside, "block_0/attention", tokens=words)
    """
    _check(attentions, sample)
    paths = list(attentions.maps)
    if isinstance(layer, str) and layer not in paths:
        raise KeyError(f"There is no attention {layer!r}. There are {', '.join(map(repr, paths))}.")
    if not isinstance(layer, str) and not -len(paths) <= layer < len(paths):
        raise IndexError(f"layer is the place of one of {len(paths)} attentions. Received: {layer!r}.")
    path = layer if isinstance(layer, str) else paths[layer]
    maps = [_up_to(_up_to(weights, tokens).T, tokens).T for weights in attentions.maps[path][sample]]
    relevance = attentions.heads[path][sample].sum(axis=-1)
    most = max(max(float(weights.max()) for weights in maps), 1e-12)
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    picture = Picture(2.4 * columns + 0.4, 2.6 * rows + 0.5)
    grid = picture.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for head, (axes, weights) in enumerate(zip(grid, maps, strict=False)):
        axes.set_axis_on()
        axes.imshow(weights, cmap="Greys", vmin=0, vmax=most, aspect="auto")
        axes.set_title(f"head {head}: relevance {relevance[head]:+.2g}", fontsize=9)
        _name_axis(axes.xaxis, weights.shape[1], tokens, rotation=90)
        _name_axis(axes.yaxis, weights.shape[0], tokens)
        if head % columns == 0:
            axes.set_ylabel("query", fontsize=8)
        if head >= len(maps) - columns:
            axes.set_xlabel("key", fontsize=8)
    picture.suptitle(f"Attention weights of {path}", fontsize=10)
    return picture


def _check(attentions, sample):
    if not isinstance(attentions, Attentions):
        raise TypeError(f"Expected what analyzer.attentions(x) returns. Received: {type(attentions).__name__}.")
    if not -len(attentions) <= sample < len(attentions):
        raise IndexError(f"There are {len(attentions)} samples. Received: sample={sample!r}.")


def _up_to(values, tokens):
    """Entries of named tokens alone, where as many tokens are named as the last axis has at most."""
    if tokens is None:
        return values
    if len(tokens) > values.shape[-1]:
        raise ValueError(f"There are {values.shape[-1]} tokens. Received {len(tokens)} names for them.")
    return values[..., : len(tokens)]


def _table(rows, what, title, names, cmap_type, options):
    """Rows of numbers as colours on one scale. Rows may differ in length."""
    count, width = len(rows), max(map(len, rows.values()))
    values = np.zeros((count, width))
    for i, row in enumerate(rows.values()):
        values[i, : len(row)] = row
    colours = heatmap(values[None], cmap_type, reduce_axis=None, **options)[0]
    for i, row in enumerate(rows.values()):
        colours[i, len(row) :] = 1
    written = width <= WRITTEN
    picture = Picture(1.8 + (0.62 * width if written else min(0.22 * width, 12)), 1.1 + 0.36 * count)
    axes = picture.subplots()
    axes.imshow(colours, aspect="auto")
    axes.set_yticks(range(count), list(rows), fontsize=8)
    axes.set_xlabel(what, fontsize=9)
    _name_axis(axes.xaxis, width, names, rotation=90)
    if written:
        for i, row in enumerate(rows.values()):
            for j, number in enumerate(row):
                dark = np.dot(colours[i, j, :3], [0.299, 0.587, 0.114]) < 0.5
                axes.text(j, i, f"{number:+.2g}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
    picture.suptitle(f"{title}: largest {np.abs(values).max():.2g}", fontsize=10)
    return picture


def _name_axis(axis, count, names, **options):
    if names is not None and len(names) == count <= NAMED:
        axis.set_ticks(range(count), list(names), fontsize=7, **options)
    elif count <= WRITTEN:
        axis.set_ticks(range(count))
    axis.set_tick_params(labelsize=7)
