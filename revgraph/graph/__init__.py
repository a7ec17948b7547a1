"""Models as immutable graphs. A site of a graph is one call of a layer or operation."""

from revgraph.graph.graph import Call, Graph, Site, Spec

__all__ = ["Call", "Graph", "Site", "Spec"]
