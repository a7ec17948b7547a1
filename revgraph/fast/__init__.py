"""The speed layer: the same numbers as the formula in `reverse_rules/engine.py`, in less time and memory.

Everything works without it, only slower. `ReverseGraph(..., fast=False)` leaves it out, and the tests compare the two.

* `signs.py` finds out which signs and zeros are known before anything is computed.
* `plan.py` plans what to compute for a rule. Small rewrites use what is known to make the plan cheaper.
* `execute.py` computes a plan.
* `memory.py` decides when things are computed, so that little is in memory at a time.

It is used in one place, `reverse/reverse_graph.py`. `Speed.recorder` returns what replaces `Rule.record` at a site, and
`Speed.in_turn` pulls sites that make kernels one after the other.
"""

import dataclasses
from collections.abc import Collection, Sequence

from revgraph.composites.composite import Bound
from revgraph.fast import execute
from revgraph.fast.memory import InTurn, Remade
from revgraph.fast.plan import REWRITES, plan_of
from revgraph.fast.signs import Known, nonnegative_slots, where_relevance_arrives
from revgraph.graph import Graph, Site
from revgraph.graph.operations import Affine
from revgraph.reverse_rules.engine import OutputsAndPullback, Rule, SafeDivide, SiteCall

__all__ = ["REWRITES", "Speed"]


@dataclasses.dataclass(frozen=True)
class Signs:
    """What is known of a site before it is called.

    Args:
        nonnegative: Whether its inputs have no negative entry.
        positive: Whether relevance arrives only where its output is positive.
        nonzero: Whether relevance arrives only where its output is not zero.
    """

    nonnegative: bool = False
    positive: bool = False
    nonzero: bool = False


class Speed:
    """What makes the walks over one graph fast.

    Args:
        graph: The graph.
        bound: The rule of each of its sites.
        starts: Slots at which relevance starts.
        adjusted: Whether something else than rules changes relevance between sites. Then nothing is known of where it
            arrives.
        without: Names of rewrites of `REWRITES` that are left out.
    """

    in_turn = InTurn

    def __init__(
        self,
        graph: Graph,
        bound: tuple[Bound, ...],
        starts: Collection[int],
        adjusted: bool = False,
        without: Sequence[str] = (),
    ) -> None:
        nonnegative = nonnegative_slots(graph)
        positive, nonzero = frozenset[Site](), frozenset[Site]()
        if not adjusted:
            positive, nonzero = where_relevance_arrives(graph, bound, starts)
        self.without = tuple(without)
        self._remade = Remade()
        self._signs = {
            site: Signs(all(slot in nonnegative for slot in site.inputs), site in positive, site in nonzero)
            for site in graph.sites
        }

    def recorder(self, site: Site) -> "Recorder":
        """What replaces `Rule.record` at a site."""
        return Recorder(self._signs[site], self.without, self._remade)


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Records a call of a site under a rule, like `Rule.record`.

    It has plans for affine operations under rules with parts. Everything else is left to `Rule.record`.

    Args:
        signs: What is known of the site.
        without: Names of rewrites that are left out.
        remade: The cheap tensors of the walk, which are computed again instead of kept.
    """

    signs: Signs = Signs()
    without: tuple[str, ...] = ()
    remade: Remade = dataclasses.field(default_factory=Remade)

    def __call__(self, rule: Rule, call: SiteCall) -> OutputsAndPullback:
        """The outputs and the pullback, as `rule.record(call)` returns them."""
        division = rule.divide
        if type(rule).record is not Rule.record or type(division) is not SafeDivide:
            return rule.record(call)
        if not isinstance(call.operation, Affine):
            return rule.record(call)
        kernels, bias = call.operation.split(call.weights)
        known = Known(call.operation, tuple(kernels), bias is not None, **dataclasses.asdict(self.signs))
        plan = plan_of(rule.parts(), known, self.without)
        return execute.record(call, plan, known, division, self.remade)
