"""A local page that shows what `explain_dataset` wrote: sample by sample, methods side by side. Needs Panel."""

from revgraph.viewer.album import Album
from revgraph.viewer.look import Look
from revgraph.viewer.page import Page, view

__all__ = ["Album", "Look", "Page", "view"]
