"""Composites: which rule for which site. The first entry that matches wins."""

import dataclasses
import difflib
import fnmatch
import inspect
from collections.abc import Callable
from typing import Any

import keras

from revgraph.graph.analysis import Facts, is_linear_layer, is_padding
from revgraph.graph.bounds import Bounds
from revgraph.graph.graph import Graph, Site
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
    Opaque,
    Operation,
    Product,
    Quotient,
    Routing,
    Scale,
    Sum,
)
from revgraph.graph.tables import Table, Tabular
from revgraph.reverse_rules import (
    AlphaBeta,
    Bilinear,
    DeconvNet,
    Epsilon,
    Equal,
    Flat,
    Gamma,
    Gate,
    GuidedBackprop,
    IdentityBranch,
    Jacobian,
    Norm,
    Only,
    Padding,
    Pass,
    ReLUBetaSmooth,
    Rule,
    Saturation,
    SumOverEmbedding,
    Unreached,
    WSquare,
    Z,
    ZBox,
    ZPlus,
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


@dataclasses.dataclass(frozen=True)
class Bound:
    """A site, its rule, and the entry that gave it; no rule where no entry matches."""

    site: Site
    rule: Rule | None
    reason: str


class Composite(Tabular):
    """Assigns a rule to every site of a graph: the first matching entry wins.

    Args:
        *entries: Pairs of what to match and a `Rule`. See `matcher` for what may be matched.
        defaults: Entries tried after these; `STRUCTURE` by default, which has a rule for everything that has no
            weights.
        name: Name for printing.

    Example:

        composite = Composite(
            (composites.FIRST, Flat()),
            (keras.layers.Conv2D, Gamma(0.25)),
            ("predictions", Epsilon(1e-2)),
            (composites.LINEAR, Epsilon(1e-6)),
        )
        analyzer = revgraph.create_analyzer("lrp", model, rule=composite)
    """

    def __init__(self, *entries, defaults=None, name="composite"):
        self.name = name
        self.entries = tuple(self._entry(entry) for entry in entries)
        self.defaults = STRUCTURE if defaults is None else tuple(self._entry(entry) for entry in defaults)

    @staticmethod
    def _entry(entry):
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise TypeError(f"A composite's entry is a pair (match, rule). Received: {entry!r}.")
        match, rule = entry
        if not isinstance(rule, Rule):
            raise TypeError(
                f"The second half of a composite's entry is a rule, such as revgraph.reverse_rules.Epsilon(). "
                f"Received: {rule!r}."
            )
        return matcher(match), rule

    @property
    def classes(self) -> tuple[type, ...]:
        """Layer classes that entries name."""
        return tuple(c for match, _ in self.entries if isinstance(match, ClassMatcher) for c in match.classes)

    def map(self, change) -> "Composite":
        """A composite whose rules are `change(rule)`."""
        entries = [(match, change(rule)) for match, rule in self.entries]
        return Composite(*entries, defaults=[(m, change(r)) for m, r in self.defaults], name=self.name)

    def bind(self, graph: Graph, input_bounds=None) -> tuple[Bound, ...]:
        """The rule of each site; `Unreached` for those to which no relevance comes.

        Args:
            graph: The graph.
            input_bounds: Bounds (low, high) of the model's inputs, for those `ZBox` rules that have none of their own.

        Raises:
            NotAnalyzeableModelException: A site that no entry matches.
            ValueError: A `ZBox` without bounds, where none are declared for the input either.
        """
        facts = Facts(graph)
        reached, bound = set(graph.output_slots), []
        for site in reversed(graph.sites):
            if reached.isdisjoint(site.outputs):
                bound.append(Bound(site, Unreached(), "no relevance comes here"))
                continue
            entry = self._bind(site, facts, input_bounds)
            bound.append(entry)
            if entry.rule is None:
                reached.update(site.inputs)
                continue
            reached.update(slot for i, slot in enumerate(site.inputs) if entry.rule.reaches(i, graph.specs[slot].dtype))
        bound = tuple(reversed(bound))
        if any(entry.rule is None for entry in bound):
            raise NotAnalyzeableModelException(self._without_rule(bound), bound)
        return bound

    def _without_rule(self, bound):
        """What to say of the sites that no entry matches."""
        first, *others = (entry.site for entry in bound if entry.rule is None)
        also = f" So it is for {', '.join(repr(site.path) for site in others)}." if others else ""
        return (
            f"No rule for {first.path!r} ({_class_name(first)}): composite {self.name!r} has no entry that matches "
            f"it.{also} {remedy(first)}"
        )

    def _bind(self, site, facts, input_bounds):
        for match, rule in (*self.entries, *self.defaults):
            if match(site, facts):
                return Bound(site, _boxed(rule.at(site, facts), site, facts.graph, input_bounds), str(match))
        return Bound(site, None, "no entry matches")

    def unused_names(self, graph: Graph) -> list[str]:
        """What to say of entries whose name no site of a graph has, one line each."""
        facts, said = Facts(graph), []
        for match, rule in self.entries:
            if match.recipe[:1] == ("name",) and not any(match(site, facts) for site in graph.sites):
                said.append(f"The entry {match} matches no site: {rule} is not used.{_instead(match.recipe[1], graph)}")
        return said

    def __repr__(self):
        return f"<Composite {self.name!r}: {len(self.entries)} entries>"

    def table(self) -> Table:
        """The entries in the order in which they are tried, the defaults after the composite's own."""
        return Table(("match", "rule"), (*self.entries, *self.defaults), title=repr(self)[1:-1])


def _instead(pattern, graph):
    """Where a layer that no site has may be found in a graph."""
    for site in graph.sites:
        if any(fnmatch.fnmatchcase(path, pattern) for path in site.merged):
            return f" It is folded into {site.path!r}."
    near = difflib.get_close_matches(pattern, [site.path for site in graph.sites], n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _boxed(rule, site, graph, input_bounds):
    """The rule; a `ZBox` without bounds of its own gets those of the input, carried to its site."""
    if not isinstance(rule, ZBox) or rule.low is not None:
        return rule
    if input_bounds is None:
        raise ValueError(
            f"The rule ZBox at {site.path!r} needs the bounds of its input. Give them to the analyzer, as low=..., "
            f"high=... (numbers, or arrays such as one value per channel); or declare those of the model's input, and "
            f"they are carried through Rescaling and Normalization: input_bounds=(0, 255)."
        )
    return dataclasses.replace(rule, carried=Bounds(graph, site.inputs[0], *input_bounds))


class NotAnalyzeableModelException(ValueError):
    """The model has a part that the analyzer has no rule for.

    Args:
        message: What is wrong.
        bound: The rule of each site, None where there is none, if that is what is wrong.
    """

    def __init__(self, message, bound=()):
        super().__init__(message)
        self.bound = bound


def remedy(site) -> str:
    """What to do about a site that has no rule."""
    if site.layer is None:
        match, rule = repr(site.path), "Jacobian"
    else:
        match, rule = _class_name(site), "Epsilon"
    return (
        f"Give it one, for example\n"
        f'    revgraph.create_analyzer("lrp", model, rule=revgraph.Composite(({match}, '
        f"revgraph.reverse_rules.{rule}()), ...))\n"
        f'or use a gradient method such as "input_t_gradient".'
    )


def _class_name(site):
    if isinstance(site.operation, Opaque) or site.layer is None:
        return site.operation.label
    return type(site.layer).__name__


STRUCTURE = (
    (EMBEDDING, SumOverEmbedding()),
    (PADDING, Padding()),
    (ROUTING, Jacobian()),
    (STEP, Saturation()),
    (ACTIVATION, Pass()),
    (SUM, Epsilon()),
    (POOLING, Norm()),
    (SCALE, Pass()),
    (NORMALIZATION, Epsilon(bias=False)),
    (LINEAR_MAP, Epsilon()),
    (PRODUCT, Gate()),
    (CONTRACTION, Gate()),
    (QUOTIENT, Only(0)),
)
"""Rules for everything that has no kernel, tried after a composite's own entries."""

ADD = {
    "proportional": (),
    "z_plus": ((SUM, ZPlus()),),
    "equal": ((SUM, Equal()),),
    "identity": ((SUM, IdentityBranch()),),
}
"""How a sum shares relevance out: in proportion to its summands, to their positive parts, equally, to the shortcut."""

GATES = {
    "signal": (),
    "uniform": ((PRODUCT, Equal()), (CONTRACTION, Bilinear())),
}
"""How products share relevance out: all to the signal, or equally."""


def merging(add="proportional", gate="signal") -> tuple:
    """Entries for the operations that merge tensors, to be tried before a composite's own.

    Args:
        add: A key of `ADD`.
        gate: A key of `GATES`.

    Raises:
        ValueError: It is none.
    """
    for name, value, choices in (("add", add, ADD), ("gate", gate, GATES)):
        if value not in choices:
            raise ValueError(f"{name} is one of {', '.join(map(repr, choices))}. Received: {value!r}.")
    return (*ADD[add], *GATES[gate])


GRADIENT = Composite((EMBEDDING, SumOverEmbedding()), (ANY, Jacobian()), name="gradient")
INPUT_TIMES_GRADIENT = Composite(
    (EMBEDDING, SumOverEmbedding(times_row=True)), (ANY, Jacobian()), name="input_t_gradient"
)
DECONVNET = Composite((EMBEDDING, SumOverEmbedding()), (RELU, DeconvNet()), (ANY, Jacobian()), name="deconvnet")
GUIDED_BACKPROP = Composite(
    (EMBEDDING, SumOverEmbedding()), (RELU, GuidedBackprop()), (ANY, Jacobian()), name="guided_backprop"
)


def beta_smooth(beta=10.0) -> Composite:
    """The gradient with smoothed ReLUs."""
    return Composite(
        (EMBEDDING, SumOverEmbedding()), (RELU, ReLUBetaSmooth(beta)), (ANY, Jacobian()), name="beta_smooth"
    )


def everywhere(rule: Rule) -> Composite:
    """One rule for every linear layer.

    Scale and shift take part in Z and Epsilon, through which other rules pass; Flat, WSquare and ZBox apply to average
    pooling as they are, where other rules share out in proportion.
    """
    if isinstance(rule, Z | Epsilon):
        defaults = (*_affine(rule), *STRUCTURE)
        return Composite((LINEAR, rule), (SCALE, rule), defaults=defaults, name=type(rule).__name__)
    pooling = [(POOLING, rule)] if isinstance(rule, Flat | WSquare | ZBox) else []
    return Composite((LINEAR, rule), *pooling, name=type(rule).__name__)


def _affine(rule):
    """Entries by which everything affine, or affine in pieces, gets Z or Epsilon, or what conserves as precisely."""
    tight = min(rule.epsilon, Epsilon().epsilon)
    return (
        (SUM, Epsilon(tight)),
        (POOLING, Norm(epsilon=tight)),
        (NORMALIZATION, rule),
        (LINEAR_MAP, rule),
        (INTERPOLATION, rule),
        (SATURATION, Saturation()),
    )


def epsilon_plus(epsilon=1e-6) -> Composite:
    """Convolutions z+, dense layers epsilon."""
    return Composite((CONVOLUTION, ZPlus()), (DENSE, Epsilon(epsilon)), name="epsilon_plus")


def epsilon_plus_flat(epsilon=1e-6) -> Composite:
    """Convolutions z+, dense layers epsilon, the first linear layer flat."""
    return Composite((FIRST, Flat()), *epsilon_plus(epsilon).entries, name="epsilon_plus_flat")


def epsilon_alpha2_beta1(epsilon=1e-6) -> Composite:
    """Convolutions alpha 2 beta 1, dense layers epsilon."""
    return Composite((CONVOLUTION, AlphaBeta(2, 1)), (DENSE, Epsilon(epsilon)), name="epsilon_alpha2_beta1")


def epsilon_alpha2_beta1_flat(epsilon=1e-6) -> Composite:
    """Convolutions alpha 2 beta 1, dense layers epsilon, the first linear layer flat."""
    return Composite((FIRST, Flat()), *epsilon_alpha2_beta1(epsilon).entries, name="epsilon_alpha2_beta1_flat")


def epsilon_gamma_box(low=None, high=None, gamma=0.25, epsilon=1e-6) -> Composite:
    """Convolutions gamma, dense layers epsilon, the first convolution z^B with the bounds of the input."""
    return Composite(
        (FIRST & CONVOLUTION, ZBox(low, high)),
        (CONVOLUTION, Gamma(gamma)),
        (DENSE, Epsilon(epsilon)),
        name="epsilon_gamma_box",
    )


def excitation_backprop() -> Composite:
    """z+ without bias on every linear layer."""
    return Composite((LINEAR, ZPlus(bias=False)), name="excitation_backprop")


def sequential_preset(alpha, beta, epsilon=0.1, first: Any = None) -> Composite:
    """Dense layers epsilon, convolutions alpha-beta; `first` is the first layer's own rule, if any."""
    entries = [(CONVOLUTION, AlphaBeta(alpha, beta)), (DENSE, Epsilon(epsilon))]
    if first is not None:
        entries.insert(0, (FIRST, first))
    return Composite(*entries, name="sequential_preset")
