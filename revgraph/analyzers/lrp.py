"""Layer-wise relevance propagation: the analyzer, and how its arguments become a composite."""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias, cast

import keras
import numpy as np
import tensorflow as tf

from revgraph import composites
from revgraph.analyzers.attentions import Attentions, look_inside
from revgraph.analyzers.gradient import checked_convention
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.canonize.folding import fold_batchnorm
from revgraph.canonize.passes import average_pooling_to_conv, canonize, canonize_loops, split_activations
from revgraph.composites import Composite, Matcher, NotAnalyzeableModelException, everywhere
from revgraph.graph import Graph
from revgraph.graph.analysis import Facts, is_linear_layer
from revgraph.graph.caches import joined_caches, returned_caches
from revgraph.graph.callers import outside
from revgraph.graph.loops import Loop
from revgraph.graph.operations import Activation, BatchNorm, Opaque, Scale
from revgraph.graph.types import Bounds, Selection, Tensors
from revgraph.read import trace
from revgraph.reverse.dangers import warn_of_vanishing
from revgraph.reverse_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    Jacobian,
    Norm,
    Pass,
    Rule,
    SumOverEmbedding,
    TransposedJacobian,
    WSquare,
    Z,
    ZBox,
    ZPlus,
    ZPlusFast,
)
from revgraph.reverse_rules.innvestigate import as_innvestigate

RULES = {
    "Z": Z(),
    "ZIgnoreBias": Z(bias=False),
    "Epsilon": Epsilon(),
    "EpsilonIgnoreBias": Epsilon(bias=False),
    "WSquare": WSquare(),
    "Flat": Flat(),
    "AlphaBeta": AlphaBeta(),
    "AlphaBetaIgnoreBias": AlphaBeta(bias=False),
    "Alpha2Beta1": AlphaBeta(2, 1),
    "Alpha2Beta1IgnoreBias": AlphaBeta(2, 1, bias=False),
    "Alpha1Beta0": AlphaBeta(1, 0),
    "Alpha1Beta0IgnoreBias": AlphaBeta(1, 0, bias=False),
    "ZPlus": ZPlus(bias=False),
    "ZPlusFast": ZPlusFast(),
    "Bounded": ZBox(-1, 1),
    "Norm": Norm(),
    "Pass": Pass(),
    "Gamma": Gamma(),
}
"""Rules by name, those of iNNvestigate first."""


def _behind_reshapes(site, facts):
    """Whether a linear layer sees an input of the model through nothing but Flatten, Permute and Reshape."""
    producers = facts.graph.producers()
    (slot, *_), reshapes = site.inputs, (keras.layers.Flatten, keras.layers.Permute, keras.layers.Reshape)
    while slot in producers and isinstance(producers[slot].layer, reshapes):
        (slot,) = producers[slot].inputs
    return slot in facts.graph.input_slots and is_linear_layer(site.operation)


def _has_activation_argument(site, facts):
    """Whether an activation is an Activation layer, or was given to a layer as `activation=...`."""
    return isinstance(site.operation, Activation) and hasattr(site.layer, "activation")


BEHIND_RESHAPES = Matcher(_behind_reshapes, "first linear layer")
PASSED = Matcher(_has_activation_argument, "activations")
FUSED = Matcher(
    lambda site, facts: _has_activation_argument(site, facts) and not isinstance(site.layer, keras.layers.Activation),
    "activations of linear layers",
)
NO_KERNEL = Matcher(
    lambda site, facts: not isinstance(site.operation, Opaque | Loop) and not is_linear_layer(site.operation),
    "no kernel",
)

UNSUPPORTED = (Matcher(lambda site, facts: True, 'unsupported="gradient"'), TransposedJacobian())
"""The entry for what no other entry matches, if that is explained by its gradient."""

INNVESTIGATE = (
    (composites.EMBEDDING, SumOverEmbedding()),
    (keras.layers.Add, Z()),
    (composites.POOLING, Z()),
    (composites.operations(BatchNorm), Pass()),
    (PASSED, Pass()),
    (NO_KERNEL, Jacobian()),
)
"""How LRP of iNNvestigate treats what has no kernel."""

INNVESTIGATE_DEEP_TAYLOR = (
    (composites.EMBEDDING, SumOverEmbedding()),
    (composites.operations(BatchNorm), Pass()),
    (FUSED, Pass()),
    (NO_KERNEL, Jacobian()),
)
"""How deep Taylor of iNNvestigate treats what has no kernel."""


RuleLike: TypeAlias = Rule | type[Rule] | str
"""A rule, a class of rules, or the name of one."""

Rules: TypeAlias = RuleLike | Composite | Sequence[RuleLike | tuple[Any, RuleLike]]
"""What `LRP` takes as its rule."""


class LRP(ReverseAnalyzer):
    """Layer-wise relevance propagation.  [Bach et al., 2015]

    Args:
        model: A built Keras model.
        rule: A `Rule`, the name of one, a list of them in order from input to output, a list of (condition, rule)
            pairs with conditions on the Keras layer, or a `Composite`.
        input_layer_rule: Rule of the first linear layer, or (low, high) for `ZBox`.
        until_layer_idx: With `until_layer_rule`: the layers `model.layers[0]` to `model.layers[until_layer_idx]` get
            that rule.
        until_layer_rule: See `until_layer_idx`.
        bn_layer_rule: Rule of BatchNormalization that is not folded; with it nothing is folded.
        convention: `"paper"`, or `"innvestigate"` for the numbers of iNNvestigate 2.1.2.
        add: How sums such as residual connections share relevance out: `"proportional"` to the summands, `"z_plus"`,
            to their positive parts, `"equal"`, or `"identity"`, all to the shortcut.
        gate: How products share it out: all to the `"signal"`, and none to the gates [Arras et al., 2017], or
            `"uniform"` [Achtibat et al., 2024].
        attention: How attention shares it out: `"cp"`, all to the values, because the weights of the attention count as
            constants [Ali et al., 2022]; or `"attnlrp"`, half to the weights, through the softmax to queries and keys
            [Achtibat et al., 2024].
        normalization: How it passes normalizations of a sample by its own statistics, such as LayerNormalization:
            `"constant_std"`, by the linear map that they are with a constant standard deviation, or `"identity"`,
            unchanged.
        unsupported: What becomes of a layer or operation for which there is no rule: `"error"`, the default, or
            `"gradient"`: relevance passes it by its transposed Jacobian, as a gradient does, with a warning that names
            it. That does not conserve relevance, and the ledger shows by how much under *rule*.
        **options: See `ReverseAnalyzer`.

    Example:

        analyzer = revgraph.create_analyzer("lrp", model, rule=Epsilon(1e-3), input_layer_rule=(0, 1))
    """

    name = "lrp"
    innvestigate: ClassVar[tuple[tuple[Any, Rule], ...]] = INNVESTIGATE

    def __init__(
        self,
        model: keras.Model | Graph,
        rule: Rules | None = None,
        input_layer_rule: RuleLike | Bounds | None = None,
        until_layer_idx: int | None = None,
        until_layer_rule: RuleLike | None = None,
        bn_layer_rule: RuleLike | None = None,
        convention: str = "paper",
        add: str = "proportional",
        gate: str = "signal",
        attention: str = "cp",
        normalization: str = "constant_std",
        unsupported: str = "error",
        **options: Any,
    ) -> None:
        if unsupported not in ("error", "gradient"):
            raise ValueError(f'unsupported is "error" or "gradient". Received: {unsupported!r}.')
        if rule is None:
            raise TypeError(
                'The analyzer "lrp" needs a rule: a Rule, a name such as "Epsilon", a list, or a Composite.'
            )
        self.convention = checked_convention(convention)
        self.bn_layer_rule = None if bn_layer_rule is None else as_rule(bn_layer_rule)
        composite = as_composite(rule, model)
        extra: list[tuple[Any, Rule]] = []
        if input_layer_rule is not None:
            extra.append((composites.FIRST, _input_rule(input_layer_rule)))
        if until_layer_idx is not None and until_layer_rule is not None:
            extra.append((_until(model, until_layer_idx), as_rule(until_layer_rule)))
        elif until_layer_idx is not None or until_layer_rule is not None:
            raise TypeError(
                f"until_layer_idx and until_layer_rule go together. Received: until_layer_idx={until_layer_idx!r}, "
                f"until_layer_rule={until_layer_rule!r}."
            )
        if self.bn_layer_rule is not None:
            extra.append((BatchNorm, self.bn_layer_rule))
        extra.extend(composites.merging(add, gate, attention, normalization, _tightest(composite)))
        composite = Composite(*extra, *composite.entries, defaults=composite.defaults, name=composite.name)
        if options.get("allow_lambda_layers"):
            lambdas = (keras.layers.Lambda, Jacobian())
            composite = Composite(*composite.entries, lambdas, defaults=composite.defaults, name=composite.name)
        if self.convention == "innvestigate":
            composite = _innvestigate(composite, self.innvestigate)
        if unsupported == "gradient":
            defaults = (*composite.defaults, UNSUPPORTED)
            composite = Composite(*composite.entries, defaults=defaults, name=composite.name)
        # An entry for products may give relevance to gates.
        self._gates = not any(match is composites.PRODUCT or match is composites.ANY for match, _ in composite.entries)
        super().__init__(model, composite, **options)
        _refuse_caches(self.traced)
        self._warn_of_gradients()

    def _warn_of_gradients(self):
        flat = [each for bound in self.bound for each in bound.flat()]
        paths = [each.site.path for each in flat if each.reason == str(UNSUPPORTED[0])]
        if paths:
            warnings.warn(
                f"There is no rule of LRP for {', '.join(map(repr, paths))}: relevance passes there by the transposed "
                f"Jacobian, which does not conserve it. `conservation` shows by how much under *rule*.",
                stacklevel=outside(),
            )

    def attentions(
        self,
        X: Tensors,
        neuron_selection: Selection = None,
        batch_size: int | None = None,
        verbose: int = 0,
        **start: Any,
    ) -> Attentions:
        """What every attention of the model did: its weights, and the relevance of its heads and tokens.

        Args:
            X, neuron_selection, batch_size, verbose: See `analyze`. One target per sample.
            **start: `initial_relevance`, `layer`, `attribute_to_neuron_input`, `pre_activation`: see `analyze`.

        Returns:
            An `Attentions`, which prints as a table. `revgraph.visualize` draws it: `plot_heads`, `plot_tokens`,
            `plot_attention`.

        Raises:
            ValueError: The model has no attention, or several targets are asked for; see `analyze` for other reasons.

        Example:

            inside = analyzer.attentions(x, 3)
            per_head = {path: heads.sum(axis=-1) for path, heads in inside.heads.items()}
        """
        return look_inside(self, X, neuron_selection, batch_size, verbose, start)

    def _canonize(self, graph, keep):
        if self.bn_layer_rule is not None:
            keep = keep.union(*((*s.inputs, *s.outputs) for s in graph.sites if isinstance(s.operation, Scale)))
        if self.convention == "innvestigate":
            return fold_batchnorm(average_pooling_to_conv(graph), keep)
        return canonize(graph, keep, self._gates)

    def _warns_of(self, magnitudes):
        return warn_of_vanishing(magnitudes, stacklevel=outside() + 1)


def _refuse_caches(graph):
    """Refuses a model that hands on what it computed from earlier tokens, because relevance would end there."""
    found = [f"its input {name!r} comes back in its output {output!r}" for name, output in returned_caches(graph)]
    found = found or [
        f"attention reads its input {name!r} together with keys and values that are computed from other inputs"
        for name in joined_caches(graph)
    ]
    if found:
        raise NotAnalyzeableModelException(
            f"The model {graph.name!r} has a cache of keys and values: {', and '.join(found)}. Relevance would end in "
            f"the cache, and not reach the tokens from which it was computed. Explain the prefill: a model without the "
            f"cache that takes all tokens at once, up to the one in question."
        )


def _tightest(composite):
    """The smallest stabiliser of the LRP-0 and LRP-epsilon rules in a composite, and at most the default."""
    return min([rule.epsilon for _, rule in composite.entries if isinstance(rule, Z | Epsilon)] + [Epsilon().epsilon])


def as_rule(rule: RuleLike) -> Rule:
    """A rule from a `Rule`, a class of rules, or a name."""
    if isinstance(rule, Rule):
        return rule
    if inspect.isclass(rule) and issubclass(rule, Rule):
        return rule()
    if isinstance(rule, str):
        if rule in RULES:
            return RULES[rule]
        raise KeyError(f"No rule is named {rule!r}. The rules are {', '.join(RULES)}.")
    hint = f" It is a function that makes a composite: {rule.__name__}(...)." if inspect.isfunction(rule) else ""
    raise TypeError(f"Expected a rule, such as revgraph.rules.Epsilon(), or its name. Received: {rule!r}.{hint}")


def as_composite(rule: Rules, model: keras.Model | Graph) -> Composite:
    """A composite from whatever `LRP` takes as its rule."""
    if isinstance(rule, Composite):
        return rule
    if not isinstance(rule, list | tuple):
        return everywhere(as_rule(cast(RuleLike, rule)))
    if not rule:
        raise ValueError("The list of rules is empty.")
    if all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in rule):
        return Composite(*((_condition(match), as_rule(r)) for match, r in rule), name="conditions")
    rules = [as_rule(r) for r in rule]
    linear = len(Facts(canonize_loops(split_activations(trace(model)))).linear)
    if len(rules) != linear:
        raise ValueError(
            f"A list of rules has one for each of the model's {linear} linear layers, from input to output. "
            f"Received {len(rules)} rules."
        )
    return Composite(*((composites.position(i), r) for i, r in enumerate(rules)), name="list of rules")


def _condition(match):
    """A condition on the Keras layer speaks of layers that need a rule; anything else names its sites itself."""
    is_function = callable(match) and not isinstance(match, Matcher) and not inspect.isclass(match)
    return _NEEDS_RULE & match if is_function else match


_NEEDS_RULE = Matcher(
    lambda site, facts: isinstance(site.operation, Opaque | Loop) or is_linear_layer(site.operation),
    "layers that need a rule",
)


def _input_rule(rule):
    if isinstance(rule, list | tuple) and len(rule) == 2 and not isinstance(rule[0], str | Rule):
        return ZBox(*rule)
    return as_rule(rule)


def _until(model, index):
    layers = list(model.layers)
    if not isinstance(index, int) or not -len(layers) <= index < len(layers):
        raise ValueError(
            f"until_layer_idx must be the position of one of the model's {len(layers)} layers. Received: {index!r}."
        )
    chosen = {id(layer) for layer in layers[: index % len(layers) + 1]}
    return Matcher(
        lambda site, facts: id(site.layer) in chosen and is_linear_layer(site.operation), f"layers up to {index}"
    )


def _innvestigate(composite, structure):
    """The composite with iNNvestigate's rules, its first layer, and its handling of what has no kernel."""
    without_kernel = (composites.POOLING, composites.SCALE)
    entries = [
        (BEHIND_RESHAPES if match is composites.FIRST else match, rule)
        for match, rule in composite.entries
        if match not in without_kernel
    ]
    return Composite(*entries, defaults=structure, name=composite.name).map(as_innvestigate)


class DeepTaylor(LRP):
    """Deep Taylor decomposition: z+ on every linear layer.  [Montavon et al., 2017]

    Args:
        model: A built Keras model, for which inputs of linear layers are not negative.
        **options: See `LRP`.
    """

    name = "deep_taylor"
    innvestigate = INNVESTIGATE_DEEP_TAYLOR

    def __init__(self, model: keras.Model | Graph, **options: Any) -> None:
        super().__init__(model, rule=ZPlus(bias=False), **options)

    def _own_start(self, y):
        return tf.nn.relu(y)

    def _warns_of(self, magnitudes):
        nothing = np.count_nonzero(magnitudes[:, 0] == 0)
        if nothing:
            warnings.warn(
                f"{self.name} explains positive outputs, and what is selected is not positive for {nothing} of "
                f"{len(magnitudes)} samples: their relevance is zero.",
                stacklevel=outside(),
            )
        return super()._warns_of(magnitudes) or nothing > 0


class BoundedDeepTaylor(DeepTaylor):
    """Deep Taylor decomposition with z^B on the first linear layer, for inputs in a box.  [Montavon et al., 2017]

    Args:
        model: A built Keras model.
        low, high: Bounds of the input: numbers, or arrays that broadcast against it. Without them, those that
            `input_bounds` declares.
        **options: See `LRP`.
    """

    name = "deep_taylor.bounded"

    def __init__(self, model: keras.Model | Graph, low: Any = None, high: Any = None, **options: Any) -> None:
        super().__init__(model, input_layer_rule=ZBox(low, high), **options)
