"""Conditions: relevance is followed only through some channels, units or heads of layers that are named.

A slot is the number of a tensor in a graph, and a site is one call of one layer. A *place* is a slot at which
conditions mask relevance.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from revgraph.graph.analysis import Facts, depending
from revgraph.graph.graph import Graph

_TAKES = (
    "an int or a list of ints for channels, a tuple of ints and slices for units at a position, a list of such tuples, "
    'a boolean mask, or {"heads": [...]} for an attention'
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A tensor at which conditions mask relevance.

    Args:
        name: The layer, as the user named it.
        slot: The tensor.
        shape: The shape of the tensor, with the axis for samples. None where a size is free.
        heads: The axes of the heads of an attention; None where channels and units are named.
    """

    name: str
    slot: int
    shape: tuple[int | None, ...]
    heads: tuple[int, ...] | None = None

    def mask(self, chosen: Any, count: int, shapes: Mapping[int, tuple[int, ...]]) -> np.ndarray:
        """What passes, as a boolean array that broadcasts against the tensor: (1, ...), or (batch, ...).

        Args:
            chosen: What the user says that passes.
            count: Number of samples.
            shapes: Shapes by slot, with the rows per sample in front, of tensors whose sizes only data have.

        Raises:
            TypeError: `chosen` is of no known type.
            ValueError: It is out of range, or has the wrong shape.
        """
        shape = shapes.get(self.slot, self.shape)
        if self.heads is not None:
            return self._mask_of_heads(chosen, self.heads, shape)
        if _is_mask(chosen):
            return self._checked_mask(np.asarray(chosen), shape, count)
        masks = [self._mask_of_unit(unit, shape) for unit in self._units(chosen)]
        return np.logical_or.reduce(np.broadcast_arrays(*masks)) if masks else np.zeros((1,) * len(shape), bool)

    def needs_sizes(self, chosen: Any) -> bool:
        """Whether the mask depends on sizes that only data have."""
        if self.heads is not None or _is_mask(chosen):
            return None in self.shape[1:] or self.heads == ()
        pairs = (pair for unit in self._units(chosen) for pair in zip(unit, self.shape[1:], strict=False))
        return any(size is None and part != slice(None) for part, size in pairs)

    def _units(self, chosen):
        """The tuples for what is chosen. A channel is its units at all positions."""
        if isinstance(chosen, np.ndarray | tf.Tensor):
            chosen = np.asarray(chosen).tolist()
        everywhere = (slice(None),) * (len(self.shape) - 2)
        several = isinstance(chosen, list | range | set | frozenset)
        return [one if isinstance(one, tuple) else (*everywhere, one) for one in (chosen if several else [chosen])]

    def _check_int(self, value):
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise TypeError(f"A condition on {self.name!r} takes {_TAKES}. Received: {value!r}.")

    def _mask_of_unit(self, unit, shape):
        if len(unit) != len(shape) - 1:
            raise ValueError(
                f"A tuple in a condition on {self.name!r} needs an index or a slice for each of the {len(shape) - 1} "
                f"axes after the batch: the shape is {_text(shape)}. Received: {unit!r}. Channels are a list, such as "
                f"{[part for part in unit if not isinstance(part, slice)]!r}."
            )
        mask = np.ones((1,) * len(shape), bool)
        for axis, (part, size) in enumerate(zip(unit, shape[1:], strict=True), start=1):
            if part == slice(None):
                continue
            along = np.zeros(size, bool)
            if not isinstance(part, slice):
                self._check_int(part)
                part = self._from_start(part, size, "channels" if axis == len(shape) - 1 else f"places on axis {axis}")
            along[part] = True
            mask = mask & along.reshape(-1, *(1,) * (len(shape) - 1 - axis))
        return mask

    def _from_start(self, index, size, of_what):
        if not -size <= index < size:
            raise ValueError(
                f"A condition on {self.name!r} is out of range: there are {size} {of_what}, 0 to {size - 1}. Received: "
                f"{index!r}. Negative numbers count from the end, -{size} to -1."
            )
        return int(index) % size

    def _checked_mask(self, mask, shape, count):
        rank = len(shape)
        if mask.ndim == 1:
            mask = mask.reshape(*(1,) * (rank - 1), -1)
        elif mask.ndim == rank - 1:
            mask = mask[None]
        wanted = (count, *shape[1:])
        if mask.ndim != rank or any(m not in (1, w) and w is not None for m, w in zip(mask.shape, wanted, strict=True)):
            raise ValueError(
                f"A boolean mask in a condition on {self.name!r} needs one entry for each of the {shape[-1]} channels, "
                f"or the shape {_text(shape[1:])} of a sample or {_text(wanted)} of the batch, where axes of size 1 "
                f"broadcast. Received {mask.shape}."
            )
        return mask

    def _mask_of_heads(self, chosen, axes, shape):
        if not axes and shape[0] != 1:
            raise ValueError(
                f"The heads of {self.name!r} cannot be told apart, because their tensors have them in the axis of the "
                f"samples. Name the channels of a head in the layer that joins the heads, such as range(0, 64)."
            )
        sizes = [shape[axis] for axis in axes]
        passes = np.zeros(int(np.prod(sizes, dtype=int)), bool)
        for head in chosen if isinstance(chosen, list | tuple | range | np.ndarray) else [chosen]:
            self._check_int(head)
            passes[self._from_start(head, len(passes), "heads")] = True
        order = np.argsort(axes)
        wide = [shape[axis] if axis in axes else 1 for axis in range(1, len(shape))]
        return passes.reshape(sizes).transpose(order).reshape(1, *wide)


def _is_mask(chosen):
    try:
        array = np.asarray(chosen)
    # A list may hold tuples beside ints.
    except ValueError:
        return False
    return array.dtype.kind == "b" and array.ndim > 0 and array.size > 0


def _text(shape):
    return "(" + ", ".join("?" if n is None else str(n) for n in shape) + ")"


@dataclasses.dataclass(frozen=True, eq=False)
class Placed:
    """Conditions whose layers were found: what relevance may pass at places of a graph.

    Args:
        places: All places of all conditions, by slot.
        each: The conditions: one row for all samples, or one row per sample. All rows have the same length. A condition
            is a tuple of pairs, a place and what passes there.
        per_sample: Whether there is one row per sample.
        several: Whether there is an axis for conditions in results.
        around: Whether relevance also passes around the places.
        times: How often the samples are repeated.
        variants: Whether the samples are variants of those that were asked about.
    """

    places: tuple[Place, ...] = ()
    each: tuple[tuple[tuple[tuple[Place, Any], ...], ...], ...] = ()
    per_sample: bool = False
    several: bool = False
    around: bool = True
    times: int = 1
    variants: bool = False

    @property
    def slots(self) -> tuple[int, ...]:
        """The slots of the places."""
        return tuple(place.slot for place in self.places)

    def needs_sizes(self) -> bool:
        """Whether masks depend on sizes that only data have."""
        every = (pair for row in self.each for condition in row for pair in condition)
        return any(place.needs_sizes(chosen) for place, chosen in every)

    def on(self, samples: slice, count: int, shapes: Mapping[int, tuple[int, ...]]) -> "Masks | None":
        """The masks for some samples; None where there are no conditions.

        Args:
            samples: Which samples.
            count: How many samples there are in all.
            shapes: See `Place.mask`.

        Raises:
            TypeError: What passes is of no known type.
            ValueError: It is out of range, or has the wrong shape, or there are conditions for more or fewer samples.
        """
        if not self.places:
            return None
        count //= self.times
        if self.per_sample and len(self.each) != count:
            raise ValueError(
                f"There are lists of conditions for {len(self.each)} samples, and {count} samples: pass one list of "
                f"conditions for all samples, or one list per sample."
            )
        masks, named = [], []
        for place in self.places:
            rows = [[_mask(condition, place, count, shapes) for condition in row] for row in self.each]
            masks.append(self._joined(rows, samples))
            names = [[np.array([place.slot in _slots(condition)]) for condition in row] for row in self.each]
            named.append(self._joined(names, samples))
        return Masks(tuple(masks), tuple(named), self.several)

    def _joined(self, rows, samples):
        """(conditions, batch or 1, ...) from a mask for each condition of each row."""
        if self.per_sample:
            # Of a mask for the whole batch, each sample takes its own.
            own = [[mask[i : i + 1] if len(mask) > 1 else mask for mask in row] for i, row in enumerate(rows)]
            masks = [np.concatenate(np.broadcast_arrays(*of_one)) for of_one in zip(*own, strict=True)]
        else:
            (masks,) = rows
        every = np.stack(np.broadcast_arrays(*masks))
        return np.concatenate([every] * self.times, axis=1)[:, samples] if every.shape[1] > 1 else every


def _slots(condition):
    return {place.slot for place, _ in condition}


def _mask(condition, place, count, shapes):
    """What passes a place under a condition, which may name it twice, or not at all."""
    found = [at.mask(chosen, count, shapes) for at, chosen in condition if at.slot == place.slot]
    return np.logical_and.reduce(np.broadcast_arrays(*found)) if found else np.ones((1,) * len(place.shape), bool)


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """What relevance may pass in a batch.

    Args:
        masks: For each place what passes there, bool (conditions, batch or 1, ...).
        named: For each place whether conditions name it, bool (conditions, batch or 1).
        several: Whether there is an axis for conditions in results.
    """

    masks: tuple[np.ndarray, ...]
    named: tuple[np.ndarray, ...]
    several: bool

    def __len__(self) -> int:
        return len(self.masks[0])

    def only(self, asked: str) -> "Masks":
        """The masks, if there is one condition per sample.

        Args:
            asked: The method that was asked, for the message.

        Raises:
            ValueError: There are several conditions.
        """
        if len(self) > 1:
            raise ValueError(
                f"{asked} follows one condition per sample, and there are {len(self)}. Ask for them one by one, such "
                f"as conditions=conditions[0]."
            )
        return dataclasses.replace(self, several=False)

    def opened(self) -> "Masks":
        """Masks of the same shapes through which everything passes."""
        return Masks(tuple(map(np.ones_like, self.masks)), tuple(map(np.zeros_like, self.named)), self.several)

    def cut(self, size: int) -> Iterator["Masks"]:
        """The masks of at most `size` conditions at a time."""
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            yield Masks(tuple(m[part] for m in self.masks), tuple(n[part] for n in self.named), self.several)

    def part(self, samples: slice) -> "Masks":
        """The masks for some of the samples."""

        def cut(masks):
            return tuple(m[:, samples] if m.shape[1] > 1 else m for m in masks)

        return Masks(cut(self.masks), cut(self.named), self.several)

    def tensors(self) -> "Tensors":
        """The arguments of a compiled walk. Without an axis for conditions there is one condition."""
        return tuple(map(self._tensor, self.masks)), tuple(map(self._tensor, self.named))

    def specs(self) -> Any:
        """The signature of `tensors`, for any number of samples and conditions."""
        return tuple(map(self._spec, self.masks)), tuple(map(self._spec, self.named))

    def _tensor(self, array):
        return tf.constant(array if self.several else array[0], tf.bool)

    def _spec(self, array):
        # Where an axis has one entry, it broadcasts. That is worth knowing when the walk is compiled.
        shape = tuple(1 if n == 1 else None for n in array.shape[1:])
        return tf.TensorSpec((None, *shape) if self.several else shape, tf.bool)


Tensors: TypeAlias = tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]
"""The masks of places, and whether a condition names them."""

NOTHING_MASKED: Tensors = ((), ())
"""The tensors of no condition."""


class Gates:
    """What relevance may pass on one backward walk under one condition.

    Args:
        slots: The slots of the places.
        shortcuts: The ways around them; see `shortcuts`.
        tensors: For each place the mask, (batch or 1, ...), and whether it is named, (batch or 1,).
        batch: Number of samples.
    """

    def __init__(
        self,
        slots: Sequence[int] = (),
        shortcuts: "Mapping[tuple[int | None, int], tuple[int, ...]] | None" = None,
        tensors: Tensors = NOTHING_MASKED,
        batch: Any = None,
    ) -> None:
        masks, named = tensors
        self._masks = dict(zip(slots, masks, strict=True))
        self._named = dict(zip(slots, named, strict=True))
        self._shortcuts = shortcuts or {}
        self._batch = batch

    @property
    def stop_starts(self) -> bool:
        """Whether relevance may start where no way leads through a place."""
        return any(site is None for site, _ in self._shortcuts)

    def at(self, slot: int, relevance: tf.Tensor) -> tf.Tensor:
        """What passes of the relevance that arrived at a slot."""
        return self._where(self._masks[slot], relevance) if slot in self._masks else relevance

    def along(self, site: int | None, slot: int, relevance: tf.Tensor) -> tf.Tensor:
        """What passes of the relevance that a site hands to a slot.

        Args:
            site: The place of the site among the sites of the graph; None for relevance that starts at the slot.
            slot: The slot.
            relevance: The relevance.
        """
        for around in self._shortcuts.get((site, slot), ()):
            named = self._named[around]
            relevance = self._where(~tf.reshape(named, (-1, *(1,) * (relevance.shape.rank - 1))), relevance)
        return relevance

    def _where(self, mask, relevance):
        nothing = tf.zeros((), relevance.dtype)
        if mask.shape[0] == 1:
            passed = tf.where(mask, relevance, nothing)
        else:
            # The first axis may be the batch times steps.
            rows = tf.reshape(relevance, tf.concat([[self._batch, -1], tf.shape(relevance)[1:]], axis=0))
            passed = tf.reshape(tf.where(mask[:, None], rows, nothing), tf.shape(relevance))
        return tf.ensure_shape(passed, relevance.shape)


OPEN = Gates()
"""Everything passes."""


def shortcuts(
    graph: Graph, slots: Sequence[int], starts: Sequence[int]
) -> dict[tuple[int | None, int], tuple[int, ...]]:
    """Where relevance leaves the way that leads through a slot.

    Relevance walks from the output to the inputs. A site behind the slot may hand relevance to a tensor that does not
    depend on the slot. That tensor is a way around the slot, such as the shortcut of a residual block.

    Args:
        graph: The graph that is walked.
        slots: The slots.
        starts: Slots at which relevance starts.

    Returns:
        The slots around which the way leads, by the position of the site, or None for the start, and the slot that
        receives the relevance.
    """
    found: dict[tuple[int | None, int], tuple[int, ...]] = {}
    carrying = Facts(graph).dependent
    for slot in slots:
        behind = depending(graph, slot)
        for i, site in enumerate(graph.sites):
            if slot in site.outputs or behind.isdisjoint(site.outputs):
                continue
            for read in dict.fromkeys(site.inputs):
                if read not in behind and read in carrying:
                    found[i, read] = (*found.get((i, read), ()), slot)
        for start in starts:
            if start not in behind:
                found[None, start] = (*found.get((None, start), ()), slot)
    return found
