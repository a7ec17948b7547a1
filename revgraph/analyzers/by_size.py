"""`AnalyzerBySize`: an analyzer of a model whose code needs sizes that only data have."""

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.inputs import flat_inputs, is_stream
from revgraph.composites import NotAnalyzeableModelException
from revgraph.graph.tables import Table
from revgraph.read.keras.signature import Sized
from revgraph.reverse.recent import Recent
from revgraph.saving import archives

SIZES = 8
"""How many sizes are kept: each has a graph and compiled functions of its own."""


class AnalyzerBySize(Analyzer):
    """Makes an analyzer for every size of the inputs, when inputs of that size come.

    `create_analyzer` returns one for a subclassed model, which takes other sizes than those on which it was built, and
    where the Python code of a model has to know the size of an axis that the model does not say. The batch does not
    count.

    Args:
        make: Makes the analyzer of a model.
        model: The model.
        usual: The analyzer for the sizes that the model says; None where it does not say enough.
    """

    def __init__(self, make, model, usual=None):
        self.make = make
        self.model = model
        self.usual = usual
        self._analyzers = Recent(SIZES)

    def __getattr__(self, name):
        if name.startswith("__") or self.__dict__.get("_analyzers") is None:
            raise AttributeError(name)
        return getattr(self._last(), name)

    def at(self, X) -> Analyzer:
        """The analyzer for inputs of the size of X."""
        if self.usual is None:
            return self._sized(X)
        try:
            flat_inputs(X, self.usual.graph)
        except ValueError as wrong:
            try:
                return self._sized(X)
            except NotAnalyzeableModelException:
                raise
            except ValueError:
                # The model does not take such inputs in any size.
                raise wrong from None
        return self.usual

    def _sized(self, X):
        shapes = [(tuple(np.shape(x)[1:]), _dtype(x)) for x in keras.tree.flatten(X)]
        return self._analyzers.value((tuple(shapes), type(X).__name__), lambda: self._made(X))

    def _made(self, X):
        analyzer = self.make(Sized(self.model, X))
        analyzer.name = self.name
        return analyzer

    def analyze(self, X, *args, **kwargs):
        """See `ReverseAnalyzer.analyze`."""
        if is_stream(X) and self.usual is not None:
            return self.usual.analyze(X, *args, **kwargs)
        if not is_stream(X):
            return self.at(X).analyze(X, *args, **kwargs)
        batches = map(X.__getitem__, range(len(X))) if isinstance(X, keras.utils.PyDataset) else X
        parts = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
        results = [self.at(part).analyze(part, *args, **kwargs) for part in parts]
        if not results:
            raise ValueError("Nothing to explain: the dataset is empty.")
        return keras.tree.map_structure(lambda *r: np.concatenate(r), *results)

    def conservation(self, X, *args, **kwargs):
        return self.at(X).conservation(X, *args, **kwargs)

    def record(self, X):
        return self.at(X).record(X)

    @property
    def graph(self):
        """The graph for the inputs that came last."""
        return self._last().graph

    @property
    def innermost(self):
        return self._last().innermost

    @property
    def bound(self):
        return self._last().bound

    def config(self):
        return self._last().config()

    def summary(self):
        return self._last().summary()

    def table(self):
        known = self._analyzers or self.usual
        return self._last().table() if known else Table(("site",), [], title=repr(self)[1:-1])

    def export(self, path, version=None, overwrite=False):
        return self._last().export(path, version, overwrite)

    def save(self, path, overwrite=False):
        archives.save(self._last(), path, overwrite)

    def _last(self) -> Analyzer:
        if not self._analyzers:
            if self.usual is not None:
                return self.usual
            raise ValueError(
                f"The sizes of the inputs of {self.model.name!r} are not known yet. Call `analyze` on data first."
            )
        return next(reversed(self._analyzers.values()))

    def __repr__(self):
        if self.usual is not None:
            return repr(self.usual)
        return f"<{self.name} of {self.model.name!r}, traced at the sizes of the data>"


def _dtype(x) -> str:
    return x.dtype.name if isinstance(x, tf.Tensor | np.ndarray) else np.asarray(x).dtype.name
