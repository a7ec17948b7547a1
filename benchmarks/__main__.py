"""`python -m benchmarks`: measures, and writes the results as JSON and Markdown."""

import argparse
import dataclasses
import datetime
import json
import sys
import time
from pathlib import Path

from benchmarks import curves
from benchmarks.goals import METHODS
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.processes import ROOT
from benchmarks.report import markdown
from benchmarks.sections import DEFAULT, SECTIONS, SMALL, VARIABLES, Plan, load, machine, peer, say, told, versions
from benchmarks.timing import Effort

RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / "build" / "benchmarks"
PICTURE = ROOT / "docs" / "images" / "scaling.png"


def quick(plan: Plan) -> Plan:
    """The same on a small network, in a minute or two: whether everything runs, not how fast."""
    lengths = {"batch size": (1, 2), "image size": (20, 28), "network": (SMALL,)}
    effort = Effort(rounds=2, seconds=0.1, most=2)
    short = {
        "recurrent": ("LSTM",),
        "series_batch_sizes": (2,),
        "steps": (20,),
        "images": 8,
        "lengths": (2, 4),
        "work": 20,
    }
    return dataclasses.replace(
        plan, networks=(SMALL,), transformers=(), batch_sizes=(1, 2), curves=lengths, effort=effort, **short
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        "python -m benchmarks", description="What explaining costs, beside the plain gradient and other libraries."
    )
    p.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    libraries = f"a library beside revgraph, of {', '.join(ENVIRONMENTS)}; its environment is set up at first"
    p.add_argument("--compare", nargs="+", choices=ENVIRONMENTS, default=[], metavar="LIBRARY", help=libraries)
    p.add_argument("--quick", action="store_true", help="a small network and few rounds, into build/benchmarks")
    p.add_argument("--networks", nargs="+", metavar="NAME", help="networks of keras.applications, ViT-B/16, BERT")
    p.add_argument("--batch-sizes", nargs="+", type=int, metavar="N")
    p.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=f"of {', '.join(METHODS)}")
    p.add_argument(
        "--image-size", type=int, metavar="N", help="height and width of images; each network's own by default"
    )
    p.add_argument("--images", type=int, metavar="N", help="images of a dataset whose time is measured (32)")
    p.add_argument("--rounds", type=int, help="the least number of times that things are run")
    p.add_argument("--limit", type=float, help="seconds after which the first call of another library is given up")
    p.add_argument("--out", type=Path, help="folder for the results")
    return p


def plan_of(given) -> Plan:
    """What was asked for on the command line."""
    plan = quick(Plan()) if given.quick else Plan()
    asked = {
        name: getattr(given, name) for name in ("networks", "batch_sizes", "methods", "limit", "image_size", "images")
    }
    asked |= {"transformers": ()} if given.networks else {}
    asked = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items() if v is not None}
    if given.rounds:
        asked["effort"] = dataclasses.replace(plan.effort, rounds=given.rounds)
    return dataclasses.replace(plan, **asked)


def measure(name, section, plan) -> dict:
    """Runs a section; its rows, and under which circumstances they were measured."""
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(VARIABLES.get(name, {})),
        "versions": versions(),
        "settings": plan.settings(),
        "load": load(),
    }
    start, rows = time.perf_counter(), []
    say(f"-- {name}")
    for row in section(plan):
        say(told(row))
        rows.append(row)
    return {**found, "seconds": round(time.perf_counter() - start), "rows": rows}


def main(arguments=None):
    """Measures what is asked for. Sections that are not measured anew stay in the results as they were."""
    given = parser().parse_args(arguments)
    plan = plan_of(given)
    out = given.out or (QUICK_RESULTS if given.quick else RESULTS)
    names = given.only or (() if given.compare else DEFAULT)
    sections = {name: SECTIONS[name] for name in names} | {library: peer(library) for library in given.compare}
    stored = out / "results.json"
    results = json.loads(stored.read_text()) if stored.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    for name, section in sections.items():
        results[name] = measure(name, section, plan)
        # After each section, so that nothing is lost if a later one is interrupted.
        stored.write_text(json.dumps(results, indent=1) + "\n")
        (out / "results.md").write_text(markdown(results))
    if "scaling" in sections:
        curves.draw(results["scaling"]["rows"], PICTURE if out == RESULTS else out / PICTURE.name)
    print(f"Results: {out / 'results.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
