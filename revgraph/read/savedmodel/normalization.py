"""Recognises normalizations that a model spells out in single operations.

A layer normalization is a dozen TensorFlow operations: x * inv + (beta - mean(x) * inv) with
inv = gamma / sqrt(var(x) + epsilon), or the same in another order. The result of each operation is described as a
`Statistic` of x, or as a `Combination` of x and its mean. A combination of the form
(x - mean(x)) * factor * kernel + bias is complete, and becomes one `Normalize` site.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from revgraph.graph import normalization
from revgraph.graph.operations import Normalize
from revgraph.read.savedmodel.nodes import Node
from revgraph.read.savedmodel.weights import Value, Weight


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A statistic of a tensor over some axes.

    Args:
        name: `"mean"`, `"centred"` (x - mean), `"squared"`, `"squared_deviation"`, `"mean_square"`, `"sum_square"`,
            `"variance"`, `"deviation"` (the root of one of the last four), `"factor"` (one over the deviation) or
            `"unbounded_factor"` (one over the deviation, which is infinite if the deviation is zero).
        source: The slot of the tensor.
        axes: The axes; None before any are known.
        kind: The statistic under the root of the deviation: `"variance"`, `"mean_square"` or `"sum_square"`.
        epsilon: The number that keeps the deviation from zero.
    """

    name: str
    source: int
    axes: tuple[int, ...] | None = None
    kind: str | None = None
    epsilon: float | None = None

    def named(self, name: str, **changes: Any) -> "Statistic":
        """The statistic with another name, and with other fields as given."""
        return dataclasses.replace(self, name=name, **changes)


@dataclasses.dataclass(frozen=True)
class Combination:
    """(sign_x x + sign_mean mean(x)) * factor^power * weights + biases.

    Args:
        statistic: The factor, or the mean where there is no factor yet.
        terms: Pairs of `"x"` or `"mean"` and its sign.
        power: 1 with the factor, 0 without it.
        weights: The weights that multiply it.
        biases: The weights that are added.
    """

    statistic: Statistic
    terms: frozenset[tuple[str, int]]
    power: int = 0
    weights: tuple[Weight, ...] = ()
    biases: tuple[Weight, ...] = ()

    def is_complete(self) -> bool:
        """Whether this is a whole normalization."""
        centred = self.statistic.kind == "variance"
        wanted = {("x", 1), ("mean", -1)} if centred else {("x", 1)}
        return self.power == 1 and self.terms == wanted

    def operation(self) -> Normalize:
        """The operation of a combination that `is_complete`."""
        statistic, weights, biases = self.statistic, self.weights, self.biases
        axes, epsilon = list(statistic.axes or ()), statistic.epsilon or 0.0

        def read(dtype):
            given = {"kernel": _product(weights, dtype), "bias": _total(biases, dtype)}
            return {name: value for name, value in given.items() if value is not None}

        if statistic.kind == "variance":
            return normalization.of_layer(read, axes, epsilon)
        if statistic.kind == "mean_square":
            return normalization.of_root_mean_square(read, axes, epsilon)
        return dataclasses.replace(normalization.to_unit_norm(axes, epsilon**0.5), reader=read)


def _product(weights, dtype):
    value = None
    for weight in weights:
        value = weight.read(dtype) if value is None else value * weight.read(dtype)
    return value


def _total(weights, dtype):
    return tf.add_n([weight.read(dtype) for weight in weights]) if weights else None


class Statistics:
    """The `Statistic` or the `Combination` in each slot that has one."""

    def __init__(self) -> None:
        self._known: dict[int, Statistic | Combination] = {}

    def note(self, slot: int, found: Statistic | Combination | None) -> None:
        """Remembers what a slot has, as `describe` returned it."""
        if found is not None:
            self._known.setdefault(slot, found)

    def describe(self, node: Node, axes: Iterable[int] | None = None, rank: int = 0) -> Statistic | Combination | None:
        """The statistic or combination that a node computes; None if it has no part in a normalization.

        Args:
            node: The node.
            axes: The axes over which it reduces; None if it does not reduce, or if they are not known.
            rank: The number of axes of its input, if it reduces.
        """
        views: dict[str, Callable] = {
            "Add": self._add, "AddV2": self._add, "Maximum": self._maximum, "Minimum": self._minimum,
            "Mul": self._multiply, "Neg": self._negate, "Pow": self._power, "RealDiv": self._divide,
            "Reciprocal": self._invert, "Rsqrt": self._inverse_root, "Sqrt": self._root, "Square": self._square,
            "SquaredDifference": self._squared_difference, "StopGradient": self._same, "Sub": self._subtract,
        }  # fmt: skip
        if node.type in ("Mean", "Sum") and axes is not None and node.attribute("keep_dims"):
            return self._reduce(node, tuple(sorted(int(axis) % rank for axis in axes)))
        return views[node.type](*node.arguments) if node.type in views else None

    def of(self, value: Value, *names: str) -> Statistic | None:
        """The statistic in a value, if it has one of these names; None otherwise."""
        found = None if isinstance(value, Weight) else self._known.get(value)
        return found if isinstance(found, Statistic) and found.name in names else None

    def combination(self, value: Value) -> Combination | None:
        """A value as a combination; None where it is no combination."""
        found = None if isinstance(value, Weight) else self._known.get(value)
        if not isinstance(found, Statistic):
            return found
        if found.name == "mean":
            return Combination(found, frozenset({("mean", 1)}))
        if found.name == "centred":
            return Combination(found, frozenset({("x", 1), ("mean", -1)}))
        return None

    def _reduce(self, node, axes):
        (x, *_) = node.slots
        mean = node.type == "Mean"
        deviation, square = self.of(x, "squared_deviation"), self.of(x, "squared")
        if deviation is not None:
            return deviation.named("variance") if mean and deviation.axes == axes else None
        if square is not None:
            return square.named("mean_square" if mean else "sum_square", axes=axes)
        return Statistic("mean", x, axes) if mean else None

    def _same(self, x):
        return self._known.get(x)

    def _squared_difference(self, x, y):
        for source, mean in ((x, self.of(y, "mean")), (y, self.of(x, "mean"))):
            if mean is not None and mean.source == source:
                return mean.named("squared_deviation")
        return None

    def _square(self, x):
        centred = self.of(x, "centred")
        return Statistic("squared", x) if centred is None else centred.named("squared_deviation")

    def _root(self, x):
        variance = self.of(x, "variance", "mean_square", "sum_square")
        return variance.named("deviation") if variance is not None and variance.epsilon is not None else None

    def _inverse_root(self, x):
        deviation, squares = self._root(x), self.of(x, "sum_square")
        if deviation is None and squares is not None:
            return squares.named("unbounded_factor")
        return None if deviation is None else deviation.named("factor")

    def _minimum(self, x, y):
        x, y = (y, x) if isinstance(x, Weight) else (x, y)
        factor, largest = self.of(x, "unbounded_factor"), _number(y)
        if factor is None or not largest or largest < 0:
            return None
        return factor.named("factor", kind="sum_square", epsilon=largest**-2)

    def _invert(self, x):
        deviation = self.of(x, "deviation")
        return None if deviation is None else deviation.named("factor")

    def _power(self, x, exponent):
        number = _number(exponent)
        powers = {2.0: self._square, 0.5: self._root, -0.5: self._inverse_root, -1.0: self._invert}
        return powers[number](x) if number in powers else None

    def _maximum(self, x, y):
        x, y = (y, x) if isinstance(x, Weight) else (x, y)
        squares = self.of(x, "sum_square")
        return None if squares is None or _number(y) is None else squares.named(
            "sum_square", kind="sum_square", epsilon=_number(y)
        )  # fmt: skip

    def _add(self, x, y):
        x, y = (y, x) if isinstance(x, Weight) else (x, y)
        if not isinstance(y, Weight):
            return self._sum(self.combination(x), self.combination(y))
        variance = self.of(x, "variance", "mean_square")
        if variance is not None:
            return variance.named(variance.name, kind=variance.name, epsilon=_number(y)) if _number(y) else None
        combination = self.combination(x)
        return None if combination is None else _shifted(combination, y)

    @staticmethod
    def _sum(one, two):
        if one is None or two is None or one.terms & two.terms or {n for n, _ in one.terms} & {n for n, _ in two.terms}:
            return None
        if (one.statistic, one.power, one.weights) != (two.statistic, two.power, two.weights):
            return None
        return dataclasses.replace(one, terms=one.terms | two.terms, biases=one.biases + two.biases)

    def _subtract(self, x, y):
        mean = self.of(y, "mean")
        if mean is not None and mean.source == x:
            return mean.named("centred")
        square, squared_mean = self.of(x, "mean_square"), self.of(y, "squared")
        if square is not None and squared_mean is not None:
            mean = self.of(squared_mean.source, "mean")
            fits = mean is not None and (mean.source, mean.axes) == (square.source, square.axes)
            return square.named("variance") if fits else None
        if isinstance(y, Weight):
            combination = self.combination(x)
            return None if combination is None else _shifted(combination, y.map(lambda w: -w, y.shape))
        negative = self._negate(y)
        if negative is None:
            return None
        return _shifted(negative, x) if isinstance(x, Weight) else self._sum(self.combination(x), negative)

    def _negate(self, x):
        combination = self.combination(x)
        if combination is None or combination.biases:
            return None
        return dataclasses.replace(combination, terms=frozenset((name, -sign) for name, sign in combination.terms))

    def _multiply(self, x, y):
        if not isinstance(x, Weight) and x == y:
            return self._square(x)
        for one, two in ((x, y), (y, x)):
            factor = self._as_factor(one)
            if factor is None:
                continue
            if isinstance(two, Weight):
                return dataclasses.replace(factor, weights=(*factor.weights, two))
            return self._times(two, factor)
        x, y = (y, x) if isinstance(x, Weight) else (x, y)
        combination = self.combination(x)
        if combination is None or not isinstance(y, Weight) or combination.biases or combination.weights:
            return None
        return dataclasses.replace(combination, weights=(y,)) if any(n != 1 for n in y.shape) else None

    def _as_factor(self, value):
        """A factor and the weights that multiply it, as a combination without terms."""
        factor = self.of(value, "factor")
        if factor is not None:
            return Combination(factor, frozenset(), power=1)
        found = None if isinstance(value, Weight) else self._known.get(value)
        return found if isinstance(found, Combination) and not found.terms else None

    def _times(self, slot, factor):
        """The product of a slot and a factor."""
        statistic = factor.statistic
        if slot == statistic.source:
            return dataclasses.replace(factor, terms=frozenset({("x", 1)}))
        combination = self.combination(slot)
        if combination is None or combination.power or combination.biases or combination.weights:
            return None
        if (combination.statistic.source, combination.statistic.axes) != (statistic.source, statistic.axes):
            return None
        return dataclasses.replace(factor, terms=combination.terms)

    def _divide(self, x, y):
        deviation = self.of(y, "deviation")
        if deviation is None:
            return None
        factor = Combination(deviation.named("factor"), frozenset(), power=1)
        if isinstance(x, Weight):
            return dataclasses.replace(factor, weights=(x,))
        return self._times(x, factor)


def whole_normalization(source: int, axes: tuple[int, ...], epsilon: float) -> Combination:
    """The combination of a whole layer normalization.

    Args:
        source: The slot that is normalized.
        axes: The axes of the statistics.
        epsilon: The number that is added to the variance.
    """
    factor = Statistic("factor", source, axes, "variance", epsilon)
    return Combination(factor, frozenset({("x", 1), ("mean", -1)}), power=1)


def _shifted(combination, weight):
    return None if combination.biases else dataclasses.replace(combination, biases=(weight,))


def _number(value: Value) -> float | None:
    """The number that a value is; None where it is not a known weight with a single entry."""
    if not isinstance(value, Weight) or value.value is None or value.value.size != 1:
        return None
    return float(value.value.ravel()[0])
