"""The ledger: where relevance went, site by site."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from revgraph.graph.operations import Routing
from revgraph.graph.tables import Table, Tabular
from revgraph.reverse_rules import Absorbed, DeconvNet, GuidedBackprop, Jacobian, ReLUBetaSmooth
from revgraph.reverse_rules.pattern import Pattern

ABSORBED = tuple(field.name for field in dataclasses.fields(Absorbed))
"""Where relevance can go besides the inputs, as `Absorbed` names it."""

FIELDS = ("start", "input", *ABSORBED, "other")
"""The columns of the ledger, for every site and in total."""

LISTED = 40
"""Ledgers of more sites list only those that lose something, and draw only those that lose most."""

COLOURS = {
    "bias": "#0072b2",
    "constants": "#009e73",
    "rule": "#56b4e9",
    "stabiliser": "#e69f00",
    "other": "#cc79a7",
}
"""Okabe and Ito's colours, which colour-blind people can tell apart."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One site of the ledger; every field but the path is an array of shape (batch,).

    Args:
        path: The site.
        start: Relevance that arrived from above.
        input: Relevance handed on below.
        bias: Absorbed by the site's bias.
        constants: Absorbed by constants that take part: padding, fill values, saturated units.
        rule: Dropped or added by the rule, as it is defined.
        stabiliser: Absorbed by the stabiliser.
        other: What remains: start less all of the others.
        growth: sum |R| below over sum |R| above.
    """

    path: str
    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    constants: np.ndarray
    rule: np.ndarray
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
    """Where relevance went: `start = input + bias + constants + rule + stabiliser + other`, arrays of shape (batch,).

    It prints as a table of means over the samples, sorted by what is lost. `report[3]` is the report on one sample,
    `report[:8]` on several.

    Args:
        start: Relevance at the start.
        input: Relevance found at the inputs.
        bias: Absorbed by biases, in all sites.
        constants: Absorbed by constants that take part: padding, fill values, saturated units.
        rule: Dropped or added by rules, as they are defined, such as units without positive contributions under z+.
        stabiliser: Absorbed by stabilisers, in all sites.
        other: What remains: rounding, or a fault, where rules conserve relevance.
        layers: One entry per site that relevance passed, from output to input.
        magnitude: sum |R| at the start; by default that of a start at one neuron.
        subject: What is accounted for, as the title calls it.
        note: A sentence on why `other` need not be small; None where it has to be.

    Example:

        report = analyzer.conservation(x)
        print(report)
        report.plot()
    """

    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    constants: np.ndarray
    rule: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray
    layers: tuple[Entry, ...] = ()
    magnitude: np.ndarray | None = None
    subject: str = "Relevance"
    note: str | None = None

    def __post_init__(self):
        if self.magnitude is None:
            object.__setattr__(self, "magnitude", np.abs(self.start))

    def __len__(self):
        return len(self.start)

    def __getitem__(self, samples) -> "Conservation":
        def chosen(entry, names):
            return {name: np.atleast_1d(getattr(entry, name)[samples]) for name in names}

        layers = tuple(Entry(entry.path, **chosen(entry, (*FIELDS, "growth"))) for entry in self.layers)
        return dataclasses.replace(self, **chosen(self, (*FIELDS, "magnitude")), layers=layers)

    @property
    def lost(self) -> np.ndarray:
        """Relevance at the start that is not found at the inputs."""
        return self.start - self.input

    def share(self, relevance) -> np.ndarray:
        """Relevance as a share of what each sample started with.

        A share is positive where relevance has the sign of the sample's start, so that samples of opposite sign do not
        cancel in a mean.

        Args:
            relevance: Array (batch,), such as `report.input` or `report.layers[0].bias`.

        Returns:
            Array (batch,): relevance times the sign of the start, over sum |R| at the start; NaN for samples that
            start with nothing.
        """
        sign = np.where(self.start < 0, -1.0, 1.0)
        return np.divide(sign * relevance, self.magnitude, out=np.full(len(self), np.nan), where=self.magnitude > 0)

    def mean_share(self, relevance) -> float:
        """The mean of `share` over the samples that start with something; 0 where none does."""
        shares = self.share(relevance)
        shares = shares[~np.isnan(shares)]
        return float(np.mean(shares)) if len(shares) else 0.0

    def sorted_layers(self) -> list[Entry]:
        """The entries, from the one that loses most on average to the one that loses least."""
        return sorted(self.layers, key=lambda entry: -self._loss(entry))

    def to_dict(self) -> dict:
        """The ledger as plain lists, one value per sample, for JSON."""

        def fields(entry, names):
            return {name: np.asarray(getattr(entry, name)).tolist() for name in names}

        layers = [{"path": entry.path, **fields(entry, (*FIELDS, "growth"))} for entry in self.layers]
        return {**fields(self, (*FIELDS, "magnitude")), "layers": layers}

    def table(self) -> Table:
        """Means over the samples, sorted by what is lost.

        `lost %` is the mean share of the start that a site does not hand on, whatever its sign; `growth` is the largest
        of all samples.
        """
        means = "means: " if len(self) > 1 else ""
        listed = self.sorted_layers()
        if len(listed) > LISTED:
            listed = [entry for entry in listed if self._loses(entry)]
        rows = [("total", *_averages(self), 100 * self._loss(self), "")]
        rows += [(e.path, *_averages(e), 100 * self._loss(e), float(np.max(e.growth))) for e in listed]
        rest = len(self.layers) - len(listed)
        below = [f"{rest} more sites hand on all they get."] if rest else []
        return Table(
            ("site", *FIELDS, "lost %", "growth"),
            rows,
            title=f"{self.subject} of {self._count()}, {means}{self._found()} of it found at the input",
            footer="\n".join([*below, *filter(None, [self.note])]) or None,
        )

    def plot(self):
        """Draws how much relevance is left after each site, and what it absorbs, as mean shares of the start.

        Returns:
            A `Picture`, a matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from revgraph.reverse.pictures import Picture

        def per_cent(relevance):
            return 100 * self.mean_share(relevance)

        left = per_cent(self.start) - np.cumsum([per_cent(entry.lost) for entry in self.layers])
        drawn = set(self.sorted_layers()[:LISTED])
        left = [x for x, entry in zip(left, self.layers, strict=True) if entry in drawn]
        entries = [entry for entry in self.layers if entry in drawn]
        rows = np.arange(len(entries))
        picture = Picture(9, 1.6 + 0.22 * max(len(entries), 4))
        remaining, absorbed = picture.subplots(1, 2, sharey=True)
        remaining.barh(rows, left, color="0.75", height=0.8)
        remaining.axvline(100, color="0.4", linewidth=0.8, linestyle=":")
        remaining.set(xlabel=f"{self._mean()}relevance left after the site, % of the start", yticks=rows)
        remaining.set_yticklabels([e.path for e in entries], fontsize=8)
        _stack(absorbed, rows, {name: [per_cent(getattr(e, name)) for e in entries] for name in COLOURS})
        absorbed.axvline(0, color="0.4", linewidth=0.8)
        absorbed.set_xlabel(f"{self._mean()}relevance absorbed by the site, % of the start")
        absorbed.use_sticky_edges = False
        absorbed.autoscale_view()
        low, high = absorbed.get_xlim()
        # Rounding errors shall not look like losses.
        absorbed.set_xlim(min(low, -1), max(high, 1))
        absorbed.legend(
            fontsize=8,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=len(COLOURS),
            frameon=False,
            columnspacing=1.0,
            handlelength=1.2,
        )
        remaining.set_ylim(len(entries) - 0.4, -0.6)
        for axes in (remaining, absorbed):
            axes.tick_params(labelsize=8)
            axes.xaxis.label.set_size(9)
            axes.spines[["top", "right"]].set_visible(False)
        picture.suptitle(f"From output to input: {self._found()} of the relevance arrives", fontsize=10)
        return picture

    def _mean(self):
        return "mean " if len(self) > 1 else ""

    def _count(self):
        return "1 sample" if len(self) == 1 else f"{len(self)} samples"

    def _loss(self, entry):
        return float(np.abs(self.share(entry.lost))[self.magnitude > 0].sum() / max(np.sum(self.magnitude > 0), 1))

    def _loses(self, entry):
        return self._loss(entry) > 1e-6

    def _found(self):
        if not np.any(self.magnitude):
            return "none"
        return f"{'on average ' if len(self) > 1 else ''}{self.mean_share(self.input):.1%}"

    def __repr__(self):
        return f"<Conservation of {self._count()}: {_means(self)}>"


def balanced(start, found, layers=(), magnitude=None, **described) -> Conservation:
    """The ledger of one batch.

    Args:
        start: Relevance at the start, (batch,).
        found: Relevance at the inputs, (batch,).
        layers: An `Entry` for each site that relevance passed.
        magnitude, **described: See `Conservation`.
    """
    absorbed = {name: sum((getattr(e, name) for e in layers), np.zeros(len(start))) for name in ABSORBED}
    other = start - found - sum(absorbed.values())
    return Conservation(start, found, **absorbed, other=other, layers=tuple(layers), magnitude=magnitude, **described)


def completeness(contributions, gap) -> Conservation:
    """The ledger of contributions that are to add up to a difference of outputs.

    Args:
        contributions: One array (batch, ...) per input.
        gap: Difference from the reference's output, less the sum of the contributions, (batch,).
    """
    found = sum(np.sum(c, axis=tuple(range(1, np.ndim(c))), dtype="float64") for c in contributions)
    return balanced(found + gap, found, subject="Difference from the reference's output")


def merge(ledgers: Iterable[Conservation]) -> Conservation:
    """One ledger of several batches."""
    ledgers = list(ledgers)

    def joined(parts, names):
        return {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}

    layers = tuple(
        Entry(entries[0].path, **joined(entries, (*FIELDS, "growth")))
        for entries in zip(*(x.layers for x in ledgers), strict=True)
    )
    return dataclasses.replace(ledgers[0], **joined(ledgers, (*FIELDS, "magnitude")), layers=layers)


def why_it_does_not_add_up(bound) -> str | None:
    """A sentence on the rules that do not conserve relevance; None where all do.

    Args:
        bound: The rule of each site.
    """
    named = [entry for entry in bound if _copies(entry)]
    if not named:
        return None
    rules = " and ".join(dict.fromkeys(type(entry.rule).__name__ for entry in named))
    return (
        f"Relevance does not add up here, because {rules} (at {named[0].site.path!r}, for example) takes the gradient "
        f"or copies relevance where it does not share it out: `other` is no fault."
    )


def _copies(entry):
    if isinstance(entry.rule, DeconvNet | GuidedBackprop | ReLUBetaSmooth | Pattern):
        return True
    return isinstance(entry.rule, Jacobian) and not isinstance(entry.site.operation, Routing)


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
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(FIELDS, _averages(entry), strict=True))
    return f"{values} (means)" if len(entry.start) > 1 else values
