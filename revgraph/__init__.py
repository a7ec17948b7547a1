"""revgraph explains the predictions of Keras 3 models by walking their graph backwards.

Example:

    analyzer = revgraph.create_analyzer("lrp.alpha_1_beta_0", model)
    relevance = analyzer.analyze(x)
"""

from revgraph.analyzers import ANALYZERS, create_analyzer
from revgraph.composites import Composite, NotAnalyzeableModelException

__version__ = "0.1.0"

__all__ = ["ANALYZERS", "Composite", "NotAnalyzeableModelException", "__version__", "create_analyzer"]
