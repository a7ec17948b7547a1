"""`AnalyzerBySize`: an analyzer of a model whose code needs sizes that only data have."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.attentions import Attentions
from revgraph.analyzers.inputs import check_texts, flat_inputs, is_stream
from revgraph.analyzers.recorded import RecordedPass
from revgraph.analyzers.standing import StandIn
from revgraph.composites import NotAnalyzeableModelException
from revgraph.graph.graph import holds_strings
from revgraph.graph.tables import Table
from revgraph.graph.types import PathLike, Relevance, Tensors
from revgraph.read.keras.signature import Sized
from revgraph.reverse.ledger import Conservation
from revgraph.reverse.recent import Recent

SIZES = 8
"""How many sizes are kept: each has a graph and compiled functions of its own."""


class SizesNotKnown(AttributeError, ValueError):
    """What an analyzer cannot say before it has seen data.

    It is an AttributeError, too, so that `hasattr` and notebooks take it for a missing attribute.
    """


class AnalyzerBySize(StandIn):
    """Makes an analyzer for every size of the inputs, when inputs of that size come, and stands for it.

    `create_analyzer` returns one for a subclassed model, which takes other sizes than those on which it was built, and
    where the Python code of a model has to know the size of an axis that the model does not say. The batch does not
    count. What it does not answer itself is answered by the analyzer for the sizes that the model says, or else for
    those that came last. It has the class of that analyzer for `isinstance`.

    Args:
        make: Makes the analyzer of a model.
        kind: The class of these analyzers.
        model: The model.
        usual: The analyzer for the sizes that the model says; None where it does not say enough.
    """

    name: str
    model_path: str | None
    model_signature: str | None

    def __init__(
        self,
        make: Callable[[Any], Analyzer],
        kind: type[Analyzer],
        model: keras.Model,
        usual: Analyzer | None = None,
    ) -> None:
        super().__init__(kind)
        self.make = make
        self.model = model
        self.usual = usual
        self._analyzers = Recent(SIZES)
        self._asked: Analyzer | None = None

    def at(self, X: Tensors) -> Analyzer:
        """The analyzer for inputs of the size of X."""
        check_texts(X)
        self._asked = self._of(X)
        return self._asked

    def _of(self, X):
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

    def analyze(self, X: Tensors, *args: Any, **options: Any) -> Relevance:
        """See `ReverseAnalyzer.analyze`."""
        if is_stream(X) and self.usual is not None:
            self._asked = self.usual
            return self.usual.analyze(X, *args, **options)
        if not is_stream(X):
            return self.at(X).analyze(X, *args, **options)
        batches = map(X.__getitem__, range(len(X))) if isinstance(X, keras.utils.PyDataset) else X
        parts = [batch[0] if isinstance(batch, tuple) else batch for batch in batches]
        results = [self.at(part).analyze(part, *args, **options) for part in parts]
        if not results:
            raise ValueError("Nothing to explain: the dataset is empty.")
        return keras.tree.map_structure(lambda *r: np.concatenate(r), *results)

    def conservation(self, X: Tensors, *args: Any, **options: Any) -> Conservation:
        """See `ReverseAnalyzer.conservation`."""
        return self.at(X).conservation(X, *args, **options)

    def attentions(self, X: Tensors, *args: Any, **options: Any) -> Attentions:
        """See `LRP.attentions`."""
        return self.at(X).attentions(X, *args, **options)

    def tokens(self, X: Tensors, *args: Any, **options: Any) -> Any:
        """See `Analyzer.tokens`."""
        return self.at(X).tokens(X, *args, **options)

    def record(self, X: Tensors) -> RecordedPass:
        """See `ReverseAnalyzer.record`."""
        return self.at(X).record(X)

    def table(self) -> Table:
        """What the analyzer walks over."""
        has_any = self._analyzers or self.usual
        return self.known().table() if has_any else Table(("site",), [], title=repr(self)[1:-1])

    def __repr__(self) -> str:
        if self.usual is not None:
            return repr(self.usual)
        return f"<{self.name} of {self.model.name!r}, traced at the sizes of the data>"

    def _sized(self, X):
        X = _whole(X)
        shapes = [(tuple(np.shape(x)[1:]), _dtype(x)) for x in keras.tree.flatten(X)]
        return self._analyzers.value((tuple(shapes), type(X).__name__), lambda: self._made(X))

    def _made(self, X):
        analyzer = self.make(Sized(self.model, X))
        analyzer.name = self.name
        return analyzer

    @property
    def reversed_tensors(self) -> Any:
        """See `ReverseAnalyzer`: those of the analyzer that was asked last."""
        return getattr(self._asked or self.known(), "reversed_tensors", None)

    def save(self, path: PathLike, overwrite: bool = False) -> None:
        """See `Analyzer.save`. What is read again takes the sizes that the model says.

        Raises:
            TypeError: The model does not say its sizes, which only data have.
        """
        if self.usual is None:
            raise TypeError(
                f"An analyzer of {self.model.name!r} cannot be saved, because only data have the sizes that its code "
                f"needs. Save the model, and make the analyzer again; or write this one for the sizes that came last "
                f"with analyzer.export(path)."
            )
        self.usual.save(path, overwrite)

    def known(self) -> Analyzer:
        """The analyzer for the sizes that the model says, or else for those that came last."""
        if self.usual is not None:
            return self.usual
        if not self._analyzers:
            raise SizesNotKnown(
                f"The sizes of the inputs of {self.model.name!r} are not known yet. Call `analyze` on data first."
            )
        return next(reversed(self._analyzers.values()))


def _whole(x):
    """Lists of strings as arrays, because a list is else one of several inputs."""
    if isinstance(x, dict):
        return {name: _whole(part) for name, part in x.items()}
    is_text = isinstance(x, str) or (isinstance(x, list | tuple) and holds_strings(x))
    return np.atleast_1d(x) if is_text else x


def _dtype(x):
    return x.dtype.name if isinstance(x, tf.Tensor | np.ndarray) else np.asarray(x).dtype.name
