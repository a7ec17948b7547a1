"""revgraph explains the predictions of Keras 3 models by walking their graph backwards.

Example:

    analyzer = revgraph.create_analyzer("lrp.alpha_1_beta_0", model)
    relevance = analyzer.analyze(x)
"""

from revgraph import callbacks, visualize
from revgraph.analyzers import ANALYZERS, create_analyzer, load_analyzer
from revgraph.composites import Composite, NotAnalyzeableModelException
from revgraph.models import model_wo_output_activation, model_wo_softmax

__version__ = "0.1.0"

__all__ = [
    "ANALYZERS",
    "Composite",
    "NotAnalyzeableModelException",
    "__version__",
    "callbacks",
    "create_analyzer",
    "load_analyzer",
    "model_wo_output_activation",
    "model_wo_softmax",
    "visualize",
]
