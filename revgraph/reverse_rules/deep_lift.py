"""The rules of DeepLIFT, which explains how an output differs from its value at a reference input.

Each entry x_j of a tensor has a reference value x_ref,j, which is what the network computes for the reference input.
Its *multiplier* is m_j = contribution / (x_j - x_ref,j). Multipliers are chained backwards like gradients.

A rule here belongs to an operation that runs beside its reference: it reads inputs and then reference inputs, and it
writes outputs and then reference outputs. What the engine calls relevance is the multiplier of a tensor. At the input
`TimesDifference` makes it the contribution.

Notation: x and y are the input and the output, x_ref and y_ref their reference values, and m_x and m_y their
multipliers. D stands for a difference from the reference, Dx = x - x_ref.

References:
    [SHRIKUMAR2017] Shrikumar et al.: Learning Important Features Through Propagating Activation Differences. ICML 2017.
    [LUNDBERG2017] Lundberg and Lee: A Unified Approach to Interpreting Model Predictions. NeurIPS 2017.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.graph import Site
from revgraph.graph.analysis import Facts, slots_of_indices
from revgraph.graph.operations import Normalize, ordered_sum
from revgraph.reverse_rules.engine import OutputsAndPullback, Pullback, Rule, SiteCall
from revgraph.reverse_rules.folding import folded, per_sample

NEAR = 1e-6
"""Differences below this count as zero. There the gradient is used, which is the limit of the rescale rule."""


def _halves(tensors):
    half = len(tensors) // 2
    return tensors[:half], tensors[half:]


def _with_none(multipliers):
    """The multipliers of the inputs, then None for each reference input."""
    return (*multipliers, *(None for _ in multipliers))


@dataclasses.dataclass(frozen=True)
class Rescale(Rule):
    """The rescale rule for activations: m_x = (y - y_ref) / (x - x_ref) m_y.  [SHRIKUMAR2017, section 3.5.1]"""

    def record(self, call: SiteCall) -> OutputsAndPullback:
        ((x, *masks), (x_ref, *_)), (y, y_ref) = _halves(call.inputs), call.outputs

        def pull(m, _):
            dx, dy = x - x_ref, y - y_ref
            near = tf.abs(dx) < NEAR
            slope = call.transposed(m, tf.zeros_like(m))[0]
            multiplier = tf.where(near, slope, m * dy / tf.where(near, tf.ones_like(dx), dx))
            return _with_none([multiplier, *(None for _ in masks)])

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class MeanGradient(Rule):
    """For functions of many entries, such as softmax: the mean of the gradient along the straight path.  [LUNDBERG2017]

    The mean is computed by Gauss-Legendre quadrature. What that leaves of the difference, sum m_y Dy - sum m_x Dx, is
    next to nothing. It is shared in proportion to (m_x Dx)^2, so that contributions add up exactly.

    Args:
        nodes: The number of points on the path.
    """

    nodes: int = 16

    def record(self, call: SiteCall) -> OutputsAndPullback:
        ((x, *masks), (x_ref, *others)), (y, y_ref) = _halves(call.inputs), call.outputs
        # Scores of minus infinity have no difference, and what is zero in both runs, behind a mask, takes no part.
        left_out = tf.equal(x, x_ref) | (tf.equal(y, 0) & tf.equal(y_ref, 0))
        dx = tf.where(left_out, tf.zeros_like(x), x - x_ref)
        nodes, weights = np.polynomial.legendre.leggauss(self.nodes)
        points = [tf.where(left_out, x, x_ref + (t + 1) / 2 * dx) for t in nodes]
        gradients = [call.record((p, *masks, x_ref, *others), call.weights).transposed for p in points]

        def pull(m, _):
            parts = [gradient(m * (w / 2), tf.zeros_like(m))[0] for gradient, w in zip(gradients, weights, strict=True)]
            mean = ordered_sum(parts)
            shares = (mean * dx) ** 2
            rest = per_sample(m * (y - y_ref)) - per_sample(mean * dx)
            rest = tf.math.divide_no_nan(rest, per_sample(shares))
            mean += tf.reshape(rest, (-1,) + (1,) * (x.shape.rank - 1)) * mean * mean * dx
            return _with_none([mean, *(None for _ in masks)])

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class RescaleChoice(Rule):
    """For maxima and minima: y - y_ref goes to the entry that was chosen in the input, and to that in the reference.

    With c = max(y, y_ref), the entry that gave y gets c - y_ref, and the entry that gave y_ref gets y - c. Both are
    divided by the difference x - x_ref of the entry, which makes them multipliers. Minima have c = min(y, y_ref).

    Args:
        choose: `tf.maximum` or `tf.minimum`.
    """

    choose: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = tf.maximum

    def record(self, call: SiteCall) -> OutputsAndPullback:
        xs, x_refs = _halves(call.inputs)
        y, y_ref = call.outputs
        slope = call.record(call.inputs, call.weights).transposed

        def pull(m, _):
            chosen = self.choose(y, y_ref)
            shares = _halves(call.transposed(m * (chosen - y_ref), m * (y - chosen)))
            return _with_none(
                [
                    tf.where(tf.abs(x - r) < NEAR, limit, tf.math.divide_no_nan(here + there, x - r))
                    for x, r, limit, here, there in zip(xs, x_refs, slope(m, tf.zeros_like(m)), *shares, strict=False)
                ]
            )

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class RescaleProduct(Rule):
    """For products and contractions: the mean of the gradient along the straight path.  [LUNDBERG2017]

    The path leads from the reference to the input. For two factors a and b the mean is m_a = (b + b_ref) / 2 m_y. For n
    factors the gradient is a polynomial of degree n - 1 along the path, which Gauss-Legendre quadrature integrates
    exactly.
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        xs, refs = _halves(call.inputs)
        nodes, weights = np.polynomial.legendre.leggauss((len(xs) + 1) // 2)
        points = [tuple(r + (t + 1) / 2 * (x - r) for x, r in zip(xs, refs, strict=True)) for t in nodes]
        gradients = [call.record((*point, *refs), call.weights).transposed for point in points]

        def pull(m, _):
            parts = [gradient(m * (w / 2), tf.zeros_like(m)) for gradient, w in zip(gradients, weights, strict=True)]
            return _with_none([sum(p[i] for p in parts) for i in range(len(xs))])

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class RescaleQuotient(Rule):
    """For y = a / b, as the product of a and 1 / b, whose difference goes to b.

    m_a = (1 / b + 1 / b_ref) / 2 m_y and m_b = -(a + a_ref) / (2 b b_ref) m_y.
    """

    def record(self, call):
        (a, b), (a_ref, b_ref) = _halves(call.inputs)

        def pull(m, _):
            m_a = m * (1 / b + 1 / b_ref) / 2
            m_b = -m * (a + a_ref) / (2 * b * b_ref)
            return _with_none([folded(m_a, a), folded(m_b, b)])

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class RescaleNormalization(Rule):
    r"""For normalizations of a sample by its own statistics: y = c f(c) w + b, with c = x - mean(x).

    The product c f is treated as in `RescaleProduct`: Dy = w (Dc (f + f_ref) / 2 + Df (c + c_ref) / 2). The factor f
    depends on one number alone, a mean of squares. The difference of a mean of squares is exactly its gradient half-way
    between c_ref and c, times Dc. So the entries of c share Df in proportion to these products.
    """

    def record(self, call: SiteCall) -> OutputsAndPullback:
        x, x_ref = call.inputs
        # A `WithReference` of revgraph.canonize, which rules may not import.
        beside_reference: Any = call.operation
        operation: Normalize = beside_reference.operation
        kernel = call.weights.get("kernel", tf.ones((), x.dtype))

        def centre(x):
            return x if operation.mean is None else x - operation.mean(x)

        c, c_ref = centre(x), centre(x_ref)
        f, f_ref = operation.factor(c), operation.factor(c_ref)
        half_way, dc = (c + c_ref) / 2, c - c_ref

        def pull(m, _):
            m = m * kernel
            with tf.GradientTape(persistent=True) as tape:
                tape.watch((x, half_way))
                centred, factor = centre(x), operation.factor(half_way)
                # The slope is linear in the tangent. So its gradient is the derivative of the factor along Dc.
                tangent = tf.zeros_like(factor)
                tape.watch(tangent)
                slope = tape.gradient(factor, half_way, tangent)
            along = tape.gradient(slope, tangent, dc)
            share = tf.math.divide_no_nan(f - f_ref, along) * folded(m * half_way, f)
            m_c = m * (f + f_ref) / 2 + tape.gradient(factor, half_way, share)
            return _with_none([tape.gradient(centred, x, m_c)])

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class EmbeddingDifference(Rule):
    """The contribution of a token: sum_d m_d (e_d - e_ref,d) over its embedding vector e."""

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return True

    def record(self, call: SiteCall) -> OutputsAndPullback:
        e, e_ref = call.outputs
        return call.outputs, Pullback(lambda m, _: (tf.reduce_sum(m * (e - e_ref), axis=-1), None))


@dataclasses.dataclass(frozen=True)
class TimesDifference(Rule):
    """The contribution of an input, m (x - x_ref). Token ids have theirs already, from `EmbeddingDifference`.

    Args:
        indices: Whether the input consists of ids that are looked up in a table.
    """

    indices: bool = False

    def at(self, site: Site, facts: Facts) -> Rule:
        return TimesDifference(site.outputs[0] in slots_of_indices(facts.graph))

    def record(self, call: SiteCall) -> OutputsAndPullback:
        x, x_ref = (tf.cast(x, call.dtype) for x in call.inputs)
        return call.outputs, Pullback(lambda m, _: (m if self.indices else m * (x - x_ref), None))
