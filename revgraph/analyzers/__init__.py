"""Analyzers: what explains a model's prediction."""

from revgraph.analyzers.ablation import FeatureAblation, Occlusion
from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.attentions import Attentions
from revgraph.analyzers.averages import ExpectedGradients, IntegratedGradients, SmoothGrad
from revgraph.analyzers.cams import GradCAM, GradCAMPlusPlus, LayerCAM
from revgraph.analyzers.continuation import Continuation
from revgraph.analyzers.deep_lift import DeepLIFT
from revgraph.analyzers.gradient import (
    BetaSmooth,
    Deconvnet,
    Gradient,
    GuidedBackprop,
    Input,
    InputTimesGradient,
    Random,
)
from revgraph.analyzers.loading import load_analyzer
from revgraph.analyzers.lrp import LRP, BoundedDeepTaylor, DeepTaylor
from revgraph.analyzers.next_token import NextToken
from revgraph.analyzers.patterns import PatternAttribution, PatternNet
from revgraph.analyzers.registry import ANALYZERS, Method, create_analyzer
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.analyzers.tasks import TaskAnalyzer
from revgraph.analyzers.tokens import Tokens
from revgraph.analyzers.wrappers import AugmentReduceBase, GaussianSmoother, PathIntegrator
from revgraph.reverse.ledger import Conservation

__all__ = [
    "ANALYZERS", "LRP", "Analyzer", "Attentions", "AugmentReduceBase", "BetaSmooth", "BoundedDeepTaylor",
    "Conservation", "Continuation", "Deconvnet", "DeepLIFT", "DeepTaylor", "ExpectedGradients", "FeatureAblation",
    "GaussianSmoother", "GradCAM", "GradCAMPlusPlus", "Gradient", "GuidedBackprop", "Input", "InputTimesGradient",
    "IntegratedGradients", "LayerCAM", "Method", "NextToken", "Occlusion", "PathIntegrator", "PatternAttribution",
    "PatternNet", "Random", "ReverseAnalyzer", "SmoothGrad", "TaskAnalyzer", "Tokens", "create_analyzer",
    "load_analyzer",
]  # fmt: skip
