"""Tokens in the colours of their relevance: in notebooks, in LaTeX, in the terminal."""

import dataclasses
import html

import numpy as np
from rich.style import Style
from rich.text import Text as RichText

from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import heatmap

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
"""Characters that mean something else in LaTeX."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """Texts whose tokens are coloured; notebooks show it, `rich.print` prints it.

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

    def __rich__(self):
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

    def __len__(self):
        return len(self.tokens)


def text(tokens, relevance, cmap_type=DEFAULT, *, titles=None, scale="image", **options) -> Text:
    """Texts with tokens in the colours of their relevance.

    Args:
        tokens: List of tokens, or one list per text.
        relevance: Relevance of the tokens: (tokens,), or (batch, tokens), where relevance beyond a text's last token,
            at the padding, is not shown.
        cmap_type: Colour map; see `heatmap`.
        titles: One per text.
        scale: `"image"`: each text has its own colour scale; `"batch"`: they share one.
        **options: `absmax`, `percentile`, `gamma` of `heatmap`.

    Returns:
        A `Text`: notebooks show it; `to_html()`, `to_latex()`.

    Raises:
        ValueError: There is less relevance than tokens.

    Example:

        words = [[vocabulary[i] for i in row if i] for row in x]
        revgraph.visualize.text(words, analyzer.analyze(x))
    """
    if not len(tokens) or isinstance(tokens[0], str):
        tokens, relevance = [tokens], [relevance]
    tokens = tuple(tuple(map(str, line)) for line in tokens)
    relevance = [np.asarray(r, float) for r in relevance]
    if len(tokens) != len(relevance):
        raise ValueError(f"There are {len(tokens)} texts, and relevance of {len(relevance)}.")
    for line, r in zip(tokens, relevance, strict=True):
        if r.ndim != 1 or len(r) < len(line):
            raise ValueError(f"A text of {len(line)} tokens needs as many relevances. Received shape {r.shape}.")
    if isinstance(titles, str):
        titles = [titles]
    relevance = tuple(r[: len(line)] for line, r in zip(tokens, relevance, strict=True))
    longest = max(map(len, tokens), default=0)
    padded = np.array([np.pad(r, (0, longest - len(r))) for r in relevance]).reshape(len(tokens), longest)
    colours = heatmap(padded, cmap_type, reduce_axis=None, scale=scale, **options)
    colours = tuple(c[: len(line)] for line, c in zip(tokens, colours, strict=True))
    return Text(tokens, relevance, colours, None if titles is None else tuple(map(str, titles)))


def _hex(colour):
    return "".join(f"{round(255 * float(c)):02X}" for c in colour)


def _ink(colour):
    """Black or white, whichever can be read on the colour."""
    return "000000" if np.dot(colour, [0.299, 0.587, 0.114]) > 0.5 else "FFFFFF"


def _latex(token):
    return "".join(LATEX.get(character, character) for character in token)
