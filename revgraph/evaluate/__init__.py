"""Is an explanation true? Metrics, comparisons, and problems whose answer is known.

    result = revgraph.evaluate.compare(model, x, y, analyzers=["gradient", "lrp.epsilon"], metrics=["deletion"])

A metric is a value with options, such as `Deletion(steps=10)`. It is called with an analyzer and samples.
"""

from revgraph.evaluate import problems
from revgraph.evaluate.adapters import quantus
from revgraph.evaluate.axioms import Completeness, ImplementationInvariance
from revgraph.evaluate.comparing import Comparison, compare
from revgraph.evaluate.complexity import Entropy, Sparseness
from revgraph.evaluate.faithfulness import (
    Comprehensiveness,
    Deletion,
    FaithfulnessCorrelation,
    Insertion,
    LeaveOneOut,
    RelevanceGain,
    Sufficiency,
)
from revgraph.evaluate.functions import FunctionAnalyzer
from revgraph.evaluate.localisation import EarthMoversDistance, PointingGame, RelevanceMass, RelevanceRank
from revgraph.evaluate.metric import METRICS, Metric
from revgraph.evaluate.pointing import pointing_game
from revgraph.evaluate.problems import Problem
from revgraph.evaluate.randomisation import ParameterRandomisation, RandomLogit
from revgraph.evaluate.robustness import LocalLipschitz, MaxSensitivity
from revgraph.evaluate.scores import Scores

__all__ = [
    "METRICS",
    "Comparison",
    "Completeness",
    "Comprehensiveness",
    "Deletion",
    "EarthMoversDistance",
    "Entropy",
    "FaithfulnessCorrelation",
    "FunctionAnalyzer",
    "ImplementationInvariance",
    "Insertion",
    "LeaveOneOut",
    "LocalLipschitz",
    "MaxSensitivity",
    "Metric",
    "ParameterRandomisation",
    "PointingGame",
    "Problem",
    "RandomLogit",
    "RelevanceGain",
    "RelevanceMass",
    "RelevanceRank",
    "Scores",
    "Sparseness",
    "Sufficiency",
    "compare",
    "pointing_game",
    "problems",
    "quantus",
]
