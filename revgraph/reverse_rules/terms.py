"""What a rule is made of: parts, their terms, and the functions that modify inputs and weights.

`revgraph.reverse_rules.engine` has the formula in which they stand.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from revgraph.graph.types import Weights

Modifier: TypeAlias = Callable[[tf.Tensor], tf.Tensor]
"""A function of one tensor that keeps its shape."""

GateFunction: TypeAlias = Callable[[tf.Tensor, Sequence[tf.Tensor]], tf.Tensor]
"""The gate of a `Part`, a function of the site's own output z and of zs, the denominators of all parts of the rule."""


@dataclasses.dataclass(frozen=True)
class Signed:
    """The modifier positive * t^+ + negative * t^-, entry by entry.

    Whatever is linear in t can be computed once for t^+ and once for t^-. The results for all modifiers of this kind
    are combinations of these two.

    Args:
        positive: Factor on the positive part t^+ = max(t, 0).
        negative: Factor on the negative part t^- = min(t, 0).
    """

    positive: float
    negative: float

    def __call__(self, t: tf.Tensor) -> tf.Tensor:
        if self == identity:
            return t
        if self == pos:
            return tf.nn.relu(t)
        if self == neg:
            return tf.minimum(t, tf.zeros((), t.dtype))
        if self == magnitude:
            return tf.abs(t)
        if t.dtype == tf.float32 and self.positive:
            # One pass less. Not in float64, because TensorFlow keeps the slope in float32.
            return times(self.positive, tf.nn.leaky_relu(t, self.negative / self.positive))
        # Not as the maximum of two multiples: TensorFlow's optimizer takes that for a leaky ReLU where it is none.
        if self.positive >= self.negative:
            return times(self.negative, t) + times(self.positive - self.negative, pos(t))
        return times(self.positive, t) + times(self.negative - self.positive, neg(t))


def times(factor: float, t: tf.Tensor) -> tf.Tensor:
    """factor * t."""
    return t if factor == 1 else factor * t


identity, pos, neg, magnitude = Signed(1.0, 1.0), Signed(1.0, 0.0), Signed(0.0, 1.0), Signed(1.0, -1.0)
"""Modifiers: a tensor as it is, its positive part, its negative part, its absolute value."""


def ones(t: tf.Tensor) -> tf.Tensor:
    """The modifier that puts one in every entry."""
    return tf.ones_like(t)


@dataclasses.dataclass(frozen=True)
class on:
    """Modified weights.

    `on(pos)` modifies every weight. `on(pos, bias=neg)` names another modifier for the bias, and `on(pos, bias=False)`
    leaves the bias out. Weights go by the names that the operation has for them, mostly `kernel` and `bias`.

    Args:
        modifier: Applied to every weight that is not named. By default weights stay as they are.
        by_name: The modifier of the weight of that name; or False to leave the weight out, True for `modifier`.
    """

    modifier: Modifier
    by_name: tuple[tuple[str, Any], ...]

    def __init__(self, modifier: Modifier = identity, /, **by_name: Any) -> None:
        object.__setattr__(self, "modifier", modifier)
        object.__setattr__(self, "by_name", tuple((name, m) for name, m in by_name.items() if m is not True))

    def __call__(self, weights: Weights) -> dict[str, tf.Tensor]:
        named = dict(self.by_name)
        chosen = {name: named.get(name, self.modifier) for name in weights}
        return {name: chosen[name](w) for name, w in weights.items() if chosen[name] is not False}

    def keeps(self, name: str) -> bool:
        """Whether the weight of that name is used."""
        return dict(self.by_name).get(name, self.modifier) is not False

    @property
    def keeps_values(self) -> bool:
        """Whether every weight is used as it is, or left out."""
        return all(m is False or m == identity for m in (self.modifier, *dict(self.by_name).values()))

    def signed(self, names: Iterable[str]) -> Signed | None:
        """The `Signed` modifier of the weights of these names, if all have the same; None otherwise."""
        named = dict(self.by_name)
        modifiers = {named.get(name, self.modifier) for name in names} or {self.modifier}
        (first, *others) = modifiers
        return first if not others and isinstance(first, Signed) else None


def where_positive(z: tf.Tensor, zs: Sequence[tf.Tensor]) -> tf.Tensor:
    """The gate that is open where the site's own output is not negative."""
    return z >= 0


def where_negative(z: tf.Tensor, zs: Sequence[tf.Tensor]) -> tf.Tensor:
    """The gate that is open where the site's own output is negative."""
    return z < 0


@dataclasses.dataclass(frozen=True)
class Term:
    """z_t: the output of the site when it is called on modified inputs with modified weights.

    Args:
        inputs: Modifier of each input tensor: `identity` (the default), `pos`, `neg`, `ones` or any other function.
        weights: Modifier of the weights, an `on(...)`. By default all weights are used as they are.
        sign: s_t, which is +1 or -1.

    Example:

        Term(pos, on(pos, bias=False))  # x^+ W^+
    """

    inputs: Modifier = identity
    weights: on = dataclasses.field(default_factory=on)
    sign: float = 1.0


@dataclasses.dataclass(frozen=True)
class Part:
    """Terms that share one denominator, which is their signed sum.

    Args:
        terms: The terms.
        weight: w_p, the factor on the relevance that the part hands to the inputs.
        gate: g_p, a function `gate(z, zs)` whose result multiplies the relevance that enters the part. z is the site's
            own output, and zs has the denominators of all parts of the rule. None lets everything in.
    """

    terms: tuple[Term, ...]
    weight: float = 1.0
    gate: GateFunction | None = None

    @property
    def favours(self) -> bool:
        """Whether some contributions count for more than others. An output may then have none that counts."""
        return any(term.inputs != identity or not term.weights.keeps_values for term in self.terms)
