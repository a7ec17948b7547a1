"""The rules of DeepLIFT: multipliers m = contribution / difference from the reference, chained like gradients.

Each rule is bound to an operation that reads inputs and reference inputs, in this order, and writes outputs and
reference outputs. Relevance here is the multiplier of a tensor, until `TimesDifference` makes it the contribution.

References:
    [SHRIKUMAR2017] Shrikumar et al.: Learning Important Features Through Propagating Activation Differences. ICML 2017.
    [LUNDBERG2017] Lundberg and Lee: A Unified Approach to Interpreting Model Predictions. NeurIPS 2017.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from revgraph.graph.analysis import slots_of_indices
from revgraph.reverse_rules.engine import Pullback, Rule
from revgraph.reverse_rules.folding import folded

NEAR = 1e-6
"""Differences below this count as none: the limit of the rescale rule, the gradient, is used."""


def _halves(tensors):
    half = len(tensors) // 2
    return tensors[:half], tensors[half:]


def _with_none(multipliers):
    """Multipliers of the inputs; nothing goes to the reference inputs."""
    return (*multipliers, *(None for _ in multipliers))


@dataclasses.dataclass(frozen=True)
class Rescale(Rule):
    """m_x = (y - y_ref) / (x - x_ref) m_y, entry by entry.  [SHRIKUMAR2017, section 3.5.1]"""

    def record(self, call):
        (x, x_ref), (y, y_ref) = call.inputs, call.outputs

        def pull(m, _):
            dx, dy = x - x_ref, y - y_ref
            near = tf.abs(dx) < NEAR
            slope = call.transposed(m, tf.zeros_like(m))[0]
            return _with_none([tf.where(near, slope, m * dy / tf.where(near, tf.ones_like(dx), dx))])

        return call.outputs, Pullback(pull)


@dataclasses.dataclass(frozen=True)
class RescaleChoice(Rule):
    """For maxima and minima: y - y_ref goes to the entries that were chosen, in the input and in the reference.

    With c = max(y, y_ref), c - y_ref goes to where y was chosen, and y - c to where y_ref was; each is divided by the
    difference that it finds there. Minima likewise.

    Args:
        choose: `tf.maximum` or `tf.minimum`.
    """

    choose: Callable = tf.maximum

    def record(self, call):
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
    """For products and contractions: the gradient averaged over the straight path from the reference.  [LUNDBERG2017]

    For two factors m_a = (b + b_ref) / 2 m_y. For n factors the gradient is a polynomial of degree n - 1 along the
    path, which Gauss-Legendre quadrature integrates exactly.
    """

    def record(self, call):
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

    A product shares its difference out as `RescaleProduct` does, Dy = w (Dc (f + f_ref) / 2 + Df (c + c_ref) / 2). The
    factor f is a function of one number, a mean of squares, whose difference is its gradient half-way between c_ref and
    c times Dc, exactly. So Df is shared out in proportion to these products.
    """

    def record(self, call):
        (x, x_ref), operation = call.inputs, call.operation.operation
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
                # Linear in the tangent, so that its gradient is the derivative of the factor along Dc.
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
    """The contribution of a token: sum_d m_d (e_d - e_ref,d) over its embedding."""

    def reaches(self, index, dtype="float32"):
        return True

    def record(self, call):
        e, e_ref = call.outputs
        return call.outputs, Pullback(lambda m, _: (tf.reduce_sum(m * (e - e_ref), axis=-1), None))


@dataclasses.dataclass(frozen=True)
class TimesDifference(Rule):
    """The contribution m (x - x_ref) of an input; inputs that are indices have theirs already.

    Args:
        indices: Whether the input is one of indices.
    """

    indices: bool = False

    def at(self, site, facts):
        return TimesDifference(site.outputs[0] in slots_of_indices(facts.graph))

    def record(self, call):
        x, x_ref = (tf.cast(x, call.dtype) for x in call.inputs)
        return call.outputs, Pullback(lambda m, _: (m if self.indices else m * (x - x_ref), None))
