"""Randomisation: does relevance change where the model, or the question, does?"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import keras
import numpy as np

from revgraph.evaluate.explained import Explained
from revgraph.evaluate.metric import Metric
from revgraph.evaluate.statistics import mean_of_defined, rank_correlation
from revgraph.graph.arguments import check_seed

__all__ = ["ParameterRandomisation", "RandomLogit"]


@contextlib.contextmanager
def weights_restored(model: keras.Model) -> Iterator[None]:
    """Restores all weights of a model at the end of a `with` block, also after an error or an interrupt.

    Args:
        model: The model.
    """
    kept = [weight.numpy() for weight in model.weights]
    try:
        yield
    finally:
        for weight, value in zip(model.weights, kept, strict=True):
            weight.assign(value)


def _similarity(explained, own, other):
    """How the order of relevance agrees with that of other relevance, (samples,).

    The sign does not matter: a map that is turned over, as that of a class with a negative logit may be, is the same.
    """
    return np.abs(rank_correlation(own, explained.of_units(other), explained.present))


@dataclasses.dataclass(frozen=True)
class ParameterRandomisation(Metric):
    """How similar relevance stays when the weights of layers are shuffled. Lower is better.

    An explanation of a model depends on what the model has learned. The score is the size of Spearman's correlation
    with the relevance of the intact model, a mean over the steps. The weights are put back at the end, also after an
    interrupt.

    Args:
        cascading: Whether layers that were shuffled stay so, from the output to the input. Otherwise each layer is
            shuffled alone.
        seed: Seed of the shuffling.

    Raises:
        TypeError: The model has no weights that can be changed, such as a SavedModel, or the analyzer keeps a copy.

    Reference:
        Adebayo et al.: *Sanity Checks for Saliency Maps.* NeurIPS, 2018.
    """

    name: ClassVar[str] = "parameter_randomisation"
    higher_is_better: ClassVar[bool] = False
    cascading: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def values(self, explained: Explained) -> Any:
        model, inner = explained.analyzer.model, explained.analyzer.innermost
        if not isinstance(model, keras.Model):
            raise TypeError(
                f"The weights of {explained.analyzer.graph.name!r} cannot be shuffled, because it is no Keras model. "
                f"Read it from a .keras file, or leave this metric out."
            )
        if getattr(inner, "freeze", False):
            raise TypeError(
                f"{inner.name!r} keeps a copy of the weights, so it does not see that they are shuffled: make it "
                f"without freeze=True."
            )
        random, layers = np.random.default_rng(self.seed), list(_with_weights(model))[::-1]
        if not layers:
            raise TypeError(f"{model.name!r} has no weights that could be shuffled.")
        # The relevance of the intact model is computed before anything is shuffled.
        compared, curve = explained.relevance, []
        with weights_restored(model):
            for layer in explained.steps(layers):
                with contextlib.nullcontext() if self.cascading else weights_restored(model):
                    for weight in layer.weights:
                        weight.assign(random.permutation(weight.numpy().ravel()).reshape(weight.shape))
                    curve.append(_similarity(explained, compared, explained.explain()))
        similar = np.stack(curve, axis=1)
        return mean_of_defined(similar), similar, tuple(layer.name for layer in layers), "layer that was shuffled last"


def _with_weights(model):
    """The layers that have weights, in the order in which the model holds them. Those of models inside come singly."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _with_weights(layer)
        elif layer.weights:
            yield layer


@dataclasses.dataclass(frozen=True)
class RandomLogit(Metric):
    """How similar the relevance of another class is, drawn at random for each sample. Lower is better.

    The score is the size of Spearman's correlation: relevance that is the same but for its sign is the same.

    Args:
        seed: Seed of the draws.

    Raises:
        ValueError: The output has one class only.

    Reference:
        Sixt et al.: *When Explanations Lie: Why Many Modified BP Attributions Fail.* ICML, 2020.
    """

    name: ClassVar[str] = "random_logit"
    higher_is_better: ClassVar[bool] = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def values(self, explained: Explained) -> Any:
        classes = explained.outputs.shape[1]
        if classes < 2:
            raise ValueError("random_logit compares with another class, and the output has one only.")
        step = np.random.default_rng(self.seed).integers(1, classes, len(explained))
        other = explained.explain(None, (explained.index + step) % classes)
        return _similarity(explained, explained.relevance, other)
