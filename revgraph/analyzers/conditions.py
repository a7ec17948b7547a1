"""Finds the layers that conditions name, and warns where conditions leave nothing."""

import dataclasses
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from revgraph.graph.analysis import depending
from revgraph.graph.attentions import attentions
from revgraph.graph.graph import Graph
from revgraph.reverse.conditions import Place, Placed
from revgraph.reverse.targets import why_nothing_starts

AT_ONCE = 16
"""How many conditions are followed at once."""

_FORMS = (
    "a dict by layer, such as {'conv': [12, 40]}, a list of such dicts for several conditions, or one list of dicts "
    "per sample"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated:
    """Conditions on samples that are explained in several variants, as SmoothGrad does.

    Args:
        conditions: The conditions on the samples.
        times: How many variants there are: all samples once, then all samples again.
    """

    conditions: Any
    times: int


def placed(conditions: Any, around: bool, graph: Graph, starts: Sequence[int], in_loops: Sequence[str]) -> Placed:
    """Conditions with the tensors that they mask.

    Args:
        conditions: See `ReverseAnalyzer.analyze`; or `Repeated` ones, or None.
        around: Whether relevance also passes around the layers that are named.
        graph: The model's graph before canonization.
        starts: Slots at which relevance starts.
        in_loops: Paths of sites inside of loops.

    Raises:
        KeyError: Unknown or ambiguous layer.
        TypeError: `conditions` is something else.
        ValueError: Relevance does not reach a layer, or a layer cannot be masked, or no way leads through all layers of
            a condition.
    """
    times, variants = 1, isinstance(conditions, Repeated)
    while isinstance(conditions, Repeated):
        conditions, times = conditions.conditions, times * conditions.times
    if conditions is None:
        if around:
            raise ValueError("around=True goes with conditions=..., which is missing.")
        return Placed()
    rows, per_sample, several = _rows(conditions)
    find = _Finder(graph, starts, in_loops)
    each = tuple(tuple(tuple(find(*pair) for pair in condition.items()) for condition in row) for row in rows)
    found = {place.slot: place for row in each for condition in row for place, _ in condition}
    if not found:
        raise ValueError(f"conditions names no layer. It is {_FORMS}. Received: {conditions!r}.")
    if not around:
        for condition in itertools.chain.from_iterable(each):
            find.check_order([place for place, _ in condition])
    places = tuple(found[slot] for slot in sorted(found))
    return Placed(places, each, per_sample, several, bool(around), times, variants)


def _rows(conditions):
    """The conditions as one row for all samples, or one per sample; whether they are per sample, and several."""
    if isinstance(conditions, Mapping):
        return [[conditions]], False, False
    if isinstance(conditions, list | tuple) and conditions:
        if all(isinstance(one, Mapping) for one in conditions):
            return [conditions], False, True
        lists = all(isinstance(row, list | tuple) for row in conditions)
        if lists and all(isinstance(one, Mapping) for row in conditions for one in row):
            counts = sorted({len(row) for row in conditions})
            if len(counts) > 1 or not counts[0]:
                raise ValueError(
                    f"Every sample needs the same number of conditions, at least one. Received lists of "
                    f"{' and '.join(map(str, counts))} conditions."
                )
            return conditions, True, True
    raise TypeError(f"conditions is {_FORMS}. Received: {conditions!r}.")


class _Finder:
    """Finds the tensor that a layer in a condition stands for.

    Args:
        graph, starts, in_loops: See `placed`.
    """

    def __init__(self, graph: Graph, starts: Sequence[int], in_loops: Sequence[str]) -> None:
        self.graph, self.starts, self.in_loops = graph, starts, in_loops
        self._known: dict[Any, Place] = {}
        self._behind: dict[int, frozenset[int]] = {}

    def __call__(self, layer: Any, chosen: Any) -> tuple[Place, Any]:
        """The place of a layer, and what passes there."""
        heads = isinstance(chosen, Mapping)
        if heads:
            if set(chosen) != {"heads"}:
                raise ValueError(
                    f"A dict in a condition on {layer!r} names heads of an attention, such as {{'heads': [0, 2]}}. "
                    f"Received: {chosen!r}."
                )
            chosen = chosen["heads"]
        key = (layer if isinstance(layer, str) else id(layer), heads)
        if key not in self._known:
            self._known[key] = self._checked(self._heads(layer) if heads else self._output(layer))
        return self._known[key], chosen

    def behind(self, slot: int) -> frozenset[int]:
        """A slot, and all slots that are computed from it."""
        if slot not in self._behind:
            self._behind[slot] = depending(self.graph, slot)
        return self._behind[slot]

    def check_order(self, places: Sequence[Place]) -> None:
        """Refuses places through which no one way leads.

        Raises:
            ValueError: Two of them lie beside each other.
        """
        for one, other in itertools.combinations(places, 2):
            if one.slot not in self.behind(other.slot) and other.slot not in self.behind(one.slot):
                raise ValueError(
                    f"No way leads through both {one.name!r} and {other.name!r}, because neither is computed from the "
                    f"other. Pass them as two conditions, [{{{one.name!r}: ...}}, {{{other.name!r}: ...}}], whose "
                    f"results add up, or let relevance pass around them with around=True."
                )

    def _output(self, layer):
        if isinstance(layer, str) and layer in self.in_loops:
            raise ValueError(
                f"{layer!r} is inside of a loop, and a condition masks what a loop returns, not its single turns: name "
                f"the layer around it."
            )
        call = self.graph.find(layer)
        if len(call.outputs) != 1:
            raise ValueError(
                f"A condition masks one tensor, and {call.path!r} has {len(call.outputs)} outputs: name the layer that "
                f"makes the one you mean."
            )
        return self._place(call.path, call.outputs[0])

    def _heads(self, layer):
        found = attentions(self.graph)
        # The path of an attention need not be that of a layer, such as in a SavedModel.
        inside = [a for a in found if a.path == layer]
        if not inside:
            path = self.graph.find(layer).path
            inside = [a for a in found if a.path == path or a.path.startswith(f"{path}/")]
        if len(inside) != 1:
            paths = ", ".join(repr(each.path) for each in inside or found) or "none"
            raise ValueError(
                f"{layer!r} has {len(inside)} attentions, and a condition on heads names one. There are: {paths}."
            )
        (attention,) = inside
        axes, _, _ = attention.of_mixed
        return self._place(attention.path, attention.mixed, axes)

    def _place(self, name, slot, heads=None):
        return Place(name, slot, self.graph.specs[slot].shape, heads)

    def _checked(self, place):
        if place.slot in self.graph.input_slots:
            raise ValueError(
                f"{place.name!r} is an input of the model, where relevance ends: leave it out, and take the entries "
                f"that you want from the result."
            )
        reason = why_nothing_starts(self.graph, place.slot)
        if reason is not None:
            raise ValueError(f"A condition cannot mask {place.name!r}: {reason}.")
        if self.behind(place.slot).isdisjoint(self.starts):
            later = any(place.slot in self.behind(start) for start in self.starts)
            why = (
                "it comes after the tensor at which relevance starts. Name a layer in front of it. Which outputs are "
                "explained is said by neuron_selection"
                if later
                else "what is explained is not computed from it. Name a layer from which it is"
            )
            raise ValueError(f"Relevance never passes {place.name!r}, because {why}.")
        return place


def warn_of_nothing(start: np.ndarray, relevance: Sequence[np.ndarray], stacklevel: int) -> None:
    """Warns if conditions leave nothing of the relevance of some sample.

    Args:
        start: Relevance at the start, (batch,), or (batch, conditions) for several conditions.
        relevance: Relevance of each input; its first axes are those of `start`.
        stacklevel: The stack level of the warning.
    """
    left = np.zeros(start.shape, bool)
    for r in relevance:
        left |= np.any(r != 0, axis=tuple(range(start.ndim, r.ndim)))
    nothing = (start != 0) & ~left
    if not nothing.any():
        return
    samples = np.flatnonzero(nothing.reshape(len(nothing), -1).any(axis=1))
    which = "the condition leaves"
    if nothing.ndim > 1:
        which = f"of the conditions, {_some(np.flatnonzero(nothing.reshape(-1, nothing.shape[-1]).any(axis=0)))} leave"
    warnings.warn(
        f"No relevance arrives at the inputs of samples {_some(samples)}: {which} nothing. No relevance passes the "
        f"channels or units that are named, such as units whose activation is zero. analyze(x, return_layers=..., "
        f'layers_at="output") returns what arrives at a layer.',
        stacklevel=stacklevel,
    )


def _some(numbers):
    return f"{', '.join(map(str, numbers[:10]))}{', ...' if len(numbers) > 10 else ''}"
