"""`check`: what an analyzer would do with a model, without running it."""

import dataclasses
import os
import warnings

from revgraph.analyzers import Analyzer, create_analyzer
from revgraph.composites import NotAnalyzeableModelException
from revgraph.composites.composite import remedy
from revgraph.graph.tables import Table, Tabular
from revgraph.read import Sized, SizesUnknown, trace
from revgraph.read.files import check_not_given, load_model


@dataclasses.dataclass(frozen=True)
class SiteReport:
    """What becomes of one site.

    Args:
        path: Where it stands.
        operation: What it computes.
        rule: The rule that it gets; None where there is none.
        reason: Why that rule.
        merged: Paths of the sites that were folded into it.
        remedy: What to do where there is no rule.
    """

    path: str
    operation: str
    rule: str | None
    reason: str
    merged: tuple[str, ...] = ()
    remedy: str | None = None

    @property
    def supported(self) -> bool:
        """Whether it has a rule."""
        return self.remedy is None


@dataclasses.dataclass(frozen=True)
class Report(Tabular):
    """What an analyzer would do with a model; prints as a table.

    Args:
        name: Name of the analyzer.
        model: Name of the model.
        sites: One report per site, in the order of execution.
        problems: What keeps the whole model from being explained.
        notes: What is worth knowing.
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
        """The sites without a rule."""
        return tuple(site for site in self.sites if not site.supported)

    def to_dict(self) -> dict:
        """The report as plain values, for JSON."""
        return {"supported": self.supported, **dataclasses.asdict(self)}

    def table(self) -> Table:
        """One line per site, and below them what is wrong."""
        rows = [(s.path, s.operation, s.rule or "", s.reason, ", ".join(s.merged)) for s in self.sites]
        state = "supported" if self.supported else "not supported"
        below = [*self.problems, *(f"{s.path} ({s.operation}): {s.remedy}" for s in self.unsupported), *self.notes]
        return Table(
            ("site", "operation", "rule", "matched by", "merged"),
            rows,
            title=f"{self.name} of {self.model!r}: {state}",
            footer="\n".join(below) or None,
        )

    def __repr__(self):
        state = "supported" if self.supported else f"{len(self.unsupported) + len(self.problems)} problems"
        return f"<check of {self.name} on {self.model!r}: {len(self.sites)} sites, {state}>"


def check(model, name, signature=None, safe_mode=True, custom_objects=None, example=None, **kwargs) -> Report:
    """Says what an analyzer would do with a model: each site, its rule and why, what is folded, what is missing.

    Nothing is run, and what is not supported is reported, with the remedy, in place of an error.

    Args:
        model: A Keras model, a `Graph`, or the path of a model; see `revgraph.load_model`.
        name: Name of the analyzer.
        signature: For the path of a SavedModel, the name of the signature.
        safe_mode: For the path of a model, False runs the Python code of its Lambda layers.
        custom_objects: For the path of a model, dict from name to the model's own classes and functions.
        example: Inputs for a model whose code needs sizes that the model does not say. Only their sizes count.
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


def _sites(model, name, kwargs):
    """Reports of the sites, and what keeps the model from being explained as a whole."""
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


def _analyzer_reports(analyzer: Analyzer):
    if analyzer.bound:
        return tuple(map(_bound_report, analyzer.bound))
    return tuple(SiteReport(s.path, s.operation.label, None, "no rules", s.merged) for s in analyzer.graph.sites)


def _bound_report(bound):
    site = bound.site
    missing = remedy(site) if bound.rule is None else None
    rule = None if bound.rule is None else str(bound.rule)
    return SiteReport(site.path, site.operation.label, rule, bound.reason, site.merged, missing)
