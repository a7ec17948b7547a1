"""Results as Markdown, and the two tables of them that documents show."""

from collections.abc import Callable, Iterable, Mapping

from benchmarks.goals import MEMORY, METHODS

TITLES = {
    "ratios": "Ratio to the plain gradient",
    "eigen": "Ratio to the plain gradient, with TensorFlow's own kernels (`TF_ENABLE_ONEDNN_OPTS=0`)",
    "frozen": "Ratio to the plain gradient, with `freeze=True`",
    "first_call": "First call in a fresh process, tracing and set-up included",
    "overhead": "What `analyze` adds to the compiled function",
    "targets": "Ten targets of one image in one call, as a share of ten calls",
    "conditions": "Conditional maps of 64 channels of one layer in one call, as a share of 64 calls",
    "datasets": "Datasets: share of the compiled function's throughput, and memory of longer and longer ones",
    "concepts": "Concepts: time over that of `explain_dataset`, and memory of longer and longer datasets",
    "workers": "Several processes on a dataset; in the rows of `50 ms` a batch takes so long and no core",
    "xla": "`jit_compile=True`, as a multiple of the default's time",
    "scaling": "Batch size, image size, depth",
    "recurrent": "Recurrent layers of 128 units, series of 200 steps, and the first call for series of growing length",
    "profile": "Where the time goes",
    "innvestigate": "Side by side with iNNvestigate",
    "zennit": "Side by side with zennit",
    "lxt": "Side by side with LXT",
}


def table(columns: Mapping[str, Callable[[dict], object]], rows: Iterable[dict]) -> str:
    """A Markdown table; a column is its title and what it shows of a row. Columns without any entry are left out."""
    cells = [["" if (cell := show(row)) is None else str(cell) for show in columns.values()] for row in rows]
    kept = [i for i in range(len(columns)) if any(line[i] for line in cells)]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join("| " + " | ".join(line[i] for i in kept) + " |" for line in lines)


def markdown(results: dict) -> str:
    """All results.

    Args:
        results: Sections by name: `rows`, and under which circumstances they were measured.
    """
    parts = ["# Results", "Medians, with the quartiles in brackets. `make bench` measures them anew."]
    for name, title in TITLES.items():
        if name in results:
            section = results[name]
            parts += [f"## {title}", _circumstances(section), *RENDERED.get(name, _rows)(section["rows"])]
    return "\n\n".join(parts) + "\n"


def summary(results: dict, section="ratios") -> str:
    """The ratios of the goals as one table, a row for each method."""
    found = {(row["network"], row["batch"], row["method"]): row for row in results[section]["rows"] if "ratio" in row}
    places = list(dict.fromkeys((network, batch) for network, batch, _ in found))
    methods = list(dict.fromkeys(method for *_, method in found if method in METHODS))

    def shown(network, batch):
        def cell(method):
            row = found.get((network, batch, method))
            return None if row is None else f"{row['ratio']:.2f}{_mark(row['ratio'], row['goal'])}"

        return cell

    columns = {"": lambda method: f"`{method}`"}
    columns |= {f"{network}, batch {batch}": shown(network, batch) for network, batch in places}
    return table(columns, methods)


def _mark(value, goal, least=False):
    if goal is None:
        return ""
    met = value >= goal if least else value <= goal
    return f" (≤ {goal:g})" if met and not least else f" (≥ {goal:g})" if met else f" (**not {goal:g}**)"


def _circumstances(section):
    machine, versions = section["machine"], ", ".join(f"{k} {v}" for k, v in section["versions"].items())
    memory = f", {machine['memory_gb']} GB" if "memory_gb" in machine else ""
    load = f" Load before: {section['load']}." if section.get("load") is not None else ""
    kernels = f", oneDNN {'on' if machine['onednn'] else 'off'}" if "onednn" in machine else ""
    return f"{section['date']}, {machine['cpu']}, {machine['cores']} cores{memory}{kernels}. {versions}.{load}"


def _spread(name, digits=2, scale=1.0):
    """Median and quartiles of a measurement."""

    def show(row):
        if row.get(name) is None:
            return None
        low, high = (row.get(f"{name}_{side}", row[name]) for side in ("low", "high"))
        return f"{row[name] * scale:.{digits}f} [{low * scale:.{digits}f}, {high * scale:.{digits}f}]"

    return show


def _number(name, digits=1, scale=1.0):
    return lambda row: None if row.get(name) is None else f"{row[name] * scale:.{digits}f}"


def _goal(name, least=False, goal=None):
    def show(row):
        wanted = row.get("goal") if goal is None else goal
        if row.get(name) is None or wanted is None:
            return None
        met = row[name] >= wanted if least else row[name] <= wanted
        return f"{'≥' if least else '≤'} {wanted:g}: {'met' if met else '**not met**'}"

    return show


AT = {name: lambda row, name=name: row.get(name) for name in ("library", "network", "batch", "method")}
ERROR = {"not measured": lambda row: row.get("error")}


def _ratios(rows):
    yield table(
        {
            **AT,
            "ratio": _spread("ratio"),
            "goal": _goal("ratio"),
            "ms": _number("seconds", 0, 1e3),
            "peak MB": _number("megabytes", 0),
            "to gradient": _number("memory", 2),
            "memory goal": lambda row: row.get("goal") and _goal("memory", goal=row.get("memory_goal", MEMORY))(row),
            **ERROR,
        },
        rows,
    )


def _recurrent(rows):
    """Two tables: costs, and first calls."""
    yield from _ratios([row for row in rows if "steps" not in row])
    columns = {"steps": _number("steps", 0), "first call, s": _number("first_call"), "goal": _goal("first_call")}
    yield table({**AT, **columns, **ERROR}, [row for row in rows if "steps" in row])


def _first_call(rows):
    columns = {"sites": _number("sites", 0), "create, s": _number("create"), "analyze, s": _number("analyze")}
    per_site = {"ms per site": lambda r: f"{1e3 * r['seconds'] / r['sites']:.0f}" if r.get("sites") else None}
    yield table({**AT, **columns, "s": _number("seconds"), **per_site, "goal": _goal("seconds"), **ERROR}, rows)


def _overhead(rows):
    columns = {"overhead, ms": _spread("overhead", 2, 1e3), "analyze, ms": _number("seconds", 2, 1e3)}

    def in_milliseconds(row):
        return _goal("overhead")({**row, "overhead": row["overhead"] * 1e3, "goal": row["goal"] * 1e3})

    yield table({**AT, **columns, "goal, ms": lambda r: "overhead" in r and in_milliseconds(r) or None, **ERROR}, rows)


def _targets(rows):
    columns = {"share": _spread("share"), "one call, ms": _number("seconds", 0, 1e3)}
    ten = {"ten calls, ms": _number("one_by_one", 0, 1e3)}
    yield table({**AT, **columns, **ten, "goal": _goal("share"), **ERROR}, rows)


def _conditions(rows):
    columns = {
        "layer": lambda row: row.get("layer"),
        "share": _spread("share"),
        "one call, s": _number("seconds", 2),
        "64 calls, s": _number("one_by_one", 2),
        "goal": _goal("share"),
    }
    yield table({**AT, **columns, **ERROR}, rows)


def _datasets(rows):
    columns = {
        "samples": _number("samples", 0),
        "share of throughput": _spread("share"),
        "goal": _goal("share", least=True),
        "samples per s": _number("samples_per_second"),
        "process grows by, MB": _number("megabytes", 0),
    }
    yield table({**AT, **columns, **ERROR}, rows)


def _concepts(rows):
    columns = {
        "samples": _number("samples", 0),
        "ratio": _spread("ratio"),
        "goal": _goal("ratio"),
        "samples per s": _number("samples_per_second"),
        "process grows by, MB": _number("megabytes", 0),
    }
    yield table({**AT, **columns, **ERROR}, rows)


def _workers(rows):
    columns = {
        "workers": lambda row: row["workers"],
        "samples per s": _number("samples_per_second"),
        "first batch, s": _number("startup", 0),
        "times one process": _number("gain", 2),
        "goal": _goal("gain", least=True),
        "overhead per batch, ms": _number("overhead", 1, 1e3),
    }
    yield table({**AT, **columns, **ERROR}, rows)


def _xla(rows):
    columns = {
        "ratio": _spread("ratio"),
        "first call, s": _number("first_call"),
        "largest difference": lambda row: f"{row['difference']:.0e}" if "difference" in row else None,
    }
    yield table({**AT, **columns, **ERROR}, rows)


def _scaling(rows):
    columns = {"image size": lambda row: row.get("image_size"), "ratio": _spread("ratio")}
    costs = {"ms": _number("seconds", 0, 1e3), "peak MB": _number("megabytes", 0)}
    yield table({"curve": lambda row: row["curve"], **AT, **columns, **costs, **ERROR}, rows)


def profile_table(row) -> str:
    """Where the time of one method goes."""

    def slowest(part):
        return ", ".join(f"{name.strip('_')} {ms:.1f}" for name, ms in part["operations"].items() if ms >= 0.1)

    columns = {
        "kind": lambda part: part["kind"],
        "sites": _number("sites", 0),
        "forward, ms": _number("forward_ms"),
        "backward, ms": _number("backward_ms"),
        "floor, ms": _number("floor_ms"),
        "GFLOP": _number("gflop"),
        "operations, ms": slowest,
    }
    return table(
        columns, [part for part in row["rows"] if part["sites"] and part["forward_ms"] + part["backward_ms"] >= 0.05]
    )


def _profile(rows):
    for row in rows:
        yield f"### {row['method']}, {row['network']}, batch {row['batch']}"
        if "error" in row:
            yield row["error"]
            continue
        yield (
            f"{row['whole_ms']:.0f} ms in all; matrix products at {row['gflops']:.0f} GFLOP/s, memory at "
            f"{row['gigabytes']:.0f} GB/s."
        )
        yield profile_table(row)


def _compared(rows):
    columns = {
        "revgraph, ms": _number("seconds", 0, 1e3),
        "other, ms": _number("peer_seconds", 0, 1e3),
        "other / revgraph": _spread("speedup"),
        "first call, s": _number("first_call"),
        "other's, s": _number("peer_first_call"),
    }
    yield table({**AT, **columns, **ERROR}, rows)


def _rows(rows):
    yield table({name: lambda row, name=name: row.get(name) for row in rows for name in row}, rows)


RENDERED = {
    "ratios": _ratios,
    "eigen": _ratios,
    "frozen": _ratios,
    "first_call": _first_call,
    "overhead": _overhead,
    "targets": _targets,
    "conditions": _conditions,
    "datasets": _datasets,
    "concepts": _concepts,
    "workers": _workers,
    "xla": _xla,
    "scaling": _scaling,
    "recurrent": _recurrent,
    "profile": _profile,
    "innvestigate": _compared,
    "zennit": _compared,
    "lxt": _compared,
}
