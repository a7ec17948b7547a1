"""The ledger: where relevance went."""

import dataclasses
import warnings
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from revgraph.graph.tables import Table, Tabular

FIELDS = ("start", "input", "bias", "stabiliser", "other")
"""What the ledger says of every site, and in total."""

LISTED = 40
"""Ledgers of more sites list only those that lose something, and draw only those that lose most."""

GROWTH = 1e3
"""The factor of growth of |R| through one site from which on `analyze` warns."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One site of the ledger; every field but the path is an array of shape (batch,).

    Args:
        path: The site.
        start: Relevance that arrived from above.
        input: Relevance handed on below.
        bias: Absorbed by the bias.
        stabiliser: Absorbed by the stabiliser.
        other: What remains: start - input - bias - stabiliser.
        growth: sum |R| below over sum |R| above.
    """

    path: str
    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray
    growth: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        """Relevance that arrived and was not handed on."""
        return self.start - self.input

    def __repr__(self):
        return f"<{self.path}: {_means(self)}>"


@dataclasses.dataclass(frozen=True, eq=False)
class Conservation(Tabular):
    """Where relevance went: `start = input + bias + stabiliser + other`, arrays of shape (batch,).

    It prints as a table of averages, sorted by what is lost. `report[3]` is the report on one sample, `report[:8]` on
    several.

    Args:
        start: Relevance at the start.
        input: Relevance found at the inputs.
        bias: Absorbed by biases, in all sites.
        stabiliser: Absorbed by stabilisers, in all sites.
        other: What remains.
        layers: One entry per site that relevance passed, from output to input.

    Example:

        report = analyzer.conservation(x)
        print(report)
        report.plot()
    """

    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray
    layers: tuple[Entry, ...]

    def __len__(self):
        return len(self.start)

    def __getitem__(self, samples) -> "Conservation":
        def chosen(entry, names):
            return {name: np.atleast_1d(getattr(entry, name)[samples]) for name in names}

        layers = tuple(Entry(entry.path, **chosen(entry, (*FIELDS, "growth"))) for entry in self.layers)
        return Conservation(**chosen(self, FIELDS), layers=layers)

    def sorted_layers(self) -> list[Entry]:
        """The entries, from the one that loses most on average to the one that loses least."""
        return sorted(self.layers, key=lambda entry: -np.mean(np.abs(entry.lost)))

    def to_dict(self) -> dict:
        """The ledger as plain lists, one value per sample, for JSON."""

        def fields(entry, names):
            return {name: np.asarray(getattr(entry, name)).tolist() for name in names}

        layers = [{"path": entry.path, **fields(entry, (*FIELDS, "growth"))} for entry in self.layers]
        return {**fields(self, FIELDS), "layers": layers}

    def table(self) -> Table:
        """Averages over the samples, sorted by what is lost; growth is the largest of them."""
        listed = self.sorted_layers()
        if len(listed) > LISTED:
            listed = [entry for entry in listed if self._loses(entry)]
        rows = [("total", *_averages(self), "")]
        rows += [(entry.path, *_averages(entry), float(np.max(entry.growth))) for entry in listed]
        rest = len(self.layers) - len(listed)
        return Table(
            ("site", *FIELDS, "growth"),
            rows,
            title=f"Relevance of {self._count()}, {self._found()} of it found at the input",
            footer=f"{rest} more sites hand on all they get." if rest else None,
        )

    def plot(self):
        """Draws how much relevance is left after each site, and what it absorbs, averaged over the samples.

        Returns:
            A `Picture`, a matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from revgraph.reverse.pictures import Picture

        start = np.mean(self.start)
        share = 100 / start if start else 0.0
        left = 100 - share * np.cumsum([np.mean(entry.lost) for entry in self.layers])
        drawn = set(self.sorted_layers()[:LISTED])
        left = [x for x, entry in zip(left, self.layers, strict=True) if entry in drawn]
        entries = [entry for entry in self.layers if entry in drawn]
        rows = np.arange(len(entries))
        picture = Picture(9, 1.6 + 0.22 * max(len(entries), 4))
        remaining, absorbed = picture.subplots(1, 2, sharey=True)
        remaining.barh(rows, left, color="0.75", height=0.8)
        remaining.axvline(100, color="0.4", linewidth=0.8, linestyle=":")
        remaining.set(xlabel="relevance left after the site, % of the start", yticks=rows)
        remaining.set_yticklabels([e.path for e in entries], fontsize=8)
        _stack(absorbed, rows, {name: [share * np.mean(getattr(e, name)) for e in entries] for name in FIELDS[2:]})
        absorbed.axvline(0, color="0.4", linewidth=0.8)
        absorbed.set_xlabel("absorbed by the site, % of the start")
        absorbed.use_sticky_edges = False
        absorbed.autoscale_view()
        low, high = absorbed.get_xlim()
        # Rounding errors shall not look like losses.
        absorbed.set_xlim(min(low, -1), max(high, 1))
        absorbed.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        remaining.set_ylim(len(entries) - 0.4, -0.6)
        for axes in (remaining, absorbed):
            axes.tick_params(labelsize=8)
            axes.xaxis.label.set_size(9)
            axes.spines[["top", "right"]].set_visible(False)
        picture.suptitle(f"From output to input: {self._found()} of the relevance arrives", fontsize=10)
        return picture

    def _count(self):
        return "1 sample" if len(self) == 1 else f"{len(self)} samples"

    def _loses(self, entry):
        return np.mean(np.abs(entry.lost)) > 1e-6 * np.mean(np.abs(self.start))

    def _found(self):
        start = np.mean(self.start)
        return f"{np.mean(self.input) / start:.1%}" if start else "none"

    def __repr__(self):
        return f"<Conservation of {self._count()}: {_means(self)}>"


COLOURS = {"bias": "#0072b2", "stabiliser": "#e69f00", "other": "#cc79a7"}
"""Okabe and Ito's colours, which colour-blind people can tell apart."""


def _stack(axes, rows, shares):
    """Horizontal bars on top of each other, positive shares to the right of zero and negative ones to the left."""
    right, left = np.zeros(len(rows)), np.zeros(len(rows))
    for name, values in shares.items():
        values = np.asarray(values)
        axes.barh(rows, values, left=np.where(values >= 0, right, left), color=COLOURS[name], label=name, height=0.8)
        right += np.maximum(values, 0)
        left += np.minimum(values, 0)


def _averages(entry):
    return [float(np.mean(getattr(entry, name))) for name in FIELDS]


def _means(entry):
    return ", ".join(f"{name} {value:.4g}" for name, value in zip(FIELDS, _averages(entry), strict=True))


def merge(ledgers: Iterable[Conservation]) -> Conservation:
    """One ledger of several batches."""
    ledgers = list(ledgers)

    def joined(parts, names):
        return {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}

    layers = tuple(
        Entry(entries[0].path, **joined(entries, (*FIELDS, "growth")))
        for entries in zip(*(x.layers for x in ledgers), strict=True)
    )
    return Conservation(**joined(ledgers, FIELDS), layers=layers)


def growths(graph, forward, relevance, starts, limit=GROWTH) -> dict[str, tf.Tensor]:
    """By how much |R| grows on a backward walk: what arrives at a slot over what arrived at the sites that read it.

    Each tensor is summed once, and only if one of these sites divides: nothing else can make relevance explode. What
    its rule keeps within the limit by itself, as z+ does, is not measured either. All that arrived at a reader counts,
    whatever it handed on to its other inputs: growth is never more than through the worst of the readers.

    Args:
        graph: The graph that was walked.
        forward: The forward walk.
        relevance: Of every slot that was reached.
        starts: The relevance that started, by slot.
        limit: The factor of which one wants to know.

    Returns:
        Growth, the largest of the batch, by the paths of the sites that were measured; scalars.
    """
    readers, summed = {}, {}
    batch = tf.shape(forward.values[graph.input_slots[0]])[0]
    for site, pullback in zip(graph.sites, forward.pullbacks, strict=True):
        if any(slot in relevance for slot in site.outputs):
            for slot in dict.fromkeys(site.inputs):
                readers.setdefault(slot, []).append((site, pullback))

    def magnitude(slot, r):
        """Sum of |R| per sample; over all samples, where they share a tensor."""
        # Over the last axis first: TensorFlow takes longer over all at once.
        each = tf.reduce_sum(tf.abs(r), axis=-1) if r.shape.rank > 1 else tf.abs(r)
        if graph.specs[slot].shape[0] is not None:
            return tf.reduce_sum(each)
        # A layer applied at every time step has steps for samples.
        return tf.reduce_sum(tf.reshape(each, (batch, -1)), axis=1)

    def total(slot):
        if slot not in summed:
            summed[slot] = magnitude(slot, relevance[slot])
        return summed[slot]

    found = {}
    for slot, sites in readers.items():
        measured = [repr(site.path) for site, pullback in sites if pullback.growth > limit]
        if measured and slot in relevance:
            above = sum(total(s) for site, _ in sites for s in site.outputs if s in relevance)
            below = magnitude(slot, relevance[slot] - starts[slot]) if slot in starts else total(slot)
            factor = tf.reduce_max(tf.math.divide_no_nan(below, above))
            path = " or ".join(measured)
            found[path] = tf.maximum(found[path], factor) if path in found else factor
    return found


def warn_of_growth(factors, limit=GROWTH, stacklevel=2) -> bool:
    """Warns of where |R| grows most, if by more than `limit`.

    Args:
        factors: Growth by site, as `growths` found it.
        limit: Factor that is still let pass.
        stacklevel: Of the warning.

    Returns:
        Whether it warned.
    """
    worst = max(factors, key=factors.get, default=None)
    if worst is None or not factors[worst] > limit:
        return False
    warnings.warn(
        f"Relevance explodes at {worst}: the sum of |R| grows {factors[worst]:.3g}-fold there, because contributions "
        f"of opposite sign cancel. Give that site a larger epsilon or gamma, such as "
        f"revgraph.Composite(({worst.split(' or ')[0]}, Epsilon(1e-2)), ...) or Gamma(0.25), or ZPlus where it is an "
        f"Add. `conservation` shows the growth through every site.",
        stacklevel=stacklevel,
    )
    return True
