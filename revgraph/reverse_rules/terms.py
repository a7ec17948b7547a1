"""What a rule is made of: modifiers of inputs and weights, terms and parts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Signed:
    """positive * t^+ + negative * t^-, entry by entry.

    What is linear in t^+ and t^- the engine can have from the two of them, for any number of modifiers of this kind.
    """

    positive: float
    negative: float

    def __call__(self, t):
        if self == identity:
            return t
        if self == pos:
            return tf.nn.relu(t)
        if self == neg:
            return tf.minimum(t, tf.zeros((), t.dtype))
        if t.dtype == tf.float32 and self.positive:
            # One pass less; in float64 it would not do, because TensorFlow keeps the slope in float32.
            return times(self.positive, tf.nn.leaky_relu(t, self.negative / self.positive))
        # Not as the maximum of two multiples, which TensorFlow's optimizer takes for a leaky ReLU where it is none.
        if self.positive >= self.negative:
            return times(self.negative, t) + times(self.positive - self.negative, pos(t))
        return times(self.positive, t) + times(self.negative - self.positive, neg(t))


def times(factor, t):
    """factor * t."""
    return t if factor == 1 else factor * t


identity, pos, neg = Signed(1.0, 1.0), Signed(1.0, 0.0), Signed(0.0, 1.0)
"""Modifiers: a tensor as it is, its positive part, its negative part."""


def ones(t):
    """One in every entry."""
    return tf.ones_like(t)


@dataclasses.dataclass(frozen=True)
class on:
    """Modified weights: `on(pos)` modifies all, `on(pos, bias=neg)` one by name, `on(pos, bias=False)` leaves one out.

    Args:
        modifier: Function of one weight tensor, applied to every weight.
        by_name: Function for the weight of that name, or False to leave it out.
    """

    modifier: Callable[[tf.Tensor], tf.Tensor]
    by_name: tuple[tuple[str, Any], ...]

    def __init__(self, modifier=identity, /, **by_name):
        object.__setattr__(self, "modifier", modifier)
        object.__setattr__(self, "by_name", tuple(by_name.items()))

    def __call__(self, weights):
        chosen = dict(self.by_name)
        chosen = {name: chosen.get(name, self.modifier) for name in weights}
        return {name: chosen[name](w) for name, w in weights.items() if chosen[name] is not False}

    def keeps(self, name) -> bool:
        """Whether the weight of that name is used."""
        return dict(self.by_name).get(name, self.modifier) is not False

    @property
    def keeps_values(self) -> bool:
        """Whether every weight is used as it is, or left out."""
        return all(m is False or m == identity for m in (self.modifier, *dict(self.by_name).values()))

    def signed(self, names) -> "Signed | None":
        """The one `Signed` modifier that all weights of these names get, if that is so."""
        named = dict(self.by_name)
        modifiers = {named.get(name, self.modifier) for name in names} or {self.modifier}
        (first, *others) = modifiers
        return first if not others and isinstance(first, Signed) else None


def where_positive(z, zs):
    """Gate that is open where the site's own output is not negative."""
    return z >= 0


def where_negative(z, zs):
    """Gate that is open where the site's own output is negative."""
    return z < 0


@dataclasses.dataclass(frozen=True)
class Term:
    """z_t: the site called on the modified input with modified weights.

    Args:
        inputs: Modifier of each input tensor: `identity`, `pos`, `neg`, `ones` or any function.
        weights: Modifier of the weights, an `on(...)`.
        sign: +1 or -1.
    """

    inputs: Callable[[tf.Tensor], tf.Tensor] = identity
    weights: on = dataclasses.field(default_factory=on)
    sign: float = 1.0


@dataclasses.dataclass(frozen=True)
class Part:
    """Terms that share one denominator, the weight of the part, and its gate.

    Args:
        terms: The terms whose signed sum is the denominator.
        weight: w_p.
        gate: Factor on the relevance that enters the part, as `gate(z, zs)` with z the site's own output and zs the
            denominators of all parts of the rule; None for 1.
    """

    terms: tuple[Term, ...]
    weight: float = 1.0
    gate: Callable | None = None

    @property
    def favours(self) -> bool:
        """Whether some contributions count for more than others, so that there may be none that count."""
        return any(term.inputs != identity or not term.weights.keeps_values for term in self.terms)
