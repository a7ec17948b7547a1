"""Concepts: what the channels of a layer stand for, and what a prediction uses them for."""

from revgraph.concepts.attribution_graph import AttributionGraph, Edge, Node, graph
from revgraph.concepts.channels import ChannelRelevance, relevance
from revgraph.concepts.collecting import collect
from revgraph.concepts.collection import Collection
from revgraph.concepts.mixtures import Judgement, Prototype, Prototypes, prototypes
from revgraph.concepts.ranking import Ranking
from revgraph.concepts.reference_samples import Reference, References, references
from revgraph.concepts.strategies import Clusters, Strategies, clusters

__all__ = [
    "AttributionGraph", "ChannelRelevance", "Clusters", "Collection", "Edge", "Judgement", "Node", "Prototype",
    "Prototypes", "Ranking", "Reference", "References", "Strategies", "clusters", "collect", "graph", "prototypes",
    "references", "relevance",
]  # fmt: skip
