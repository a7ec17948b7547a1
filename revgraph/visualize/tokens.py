"""Tokens in the colours of their relevance: in notebooks, in LaTeX, in the terminal."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.style import Style
from rich.text import Text as RichText

from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import heatmap

if TYPE_CHECKING:
    from revgraph.analyzers.tokens import Tokens

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
"""How LaTeX writes the characters that are commands there."""


READABLE = 0.18
"""The luminance on which black letters and white ones have the same contrast."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """Texts with coloured tokens. Notebooks show it, `rich.print` prints it, and `savefig` writes it for a paper.

    Args:
        tokens: For each text, its tokens.
        relevance: For each text, the relevance of its tokens.
        colours: For each text, RGB between 0 and 1 of its tokens, (tokens, 3).
        titles: One per text, or None.
        special: For each text, which tokens the tokenizer has added, (tokens,), bool; None for none.
    """

    tokens: tuple[tuple[str, ...], ...]
    relevance: tuple[np.ndarray, ...]
    colours: tuple[np.ndarray, ...]
    titles: tuple[str, ...] | None = None
    special: tuple[np.ndarray, ...] | None = None

    def to_html(self) -> str:
        """A paragraph per text; hovering over a token shows its relevance.

        The page shines through the colours, and letters have the colour of the page. So texts can be read on light
        pages and on dark ones.
        """
        return "".join(f'<p style="line-height:1.9">{self._title(i)}{self._spans(i)}</p>' for i in range(len(self)))

    def _spans(self, i):
        return "".join(
            f'{gap}<span title="{relevance:.3g}{", special" if special else ""}" style="{_look(colour, special)}">'
            f"{html.escape(word)}</span>"
            for gap, word, relevance, colour, special in self._pieces(i)
        )

    def _title(self, i):
        return f"<b>{html.escape(self.titles[i])}</b><br>" if self.titles else ""

    def to_latex(self) -> str:
        r"""A paragraph per text, with `\colorbox` from the package xcolor."""
        return "\n\n".join(
            "".join(
                rf"{gap}\colorbox[HTML]{{{_hex(c)}}}{{\textcolor[HTML]{{{_ink(c)}}}{{\strut {_latex(word)}}}}}"
                for gap, word, _, c, _ in self._pieces(i)
            )
            for i in range(len(self))
        )

    def picture(self, width: float = 6.0, fontsize: float = 10.0) -> Any:
        """A matplotlib figure of the texts, whose lines are broken at its width.

        Args:
            width: In inches.
            fontsize: In points.

        Returns:
            A `Picture`.
        """
        from revgraph.visualize.sentences import picture

        pieces = [[(g, w, tuple(c), f"#{_ink(c)}", s) for g, w, _, c, s in self._pieces(i)] for i in range(len(self))]
        return picture(pieces, self.titles, width, fontsize)

    def savefig(self, fname: Any, width: float = 6.0, fontsize: float = 10.0, **options: Any) -> None:
        """Writes a figure of the texts to a file, such as a PDF for a paper; see `picture` and `Picture.savefig`."""
        self.picture(width, fontsize).savefig(fname, **options)

    def first(self, count: int) -> "Text":
        """The first texts alone."""
        titles = None if self.titles is None else self.titles[:count]
        special = None if self.special is None else self.special[:count]
        return Text(self.tokens[:count], self.relevance[:count], self.colours[:count], titles, special)

    def _pieces(self, i):
        """For each token of a text: the gap in front of it, how it is written, relevance, colour, and if special."""
        tokens = self.tokens[i]
        special = np.zeros(len(tokens), bool) if self.special is None else self.special[i]
        spaced = any(token.startswith(" ") for token in tokens)
        for j, token in enumerate(tokens):
            near_special = special[j] or (j > 0 and special[j - 1])
            inside = token.startswith("##") and len(token) > 2
            apart = near_special or (token.startswith(" ") if spaced else not inside)
            word = token.removeprefix("##") if inside else token.strip(" ").replace("\n", "\u21b5") or "\u2423"
            yield " " if j and apart else "", word, self.relevance[i][j], self.colours[i][j], bool(special[j])

    def _of(self, i):
        return zip(self.tokens[i], self.relevance[i], self.colours[i], strict=True)

    def _repr_html_(self):
        return self.to_html()

    def __rich__(self) -> RichText:
        lines = []
        for i in range(len(self)):
            line = RichText()
            for gap, word, _, c, _ in self._pieces(i):
                line.append(gap).append(word, Style(bgcolor=f"#{_hex(c)}", color=f"#{_ink(c)}"))
            lines.append(line)
        return RichText("\n").join(lines)

    def __str__(self):
        return "\n".join(" ".join(f"{token}({r:+.2g})" for token, r, _ in self._of(i)) for i in range(len(self)))

    def __repr__(self):
        return f"<Text: {len(self)} texts, {sum(map(len, self.tokens))} tokens>"

    def __len__(self) -> int:
        return len(self.tokens)


def text(
    tokens: "Tokens | Sequence[str] | Sequence[Sequence[str]]",
    relevance: Any,
    cmap_type: Any = DEFAULT,
    *,
    titles: str | Sequence[str] | None = None,
    scale: str = "image",
    **options: Any,
) -> Text:
    """Texts with tokens in the colours of their relevance.

    Args:
        tokens: What `analyzer.tokens(x)` returns; or the tokens of one text, or one list per text.
        relevance: Relevance of the tokens: (tokens,) for one text, (batch, tokens) for several. Relevance beyond the
            last token of a text belongs to the padding and is not shown. That of a model with several inputs may be a
            dict, if one of them has tokens.
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
    special = None
    # A `Tokens`, whose module takes TensorFlow with it.
    if not isinstance(tokens, Sequence):
        relevance = _relevance_of(tokens, relevance)
        kept = ~tokens.padding
        relevance = [r[keep] for r, keep in zip(relevance, kept, strict=True)]
        special = tuple(s[keep] for s, keep in zip(tokens.special, kept, strict=True))
        tokens = [tokens[i] for i in range(len(tokens))]
    of_one = special is None and (not len(tokens) or isinstance(tokens[0], str))
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
    return Text(lines, shown, colours, None if titles is None else tuple(map(str, titles)), special)


def _relevance_of(tokens, relevance):
    """The relevance of tokens, (batch, tokens), from what `analyze` returns."""
    if isinstance(relevance, Mapping):
        ours = [name for name in relevance if name.endswith(("token_ids", "input_ids"))]
        if len(ours) != 1:
            raise ValueError(
                f"Tokens of one input need the relevance of that input. Received a dict of "
                f"{', '.join(map(repr, relevance))}: pass one of them."
            )
        relevance = relevance[ours[0]]
    relevance = np.asarray(relevance, float)
    if relevance.shape != tokens.ids.shape:
        raise ValueError(
            f"There are tokens of shape {tokens.ids.shape}, and relevance of shape {relevance.shape}. Pass "
            f"analyzer.tokens(x) and analyzer.analyze(x) of the same x."
        )
    return relevance


def _look(colour, special):
    """The style of a token, whose colour the page shines through."""
    border = ";border-bottom:1px dashed" if special else ""
    return f"background:{_glaze(colour)};padding:0.15em 0.2em;border-radius:0.2em{border}"


def _glaze(colour):
    """A transparent colour that gives the colour on white, more or less, and on which letters can be read.

    Its hue has the luminance at which black and white letters have the same contrast, so on white paper it is lighter
    than that, and on black paper darker.
    """
    colour = np.asarray(colour, float)[:3]
    opacity = 1 - colour.min()
    hue = np.clip((colour - (1 - opacity)) / max(opacity, 1e-6), 0, 1)
    light = np.where(hue <= 0.04045, hue / 12.92, ((hue + 0.055) / 1.055) ** 2.4)
    weights = np.array([0.2126, 0.7152, 0.0722])
    # Darker or brighter, as far as the hue allows, and then mixed with white.
    light = light * min(READABLE / max(float(light @ weights), 1e-6), 1 / max(light.max(), 1e-6))
    missing = READABLE - float(light @ weights)
    light = np.clip(light + (1 - light) * missing / (1 - float(light @ weights)), 0, 1)
    hue = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    red, green, blue = (round(255 * float(part)) for part in hue)
    return f"rgba({red},{green},{blue},{0.9 * opacity:.2f})"


def _hex(colour):
    return "".join(f"{round(255 * float(c)):02X}" for c in colour)


def _ink(colour):
    """Black or white, whichever can be read on the colour."""
    return "000000" if np.dot(colour, [0.299, 0.587, 0.114]) > 0.5 else "FFFFFF"


def _latex(token):
    return "".join(LATEX.get(character, character) for character in token)
