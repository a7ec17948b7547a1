"""A matplotlib figure that pyplot does not know. Needs the extra `plot`."""

import io
import os
from pathlib import Path
from typing import IO, Any

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('Pictures need matplotlib: pip install "revgraph[plot]".') from error

from revgraph.graph.types import PathLike

PRINTED = 200
"""Pixels per inch of a picture that is saved. The screen gets 100."""


class Picture(Figure):
    """A matplotlib figure that pyplot does not know. So notebooks show it only once, and do not keep it in memory.

    Args:
        width, height: Size in inches.

    Example:

        picture = revgraph.visualize.plot(x, relevance)
        picture.save("relevance.png")
    """

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def savefig(self, fname: PathLike | IO[Any], **kwargs: Any) -> None:
        """Writes the picture to a file, with nothing cut off at its edges; see matplotlib's `Figure.savefig`.

        Raises:
            ValueError: There is no such format.
        """
        known = self.canvas.get_supported_filetypes()
        end = kwargs.get("format") or (os.path.splitext(fname)[1] if isinstance(fname, str | os.PathLike) else "")
        if end and end.lstrip(".").lower() not in known:
            raise ValueError(
                f"A picture is written to a file that ends with one of {', '.join(known)}. Received: {end!r}. For a "
                f"web page write an SVG, which browsers show."
            )
        super().savefig(fname, **{"bbox_inches": "tight", "pad_inches": 0.06, **kwargs})

    def save(self, path: PathLike, dpi: int = PRINTED, **kwargs: Any) -> Path:
        """Writes the picture to a file, sharp enough to be printed.

        Args:
            path: Its ending says the format, such as `.png`, `.pdf` or `.svg`.
            dpi: Pixels per inch, of formats that have pixels.
            **kwargs: See matplotlib's `Figure.savefig`.

        Returns:
            The path.

        Raises:
            ValueError: There is no such format.

        Example:

            revgraph.visualize.plot(x, relevance).save("relevance.pdf")
        """
        self.savefig(path, dpi=dpi, **kwargs)
        return Path(path)

    def show(self, warn: bool = True) -> None:
        """Opens the picture in the viewer of the system, for scripts. Notebooks show pictures by themselves.

        Args:
            warn: Is there because matplotlib's figures have it.

        Raises:
            ImportError: Pillow is missing.
        """
        try:
            from PIL import Image
        except ImportError as error:
            raise ImportError('Showing pictures needs Pillow: pip install "revgraph[plot]".') from error
        Image.open(io.BytesIO(self._repr_png_())).show()

    def _repr_png_(self):
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()
