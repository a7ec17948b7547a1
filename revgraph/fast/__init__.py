"""The speed layer: the same numbers as the formula in `reverse_rules/engine.py`, in less time and memory.

Everything works without this room, only slower: `ReverseGraph(..., fast=False)` leaves it out, and the tests compare
the two.

* `signs.py`: what is known of signs and zeros before anything is computed.
* `plan.py`: what is recorded for a rule because of it, as a list of small rewrites.
* `execute.py`: how that is computed.
* `memory.py`: when it is computed, so that little is in memory at a time.

The room is used in one place, `reverse/reverse_graph.py`: `Speed.recorder` gives what stands in for `Rule.record` at a
site, and `Speed.in_turn` the order in which sites that make kernels are pulled.
"""

import dataclasses

from revgraph.composites.composite import Bound
from revgraph.fast import execute
from revgraph.fast.memory import InTurn, Remade
from revgraph.fast.plan import REWRITES, plan_of
from revgraph.fast.signs import Known, nonnegative_slots, where_relevance_arrives
from revgraph.graph.graph import Graph
from revgraph.graph.operations import Affine
from revgraph.reverse_rules.engine import Rule, SafeDivide

__all__ = ["REWRITES", "Speed"]


@dataclasses.dataclass(frozen=True)
class Signs:
    """What is known of a site: which inputs have no negative entry, and where relevance arrives; see `Known`."""

    nonnegative: bool = False
    positive: bool = False
    nonzero: bool = False


class Speed:
    """What makes the walks over one reverse graph fast.

    Args:
        graph: The graph.
        bound: The rule of each of its sites.
        starts: Slots at which relevance starts.
        adjusted: Whether relevance is changed between sites, so that nothing is known of where it arrives.
        without: Names of the rewrites of `REWRITES` to leave out.
    """

    in_turn = InTurn

    def __init__(self, graph: Graph, bound: tuple[Bound, ...], starts, adjusted=False, without=()):
        nonnegative = nonnegative_slots(graph)
        positive, nonzero = (), ()
        if not adjusted:
            positive, nonzero = where_relevance_arrives(graph, bound, starts)
        self.without = tuple(without)
        self._remade = Remade()
        self._signs = {
            site: Signs(all(slot in nonnegative for slot in site.inputs), site in positive, site in nonzero)
            for site in graph.sites
        }

    def recorder(self, site):
        """What stands in for `Rule.record` at a site."""
        return Recorder(self._signs[site], self.without, self._remade)


@dataclasses.dataclass(frozen=True)
class Recorder:
    """Records a call under a rule; what it has no plan for is recorded as the rule writes it.

    Args:
        signs: What is known of the site.
        without: Names of the rewrites to leave out.
        remade: Where cheap tensors of a walk are noted, to be computed again.
    """

    signs: Signs = Signs()
    without: tuple[str, ...] = ()
    remade: Remade = dataclasses.field(default_factory=Remade)

    def __call__(self, rule, call):
        """The outputs and the pullback, as `rule.record(call)` gives them."""
        division = rule.divide
        has_parts = type(rule).record is Rule.record and type(division) is SafeDivide
        if not has_parts or not isinstance(call.operation, Affine):
            return rule.record(call)
        kernels, bias = call.operation.split(call.weights)
        known = Known(call.operation, tuple(kernels), bias is not None, **dataclasses.asdict(self.signs))
        plan = plan_of(rule.parts(), known, self.without)
        return execute.record(call, plan, known, division, self.remade)
