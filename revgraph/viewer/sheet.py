"""What the page shows of a sample, as HTML: pictures, tables, concepts, and where the results come from."""

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from revgraph.graph.tables import folding
from revgraph.viewer.album import Album
from revgraph.viewer.look import Look

STYLE = """
:host {color: var(--design-background-text-color); font: 16px/1.5 system-ui, sans-serif}
img {max-width: max(100%, 36rem); background: white; border-radius: 4px}
h2 {font-size: 1.1rem; margin: 0.5rem 0}
figure {margin: 0.5rem 0; overflow-x: auto}
table {border-collapse: collapse; font-size: 0.9rem}
th, td {padding: 0.1rem 0.6rem}
details {margin: 0.5rem 0; overflow-x: auto}
summary {cursor: pointer}
pre {overflow-x: auto; font-size: 0.8rem}
"""

DOTS = 160
"""Dots per inch of pictures."""


def sheet(
    album: Album,
    found: np.ndarray,
    place: int,
    look: Look,
    methods: Sequence[str],
    layer: str | None = None,
    by: str = "relevance",
) -> str:
    """What is shown of a sample.

    Args:
        album: Has the samples.
        found: The indices of the samples that can be gone through, from `Album.find`.
        place: The position of the sample in `found`.
        look: How relevance is drawn.
        methods: The methods to draw.
        layer, by: See `Album.concepts_of`; without a layer no concepts are shown.

    Returns:
        HTML, which needs nothing from elsewhere.
    """
    if not len(found):
        return "<h2 role='status'>No sample fits. Choose other classes.</h2>"
    index = int(found[place])
    parts = [f"<h2 role='status'>{html.escape(album.about(index))} &middot; {place + 1} of {len(found)}</h2>"]
    if methods:
        drawn = album.pictures(index, look, methods)
        alt = f"Relevance in sample {index} by {', '.join(methods)}"
        parts += [_figure(picture, alt if name is None else f"{alt}, {name}", name) for name, picture in drawn.items()]
    else:
        parts.append("<p>Choose a method.</p>")
    tables = (album.table(index), album.ledger(index))
    parts += [table._repr_html_() for table in tables if table is not None]
    if layer is not None:
        said, table, picture = album.concepts_of(index, layer, by)
        inside = f"<p>{html.escape(said)}</p>"
        if picture is not None:
            inside += _figure(picture, said)
        parts.append(folding(f"Concepts of {layer}", inside + table._repr_html_(), opened=True))
    return "".join(parts)


def sources(album: Album) -> str:
    """Where the results come from, folded, and what cannot be shown, as HTML."""
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in album.notes)
    origins = (
        folding(f"Where the results of {name} come from", f"<pre>{html.escape(json.dumps(origin, indent=1))}</pre>")
        for name, origin in album.origins().items()
    )
    return notes + "".join(origins)


def _figure(picture: Any, alt: str, caption: str | None = None) -> str:
    content = io.BytesIO()
    picture.savefig(content, format="png", dpi=DOTS)
    png = base64.b64encode(content.getvalue()).decode()
    said = "" if caption is None else f"<figcaption>{html.escape(caption)}</figcaption>"
    return f'<figure>{said}<img alt="{html.escape(alt)}" src="data:image/png;base64,{png}"></figure>'
