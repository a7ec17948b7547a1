"""The gradient family, and the two controls: the input itself and noise."""

import functools
import warnings

import numpy as np
import tensorflow as tf

from revgraph.analyzers.analyzer import Analyzer, outside
from revgraph.analyzers.inputs import refuse_mixed_ids
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.canonize.passes import prune
from revgraph.composites import DECONVNET, GRADIENT, GUIDED_BACKPROP, INPUT_TIMES_GRADIENT, beta_smooth
from revgraph.graph.analysis import slots_of_indices

POSTPROCESSES = {None: tf.identity, "abs": tf.abs, "square": tf.square}


class Gradient(ReverseAnalyzer):
    """The gradient of the selected neuron with respect to the input.  [Simonyan et al., 2014]

    Args:
        model: A built Keras model.
        postprocess: None, `"abs"` or `"square"`, applied to the gradient.
        convention: `"paper"` or `"innvestigate"`; they agree.
        **options: See `Analyzer`.
    """

    name = "gradient"
    composite = GRADIENT
    changes_relus = False

    def __init__(self, model, postprocess=None, convention="paper", **options):
        if postprocess not in POSTPROCESSES:
            raise ValueError(f'postprocess is None, "abs" or "square". Received: {postprocess!r}.')
        self.postprocess = postprocess
        self.convention = checked_convention(convention)
        super().__init__(model, self.composite, **options)
        if self.changes_relus and not any(site.operation.traits.relu for site in self.graph.sites):
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

    def __init__(self, model, postprocess=None, convention="paper", **options):
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

    def __init__(self, model, beta=10.0, postprocess=None, convention="paper", **options):
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

    def __init__(self, model, stddev=1, seed=None, **options):
        if not stddev >= 0:
            raise ValueError(f"stddev must be a number >= 0. Received: {stddev!r}.")
        super().__init__(model, **options)
        self.stddev = stddev
        self.seed = seed
        self._generator = np.random.default_rng(seed)

    def _explain(self, inputs):
        return [self._generator.normal(0, self.stddev, np.shape(x)).astype(self.graph.dtype) for x in inputs]


def checked_convention(convention):
    """The convention, if it is one."""
    if convention not in ("paper", "innvestigate"):
        raise ValueError(f'convention is "paper" or "innvestigate". Received: {convention!r}.')
    return convention
