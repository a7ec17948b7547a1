"""Models as graphs of call sites."""

from revgraph.graph.graph import Call, Graph, Site, Spec
from revgraph.graph.tracing import trace

__all__ = ["Call", "Graph", "Site", "Spec", "trace"]
