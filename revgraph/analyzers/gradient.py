"""The gradient family, and the two controls: the input itself and noise."""

import functools
import warnings
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer
from revgraph.analyzers.inputs import refuse_mixed_ids
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.canonize.passes import prune
from revgraph.composites import (
    DECONVNET,
    EMBEDDING,
    GRADIENT,
    GUIDED_BACKPROP,
    INPUT_TIMES_GRADIENT,
    Composite,
    beta_smooth,
)
from revgraph.graph import Graph
from revgraph.graph.analysis import slots_of_indices
from revgraph.graph.arguments import check_number, check_seed
from revgraph.graph.callers import outside
from revgraph.reverse_rules import NormOverEmbedding, Rule, SumOverEmbedding

POSTPROCESSES = {None: tf.identity, "abs": tf.abs, "square": tf.square}


class Gradient(ReverseAnalyzer):
    """The gradient of the selected neuron with respect to the input.  [Simonyan et al., 2014]

    Args:
        model: A built Keras model.
        postprocess: None, `"abs"` or `"square"`, applied to the gradient.
        convention: `"paper"` or `"innvestigate"`; they agree.
        reduce: What a token gets of the gradient of its embedding: the `"norm"`, the default, which says how sensitive
            the output is to the token, or the `"sum"` over the embedding. Behind a normalization the sum is zero but
            for rounding. `input_t_gradient` multiplies by the embedding, and always takes the sum.
        **options: See `ReverseAnalyzer`.
    """

    name = "gradient"
    composite = GRADIENT
    reductions: ClassVar[dict[str, Rule]] = {"norm": NormOverEmbedding(), "sum": SumOverEmbedding()}
    changes_relus = False

    def __init__(
        self,
        model: keras.Model | Graph,
        postprocess: str | None = None,
        convention: str = "paper",
        reduce: str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(postprocess, str | None) or postprocess not in POSTPROCESSES:
            raise ValueError(f'postprocess is None, "abs" or "square". Received: {postprocess!r}.')
        self.reduce = next(iter(self.reductions)) if reduce is None else reduce
        if not isinstance(self.reduce, str) or self.reduce not in self.reductions:
            raise ValueError(f"reduce is {' or '.join(map(repr, self.reductions))}. Received: {reduce!r}.")
        self.postprocess = postprocess
        self.convention = checked_convention(convention)
        tokens = (EMBEDDING, self.reductions[self.reduce])
        super().__init__(model, Composite(tokens, self.composite, name=self.composite.name), **options)
        if self.changes_relus and not any(b.site.operation.traits.relu for bound in self.bound for b in bound.flat()):
            warnings.warn(
                f"{self.graph.name!r} has no ReLU, and ReLUs are all that {self.name} changes: it equals the gradient.",
                stacklevel=outside(),
            )

    def _canonize(self, graph, keep):
        return prune(graph, keep)

    def _own_start(self, y):
        return tf.ones_like(y)

    def _finish(self, relevance, x, slot):
        return POSTPROCESSES[self.postprocess](relevance)


class InputTimesGradient(Gradient):
    """Input times gradient.  [Shrikumar et al., 2017]"""

    name = "input_t_gradient"
    composite = INPUT_TIMES_GRADIENT
    reductions: ClassVar[dict[str, Rule]] = {"sum": SumOverEmbedding(times_row=True)}

    def __init__(
        self,
        model: keras.Model | Graph,
        postprocess: str | None = None,
        convention: str = "paper",
        **options: Any,
    ) -> None:
        super().__init__(model, postprocess, convention, **options)
        refuse_mixed_ids(self.name, self.graph)

    @functools.cached_property
    def _indices(self):
        """Slots of inputs that are indices into an embedding, whose rows are what the gradient is multiplied with."""
        return slots_of_indices(self.graph)

    def _finish(self, relevance, x, slot):
        relevance = super()._finish(relevance, x, slot)
        return relevance if slot in self._indices else tf.cast(x, relevance.dtype) * relevance


class Deconvnet(Gradient):
    """Gradient whose ReLUs pass the positive part of what comes from above.  [Zeiler and Fergus, 2014]"""

    name = "deconvnet"
    changes_relus = True
    composite = DECONVNET

    def _own_start(self, y):
        return y if self.convention == "innvestigate" else tf.ones_like(y)


class GuidedBackprop(Deconvnet):
    """Gradient that passes only positive gradients through active ReLUs.  [Springenberg et al., 2015]"""

    name = "guided_backprop"
    composite = GUIDED_BACKPROP


class BetaSmooth(Gradient):
    """The gradient with ReLUs smoothed to softplus.  [Dombrowski et al., 2019]

    Args:
        model: A built Keras model.
        beta: Sharpness of the softplus, positive.
        postprocess, convention, **options: See `Gradient`.
    """

    name = "beta_smooth"
    changes_relus = True

    def __init__(
        self,
        model: keras.Model | Graph,
        beta: float = 10.0,
        postprocess: str | None = None,
        convention: str = "paper",
        **options: Any,
    ) -> None:
        self.composite = beta_smooth(beta)
        super().__init__(model, postprocess, convention, **options)


class Input(Analyzer):
    """The input itself, as a control."""

    name = "input"

    def _explain(self, inputs):
        return [np.asarray(x).astype(self.graph.dtype) for x in inputs]


class Random(Analyzer):
    """Gaussian noise, as a control.

    Args:
        model: A built Keras model.
        stddev: Standard deviation of the noise.
        seed: Integer for the same noise each time the analyzer is made; None for other noise.
        **options: See `Analyzer`.
    """

    name = "random"

    def __init__(self, model: keras.Model | Graph, stddev: float = 1, seed: int | None = None, **options: Any) -> None:
        check_number("stddev", stddev, least=0)
        check_seed(seed)
        super().__init__(model, **options)
        self.stddev = stddev
        self.seed = seed
        self._generator = np.random.default_rng(seed)

    def _explain(self, inputs):
        return [self._generator.normal(0, self.stddev, np.shape(x)).astype(self.graph.dtype) for x in inputs]


def checked_convention(convention: str) -> str:
    """The convention, if it is one."""
    if convention not in ("paper", "innvestigate"):
        raise ValueError(f'convention is "paper" or "innvestigate". Received: {convention!r}.')
    return convention
