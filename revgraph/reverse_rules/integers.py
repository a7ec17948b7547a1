"""How relevance goes back through integers of the input, such as token ids and pixels of 8 bits."""

import dataclasses

import tensorflow as tf

from revgraph.graph import Site
from revgraph.graph.analysis import Facts
from revgraph.graph.loops import Loop
from revgraph.graph.operations import Routing
from revgraph.reverse_rules.engine import Absorbed, OutputsAndPullback, Pullback, Rule, SiteCall
from revgraph.reverse_rules.folding import lost


@dataclasses.dataclass(frozen=True)
class MovedIntegers(Rule):
    """For integers that are only moved: R_j is the sum of R_k over the places k to which entry j is moved.

    Integers have no gradient. So the same moves are done with floating numbers, and the gradient is theirs.

    Args:
        moved: Positions of the inputs whose entries are moved. Other integers among the inputs say where to.
    """

    moved: tuple[int, ...] = (0,)

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return index in self.moved

    def record(self, call: SiteCall) -> OutputsAndPullback:
        def pull(*relevance):
            floating = [tf.cast(x, call.dtype) if i in self.moved else x for i, x in enumerate(call.inputs)]
            return call.record(floating, call.weights).transposed(*relevance)

        return call.outputs, Pullback(pull, lambda *given: Absorbed(constants=lost(given, pull(*given))))


def rule_of_integers(rule: Rule, site: Site, facts: Facts) -> Rule | None:
    """What stands for a rule that needs gradients, where a site reads integers of the input.

    Args:
        rule: The rule.
        site: The site.
        facts: What is known of the graph.

    Returns:
        The rule itself where no integers of the input are read; another rule where they are moved in a known way; None
        where they are not, because their relevance would be lost.
    """
    if getattr(site.operation, "refusal", None):
        return None
    if facts.from_integers.isdisjoint(site.inputs):
        return rule
    if facts.moves_integers(site):
        return MovedIntegers(tuple(i for i, slot in enumerate(site.inputs) if slot in facts.from_integers))
    # A loop may look the integers up in each of its turns.
    if isinstance(site.operation, Loop):
        return None
    # Integers beside floating numbers say what becomes of these. Alone, they have relevance of their own.
    alone = not any("float" in facts.graph.specs[slot].dtype for slot in site.inputs)
    lost_on_the_way = isinstance(site.operation, Routing) and any(
        "int" in facts.graph.specs[slot].dtype for slot in site.outputs
    )
    return None if alone or lost_on_the_way else rule
