"""Matchers, which say to which sites an entry of a composite applies.

Constants match by what a site computes, whatever its layer is called: `DENSE`, `CONVOLUTION`, `POOLING`, ... `LINEAR`
matches dense layers and convolutions, `FIRST` the linear layers that see the input, `ANY` everything. Functions make
matchers: `name`, `position`, `keras_op`, `operations`. `first & second` matches what both match.
"""

import dataclasses
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

import keras

from revgraph.graph import Site
from revgraph.graph.analysis import Facts, is_convolution, is_dense, is_linear_layer, is_padding
from revgraph.graph.loops import Loop, without_numbers
from revgraph.graph.operations import (
    Activation,
    ChannelDiagonalConv,
    Contraction,
    Embedding,
    Interpolation,
    LinearMap,
    Normalize,
    Operation,
    Product,
    Quotient,
    Routing,
    Scale,
    Sum,
)
from revgraph.reverse_rules import Rule


@dataclasses.dataclass(frozen=True)
class Matcher:
    """Says whether an entry of a composite applies to a site.

    Args:
        test: Function `(site, facts) -> bool`. `facts` has what is known of the graph, see `revgraph.graph.analysis`.
        text: How the matcher is printed.
        recipe: Name of the function of this module that makes the matcher, and its arguments. A matcher is saved as
            its recipe. Empty for a matcher that cannot be saved.

    Example:

        in_first_block = Matcher(lambda site, facts: site.path.startswith("block1/"), "first block")
    """

    test: Callable[[Site, Facts], bool]
    text: str
    recipe: tuple[Any, ...] = ()

    def __call__(self, site: Site, facts: Facts) -> bool:
        return bool(self.test(site, facts))

    def __str__(self) -> str:
        return self.text

    def __and__(self, other: "Match") -> "Matcher":
        return both(self, matcher(other))

    def __copy__(self) -> "Matcher":
        return self

    def __deepcopy__(self, memo: Any) -> "Matcher":
        return self

    def __reduce__(self) -> str | tuple[Any, ...]:
        named = next((name for name, value in globals().items() if value is self), None)
        if named is not None:
            return named
        if not self.recipe:
            raise TypeError(
                f"The matcher {self.text!r} cannot be pickled, because it matches by a function. Match by class, name, "
                f"position or kind."
            )
        make, *arguments = self.recipe
        return globals()[make], tuple(arguments)


Match: TypeAlias = Matcher | str | type | tuple[type, ...] | Callable[[Any], bool]
"""What an entry of a composite may match; see `matcher`."""

Entry: TypeAlias = tuple[Matcher, Rule]
"""An entry of a composite."""


def both(first: Matcher, second: Matcher) -> Matcher:
    """Matches the sites that two matchers match. `first & second` is the same."""

    def test(site, facts):
        return first(site, facts) and second(site, facts)

    return Matcher(test, f"{first} and {second}", ("both", first, second))


def operations(*kinds: type[Operation], text: str | None = None) -> Matcher:
    """Matches sites by the class of their operation.

    Args:
        *kinds: Classes of `revgraph.graph.operations`.
        text: How the matcher is printed. By default, the names of the classes.
    """
    return Matcher(
        lambda site, facts: isinstance(site.operation, kinds), text or " | ".join(kind.__name__ for kind in kinds)
    )


DENSE = Matcher(lambda site, facts: is_dense(site.operation), "dense layers")
CONVOLUTION = Matcher(lambda site, facts: is_convolution(site.operation), "convolutions")
LINEAR = Matcher(lambda site, facts: is_linear_layer(site.operation), "linear layers")
POOLING = operations(ChannelDiagonalConv, text="average pooling")
SUM = operations(Sum, text="sums")
STATES = Matcher(lambda site, facts: isinstance(site.operation, Sum) and facts.around is not None, "sums of states")
SCALE = operations(Scale, text="scale and shift")
ACTIVATION = operations(Activation, text="activations")
SOFTMAX = Matcher(
    lambda site, facts: isinstance(site.operation, Activation) and site.operation.name == "softmax", "softmax"
)
RELU = Matcher(lambda site, facts: site.operation.traits.relu, "ReLUs")
ROUTING = operations(Routing, text="routing")
PADDING = Matcher(lambda site, facts: is_padding(site.operation), "padding and masks")
PRODUCT = operations(Product, text="products")
CONTRACTION = operations(Contraction, text="products of matrices")
QUOTIENT = operations(Quotient, text="quotients")
NORMALIZATION = operations(Normalize, text="normalization of samples")
LINEAR_MAP = operations(LinearMap, text="linear maps")
INTERPOLATION = operations(Interpolation, text="interpolation")
SATURATION = Matcher(lambda site, facts: site.operation.traits.saturates, "activations with a bound")
STEP = Matcher(lambda site, facts: site.operation.traits.step, "step functions")
LOOP = operations(Loop, text="loops")
EMBEDDING = operations(Embedding, text="embeddings")
PROJECTION = Matcher(lambda site, facts: site in facts.projections, "projections of attention")
FIRST = Matcher(lambda site, facts: site in facts.first_linear, "first linear layer")
ANY = Matcher(lambda site, facts: True, "everything")


def name(pattern: str) -> Matcher:
    """Matches by the layer's name or the site's path, with a pattern such as `block1_*`.

    A pattern that matches a layer does not match the activation inside it, which has its own path, such as
    `dense/relu`. Inside of a loop a path also matches without the numbers of calls: `enc/lstm_cell` matches
    `enc#2/lstm_cell`, too.

    Args:
        pattern: A pattern of `fnmatch`, where `*` stands for any text.
    """

    def matches(text):
        return fnmatch.fnmatchcase(text, pattern)

    def test(site, facts):
        inside = isinstance(site.operation, Activation) and matches(site.path.rpartition("/")[0])
        # A cell may have several linear layers with one path, told apart by numbers. Users name the cell.
        matched = matches(site.path) or (facts.around is not None and matches(without_numbers(site.path)))
        return (matched and not inside) or (matches(_layer_name(site)) and _is_own(site))

    return Matcher(test, f"{pattern!r}", ("name", pattern))


def position(start: int, stop: int | None = None) -> Matcher:
    """Matches linear layers by their place in the order of execution.

    Args:
        start: The first place that matches, from 0. Negative places count from the end.
        stop: The place behind the last one that matches. None matches one place only.
    """

    for place in (start, 0 if stop is None else stop):
        if not isinstance(place, int) or isinstance(place, bool):
            raise TypeError(f"position takes ints, the places of linear layers. Received: {place!r}.")

    def test(site, facts):
        return site in (facts.linear[start:][:1] if stop is None else facts.linear[start:stop])

    text = f"linear layer {start}" if stop is None else f"linear layers {start} to {stop - 1}"
    return Matcher(test, text, ("position", start, stop))


def keras_op(operation: str | Callable[..., Any]) -> Matcher:
    """Matches calls of a function of `keras.ops` outside of layers.

    Args:
        operation: The function or its name, as in `keras_op("relu")`.
    """
    wanted = operation if isinstance(operation, str) else operation.__name__

    def test(site, facts):
        if site.layer is None or isinstance(site.layer, keras.layers.Layer):
            return False
        return type(site.layer).__name__.lower() == wanted.replace("_", "").lower()

    return Matcher(test, f"keras.ops.{wanted}", ("keras_op", wanted))


def matcher(match: Match) -> Matcher:
    """The matcher for what an entry of a composite names.

    Args:
        match: A `Matcher`; a class of layers or of operations, or a tuple of classes; a string, which is a pattern for
            names and paths; or a function of the Keras layer that returns a bool.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(match, Matcher):
        return match
    if isinstance(match, str):
        return name(match)
    classes: tuple[Any, ...] = match if isinstance(match, tuple) else (match,)
    if classes and all(inspect.isclass(cls) for cls in classes):
        if all(issubclass(cls, Operation) for cls in classes):
            return operations(*classes)
        text = " | ".join(cls.__name__ for cls in classes)
        return ClassMatcher(
            lambda site, facts: any(isinstance(layer, classes) for layer in _layers(site)) and _is_own(site),
            text,
            ("matcher", classes),
            classes,
        )
    if callable(match):
        return Matcher(
            lambda site, facts: site.layer is not None and _is_own(site) and bool(match(site.layer)),
            getattr(match, "__name__", repr(match)),
        )
    raise TypeError(
        "A composite's entry names sites by a layer class, a tuple of classes, a name pattern, a function of the "
        f"layer, or a matcher of revgraph.composites. Received: {match!r}."
    )


@dataclasses.dataclass(frozen=True)
class ClassMatcher(Matcher):
    """Matches by layer class.

    Args:
        classes: The classes. When a model is read, layers of these classes become one site each.
    """

    classes: tuple[type, ...] = ()


def _is_own(site):
    """Whether the site is the layer itself, and not the activation that was split off from it."""
    fused = hasattr(site.layer, "activation") and not isinstance(site.layer, keras.layers.Activation)
    return not (isinstance(site.operation, Activation) and fused)


def _layers(site):
    """The layer of a site. A recurrent layer stands for its cells, too."""
    cell = getattr(site.layer, "cell", None)
    return (site.layer, cell, *getattr(cell, "cells", ()))


def _layer_name(site):
    return getattr(site.layer, "name", "")
