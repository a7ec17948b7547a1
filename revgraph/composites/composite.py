"""Composites, which assign a rule to every site of a graph.

A *site* is one call of a layer or operation in the graph of a model. A *composite* is a list of entries (match, rule).
A site gets the rule of the first entry that matches it.
"""

import dataclasses
import difflib
import fnmatch
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from revgraph.composites.matchers import ANY, ClassMatcher, Entry, matcher
from revgraph.composites.structure import STRUCTURE
from revgraph.graph import Graph, Site
from revgraph.graph.analysis import Facts, is_linear_layer
from revgraph.graph.bounds import CarriedBounds
from revgraph.graph.loops import Loop
from revgraph.graph.operations import Affine, Contraction, Inert, Opaque, Product, Quotient
from revgraph.graph.tables import Table, Tabular
from revgraph.graph.types import Bounds
from revgraph.reverse_rules import Jacobian, Rule, TransposedJacobian, Turns, Unreached, ZBox
from revgraph.reverse_rules.integers import rule_of_integers


@dataclasses.dataclass(frozen=True)
class Bound:
    """A site and the rule that it gets.

    Args:
        site: The site.
        rule: Its rule; None where no entry matches.
        reason: The entry from which the rule comes, as text.
        inside: For a loop whose rule is `Turns`, the sites inside of it with their rules.
    """

    site: Site
    rule: Rule | None
    reason: str
    inside: "tuple[Bound, ...]" = ()

    def flat(self) -> "tuple[Bound, ...]":
        """This site, or for a loop the sites inside of it, those of inner loops included."""
        inside = isinstance(self.rule, Turns)
        return tuple(each for bound in self.inside for each in bound.flat()) if inside else (self,)


class Composite(Tabular):
    """Assigns a rule to every site of a graph. The first entry that matches a site gives it its rule.

    Args:
        *entries: Pairs (match, rule). `matcher` says what a match may be. A composite among the entries stands for all
            of its own entries.
        defaults: Entries that are tried after these. By default they are those of the last composite among the entries,
            or else `STRUCTURE`, which has a rule for everything that has no weights.
        name: The name that is printed.

    Raises:
        TypeError: An entry is neither such a pair nor a composite.

    Example:

        composite = Composite(
            (composites.FIRST, Flat()),
            (keras.layers.Conv2D, Gamma(0.25)),
            ("predictions", Epsilon(1e-2)),
            (composites.LINEAR, Epsilon(1e-6)),
        )
        analyzer = revgraph.create_analyzer("lrp", model, rule=composite)
    """

    def __init__(
        self,
        *entries: "Composite | Sequence[Any]",
        defaults: Iterable[Sequence[Any]] | None = None,
        name: str = "composite",
    ) -> None:
        self.name = name
        self.entries: tuple[Entry, ...] = tuple(pair for entry in entries for pair in self._pairs(entry))
        if defaults is None:
            composites = [entry for entry in entries if isinstance(entry, Composite)]
            self.defaults: tuple[Entry, ...] = composites[-1].defaults if composites else STRUCTURE
        else:
            self.defaults = tuple(self._entry(entry) for entry in defaults)

    def _pairs(self, entry):
        return entry.entries if isinstance(entry, Composite) else (self._entry(entry),)

    @staticmethod
    def _entry(entry):
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            hint = (
                f" It is a function that makes a composite: {entry.__name__}(...)." if inspect.isfunction(entry) else ""
            )
            raise TypeError(
                f"A composite's entry is a pair (match, rule), or a composite that stands for its entries. "
                f"Received: {entry!r}.{hint}"
            )
        match, rule = entry
        if not isinstance(rule, Rule):
            raise TypeError(
                f"The second half of a composite's entry is a rule, such as revgraph.rules.Epsilon(). "
                f"Received: {rule!r}."
            )
        return matcher(match), rule

    @property
    def classes(self) -> tuple[type, ...]:
        """The layer classes that entries name."""
        return tuple(c for match, _ in self.entries if isinstance(match, ClassMatcher) for c in match.classes)

    def map(self, change: Callable[[Rule], Rule]) -> "Composite":
        """A composite with the same matches, whose rules are `change(rule)`."""
        entries = [(match, change(rule)) for match, rule in self.entries]
        return Composite(*entries, defaults=[(m, change(r)) for m, r in self.defaults], name=self.name)

    def bind(self, graph: Graph, input_bounds: Bounds | None = None) -> tuple[Bound, ...]:
        """Gives every site of a graph its rule.

        Args:
            graph: The graph.
            input_bounds: Bounds (low, high) of the model's inputs. A `ZBox` without bounds of its own uses them.

        Returns:
            Each site with its rule, in the order of the sites. A site to which no relevance comes gets `Unreached`.

        Raises:
            NotAnalyzeableModelException: No entry matches a site.
            ValueError: A `ZBox` has no bounds, and the input has none either.
        """
        bound, _ = self._bind_all(Facts(graph), graph.output_slots, input_bounds)
        flat = tuple(each for entry in bound for each in entry.flat())
        if any(entry.rule is None for entry in flat):
            raise NotAnalyzeableModelException(self._without_rule(flat), flat)
        return bound

    def _bind_all(self, facts, starts, input_bounds, elements=()):
        """Gives every site of a graph its rule.

        Args:
            facts: What is known of the graph.
            starts: Slots at which relevance may start.
            input_bounds: See `bind`.
            elements: Sites that read an element of a list of a loop. The loop hands their relevance to the list.

        Returns:
            Each site with its rule, and the slots that relevance reaches.
        """
        graph, reached, backwards = facts.graph, set(starts), list[Bound]()
        for site in reversed(graph.sites):
            if reached.isdisjoint(site.outputs):
                backwards.append(Bound(site, Unreached(), "no relevance comes here"))
                continue
            if site in elements:
                backwards.append(Bound(site, Unreached(), "the loop hands it to the list"))
                continue
            entry = self._bind(site, facts, input_bounds)
            backwards.append(entry)
            if entry.rule is None:
                reached.update(site.inputs)
                continue
            # Shapes and comparisons carry no relevance.
            if isinstance(site.operation, Inert):
                continue
            constants = site.operation.constants
            reached.update(
                slot
                for i, slot in enumerate(site.inputs)
                if i not in constants and entry.rule.reaches(i, graph.specs[slot].dtype)
            )
        return tuple(reversed(backwards)), reached

    def _without_rule(self, bound):
        """The message about sites that no entry matches."""
        first, *others = (entry.site for entry in bound if entry.rule is None)
        also = f" So it is for {', '.join(repr(site.path) for site in others)}." if others else ""
        return (
            f"No rule for {first.path!r} ({_class_name(first)}): composite {self.name!r} has no entry that matches "
            f"it.{also} {remedy(first)}"
        )

    def _bind(self, site, facts, input_bounds):
        for match, rule in (*self.entries, *self.defaults):
            if not _fits(rule, match, site, facts) or not match(site, facts):
                continue
            if not isinstance(site.operation, Loop):
                return Bound(site, _boxed(rule.at(site, facts), site, facts.graph, input_bounds), str(match))
            if rule_of_integers(rule, site, facts) is None:
                return Bound(site, None, "integers of the input go into the loop")
            turns = self._bind_loop(site, facts, input_bounds, match)
            whole = isinstance(rule, Jacobian | TransposedJacobian) and (match is not ANY or _is_gradient(turns))
            return Bound(site, rule.at(site, facts), str(match)) if whole else turns
        return Bound(site, None, "no entry matches")

    def _bind_loop(self, site, facts, input_bounds, match):
        """A loop with the rules of the sites inside of it."""
        loop, outside = site.operation, facts.graph.specs
        slots = iter(site.inputs)
        given = [next(slots) if source is None else None for source in loop.sources]
        constants = given[loop.outputs_count :]
        body = loop.body
        # Where a loop reads an input of the model, its sites inside are the first ones.
        pairs = list(zip(body.input_slots, (*given[: loop.states], *constants), strict=True))
        first = {
            inner for inner, outer in pairs if outer in facts.reached_by_inputs and "float" in outside[outer].dtype
        }
        elements = loop.elements()
        first.update(s.outputs[0] for s in elements if s.inputs[0] in first)
        written = [element for writes in loop.writes() for _, element in writes]
        starts = [body.output_slots[i] for i in loop.signals]
        starts += [slot for slot in written if "float" in body.specs[slot].dtype]
        inside, reached = self._bind_all(Facts(body, first, facts), starts, input_bounds, elements)
        read = {elements[s][0] for s in elements if s.outputs[0] in reached}
        unread = {
            loop.outputs_count + i
            for i in range(len(constants))
            if not (i in read if i in loop.read_lists else body.input_slots[loop.states + i] in reached)
        }
        handed = [
            handed and place not in unread
            for place, (handed, source) in enumerate(zip(loop.hands_on(), loop.sources, strict=True))
            if source is None
        ]
        rule = Turns(tuple(i for i, gets in enumerate(handed) if gets))
        return Bound(site, rule, str(match), inside)

    def unused_names(self, graph: Graph) -> list[str]:
        """Messages about entries that match by a name that no site of a graph has, one for each."""
        said, everywhere = [], list(_with_insides(Facts(graph)))
        for match, rule in self.entries:
            if match.recipe[:1] == ("name",) and not any(match(site, facts) for site, facts in everywhere):
                said.append(f"The entry {match} matches no site: {rule} is not used.{_instead(match.recipe[1], graph)}")
        return said

    def __repr__(self) -> str:
        return f"<Composite {self.name!r}: {len(self.entries)} entries>"

    def table(self) -> Table:
        """The entries in the order in which they are tried, with the defaults at the end."""
        return Table(("match", "rule"), (*self.entries, *self.defaults), title=repr(self)[1:-1])


def _with_insides(facts):
    """Every site of a graph, and those inside of its loops, each with what is known of the graph around it."""
    for site in facts.graph.sites:
        yield site, facts
        if isinstance(site.operation, Loop):
            yield from _with_insides(Facts(site.operation.body, (), facts))


NAMING = (("name",), ("matcher",))
"""The recipes of matchers that name layers, by their name or class."""


def _fits(rule, match, site, facts):
    """Whether a rule is made for a site. A rule with parts is not made for products of signals, nor for loops.

    Inside of a loop, an entry that names a layer gives such a rule to linear layers alone, and any other to affine
    sites.
    """
    if isinstance(rule, Turns):
        return isinstance(site.operation, Loop)
    if type(rule).record is not Rule.record or type(rule).at is not Rule.at:
        return True
    if facts.around is None:
        return not isinstance(site.operation, Product | Contraction | Quotient | Loop)
    return is_linear_layer(site.operation) if match.recipe[:1] in NAMING else isinstance(site.operation, Affine)


def _is_gradient(bound):
    """Whether the rules inside of a loop are those of the gradient. TensorFlow computes it of the loop as a whole."""
    return all(isinstance(entry.rule, Jacobian | Unreached) for entry in bound.flat())


def _instead(pattern, graph):
    """A hint at what was meant by a pattern that matches no site."""
    for site in graph.sites:
        if any(fnmatch.fnmatchcase(path, pattern) for path in site.merged):
            return f" It is folded into {site.path!r}."
    near = difflib.get_close_matches(pattern, [site.path for site in graph.sites], n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _boxed(rule, site, graph, input_bounds):
    """The rule itself, or for a `ZBox` without bounds one that has those of the input, carried to its site."""
    if not isinstance(rule, ZBox) or rule.low is not None:
        return rule
    if input_bounds is None:
        raise ValueError(
            f"The rule ZBox at {site.path!r} needs the bounds of its input. Give them to the rule, as ZBox(low, high), "
            f"or to the analyzer, as low=..., high=... (numbers, or arrays such as one value per channel). Or declare "
            f"those of the model's input, as input_bounds=(0, 255). They are carried through Rescaling and "
            f"Normalization."
        )
    return dataclasses.replace(rule, carried=CarriedBounds(graph, site.inputs[0], *input_bounds))


class NotAnalyzeableModelException(ValueError):
    """The model has a part for which the analyzer has no rule.

    Args:
        message: What is wrong, and how to go on.
        bound: Each site with its rule, which is None at the sites without one. Empty where something else is wrong.
    """

    def __init__(self, message: str, bound: tuple[Bound, ...] = ()) -> None:
        super().__init__(message)
        self.bound = bound


def remedy(site: Site) -> str:
    """What the user can do about a site that has no rule."""
    if site.operation.advice is not None:
        return site.operation.advice
    return (
        f"revgraph knows no rule of LRP for what it computes. If it only moves entries, give it a rule:\n"
        f'    revgraph.create_analyzer("lrp", model, rule=revgraph.Composite(({site.path!r}, '
        f"revgraph.rules.Jacobian()), ...))\n"
        f'Otherwise use a gradient method such as "input_t_gradient", which needs no rules, or let relevance '
        f'pass it as a gradient does: any method of LRP takes unsupported="gradient".'
    )


def _class_name(site):
    if isinstance(site.operation, Opaque) or site.layer is None:
        return site.operation.label
    return type(site.layer).__name__
