"""Tokens in the colours of their relevance: in notebooks, in LaTeX, in the terminal."""

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.style import Style
from rich.text import Text as RichText

from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import heatmap

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
"""How LaTeX writes the characters that are commands there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """Texts with coloured tokens. Notebooks show it, and `rich.print` prints it.

    Args:
        tokens: For each text, its tokens.
        relevance: For each text, the relevance of its tokens.
        colours: For each text, RGB between 0 and 1 of its tokens, (tokens, 3).
        titles: One per text, or None.
    """

    tokens: tuple[tuple[str, ...], ...]
    relevance: tuple[np.ndarray, ...]
    colours: tuple[np.ndarray, ...]
    titles: tuple[str, ...] | None = None

    def to_html(self) -> str:
        """A paragraph per text; hovering over a token shows its relevance."""
        return "".join(f'<p style="line-height:1.8">{self._title(i)}{self._spans(i)}</p>' for i in range(len(self)))

    def _spans(self, i):
        style = "padding:0.15em 0.2em;border-radius:0.2em"
        return " ".join(
            f'<span title="{relevance:.3g}" style="background:#{_hex(c)};color:#{_ink(c)};{style}">'
            f"{html.escape(token)}</span>"
            for token, relevance, c in self._of(i)
        )

    def _title(self, i):
        return f"<b>{html.escape(self.titles[i])}</b> " if self.titles else ""

    def to_latex(self) -> str:
        r"""A paragraph per text, with `\colorbox` from the package xcolor."""
        return "\n\n".join(
            " ".join(
                rf"\colorbox[HTML]{{{_hex(c)}}}{{\textcolor[HTML]{{{_ink(c)}}}{{\strut {_latex(token)}}}}}"
                for token, _, c in self._of(i)
            )
            for i in range(len(self))
        )

    def _of(self, i):
        return zip(self.tokens[i], self.relevance[i], self.colours[i], strict=True)

    def _repr_html_(self):
        return self.to_html()

    def __rich__(self) -> RichText:
        lines = [
            RichText(" ").join(
                RichText(token, Style(bgcolor=f"#{_hex(c)}", color=f"#{_ink(c)}")) for token, _, c in self._of(i)
            )
            for i in range(len(self))
        ]
        return RichText("\n").join(lines)

    def __str__(self):
        return "\n".join(" ".join(f"{token}({r:+.2g})" for token, r, _ in self._of(i)) for i in range(len(self)))

    def __repr__(self):
        return f"<Text: {len(self)} texts, {sum(map(len, self.tokens))} tokens>"

    def __len__(self) -> int:
        return len(self.tokens)


def text(
    tokens: Sequence[str] | Sequence[Sequence[str]],
    relevance: Any,
    cmap_type: Any = DEFAULT,
    *,
    titles: str | Sequence[str] | None = None,
    scale: str = "image",
    **options: Any,
) -> Text:
    """Texts with tokens in the colours of their relevance.

    Args:
        tokens: The tokens of one text, or one list per text.
        relevance: Relevance of the tokens: (tokens,) for one text, (batch, tokens) for several. Relevance beyond the
            last token of a text belongs to the padding and is not shown.
        cmap_type: Colour map; see `heatmap`.
        titles: One per text.
        scale: `"image"`: each text has its own colour scale; `"batch"`: they share one.
        **options: `absmax`, `percentile`, `gamma` of `heatmap`.

    Returns:
        A `Text`: notebooks show it; `to_html()`, `to_latex()`.

    Raises:
        ValueError: A text has more tokens than relevance, or there are not as many texts as rows of relevance.

    Example:

        words = [[vocabulary[i] for i in row if i] for row in x]
        revgraph.visualize.text(words, analyzer.analyze(x))
    """
    of_one = not len(tokens) or isinstance(tokens[0], str)
    lines = tuple(tuple(map(str, line)) for line in ([tokens] if of_one else tokens))
    rows = [np.asarray(r, float) for r in ([relevance] if of_one else relevance)]
    if len(lines) != len(rows):
        raise ValueError(f"There are {len(lines)} texts, and relevance of {len(rows)}.")
    for line, r in zip(lines, rows, strict=True):
        if r.ndim != 1 or len(r) < len(line):
            raise ValueError(f"A text of {len(line)} tokens needs as many relevances. Received shape {r.shape}.")
    if isinstance(titles, str):
        titles = [titles]
    shown = tuple(r[: len(line)] for line, r in zip(lines, rows, strict=True))
    longest = max(map(len, lines), default=0)
    padded = np.array([np.pad(r, (0, longest - len(r))) for r in shown]).reshape(len(lines), longest)
    mapped = heatmap(padded, cmap_type, reduce_axis=None, scale=scale, **options)
    colours = tuple(c[: len(line)] for line, c in zip(lines, mapped, strict=True))
    return Text(lines, shown, colours, None if titles is None else tuple(map(str, titles)))


def _hex(colour):
    return "".join(f"{round(255 * float(c)):02X}" for c in colour)


def _ink(colour):
    """Black or white, whichever can be read on the colour."""
    return "000000" if np.dot(colour, [0.299, 0.587, 0.114]) > 0.5 else "FFFFFF"


def _latex(token):
    return "".join(LATEX.get(character, character) for character in token)
