"""Pictures of relevance.

`heatmap` and its relatives, and `text`, need nothing that revgraph does not install. `plot`, `plot_grid`, `compare`,
`report` and the functions whose names begin with `plot_` need matplotlib. `imgify`, `gridify`, `imsave` and `palette`
need Pillow. Both come with `pip install "revgraph[plot]"`.
"""

import importlib
from typing import TYPE_CHECKING

from revgraph.visualize.colormaps import MAPS, ColorMap, colormap
from revgraph.visualize.heatmaps import clip_quantile, gamma, graymap, heatmap, project
from revgraph.visualize.tokens import Text, text

_LATER = {
    "compare": "figures", "plot": "figures", "plot_grid": "figures", "plot_volume": "volumes",
    "plot_attention": "attentions", "plot_heads": "attentions", "plot_tokens": "attentions",
    "plot_continuation": "sentences", "plot_beeswarm": "tabular", "plot_waterfall": "tabular", "report": "pages",
    "titles": "captions",
    "plot_clusters": "concepts", "plot_prototypes": "concepts", "plot_references": "concepts",
    "gridify": "images", "imgify": "images", "imsave": "images", "palette": "images",
}  # fmt: skip

__all__ = [
    "MAPS", "ColorMap", "Text", "clip_quantile", "colormap", "compare", "gamma", "graymap", "gridify", "heatmap",
    "imgify", "imsave", "palette", "plot", "plot_attention", "plot_beeswarm", "plot_clusters", "plot_continuation",
    "plot_grid", "plot_heads", "plot_prototypes", "plot_references", "plot_tokens", "plot_volume", "plot_waterfall",
    "project", "report", "text", "titles",
]  # fmt: skip


if TYPE_CHECKING:
    from revgraph.visualize.attentions import plot_attention, plot_heads, plot_tokens
    from revgraph.visualize.captions import titles
    from revgraph.visualize.concepts import plot_clusters, plot_prototypes, plot_references
    from revgraph.visualize.figures import compare, plot, plot_grid
    from revgraph.visualize.images import gridify, imgify, imsave, palette
    from revgraph.visualize.pages import report
    from revgraph.visualize.sentences import plot_continuation
    from revgraph.visualize.tabular import plot_beeswarm, plot_waterfall
    from revgraph.visualize.volumes import plot_volume
else:

    def __getattr__(name):
        if name in _LATER:
            return getattr(importlib.import_module(f"revgraph.visualize.{_LATER[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
