"""`FunctionAnalyzer`: a function of one's own as an analyzer, so that metrics can measure it."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.inputs import packed
from revgraph.graph.types import Relevance, Selection, Tensors
from revgraph.reverse.sides import are_sides


class FunctionAnalyzer(Analyzer):
    """An analyzer made of a function, such as a method of another package.

    Args:
        model: A built Keras model.
        function: Function of the model, samples as the model takes them, and the class of each, (batch,) ints. It
            returns their relevance, of the shape of the samples or without channels. Quantus calls such a function
            `explain_func`.
        name: What tables call it; the name of the function by default.

    Example:

        def occlusion(model, x, y): ...

        evaluate.Deletion()(evaluate.FunctionAnalyzer(model, occlusion), x, y)
    """

    def __init__(
        self, model: keras.Model, function: Callable[[Any, Any, np.ndarray], ArrayLike], name: str | None = None
    ) -> None:
        own = getattr(function, "__name__", type(function).__name__)
        if not callable(function) or not _takes_three(function):
            raise TypeError(
                f"function is a function of the model, samples and classes, such as lambda model, x, y: mine(x). "
                f"Received: {own if callable(function) else repr(function)}."
            )
        super().__init__(model)
        self.function = function
        self.name = own if name is None else name

    def analyze(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> Relevance:
        """What the function returns.

        Args:
            X: See `Analyzer.analyze`.
            neuron_selection: The class of each sample, or one for all; by default that with the largest output.
            batch_size: Samples that the function gets at once.
            verbose: 1 shows a progress bar.
            **options: There are none.

        Raises:
            TypeError: An option is given.
            ValueError: A class of a model with one output is selected by a word.
        """
        if options:
            raise TypeError(f"analyze of {self.name!r} does not take {next(iter(options))!r}.")
        if neuron_selection is not None and are_sides(neuron_selection):
            raise ValueError(
                f"The function {self.name!r} takes the position of an output, and the class 0 of a model with one "
                f"output has none. Leave y out to measure the explanation of the output."
            )
        results = []
        for inputs, samples, count in self.batches(X, batch_size, verbose):
            if neuron_selection is None:
                y = np.argmax(keras.tree.flatten(self.graph(*inputs))[0], axis=-1)
            else:
                y = np.broadcast_to(np.asarray(neuron_selection), count)[samples]
            results.append(self.function(self.model, packed(inputs, self.graph), y))
        return keras.tree.map_structure(lambda *parts: np.concatenate([np.asarray(p) for p in parts]), *results)


def _takes_three(function):
    """Whether a function may be called with three arguments. Some functions do not say."""
    try:
        inspect.signature(function).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:
        return True
    return True
