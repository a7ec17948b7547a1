"""A matplotlib figure that stands by itself. Needs the extra `plot`."""

import io

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('Pictures need matplotlib: pip install "revgraph[plot]".') from error


class Picture(Figure):
    """A matplotlib figure outside of pyplot: notebooks show it, once, and nothing keeps it alive.

    Args:
        width, height: Size in inches.

    Example:

        picture = revgraph.visualize.plot(x, relevance)
        picture.savefig("relevance.png")
    """

    def __init__(self, width, height):
        super().__init__(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(self)

    def savefig(self, fname, *, bbox_inches="tight", pad_inches=0.06, **kwargs):
        """Writes the picture to a file, with nothing cut off at its edges; see matplotlib's `Figure.savefig`."""
        super().savefig(fname, bbox_inches=bbox_inches, pad_inches=pad_inches, **kwargs)

    def _repr_png_(self):
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()
