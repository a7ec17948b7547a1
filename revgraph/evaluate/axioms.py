"""Axioms: does relevance add up, and does it depend on the function alone?"""

import dataclasses
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from revgraph.evaluate.changing import Baseline, changer
from revgraph.evaluate.explained import Explained, of_model
from revgraph.evaluate.metric import Metric
from revgraph.read.keras import private

__all__ = ["Completeness", "ImplementationInvariance", "split_layers"]


@dataclasses.dataclass(frozen=True)
class Completeness(Metric):
    """What is missing until relevance adds up to the logit: |sum R - (f(x) - f(x0))| / |f(x) - f(x0)|. Lower is better.

    Args:
        baseline: The reference x0 of methods that have one; see `Deletion`. None for f(x0) = 0, which LRP and
            gradient times input add up to.

    Reference:
        Sundararajan et al.: *Axiomatic Attribution for Deep Networks.* ICML, 2017.
    """

    name: ClassVar[str] = "completeness"
    higher_is_better: ClassVar[bool] = False
    baseline: Baseline | None = None

    def values(self, explained: Explained) -> Any:
        total = explained.total
        function = tf.function(explained.analyzer.innermost.graph, autograph=False, reduce_retracing=True)

        def logits(xs=None):
            y = [np.asarray(keras.tree.flatten(function(batch))[0]) for batch in explained.batches(xs)]
            values = np.concatenate(y)[np.arange(len(explained)), explained.index]
            return np.where(explained.negative, -values, values)

        difference = logits()
        if self.baseline is not None:
            everywhere = np.ones(explained.present.shape, bool)
            difference = difference - logits(changer(explained, self.baseline)(everywhere))
        missing = total - difference
        return np.abs(missing) / np.where(difference == 0, np.nan, np.abs(difference))


@dataclasses.dataclass(frozen=True)
class ImplementationInvariance(Metric):
    """How much relevance differs for the same function in another form: max |R - R'| / max |R|. Lower is better.

    The other form is the model with each dense layer and convolution split into two that are added; see `split_layers`.

    Args:
        other: A model that computes the same function, in place of that. Its outputs are compared first.

    Raises:
        TypeError: The model cannot be split, such as a SavedModel, so that `other` is needed.
        ValueError: `other` computes something else.

    Reference:
        Sundararajan et al.: *Axiomatic Attribution for Deep Networks.* ICML, 2017.
    """

    name: ClassVar[str] = "implementation_invariance"
    higher_is_better: ClassVar[bool] = False
    other: Any = dataclasses.field(default=None, compare=False)

    def values(self, explained: Explained) -> Any:
        analyzer = explained.analyzer
        other = split_layers(analyzer.model) if self.other is None else self.other
        twin = explained.by(of_model(analyzer, other))
        if not np.allclose(twin.outputs, explained.outputs, rtol=1e-3, atol=1e-4 * np.abs(explained.outputs).max()):
            raise ValueError("The other model computes other outputs, so it is not the same function in another form.")
        own, found = explained.relevance, twin.relevance
        largest = np.abs(own).max(axis=1)
        return np.abs(own - found).max(axis=1) / np.where(largest > 0, largest, np.nan)


def split_layers(model: keras.Model) -> keras.Model:
    """The same function as another graph: each dense layer and convolution becomes the sum of two.

    A kernel W becomes W / 3 and 2 W / 3, and the first of the two layers has the bias.

    Args:
        model: A functional or sequential model. It is not changed.

    Returns:
        A new model with copies of the weights.

    Raises:
        TypeError: The model is neither.
    """
    functional = private.functional(model) if isinstance(model, keras.Model) else None
    if functional is None:
        raise TypeError(
            "Only functional and sequential models can be split into the same function in another form. Pass such a "
            "model yourself: ImplementationInvariance(other=...)."
        )
    splits = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    copies: dict[str, tuple[keras.Layer, keras.Layer]] = {}

    def call(layer, *args, **kwargs):
        if type(layer) not in splits:
            return layer(*args, **kwargs)
        if layer.name not in copies:
            config = {**layer.get_config(), "activation": None}
            copies[layer.name] = tuple(
                type(layer).from_config({**config, "name": f"{layer.name}_{part}", "use_bias": bias})
                for part, bias in (("first", layer.use_bias), ("second", False))
            )
        first, second = (half(*args, **kwargs) for half in copies[layer.name])
        return layer.activation(first + second)

    twin = keras.models.clone_model(functional, call_function=call)
    kept = {layer.name: layer for layer in functional.layers}
    for layer in twin.layers:
        if layer.name in kept and layer.weights:
            layer.set_weights(kept[layer.name].get_weights())
    for name, (first, second) in copies.items():
        kernel, *bias = kept[name].get_weights()
        first.set_weights([kernel / 3, *bias])
        second.set_weights([kernel - kernel / 3])
    return twin
