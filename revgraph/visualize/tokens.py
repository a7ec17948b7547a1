"""Tokens in the colours of their relevance: in notebooks, in LaTeX, in the terminal."""

import dataclasses
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.style import Style
from rich.text import Text as RichText

from revgraph.graph.types import PathLike
from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import heatmap

if TYPE_CHECKING:
    from revgraph.analyzers.tokens import Tokens

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
"""How LaTeX writes the characters that are commands there."""

TOKENS = ("token_ids", "input_ids")
"""How the names of inputs end that hold the ids of tokens."""

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
        return f"<b>{html.escape(self.titles[i])}</b><br>".replace("\n", "<br>") if self.titles else ""

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
        """Writes the texts to a file: a web page, LaTeX, or a figure such as a PDF for a paper.

        Args:
            fname: The file. One that ends with `.html` gets what `to_html` gives, and one that ends with `.tex` what
                `to_latex` gives.
            width, fontsize: Of a figure; see `picture`.
            **options: Of a figure; see `Picture.savefig`.
        """
        written = {".html": self.to_html, ".tex": self.to_latex}.get(os.path.splitext(str(fname))[1].lower())
        if written is None:
            self.picture(width, fontsize).savefig(fname, **options)
        else:
            Path(fname).write_text(written(), encoding="utf-8")

    def save(self, path: PathLike, **options: Any) -> Path:
        """Writes the texts to a file, as `savefig` does.

        Args:
            path: The file.
            **options: See `savefig`.

        Returns:
            The path.
        """
        self.savefig(path, **options)
        return Path(path)

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
    tokens: "Tokens | Mapping[str, Tokens] | Sequence[str] | Sequence[Sequence[str]]",
    relevance: Any,
    cmap_type: Any = DEFAULT,
    *,
    titles: str | Sequence[str] | None = None,
    scale: str = "image",
    **options: Any,
) -> Text:
    """Texts with tokens in the colours of their relevance.

    Args:
        tokens: What `analyzer.tokens(x)` returns; or the tokens of one text, or one list per text. A dict of tokens by
            the name of the input makes a paragraph of each of them, one below the other.
        relevance: Relevance of the tokens: (tokens,) for one text, (batch, tokens) for several. Relevance beyond the
            last token of a text belongs to the padding and is not shown. That of a model with several inputs may be a
            dict, which has an entry for each input with tokens.
        cmap_type: Colour map; see `heatmap`.
        titles: One per text.
        scale: `"image"`: each text has its own colour scale; `"batch"`: they share one. The inputs of a model always
            share one.
        **options: `absmax`, `percentile`, `gamma` of `heatmap`.

    Returns:
        A `Text`: notebooks show it; `to_html()`, `to_latex()`.

    Raises:
        ValueError: A text has more tokens than relevance, or there are not as many texts as rows of relevance.

    Example:

        words = [[vocabulary[i] for i in row if i] for row in x]
        revgraph.visualize.text(words, analyzer.analyze(x))
    """
    if isinstance(titles, str):
        titles = [titles]
    if isinstance(tokens, Mapping):
        _check_names(tokens, relevance)
        parts = [_of_tokens(each, relevance[name]) for name, each in tokens.items()]
    else:
        # A `Tokens`, whose module takes TensorFlow with it.
        parts = [_of_lists(tokens, relevance) if isinstance(tokens, Sequence) else _of_tokens(tokens, relevance)]
    counts = {len(lines) for lines, _, _ in parts}
    if len(counts) > 1:
        raise ValueError(f"Each input needs the tokens of the same texts. Received those of {sorted(counts)} texts.")
    # The inputs of a sample stand one behind the other, so that they share a scale.
    joined = [np.concatenate(rows) for rows in zip(*(rows for _, rows, _ in parts), strict=True)]
    longest = max(map(len, joined), default=0)
    padded = np.array([np.pad(r, (0, longest - len(r))) for r in joined]).reshape(len(joined), longest)
    mapped = heatmap(padded, cmap_type, reduce_axis=None, scale=scale, **options)
    lines, shown, special = (
        tuple(row for rows in zip(*(part[i] for part in parts), strict=True) for row in rows) for i in range(3)
    )
    ends = [np.cumsum(list(map(len, rows)))[:-1] for rows in zip(*(rows for _, rows, _ in parts), strict=True)]
    colours = tuple(
        piece for row, r, cut in zip(mapped, joined, ends, strict=True) for piece in np.split(row[: len(r)], cut)
    )
    names = [_shown_name(name) for name in tokens] if isinstance(tokens, Mapping) else [""]
    return Text(lines, shown, colours, _titles(titles, names, len(joined)), special)


def _titles(titles, names, count):
    """A title for each input of each sample: that of the sample is above its first input."""
    if names == [""]:
        return None if titles is None else tuple(map(str, titles))
    above = [""] * count if titles is None else [f"{title}, " for title in titles]
    return tuple(f"{title if i == 0 else ''}{name}" for title in above for i, name in enumerate(names))


def _shown_name(name):
    """The name of an input of tokens without what all of them have."""
    return next((name.removesuffix(end).rstrip("_") for end in TOKENS if name.endswith(end)), "") or name


def _of_lists(tokens, relevance):
    """The tokens of each text, their relevance, and which of them are special."""
    of_one = not len(tokens) or isinstance(tokens[0], str)
    lines = [tuple(map(str, line)) for line in ([tokens] if of_one else tokens)]
    rows = [np.asarray(r, float) for r in ([relevance] if of_one else relevance)]
    if len(lines) != len(rows):
        raise ValueError(f"There are {len(lines)} texts, and relevance of {len(rows)}.")
    for line, r in zip(lines, rows, strict=True):
        if r.ndim != 1 or len(r) < len(line):
            raise ValueError(f"A text of {len(line)} tokens needs as many relevances. Received shape {r.shape}.")
    rows = [r[: len(line)] for line, r in zip(lines, rows, strict=True)]
    return lines, rows, [np.zeros(len(line), bool) for line in lines]


def _of_tokens(tokens, relevance):
    """The same for a `Tokens`, without padding."""
    relevance, kept = _relevance_of(tokens, relevance), ~tokens.padding
    rows, special = ([row[keep] for row, keep in zip(of, kept, strict=True)] for of in (relevance, tokens.special))
    return list(tokens), rows, special


def _check_names(tokens, relevance):
    missing = [name for name in tokens if not isinstance(relevance, Mapping) or name not in relevance]
    if missing or not tokens:
        given = f"a dict of {', '.join(map(repr, relevance))}" if isinstance(relevance, Mapping) else "an array"
        raise ValueError(
            f"The tokens of {', '.join(map(repr, tokens)) or 'no input'} need a dict with the relevance of each. "
            f"Received: {given}. Pass analyzer.tokens(x) and analyzer.analyze(x) of the same x."
        )


def _relevance_of(tokens, relevance):
    """The relevance of tokens, (batch, tokens), from what `analyze` returns."""
    if isinstance(relevance, Mapping):
        ours = [name for name in relevance if name.endswith(TOKENS)]
        if len(ours) != 1:
            raise ValueError(
                f"Tokens of one input need the relevance of that input. Received a dict of "
                f"{', '.join(map(repr, relevance))}: pass one of them, or analyzer.tokens(x) as it is."
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
