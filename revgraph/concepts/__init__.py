"""Concepts: what the channels of a layer stand for, and what a prediction uses them for."""

from revgraph.concepts.attribution_graph import AttributionGraph, Edge, Node, graph
from revgraph.concepts.channels import ChannelRelevance, relevance

__all__ = ["AttributionGraph", "ChannelRelevance", "Edge", "Node", "graph", "relevance"]
