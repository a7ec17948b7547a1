"""Times that can be compared on a machine that does other things, too: interleaved runs, medians, quartiles."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Effort:
    """How often things are run.

    Args:
        rounds: The least number of rounds.
        seconds: Quick functions are run for more rounds, until each has run for about so long.
        most: The largest number of rounds.
    """

    rounds: int = 5
    seconds: float = 8.0
    most: int = 40

    def of(self, estimate) -> int:
        """Number of rounds for functions that take `estimate` seconds."""
        return max(self.rounds, min(self.most, int(self.seconds / max(estimate, 1e-9))))


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def spread(values, name) -> dict:
    """Median, lower and upper quartile of repeated measurements, as entries of a row of results."""
    values = sorted(values)
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {name: median, f"{name}_low": low, f"{name}_high": high}


def interleaved(
    functions: Mapping[str, Callable], effort: Effort, before: Mapping[str, Callable] | None = None
) -> dict[str, list[float]]:
    """Seconds of each function in each round; every round calls them one after the other, each time another first.

    Args:
        functions: The functions, by name.
        effort: How many rounds.
        before: Short functions that are called first in place of the functions, where these take long. There are then
            as few rounds as there may be.
    """
    for function in (before or functions).values():
        function()
    rounds = effort.rounds
    if before is None:
        rounds = effort.of(statistics.median(seconds(function) for function in functions.values()))
    times = {name: [] for name in functions}
    for i in range(rounds):
        for name in _rotated(functions, i):
            times[name].append(seconds(functions[name]))
    return times


def against(reference: Callable, functions: Mapping[str, Callable], effort: Effort):
    """Times each function right beside a run of a reference.

    In each round the reference runs before every second function and at the end, so that each function is the
    neighbour of one run of it, on the same machine in the same mood. All have run before: first calls take longer, and
    say nothing of how many rounds there is time for.

    Returns:
        Seconds of the reference; seconds of each function; ratios of each function to its neighbour.
    """
    everything = (reference, *functions.values())
    for function in everything:
        function()
    rounds = effort.of(statistics.median(map(seconds, everything)))
    references, times, ratios = [], {name: [] for name in functions}, {name: [] for name in functions}
    for i in range(rounds):
        names = _rotated(functions, i)
        references.append(seconds(reference))
        for before, after in zip(names[::2], [*names[1::2], None], strict=False):
            times[before].append(seconds(functions[before]))
            ratios[before].append(times[before][-1] / references[-1])
            if after is not None:
                times[after].append(seconds(functions[after]))
                references.append(seconds(reference))
                ratios[after].append(times[after][-1] / references[-1])
    return references, times, ratios


def _rotated(names, by) -> list:
    names = list(names)
    by %= max(len(names), 1)
    return names[by:] + names[:by]
