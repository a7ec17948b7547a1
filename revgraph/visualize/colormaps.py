"""Colour maps: those of iNNvestigate and zennit, and any of matplotlib's."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MAPS = {
    # Red for, blue against: ColorBrewer's RdBu, which colour-blind people can read.
    "RdBu": "67001f,b2182b,d6604d,f4a582,fddbc7,80:f7f7f7,d1e5f0,92c5de,4393c3,2166ac,053061",
    "seismic": "00004c,00f,80:fff,f00,800000",
    "bwr": "00f,80:fff,f00",
    "gray": "000,fff",
    "wred": "fff,f00",
    "wblue": "fff,00f",
    "cold": "000,00f,0ff",
    "coldnhot": "0ff,00f,80:000,f00,ff0,fff",
    "france": "0055a4,80:fff,ef4135",
    "coolio": "00d0d0,80:d0d0d0,d000d0",
    "coleus": "00d000,80:d0d0d0,d000d0",
}
"""The sources of colour maps by name. A name with `_r` behind it stands for the reversed map."""

DEFAULT = "RdBu_r"
"""The name of the default map, a diverging one."""

CENTRE = 0x80
"""The index that stands for zero in a diverging map."""

_COLOUR = re.compile(r"(?:([0-9a-fA-F]{1,2}):)?([0-9a-fA-F]{6}|[0-9a-fA-F]{3})")


class ColorMap:
    """Colours joined by straight lines, from a source in zennit's colour map language.

    The source lists hexadecimal colours, such as `"00f,80:fff,f00"`. An index from 00 to ff may stand before a colour
    and says where it lies in the map; the other colours are spaced evenly between those. Index 80 is the centre, which
    stands for zero relevance.

    Args:
        source: `"rgb"` or `"rrggbb"` colours, separated by commas.

    Raises:
        ValueError: The source is not in that language.

    Example:

        ColorMap("00f,80:fff,f00")(np.array([0.0, 0.5, 1.0]))  # blue, white, red
    """

    def __init__(self, source: str):
        self.source = source
        indices, self._colours = _parsed(source)
        self._centre = CENTRE if CENTRE in indices else 127.5
        self._nodes = np.interp(indices, [0, self._centre, 255], [0, 0.5, 1])

    @classmethod
    def through(cls, name: str, nodes: ArrayLike, colours: ArrayLike, centre: float = 127.5) -> "ColorMap":
        """A map through given colours.

        Args:
            name: Its name.
            nodes: Where the colours lie, (n,): rising values between 0 and 1.
            colours: RGB (n, 3) or RGBA (n, 4) between 0 and 1.
            centre: The index from 0 to 255 that stands for the middle of the map.
        """
        made = cls.__new__(cls)
        made.source, made._centre = name, centre
        made._nodes, made._colours = np.asarray(nodes), np.asarray(colours)
        return made

    def __call__(self, values: ArrayLike) -> np.ndarray:
        """Colours of values.

        Args:
            values: Array of any shape, between 0 and 1. Values outside get the colour at that end of the map.

        Returns:
            Array of the same shape with RGB (or RGBA, for maps that have it) as last axis, between 0 and 1.
        """
        values = np.asarray(values, float)
        return np.stack([np.interp(values, self._nodes, channel) for channel in self._colours.T], axis=-1)

    def index(self, values: ArrayLike) -> np.ndarray:
        """The indices in the palette, not rounded, of values between 0 and 1."""
        return np.interp(np.asarray(values, float), [0, 0.5, 1], [0, self._centre, 255])

    def palette(self, level: float = 1.0) -> np.ndarray:
        """The map as 256 colours of 8 bits.

        Args:
            level: Factor on the distance from the centre: above 1 colours saturate earlier, below 1 later.

        Returns:
            Array (256, 3) of uint8.
        """
        values = np.interp(np.arange(256), [0, self._centre, 255], [0, 0.5, 1])
        colours = self(0.5 + (values - 0.5) * level)[:, :3]
        return (colours * 255).round(9).astype(np.uint8)

    @property
    def diverging(self) -> bool:
        """Whether the centre is lighter than both ends, or darker than both."""
        low, middle, high = self(np.array([0, 0.5, 1]))[:, :3] @ [0.299, 0.587, 0.114]
        return bool((middle - low) * (middle - high) > 0.01)

    def turned(self) -> "ColorMap":
        """The reversed map."""
        return ColorMap.through(f"{self.source}_r", 1 - self._nodes[::-1], self._colours[::-1], self._centre)

    def __repr__(self):
        return f"ColorMap({self.source!r})"


def colormap(cmap: Any, maps: Mapping[str, str] = MAPS) -> ColorMap:
    """The colour map that a name, a source or an object stands for.

    Args:
        cmap: A name in `maps`, or the name of one of matplotlib's maps; a source in the language of `ColorMap`; a
            `ColorMap`; or a matplotlib colour map.
        maps: The names that are looked up first.

    Raises:
        TypeError: It is neither a string nor a colour map.
        ValueError: There is no map of that name, or the source is not in the language.
        ImportError: The name may be one of matplotlib's, which is not installed.
    """
    if isinstance(cmap, ColorMap):
        return cmap
    if callable(cmap) and hasattr(cmap, "N"):
        return ColorMap.through(cmap.name, np.linspace(0, 1, cmap.N), cmap(np.arange(cmap.N)))
    if not isinstance(cmap, str):
        raise TypeError(f"A colour map is a name, a source such as '00f,fff,f00', or a map. Received: {cmap!r}.")
    if cmap in maps:
        return ColorMap(maps[cmap])
    if cmap.removesuffix("_r") in maps:
        return ColorMap(maps[cmap.removesuffix("_r")]).turned()
    if "," in cmap:
        return ColorMap(cmap)
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            f"{cmap!r} is not one of {', '.join(maps)}; matplotlib's maps need it installed: "
            f'pip install "revgraph[plot]".'
        ) from error
    if cmap not in matplotlib.colormaps:
        raise ValueError(f"No colour map is named {cmap!r}. There are {', '.join(maps)}, and matplotlib's.")
    return colormap(matplotlib.colormaps[cmap])


def of_relevance(cmap: Any) -> ColorMap:
    """The colour map for relevance: red stands for what is positive, whatever diverging map is named.

    matplotlib's `"RdBu"`, `"coolwarm_r"` and others have red at the other end, so they are turned. A map that is handed
    over as an object or as a source is taken as it is.

    Args:
        cmap: See `colormap`.
    """
    found = colormap(cmap)
    if not isinstance(cmap, str) or "," in cmap or not found.diverging:
        return found
    low, high = found(np.array([0.1, 0.9]))[:, :3]
    return found.turned() if low[0] - low[2] > high[0] - high[2] else found


def _parsed(source):
    """Indices from 0 to 255, and colours between 0 and 1."""
    parts = source.split(",")
    matches = [m for m in (_COLOUR.fullmatch(part.strip()) for part in parts) if m]
    if len(parts) < 2 or len(matches) < len(parts):
        raise ValueError(
            f"A colour map's source is two or more hexadecimal colours, such as '00f,80:fff,f00'. Received: {source!r}."
        )
    digits = [m[2] if len(m[2]) == 6 else "".join(2 * d for d in m[2]) for m in matches]
    colours = np.array([[int(d[i : i + 2], 16) for i in (0, 2, 4)] for d in digits]) / 255
    indices = [None if m[1] is None else int(m[1] if len(m[1]) == 2 else 2 * m[1], 16) for m in matches]
    ends = [0 if indices[0] is None else indices[0], 255 if indices[-1] is None else indices[-1]]
    known = {0: ends[0], **{i: at for i, at in enumerate(indices) if at is not None}, len(indices) - 1: ends[1]}
    spaced = np.interp(np.arange(len(indices)), list(known), list(known.values()))
    if np.any(np.diff(spaced) < 0):
        raise ValueError(f"The indices of a colour map's source must not fall. Received: {source!r}.")
    return spaced, colours
