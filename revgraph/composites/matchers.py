"""Matchers: which sites an entry of a composite is for."""

import dataclasses
import fnmatch
import inspect
from collections.abc import Callable

import keras

from revgraph.graph.analysis import Facts, is_linear_layer, is_padding
from revgraph.graph.graph import Site
from revgraph.graph.operations import (
    Activation,
    ChannelDiagonalConv,
    Contraction,
    Convolutional,
    Dense,
    Einsum,
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


@dataclasses.dataclass(frozen=True)
class Matcher:
    """Says whether an entry of a composite applies to a site.

    Args:
        test: Function `(site, facts) -> bool`, with `facts` of revgraph.graph.analysis.
        text: How the matcher is printed.
        recipe: The function of this module that makes it, and that function's arguments; by this it is saved.
    """

    test: Callable[[Site, Facts], bool]
    text: str
    recipe: tuple = ()

    def __call__(self, site, facts):
        return bool(self.test(site, facts))

    def __str__(self):
        return self.text

    def __and__(self, other):
        return both(self, matcher(other))


def both(first: Matcher, second: Matcher) -> Matcher:
    """Matches what two matchers match; also written `first & second`."""

    def test(site, facts):
        return first(site, facts) and second(site, facts)

    return Matcher(test, f"{first} and {second}", ("both", first, second))


def operations(*kinds: type[Operation], text=None) -> Matcher:
    """Matches sites by the kind of what they compute."""
    text = text or " | ".join(kind.__name__ for kind in kinds)
    return Matcher(lambda site, facts: isinstance(site.operation, kinds), text)


DENSE = operations(Dense, Einsum, text="dense layers")
CONVOLUTION = operations(Convolutional, text="convolutions")
LINEAR = Matcher(lambda site, facts: is_linear_layer(site.operation), "linear layers")
POOLING = operations(ChannelDiagonalConv, text="average pooling")
SUM = operations(Sum, text="sums")
SCALE = operations(Scale, text="scale and shift")
ACTIVATION = operations(Activation, text="activations")
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
EMBEDDING = operations(Embedding, text="embeddings")
FIRST = Matcher(lambda site, facts: site in facts.first_linear, "first linear layer")
ANY = Matcher(lambda site, facts: True, "everything")


def name(pattern) -> Matcher:
    """Matches the layer's name or the site's path with a pattern such as `block1_*`.

    What matches a layer does not match the activation inside it, which has a path of its own: `dense/relu`.
    """

    def matches(text):
        return fnmatch.fnmatchcase(text, pattern)

    def test(site, facts):
        inside = isinstance(site.operation, Activation) and matches(site.path.rpartition("/")[0])
        return (matches(site.path) and not inside) or (matches(_layer_name(site)) and _is_own(site))

    return Matcher(test, f"{pattern!r}", ("name", pattern))


def position(start, stop=None) -> Matcher:
    """Matches linear layers by their place in the order of execution, from 0; negative places count from the end."""

    def test(site, facts):
        return site in (facts.linear[start:][:1] if stop is None else facts.linear[start:stop])

    text = f"linear layer {start}" if stop is None else f"linear layers {start} to {stop - 1}"
    return Matcher(test, text, ("position", start, stop))


def keras_op(operation) -> Matcher:
    """Matches raw calls of a `keras.ops` function, given as the function or its name: `keras_op("relu")`."""
    wanted = getattr(operation, "__name__", operation)

    def test(site, facts):
        if site.layer is None or isinstance(site.layer, keras.layers.Layer):
            return False
        return type(site.layer).__name__.lower() == wanted.replace("_", "").lower()

    return Matcher(test, f"keras.ops.{wanted}", ("keras_op", wanted))


def matcher(match) -> Matcher:
    """A matcher from whatever an entry of a composite may name.

    Args:
        match: A `Matcher`; a layer class or tuple of classes; a string, matched as a pattern against names and paths;
            or a function of the Keras layer that returns a bool.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(match, Matcher):
        return match
    if isinstance(match, str):
        return name(match)
    classes = match if isinstance(match, tuple) else (match,)
    if classes and all(inspect.isclass(cls) for cls in classes):
        if all(issubclass(cls, Operation) for cls in classes):
            return operations(*classes)
        text = " | ".join(cls.__name__ for cls in classes)
        return ClassMatcher(
            lambda site, facts: isinstance(site.layer, classes) and _is_own(site), text, ("matcher", classes), classes
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
    """Matches by layer class; remembers the classes, which tracing then keeps whole."""

    classes: tuple[type, ...] = ()


def _is_own(site):
    """Whether the site is the layer itself, not the activation that was split off it."""
    fused = hasattr(site.layer, "activation") and not isinstance(site.layer, keras.layers.Activation)
    return not (isinstance(site.operation, Activation) and fused)


def _layer_name(site):
    return getattr(site.layer, "name", "")
