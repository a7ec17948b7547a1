"""revgraph and another library on the same architecture: each in a process of its own, timed in turns."""

import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers.environments import ENVIRONMENTS, ready
from benchmarks.processes import ROOT, Failed, Worker
from benchmarks.timing import spread

HERE = Path(__file__).parent
GRADIENT = "plain gradient"


def compare(library, plan) -> Iterator[dict]:
    """Rows of seconds of revgraph and of the other library, by network, batch size and method."""
    try:
        python = ready(library, plan.environments)
    except Failed as error:
        yield {"library": library, "error": str(error)}
        return
    environment = ENVIRONMENTS[library]
    for network in environment.networks or plan.networks:
        for method in (GRADIENT, *(m for m in plan.methods if m in (environment.methods or plan.methods))):
            yield from _rows(library, python, network, method, plan)


def _rows(library, python, network, method, plan):
    question = {
        "network": network,
        "method": method,
        "image_size": plan.image_size or 224,
        "batch_sizes": plan.batch_sizes,
    }
    at = {"library": library, "network": network, "method": method}
    own = Worker([sys.executable, HERE / "serve_revgraph.py"], question, {"PYTHONPATH": str(ROOT)})
    with own, Worker([python, HERE / f"serve_{library}.py"], question) as other:
        try:
            first = own.answer()
            row = {**at, "versions": {}, "first_call": first["first_call"]}
            first = other.answer(plan.limit)
            row |= {"peer_first_call": first["first_call"], "versions": first["versions"]}
            for batch in plan.batch_sizes:
                yield {**row, "batch": batch, **_in_turns(own, other, batch, plan)}
        except Failed as error:
            for batch in plan.batch_sizes:
                yield {**at, "batch": batch, "error": str(error)}


def _in_turns(own, other, batch, plan):
    def ask(worker):
        return worker.ask({"batch": batch}, plan.limit)["seconds"]

    ask(own), ask(other)
    rounds = plan.effort.of(max(ask(own), ask(other)))
    pairs = [(ask(own), ask(other)) for _ in range(rounds)]
    return {
        **spread([a for a, _ in pairs], "seconds"),
        **spread([b for _, b in pairs], "peer_seconds"),
        **spread([b / a for a, b in pairs], "speedup"),
    }
