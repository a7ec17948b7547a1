"""`load_analyzer`: analyzers from the files that `Analyzer.save` writes."""

from collections.abc import Mapping
from typing import Any

from revgraph.analyzers import ablation, averages, cams, deep_lift, gradient, lrp, patterns, wrappers
from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.analyzers.tasks import for_task
from revgraph.graph.types import PathLike
from revgraph.saving import archives

CLASSES = (
    ReverseAnalyzer,
    ablation.FeatureAblation,
    ablation.Occlusion,
    cams.GradCAM,
    cams.GradCAMPlusPlus,
    cams.LayerCAM,
    deep_lift.DeepLIFT,
    gradient.BetaSmooth,
    gradient.Deconvnet,
    gradient.Gradient,
    gradient.GuidedBackprop,
    gradient.Input,
    gradient.InputTimesGradient,
    gradient.Random,
    lrp.LRP,
    lrp.BoundedDeepTaylor,
    lrp.DeepTaylor,
    patterns.PatternAttribution,
    patterns.PatternNet,
    wrappers.AugmentReduceBase,
    wrappers.GaussianSmoother,
    averages.ExpectedGradients,
    averages.IntegratedGradients,
    wrappers.PathIntegrator,
    averages.SmoothGrad,
)
"""The classes of analyzers that a file may name."""


def load_analyzer(path: PathLike, custom_objects: Mapping[str, Any] | None = None, safe_mode: bool = True) -> Analyzer:
    """Reads an analyzer that `Analyzer.save` wrote.

    Args:
        path: The file.
        custom_objects: Dict from name to the model's own classes and functions, as `keras.models.load_model` takes it,
            and to rules and analyzers of one's own.
        safe_mode: Refuse models with Python code in Lambda layers, as `keras.models.load_model` does.

    Returns:
        An analyzer whose relevance is that of the one saved.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not one of ours, is damaged, or needs classes that are not given.

    Example:

        analyzer.save("digits.revgraph")
        analyzer = revgraph.load_analyzer("digits.revgraph")
    """
    return for_task(archives.load(path, CLASSES, custom_objects, safe_mode))
