"""Normalizations that TensorFlow spells out, put together again.

A layer normalization is a dozen operations: x * inv + (beta - mean(x) * inv) with inv = gamma / sqrt(var(x) + epsilon),
or the same in another order. What each of them gives is written as a combination of x and its mean; a combination of
the form (x - mean(x)) * factor * kernel + bias is a `Normalize`.
"""

import dataclasses

import tensorflow as tf

from revgraph.graph import normalization
from revgraph.graph.operations import Normalize
from revgraph.read.savedmodel.nodes import Node
from revgraph.read.savedmodel.weights import Weight


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A statistic of a tensor over some axes.

    Args:
        name: `"mean"`, `"centred"` (x - mean), `"squared"`, `"squared_deviation"`, `"mean_square"`, `"sum_square"`,
            `"variance"`, `"deviation"` (its root), `"factor"` (one over that) or `"unbounded_factor"` (where
            nothing keeps it from being infinite yet).
        source: The slot of the tensor.
        axes: The axes; None before any are known.
        kind: What the factor is one over the root of: `"variance"`, `"mean_square"` or `"sum_square"`.
        epsilon: What keeps it from zero.
    """

    name: str
    source: int
    axes: tuple[int, ...] | None = None
    kind: str | None = None
    epsilon: float | None = None

    def named(self, name, **changes) -> "Statistic":
        """The same with another name."""
        return dataclasses.replace(self, name=name, **changes)


@dataclasses.dataclass(frozen=True)
class Combination:
    """(sign_x x + sign_mean mean(x)) * factor^power * weights + biases.

    Args:
        statistic: The factor, or the mean where there is no factor yet.
        terms: Pairs of `"x"` or `"mean"` and its sign.
        power: 1 with the factor, 0 without.
        weights: What it is multiplied with.
        biases: What is added.
    """

    statistic: Statistic
    terms: frozenset[tuple[str, int]]
    power: int = 0
    weights: tuple[Weight, ...] = ()
    biases: tuple[Weight, ...] = ()

    def is_complete(self) -> bool:
        """Whether this is a normalization."""
        centred = self.statistic.kind == "variance"
        wanted = {("x", 1), ("mean", -1)} if centred else {("x", 1)}
        return self.power == 1 and self.terms == wanted

    def operation(self) -> Normalize:
        """The normalization."""
        statistic, weights, biases = self.statistic, self.weights, self.biases
        axes = list(statistic.axes)

        def read(dtype):
            given = {"kernel": _product(weights, dtype), "bias": _total(biases, dtype)}
            return {name: value for name, value in given.items() if value is not None}

        if statistic.kind == "variance":
            return normalization.of_layer(read, axes, statistic.epsilon)
        if statistic.kind == "mean_square":
            return normalization.of_root_mean_square(read, axes, statistic.epsilon)
        return dataclasses.replace(normalization.to_unit_norm(axes, statistic.epsilon**0.5), reader=read)


def _product(weights, dtype):
    value = None
    for weight in weights:
        value = weight.read(dtype) if value is None else value * weight.read(dtype)
    return value


def _total(weights, dtype):
    return tf.add_n([weight.read(dtype) for weight in weights]) if weights else None


class Statistics:
    """What is known of each slot: a `Statistic` or a `Combination`."""

    def __init__(self):
        self._known: dict[int, Statistic | Combination] = {}

    def note(self, slot, found):
        """Remembers what was found of a slot."""
        if found is not None:
            self._known.setdefault(slot, found)

    def describe(self, node: Node, axes=None, rank=None) -> Statistic | Combination | None:
        """What a node gives; None for what has no part in a normalization.

        Args:
            node: The node.
            axes: The axes over which it reduces.
            rank: How many axes its input has.
        """
        describe = {
            "Add": self._add, "AddV2": self._add, "Maximum": self._maximum, "Minimum": self._minimum,
            "Mul": self._multiply, "Neg": self._negate, "Pow": self._power, "RealDiv": self._divide,
            "Reciprocal": self._invert, "Rsqrt": self._inverse_root, "Sqrt": self._root, "Square": self._square,
            "SquaredDifference": self._squared_difference, "StopGradient": self._same, "Sub": self._subtract,
        }.get(node.type)  # fmt: skip
        if node.type in ("Mean", "Sum") and axes is not None and node.attribute("keep_dims"):
            return self._reduce(node, tuple(sorted(int(axis) % rank for axis in axes)))
        return None if describe is None else describe(*node.arguments)

    def of(self, value, *names) -> Statistic | None:
        """The statistic that a value is, if it has one of these names."""
        found = None if isinstance(value, Weight) else self._known.get(value)
        return found if isinstance(found, Statistic) and found.name in names else None

    def combination(self, value) -> Combination | None:
        """A value as a combination."""
        found = None if isinstance(value, Weight) else self._known.get(value)
        if isinstance(found, Statistic):
            if found.name == "mean":
                return Combination(found, frozenset({("mean", 1)}))
            if found.name == "centred":
                return Combination(found, frozenset({("x", 1), ("mean", -1)}))
            return None
        return found

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
        return self._inverse_root(x) if _number(exponent) == -0.5 else None

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
        """A factor, and the weights with which it was multiplied, as a combination without terms."""
        factor = self.of(value, "factor")
        if factor is not None:
            return Combination(factor, frozenset(), power=1)
        found = None if isinstance(value, Weight) else self._known.get(value)
        return found if isinstance(found, Combination) and not found.terms else None

    def _times(self, slot, factor):
        """A slot times a factor."""
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


def whole_normalization(source, axes, epsilon) -> Combination:
    """Layer normalization of a slot over these axes."""
    factor = Statistic("factor", source, axes, "variance", epsilon)
    return Combination(factor, frozenset({("x", 1), ("mean", -1)}), power=1)


def _shifted(combination, weight):
    return None if combination.biases else dataclasses.replace(combination, biases=(weight,))


def _number(value) -> float | None:
    """The one number that a value is; None where it is not a known number."""
    if not isinstance(value, Weight) or value.value is None or value.value.size != 1:
        return None
    return float(value.value.ravel()[0])
