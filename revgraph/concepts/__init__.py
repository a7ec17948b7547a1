"""Concepts: what the channels of a layer stand for, and what a prediction uses them for."""

from revgraph.concepts.collecting import collect
from revgraph.concepts.collection import Collection, Ranking

__all__ = ["Collection", "Ranking", "collect"]
