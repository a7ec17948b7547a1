"""Is relevance where it should be? Problems whose answer is known, and numbers that compare relevance with it."""

from revgraph.evaluate import problems
from revgraph.evaluate.pointing import pointing_game
from revgraph.evaluate.problems import Problem

__all__ = ["Problem", "pointing_game", "problems"]
