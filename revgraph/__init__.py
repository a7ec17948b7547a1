"""revgraph explains the predictions of Keras 3 models by walking their graph backwards.

Example:

    analyzer = revgraph.create_analyzer("lrp.alpha_1_beta_0", model)
    relevance = analyzer.analyze(x)
"""

import importlib
import importlib.util
import pkgutil
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "ANALYZERS",
    "Composite",
    "NextToken",
    "NotAnalyzeableModelException",
    "__version__",
    "canonize",
    "check",
    "composites",
    "create_analyzer",
    "explain_dataset",
    "load_analyzer",
    "load_model",
    "model_wo_output_activation",
    "model_wo_softmax",
    "rules",
    "view",
    "visualize",
]

if TYPE_CHECKING:
    from revgraph import analyzers as analyzers
    from revgraph import callbacks as callbacks
    from revgraph import canonize as canonize
    from revgraph import composites as composites
    from revgraph import concepts as concepts
    from revgraph import datasets as datasets
    from revgraph import demo as demo
    from revgraph import evaluate as evaluate
    from revgraph import graph as graph
    from revgraph import perturbation as perturbation
    from revgraph import read as read
    from revgraph import reverse_rules as reverse_rules
    from revgraph import rules as rules
    from revgraph import testing as testing
    from revgraph import visualize as visualize
    from revgraph.analyzers import ANALYZERS, NextToken, create_analyzer, load_analyzer
    from revgraph.checking import check
    from revgraph.composites import Composite, NotAnalyzeableModelException
    from revgraph.datasets import explain_dataset
    from revgraph.models import model_wo_output_activation, model_wo_softmax
    from revgraph.read import load_model
    from revgraph.viewer import view

# TensorFlow takes seconds to import, which a command's --help need not wait for: what is named here is imported when
# it is first asked for.
_HOMES = {
    "ANALYZERS": "analyzers",
    "Composite": "composites",
    "NextToken": "analyzers",
    "NotAnalyzeableModelException": "composites",
    "check": "checking",
    "create_analyzer": "analyzers",
    "explain_dataset": "datasets",
    "load_analyzer": "analyzers",
    "load_model": "read",
    "model_wo_output_activation": "models",
    "model_wo_softmax": "models",
    "view": "viewer",
}


# Type checkers know the names from above, and so find a name that is misspelt.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _HOMES:
            value = globals()[name] = getattr(importlib.import_module(f"revgraph.{_HOMES[name]}"), name)
            return value
        if not name.startswith("_") and importlib.util.find_spec(f"revgraph.{name}"):
            return importlib.import_module(f"revgraph.{name}")
        raise AttributeError(f"module 'revgraph' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *(module.name for module in pkgutil.iter_modules(__path__))})
