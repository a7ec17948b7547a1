"""The language: models as immutable graphs of call sites."""

from revgraph.graph.graph import Call, Graph, Site, Spec

__all__ = ["Call", "Graph", "Site", "Spec"]
