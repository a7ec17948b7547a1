"""`quantus`: an analyzer in the form in which Quantus takes it."""

from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.evaluate.explained import Explained, of_model
from revgraph.read.keras import private


class Quantus:
    """An analyzer as the explanation function of Quantus, and its model with channels first.

    Quantus works with channels first. Some of its metrics give the model such samples without asking. So `model` takes
    them, and moves the channels to the end.

    Args:
        analyzer: An analyzer of a functional or sequential Keras model of one input.

    Raises:
        TypeError: It is another analyzer.
    """

    def __init__(self, analyzer: Analyzer) -> None:
        functional = private.functional(analyzer.model) if isinstance(analyzer.model, keras.Model) else None
        if functional is None or len(functional.inputs) != 1:
            raise TypeError(
                f"Quantus takes functional and sequential Keras models of one input, and {analyzer.graph.name!r} is "
                f"none. The metrics of revgraph.evaluate take it."
            )
        self.analyzer = analyzer
        (tensor,) = functional.inputs
        self._moves = len(tensor.shape) > 2
        self.model: keras.Model = functional
        # Metrics ask about one model many times, and an analyzer is compiled when it is first asked.
        self._last: tuple[Any, Analyzer] | None = None
        if not self._moves:
            return
        *inner, channels = tensor.shape[1:]
        inputs = keras.Input((channels, *inner), dtype=tensor.dtype)
        moved = keras.layers.Permute((*range(2, len(inner) + 2), 1), dtype=tensor.dtype)(inputs)
        # Calling `call` keeps the layers single, so that Quantus can shuffle the weights of each.
        self.model = keras.Model(inputs, keras.tree.flatten(functional.call(moved))[0])

    def __call__(self, model: Any, inputs: np.ndarray, targets: ArrayLike, **options: Any) -> np.ndarray:
        """Relevance as Quantus asks for it.

        Args:
            model: The model, or one that Quantus made of it.
            inputs: Samples, (batch, channels, ...).
            targets: The class of each, (batch,).
            **options: What else Quantus passes; it is not used.

        Returns:
            Relevance of pixels, summed over channels, (batch, 1, ...). Without channels it has the shape of `inputs`.
        """
        if self._last is None or self._last[0] is not model:
            self._last = model, of_model(self.analyzer, model)
        _, analyzer = self._last
        inputs, targets = np.asarray(inputs), np.broadcast_to(np.asarray(targets), len(inputs))
        return self._of_pixels(analyzer.analyze(inputs, targets))

    def _of_pixels(self, relevance):
        return relevance.sum(axis=1, keepdims=True) if self._moves else relevance

    def score(
        self, metric: Any, x: ArrayLike, y: ArrayLike | None = None, truth: ArrayLike | None = None, **options: Any
    ) -> Any:
        """The scores of a metric of Quantus.

        Args:
            metric: The metric, such as `quantus.Sparseness()`.
            x: Samples as the model takes them, channels last.
            y: The class of each, (samples,) ints; by default that of the largest output.
            truth: True at the entries that decide, (samples, ...), without channels.
            **options: Further arguments for the metric's call.

        Returns:
            What the metric returns.
        """
        explained = Explained(self.analyzer, x, y, truth)
        if explained.negative.any():
            raise ValueError(
                "Quantus follows an output by its position, and the class 0 of a model with one output has none. "
                "Leave y out to measure the explanation of the output."
            )
        part, (found,) = explained.part(), explained.explain()
        masks = None
        if truth is not None:
            masks = np.expand_dims(explained.truth.reshape(part.shape), 1) if self._moves else explained.truth
        inputs, found = (np.moveaxis(each, -1, 1) if self._moves else each for each in (part.x, found))
        # Otherwise Quantus would build another model in the place of this one.
        softmax = getattr(self.model.layers[-1], "activation", None) is keras.activations.softmax
        options = {"a_batch": self._of_pixels(found), **options}
        return metric(
            model=self.model, x_batch=inputs, y_batch=explained.index, s_batch=masks, explain_func=self,
            **{"channel_first": True, "softmax": softmax, **options},
        )  # fmt: skip


def quantus(analyzer: Analyzer) -> Quantus:
    """An analyzer in the form in which Quantus 0.6 takes it, on Keras 3. Needs `pip install "revgraph[quantus]"`.

    Args:
        analyzer: An analyzer of a functional or sequential Keras model of one input.

    Returns:
        A `Quantus`. Its `score` runs a metric. It is itself what Quantus calls `explain_func`, and has the `model`.

    Raises:
        TypeError: It is another analyzer.

    Example:

        adapter = revgraph.evaluate.quantus(revgraph.create_analyzer("lrp.epsilon", model))
        scores = adapter.score(quantus.PixelFlipping(features_in_step=16), x, y)
    """
    return Quantus(analyzer)
