"""What a factor of a product is: a gate, a mask, a divisor, or a signal."""

from collections.abc import Mapping, Sequence

from revgraph.graph.graph import Site, Spec
from revgraph.graph.operations import (
    Activation,
    ChannelDiagonalConv,
    Inert,
    Product,
    Quotient,
    Routing,
    Scale,
    Sum,
)

GATE_TRAITS = ("gate", "squash", "self_gate")
"""Traits of activations by which a factor of a product is known as a gate. The surest come first."""


def is_mask(slot: int, producers: Mapping[int, Site], specs: Mapping[int, Spec], integers: bool = True) -> bool:
    """Whether a slot has constants, truth values and integers alone, perhaps cast, moved, scaled, added or multiplied.

    Args:
        slot: The slot.
        producers: The site that writes each slot.
        specs: Shape and dtype of each slot.
        integers: Whether integers of the model's inputs count. They may have relevance, unlike truth values.
    """
    seen, stack = {slot}, [slot]
    while stack:
        slot = stack.pop()
        site, dtype = producers.get(slot), specs[slot].dtype
        if dtype == "bool" or (integers and "float" not in dtype) or (site and isinstance(site.operation, Inert)):
            continue
        if site is None or not isinstance(site.operation, Routing | Scale | Sum | Product | Activation):
            return False
        stack += [below for below in site.inputs if below not in seen]
        seen.update(site.inputs)
    return True


def is_gate(slot: int, trait: str, producers: Mapping[int, Site], specs: Mapping[int, Spec]) -> bool:
    """Whether a factor comes from an activation of that trait, behind moves, masks, scale, shift and divisors.

    Args:
        slot: The slot of the factor.
        trait: One of `GATE_TRAITS`.
        producers: The site that writes each slot.
        specs: Shape and dtype of each slot.
    """
    site = producers.get(slot)
    if site is None:
        return False
    operation = site.operation
    if isinstance(operation, Activation):
        return getattr(operation.traits, trait)
    if isinstance(operation, Product) and trait == "self_gate" and is_self_gated(site, producers):
        return True
    sums = isinstance(operation, Sum | ChannelDiagonalConv) and trait == "gate"
    if not sums and not isinstance(operation, Routing | Scale | Product | Quotient):
        return False
    signals = [s for s in site.inputs if not is_mask(s, producers, specs, integers=False)]
    if isinstance(operation, Quotient):
        signals = signals[:1]
    return bool(signals) and all(is_gate(below, trait, producers, specs) for below in signals)


def is_made_by_weights(slot: int, producers: Mapping[int, Site]) -> bool:
    """Whether a constant is a product of weights with another constant, such as the first state of a cell."""
    stack, seen = [slot], {slot}
    while stack:
        site = producers.get(stack.pop())
        if site is not None and isinstance(site.operation, Inert):
            if site.operation.name in PRODUCTS:
                return True
            stack += [below for below in site.inputs if below not in seen]
            seen.update(site.inputs)
    return False


PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "Conv1D", "Conv2D", "Conv3D")
"""TensorFlow's products with weights, as cells have them."""


def is_divisor(slot: int, producers: Mapping[int, Site], specs: Mapping[int, Spec]) -> bool:
    """Whether a factor is one over something, behind moves and scale."""
    while slot in producers:
        site = producers[slot]
        operation = site.operation
        if operation.traits.divisor:
            return True
        floating = [i for i in site.inputs if "float" in specs[i].dtype]
        scales = isinstance(operation, Scale) and "bias" not in operation.read("float32")
        if not (isinstance(operation, Routing) or scales) or len(floating) != 1:
            return False
        (slot,) = floating
    return False


def is_self_gated(site: Site, producers: Mapping[int, Site]) -> bool:
    """Whether a product is a signal times a gate of that signal, such as x * sigmoid(x)."""
    return bool(self_gates(site.inputs, producers))


def self_gates(factors: Sequence[int], producers: Mapping[int, Site]) -> dict[int, int]:
    """The factors of a product that are gates of another factor, entry by entry.

    Args:
        factors: Slots of the factors.
        producers: The site that writes each slot.

    Returns:
        For the position of each such gate, the position of the factor from which it is computed.
    """
    found = {}
    for i, gate in enumerate(factors):
        sources = _sources_of_gate(gate, producers)
        signals = [j for j, factor in enumerate(factors) if factor != gate and sources & _scaled(factor, producers)]
        if signals:
            found[i] = signals[0]
    return found


def _scaled(slot, producers):
    """A slot, and the slots from which scale and shift compute it."""
    slots = {slot}
    while slot in producers and isinstance(producers[slot].operation, Scale):
        (slot,) = producers[slot].inputs
        slots.add(slot)
    return frozenset(slots)


def _sources_of_gate(slot, producers):
    """The slots from which a gate is computed entry by entry. None where the factor is no gate."""
    while slot in producers and isinstance(producers[slot].operation, Scale):
        (slot,) = producers[slot].inputs
    if slot not in producers or not isinstance(producers[slot].operation, Activation):
        return frozenset()
    traits = producers[slot].operation.traits
    if not (traits.pointwise and (traits.gate or traits.squash)):
        return frozenset()
    return _pointwise_sources(producers[slot].inputs[0], producers, {})


def _pointwise_sources(slot, producers, known):
    """The slots from which a slot is computed entry by entry, itself included."""
    if slot not in known:
        site, sources = producers.get(slot), frozenset[int]()
        if site is not None and (isinstance(site.operation, Scale | Sum | Product) or site.operation.traits.pointwise):
            sources = frozenset.intersection(*(_pointwise_sources(below, producers, known) for below in site.inputs))
        known[slot] = sources | {slot}
    return known[slot]


def is_broadcast(spec: Spec, output: Spec) -> bool:
    """Whether a factor has one entry along an axis where the product has many. The batch axis does not count."""
    shape = (1,) * (len(output.shape) - len(spec.shape)) + tuple(spec.shape)
    return any(n == 1 and m != 1 for n, m in list(zip(shape, output.shape, strict=True))[1:])
