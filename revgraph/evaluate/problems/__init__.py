"""Problems: data that are made up, so that it is known which entries decide the answer. Nothing is downloaded."""

from revgraph.evaluate.problems.pictures import BACKGROUNDS, DIFFICULTIES, SHAPES, clever_hans, shapes, tetrominoes
from revgraph.evaluate.problems.problem import Problem
from revgraph.evaluate.problems.series import addition, motif
from revgraph.evaluate.problems.tables import interactions
from revgraph.evaluate.problems.text import COLOURS, FILLERS, THINGS, needle

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "DIFFICULTIES",
    "FILLERS",
    "SHAPES",
    "THINGS",
    "Problem",
    "addition",
    "clever_hans",
    "interactions",
    "motif",
    "needle",
    "shapes",
    "tetrominoes",
]
