"""The rule for loops, which leaves everything to the rules of the sites inside."""

import dataclasses

from revgraph.reverse_rules.engine import OutputsAndPullback, Rule, SiteCall


@dataclasses.dataclass(frozen=True)
class Turns(Rule):
    """For loops: relevance goes back turn by turn, by the rules of the sites inside.

    One run of the body of a loop is a *turn*, such as a step of a recurrent layer. `revgraph.reverse.loops` walks back
    through the turns.

    Args:
        reached: Positions of the inputs of the loop that get relevance.
    """

    reached: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "Turns()"

    def reaches(self, index: int, dtype: str = "float32") -> bool:
        return index in self.reached

    def record(self, call: SiteCall) -> OutputsAndPullback:
        raise NotImplementedError("Turns stands for the rules inside of a loop, which a ReverseGraph walks over.")
