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

    def _repr_png_(self):
        content = io.BytesIO()
        self.savefig(content, format="png")
        return content.getvalue()
