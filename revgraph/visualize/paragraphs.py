"""Texts with the relevance of several analyzers, one paragraph below the other. Needs matplotlib."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from revgraph.analyzers import Tokens
from revgraph.visualize.captions import check_titles
from revgraph.visualize.grids import shared_limits
from revgraph.visualize.kinds import Colours
from revgraph.visualize.tokens import Text, text


def are_tokens(x: Any) -> bool:
    """Whether samples are what `analyzer.tokens(x)` returns: `Tokens`, or a dict of them by the name of the input."""
    parts = list(x.values()) if isinstance(x, Mapping) else [x]
    return bool(parts) and all(isinstance(part, Tokens) for part in parts)


def paragraphs(
    tokens: Tokens | Mapping[str, Tokens],
    relevances: Mapping[str, Any],
    titles: Sequence[str] | None,
    samples: int,
    scale: str,
    **options: Any,
) -> Text:
    """Texts, each with a paragraph for the relevance by each analyzer.

    Args:
        tokens: What `analyzer.tokens(x)` returns.
        relevances: The relevance of these tokens by the name of the analyzer.
        titles: One per text, or None.
        samples: How many texts to draw at most.
        scale: Which paragraphs share a colour scale; see `plot_grid`.
        **options: Of `heatmap`; see `text`.

    Raises:
        ValueError: There are too few titles, or relevance does not fit.
        TypeError: There is no such option.
    """
    colours = [field.name for field in dataclasses.fields(Colours)]
    unknown = [name for name in options if name not in colours]
    if unknown:
        raise TypeError(f"Texts take the options {', '.join(sorted(colours))}. Received: {unknown[0]}.")
    plain = [text(tokens, relevance) for relevance in relevances.values()]
    inputs = len(tokens) if isinstance(tokens, Mapping) else 1
    count = len(plain[0]) // inputs
    check_titles(titles, count)
    limits = shared_limits(Colours(**options), [_rows(each, inputs) for each in plain], scale)
    drawn = [
        text(tokens, relevance, **{**options, "absmax": limit, "percentile": None})
        for relevance, limit in zip(relevances.values(), limits, strict=True)
    ]
    pieces = [_paragraph(drawn, relevances, titles, i, inputs) for i in range(min(samples, count))]
    return Text(*(tuple(entry for piece in pieces for entry in piece[field]) for field in range(5)))


def _rows(made, inputs):
    """The relevance of each sample, with that of all its inputs in a row: (batch, tokens)."""
    rows = [np.concatenate(made.relevance[i : i + inputs]) for i in range(0, len(made), inputs)]
    longest = max(map(len, rows), default=0)
    return np.array([np.pad(row, (0, longest - len(row))) for row in rows])


def _paragraph(drawn, names, titles, sample, inputs):
    """The fields of a `Text` of one sample, by all analyzers."""
    above = f"{titles[sample]}\n" if titles is not None and titles[sample] else ""
    tokens, relevance, colours, said, special = [], [], [], [], []
    for each, name in zip(drawn, names, strict=True):
        for i in range(sample * inputs, (sample + 1) * inputs):
            of_input = f", {each.titles[i]}" if each.titles else ""
            tokens.append(each.tokens[i])
            relevance.append(each.relevance[i])
            colours.append(each.colours[i])
            special.append(each.special[i])
            said.append(f"{above}{name}{of_input}")
            above = ""
    return tokens, relevance, colours, said, special
