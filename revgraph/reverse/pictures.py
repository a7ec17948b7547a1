"""A matplotlib figure that pyplot does not know. Needs the extra `plot`."""

import io
import os
from typing import IO, Any

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('Pictures need matplotlib: pip install "revgraph[plot]".') from error

from revgraph.graph.types import PathLike


class Picture(Figure):
    """A matplotlib figure that pyplot does not know. So notebooks show it only once, and do not keep it in memory.

    Args:
        width, height: Size in inches.

    Example:

        picture = revgraph.visualize.plot(x, relevance)
        picture.savefig("relevance.png")
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
        end = (
            kwargs.get("format")
            or os.path.splitext(os.fspath(fname) if isinstance(fname, str | os.PathLike) else "")[1]
        )
        if end and end.lstrip(".").lower() not in known:
            raise ValueError(
                f"A picture is written to a file that ends with one of {', '.join(known)}. Received: {end!r}. For a "
                f"web page write an SVG, which browsers show."
            )
        super().savefig(fname, **{"bbox_inches": "tight", "pad_inches": 0.06, **kwargs})

    def _repr_png_(self):
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()
