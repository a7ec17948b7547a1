"""The ledger: an account of where relevance went, site by site. A site is one call of one layer."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from revgraph.composites.composite import Bound
from revgraph.graph.loops import without_numbers
from revgraph.graph.operations import Routing
from revgraph.graph.tables import Table, Tabular
from revgraph.reverse import over_time
from revgraph.reverse.over_time import OverTime
from revgraph.reverse_rules import Absorbed, DeconvNet, GuidedBackprop, Jacobian, ReLUBetaSmooth
from revgraph.reverse_rules.pattern import Pattern

ABSORBED = tuple(field.name for field in dataclasses.fields(Absorbed))
"""The columns of the ledger for absorbed relevance, with the names of `Absorbed`."""

FIELDS = ("start", "input", *ABSORBED, "condition", "other")
"""All columns of the ledger, for every site and in total."""

LISTED = 40
"""A ledger of more sites lists only those that lose relevance, and draws only so many, those that lose most."""


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """The account of one site. Every field but the path is an array of shape (batch,).

    Args:
        path: The path of the site.
        start: Relevance that arrived at the outputs of the site.
        input: Relevance that the site handed on to its inputs.
        bias: Relevance absorbed by the bias.
        constants: Relevance absorbed by constants that contribute to the outputs: padding, fill values, saturated
            units.
        rule: Relevance that the rule drops, or adds where it is negative, by its definition.
        softmax: Relevance that the Taylor expansion of a softmax leaves out, or adds where it is negative.
        stabiliser: Relevance absorbed by the stabiliser, the epsilon that is added to a denominator.
        other: The rest: `start` less `input` and all that was absorbed.
        growth: Sum |R| at the inputs over sum |R| at the outputs.
        turns: Of a loop, where relevance went in each of its turns; None for other sites.
        condition: Relevance that a condition masks at the outputs of the site, or keeps from its inputs because it
            would pass around a layer that is named. By default nothing.
    """

    path: str
    start: np.ndarray
    input: np.ndarray
    bias: np.ndarray
    constants: np.ndarray
    rule: np.ndarray
    softmax: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray
    growth: np.ndarray
    turns: OverTime | None = None
    condition: np.ndarray = None  # type: ignore[assignment]  # __post_init__ sets it

    def __post_init__(self):
        if self.condition is None:
            object.__setattr__(self, "condition", np.zeros_like(self.start, float))

    @property
    def lost(self) -> np.ndarray:
        """Relevance that arrived and was not handed on, (batch,)."""
        return self.start - self.input

    def __repr__(self):
        return f"<{self.path}: {_means(self)}>"


@dataclasses.dataclass(frozen=True, eq=False)
class Conservation(Tabular):
    """Where relevance went: `start = input + bias + constants + rule + softmax + stabiliser + condition + other`.

    Each is an array of shape (batch,).

    It prints as a table of means over the samples, with the sites that lose most at the top. `report[3]` is the report
    on one sample, `report[:8]` on several.

    Args:
        start: Relevance at the start, usually the value of the explained output.
        input: Relevance that arrived at the inputs.
        bias: Relevance absorbed by biases, summed over all sites like the following ones.
        constants: Relevance absorbed by constants that contribute to outputs: padding, fill values, saturated units.
        rule: Relevance that rules drop or add by their definition. For example, z+ drops the relevance of a unit that
            has no positive contributions.
        softmax: Relevance that the Taylor expansions of softmaxes leave out, or add where it is negative.
        stabiliser: Relevance absorbed by stabilisers, the epsilons that are added to denominators.
        other: The rest. Where all rules conserve relevance it is rounding, or a fault of revgraph.
        layers: One entry per site that relevance passed, from output to input.
        magnitude: Sum |R| at the start, (batch,). By default |start|, which is right if relevance starts at one neuron.
        subject: The name of the quantity in the title, such as "Relevance".
        note: A sentence on why `other` need not be small; None if it must be.
        condition: Relevance that conditions mask, or keep from passing around the layers that they name. By default
            nothing.

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
    softmax: np.ndarray
    stabiliser: np.ndarray
    other: np.ndarray
    layers: tuple[Entry, ...] = ()
    magnitude: np.ndarray = None  # type: ignore[assignment]  # __post_init__ sets it
    subject: str = "Relevance"
    note: str | None = None
    condition: np.ndarray = None  # type: ignore[assignment]  # __post_init__ sets it

    def __post_init__(self):
        if self.magnitude is None:
            object.__setattr__(self, "magnitude", np.abs(self.start))
        if self.condition is None:
            object.__setattr__(self, "condition", np.zeros_like(self.start, float))

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, samples: int | slice | Sequence[int] | np.ndarray) -> "Conservation":
        def chosen(entry, names):
            return {name: np.atleast_1d(getattr(entry, name)[samples]) for name in names}

        layers = tuple(
            Entry(entry.path, **chosen(entry, (*FIELDS, "growth")), turns=entry.turns and entry.turns[samples])
            for entry in self.layers
        )
        return dataclasses.replace(self, **chosen(self, (*FIELDS, "magnitude")), layers=layers)

    @property
    def lost(self) -> np.ndarray:
        """Relevance at the start that did not arrive at the inputs, (batch,)."""
        return self.start - self.input

    def share(self, relevance: np.ndarray) -> np.ndarray:
        """Relevance as a share of the relevance that each sample started with.

        A share is positive if relevance has the sign of the sample's start. So samples of opposite sign do not cancel
        in a mean.

        Args:
            relevance: Array (batch,), such as `report.input` or `report.layers[0].bias`.

        Returns:
            Array (batch,): relevance times the sign of the start, over sum |R| at the start. NaN for samples that start
            with no relevance.
        """
        sign = np.where(self.start < 0, -1.0, 1.0)
        return np.divide(sign * relevance, self.magnitude, out=np.full(len(self), np.nan), where=self.magnitude > 0)

    def mean_share(self, relevance: np.ndarray) -> float:
        """The mean of `share` over the samples that start with relevance; 0 if none does."""
        shares = self.share(relevance)
        shares = shares[~np.isnan(shares)]
        return float(np.mean(shares)) if len(shares) else 0.0

    def over_time(self, layer: str) -> OverTime:
        """How much relevance each step of a recurrent layer gives to its input, and hands back.

        Args:
            layer: Name of the layer, or path of its loop, such as `"lstm"`, `"lstm/while"` or `"encoder/lstm"`.

        Returns:
            An `OverTime`, which prints as a table and has a `plot`.

        Raises:
            KeyError: Relevance passed no such loop, or several.
        """
        loops = [entry for entry in self.layers if entry.turns is not None]
        found = [e for e in loops if e.path == layer] or [
            e for e in loops if f"/{layer}/" in f"/{without_numbers(e.path)}/" or f"/{layer}/" in f"/{e.path}/"
        ]
        if len(found) == 1:
            return found[0].turns  # type: ignore[return-value]
        paths = ", ".join(repr(entry.path) for entry in found or loops) or "none"
        if found:
            raise KeyError(f"{layer!r} is the name of {len(found)} loops. Name one of them: {paths}.")
        raise KeyError(f"Relevance passed no loop that is named {layer!r}. It passed {paths}.")

    def sorted_layers(self) -> list[Entry]:
        """The entries, from the one that loses most on average to the one that loses least."""
        return sorted(self.layers, key=lambda entry: -self._loss(entry))

    def to_dict(self) -> dict[str, Any]:
        """The ledger as plain lists, one value per sample, for JSON."""

        def fields(entry, names):
            return {name: np.asarray(getattr(entry, name)).tolist() for name in names}

        layers = [{"path": entry.path, **fields(entry, (*FIELDS, "growth"))} for entry in self.layers]
        return {**fields(self, (*FIELDS, "magnitude")), "layers": layers}

    def table(self) -> Table:
        """Means over the samples, with the sites that lose most at the top.

        `lost %` is the mean of the absolute share of the start that a site does not hand on. `growth` is the largest of
        all samples.
        """
        means = "means: " if len(self) > 1 else ""
        listed = self.sorted_layers()
        if len(listed) > LISTED:
            listed = [entry for entry in listed if self._loses(entry)]
        names = _shown(self)
        rows = [("total", *_averages(self, names), 100 * self._loss(self), "")]
        rows += [(e.path, *_averages(e, names), 100 * self._loss(e), float(np.max(e.growth))) for e in listed]
        rest = len(self.layers) - len(listed)
        below = [f"{rest} more sites hand on all they get."] if rest else []
        return Table(
            ("site", *names, "lost %", "growth"),
            rows,
            title=f"{self.subject} of {self._count()}, {means}{self.found()} of it found at the input",
            footer="\n".join([*below, *filter(None, [self.note])]) or None,
        )

    def plot(self) -> Any:
        """Draws how much relevance is left after each site, and how much the site absorbs, as mean shares of the start.

        Returns:
            A `Picture`, a matplotlib figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from revgraph.reverse.ledger_picture import draw

        return draw(self)

    def _count(self):
        return "1 sample" if len(self) == 1 else f"{len(self)} samples"

    def _loss(self, entry):
        return float(np.abs(self.share(entry.lost))[self.magnitude > 0].sum() / max(np.sum(self.magnitude > 0), 1))

    def _loses(self, entry):
        return self._loss(entry) > 1e-6

    def found(self) -> str:
        """How much of the relevance was found at the inputs, as text."""
        if not np.any(self.magnitude):
            return "none"
        return f"{'on average ' if len(self) > 1 else ''}{self.mean_share(self.input):.1%}"

    def __repr__(self):
        return f"<Conservation of {self._count()}: {_means(self)}>"


def balanced(
    start: np.ndarray,
    found: np.ndarray,
    layers: Iterable[Entry] = (),
    magnitude: np.ndarray | None = None,
    **described: Any,
) -> Conservation:
    """The ledger of one batch, whose totals are the sums over its sites.

    Args:
        start: Relevance at the start, (batch,).
        found: Relevance at the inputs, (batch,).
        layers: An `Entry` for each site that relevance passed.
        magnitude: See `Conservation`.
        **described: `subject` and `note`; see `Conservation`.
    """
    layers = tuple(layers)
    nothing = np.zeros(len(start))
    fields: dict[str, Any] = {n: sum((getattr(e, n) for e in layers), nothing) for n in (*ABSORBED, "condition")}
    fields["other"] = start - found - sum(fields.values())
    return Conservation(start, found, **fields, layers=layers, magnitude=magnitude, **described)  # type: ignore[arg-type]


def no_way(relevance: np.ndarray) -> Entry:
    """The entry of relevance that starts where no way leads through the layers that conditions name, (batch,)."""
    nothing = np.zeros_like(relevance)
    fields: dict[str, Any] = dict.fromkeys((*FIELDS, "growth"), nothing)
    return Entry("start", **{**fields, "start": relevance, "condition": relevance})


def completeness(
    contributions: Iterable[np.ndarray], gap: np.ndarray, condition: np.ndarray | float = 0.0
) -> Conservation:
    """The ledger of contributions, such as DeepLIFT's, that should add up to a difference of outputs.

    Args:
        contributions: One array (batch, ...) per input.
        gap: The difference from the output of the reference, less the sum of the contributions, (batch,).
        condition: What of the gap conditions masked, (batch,).
    """
    found = sum((np.sum(c, axis=tuple(range(1, np.ndim(c))), dtype="float64") for c in contributions), np.zeros(()))
    ledger = balanced(found + gap, found, subject="Difference from the reference's output")
    return dataclasses.replace(ledger, condition=condition + np.zeros_like(gap), other=gap - condition)


def merge(ledgers: Iterable[Conservation]) -> Conservation:
    """Joins the ledgers of several batches into one."""
    ledgers = list(ledgers)

    def joined(parts, names):
        return {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}

    layers = tuple(
        Entry(
            entries[0].path, **joined(entries, (*FIELDS, "growth")), turns=over_time.joined([e.turns for e in entries])
        )
        for entries in zip(*(x.layers for x in ledgers), strict=True)
    )
    return dataclasses.replace(ledgers[0], **joined(ledgers, (*FIELDS, "magnitude")), layers=layers)


def why_it_does_not_add_up(bound: Iterable[Bound]) -> str | None:
    """A sentence on the rules that do not conserve relevance; None if all do.

    Args:
        bound: The sites with their rules.
    """
    named = [entry for entry in bound if _copies(entry)]
    if not named:
        return None
    rules = " and ".join(dict.fromkeys(type(entry.rule).__name__ for entry in named))
    return (
        f"Relevance does not add up here, because {rules} (at {named[0].site.path!r}, for example) takes the gradient "
        f"or copies relevance and does not share it out. So `other` is no fault."
    )


def _copies(entry):
    if isinstance(entry.rule, DeconvNet | GuidedBackprop | ReLUBetaSmooth | Pattern):
        return True
    return isinstance(entry.rule, Jacobian) and not isinstance(entry.site.operation, Routing)


def _shown(entry):
    """The columns that a table shows: those of softmax and of conditions only where there is something in them."""
    return [name for name in FIELDS if name not in ("softmax", "condition") or np.any(getattr(entry, name))]


def _averages(entry, names):
    return [float(np.mean(getattr(entry, name))) for name in names]


def _means(entry):
    names = _shown(entry)
    values = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, _averages(entry, names), strict=True))
    return f"{values} (means)" if len(entry.start) > 1 else values
