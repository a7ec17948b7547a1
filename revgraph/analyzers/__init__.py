"""Analyzers: what explains a model's prediction."""

from revgraph.analyzers.analyzer import Analyzer, ReverseAnalyzer
from revgraph.analyzers.conservation import Conservation
from revgraph.analyzers.gradient import Deconvnet, Gradient, GuidedBackprop, Input, InputTimesGradient, Random
from revgraph.analyzers.lrp import LRP, BoundedDeepTaylor, DeepTaylor
from revgraph.analyzers.registry import ANALYZERS, Method, create_analyzer

__all__ = [
    "ANALYZERS", "LRP", "Analyzer", "BoundedDeepTaylor", "Conservation", "Deconvnet", "DeepTaylor", "Gradient",
    "GuidedBackprop", "Input", "InputTimesGradient", "Method", "Random", "ReverseAnalyzer", "create_analyzer",
]  # fmt: skip
