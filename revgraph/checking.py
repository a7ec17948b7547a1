"""`check` reports what an analyzer would do with a model, without running it."""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from typing import Any

import keras

from revgraph.analyzers import Analyzer, create_analyzer
from revgraph.composites import NotAnalyzeableModelException, remedy
from revgraph.graph.graph import Graph
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import PathLike, Tensors
from revgraph.read.files import check_not_given, load_model
from revgraph.read.keras.signature import Sized, SizesUnknown
from revgraph.read.keras.tracing import trace


@dataclasses.dataclass(frozen=True)
class SiteReport:
    """The report on one site, which is one call of one operation.

    Args:
        path: The path of the site, such as `backbone/block1/conv`.
        operation: Name of its operation.
        rule: The rule that it gets; None where there is none, or where the method needs no rules.
        reason: Why it gets that rule, such as the entry of the composite that matched.
        merged: Paths of the sites that canonization folded into it.
        remedy: What to do if the site has no rule and needs one; None otherwise.
    """

    path: str
    operation: str
    rule: str | None
    reason: str
    merged: tuple[str, ...] = ()
    remedy: str | None = None

    @property
    def supported(self) -> bool:
        """Whether the analyzer can handle the site."""
        return self.remedy is None


@dataclasses.dataclass(frozen=True)
class Report(Tabular):
    """The report on a model and an analyzer. It prints as a table.

    Args:
        name: Name of the analyzer.
        model: Name of the model.
        sites: One report per site, in the order of execution.
        problems: Reasons why the model as a whole cannot be explained.
        notes: Warnings that the analyzer would give.
    """

    name: str
    model: str
    sites: tuple[SiteReport, ...]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def supported(self) -> bool:
        """Whether the analyzer can be made."""
        return not self.problems and not self.unsupported

    @property
    def unsupported(self) -> tuple[SiteReport, ...]:
        """The sites that need a rule and have none."""
        return tuple(site for site in self.sites if not site.supported)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {"supported": self.supported, **dataclasses.asdict(self)}

    def table(self) -> Table:
        """A table with one line per site, and the problems below it."""
        rows = [(s.path, s.operation, s.rule or "", s.reason, ", ".join(s.merged)) for s in self.sites]
        state = "supported" if self.supported else "not supported"
        below = [*self.problems, *(f"{s.path} ({s.operation}): {s.remedy}" for s in self.unsupported), *self.notes]
        return Table(
            ("site", "operation", "rule", "matched by", "merged"),
            rows,
            title=f"{self.name} of {self.model!r}: {state}",
            footer="\n".join(below) or None,
        )

    def __repr__(self) -> str:
        state = "supported" if self.supported else f"{len(self.unsupported) + len(self.problems)} problems"
        return f"<check of {self.name} on {self.model!r}: {len(self.sites)} sites, {state}>"


def check(
    model: keras.Model | Graph | PathLike,
    name: str,
    signature: str | None = None,
    safe_mode: bool = True,
    custom_objects: Mapping[str, Any] | None = None,
    example: Tensors = None,
    **kwargs: Any,
) -> Report:
    """Reports what an analyzer would do with a model, without running it.

    The report lists each site (one call of one operation) with the rule that it gets, the reason for that rule, and the
    sites that are folded into it. Where something is not supported, it is listed with a remedy, and no error is raised.

    Args:
        model: A Keras model, a `Graph`, or the path of a model; see `revgraph.load_model`.
        name: Name of the analyzer.
        signature: Name of the signature, if `model` is the path of a SavedModel.
        safe_mode: Whether to refuse a file with Lambda layers. False runs their Python code. It does not cover
            SavedModels.
        custom_objects: The model's own classes and functions by name, if `model` is a path.
        example: Inputs for a model whose code needs sizes that the model does not give, such as the number of time
            steps. Only their sizes count.
        **kwargs: Arguments of the analyzer, as `revgraph.create_analyzer` takes them.

    Returns:
        A `Report`.

    Raises:
        KeyError, TypeError: No analyzer has that name, or it does not take these arguments.
        FileNotFoundError, ValueError: There is no model at that path.

    Example:

        report = revgraph.check(model, "lrp.epsilon_plus_flat")
        print(report)
    """
    if isinstance(model, str | os.PathLike):
        model = load_model(model, signature, safe_mode, custom_objects)
    else:
        check_not_given(signature, custom_objects)
    if example is not None:
        model = Sized(model, example)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sites, problems = _sites(model, name, kwargs)
    notes = tuple(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
    return Report(name, getattr(model, "name", str(model)), sites, problems, notes)


def _sites(
    model: keras.Model | Graph | Sized, name: str, kwargs: dict[str, Any]
) -> tuple[tuple[SiteReport, ...], tuple[str, ...]]:
    """The reports on the sites, and the problems of the model as a whole."""
    try:
        trace(model)
    except SizesUnknown as error:
        return (), (f"{error} `check` takes data for that: example=x.",)
    except ValueError as error:
        return (), (str(error),)
    try:
        return _analyzer_reports(create_analyzer(name, model, **kwargs)), ()
    except NotAnalyzeableModelException as error:
        reports = tuple(map(_bound_report, error.bound))
        return reports, () if reports else (str(error),)


def _analyzer_reports(analyzer: Analyzer) -> tuple[SiteReport, ...]:
    if analyzer.bound:
        return tuple(map(_bound_report, analyzer.bound))
    return tuple(SiteReport(s.path, s.operation.label, None, "no rules", s.merged) for s in analyzer.graph.sites)


def _bound_report(bound):
    site = bound.site
    missing = remedy(site) if bound.rule is None else None
    rule = None if bound.rule is None else str(bound.rule)
    return SiteReport(site.path, site.operation.label, rule, bound.reason, site.merged, missing)
