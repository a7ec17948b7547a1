"""Where results come from: the model, the method with its rules and parameters, versions and the time, as JSON."""

import dataclasses
import datetime
import hashlib
import inspect
import platform
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import revgraph
from revgraph.composites import Composite
from revgraph.graph import Graph
from revgraph.graph.types import PathLike
from revgraph.reverse_rules import Rule
from revgraph.saving.configured import Configured

SHORT = 16
"""Arrays of up to so many entries are written out. Of longer ones the hash is written."""


def provenance(analyzer: Any, model_path: PathLike | None = None) -> dict[str, Any]:
    """All that is needed to compute the same relevance again.

    Args:
        analyzer: The `Analyzer` that computes relevance.
        model_path: The file or directory of the model; by default the one that `create_analyzer` was given.

    Returns:
        Dict that JSON can hold: `method`, `parameters` and `seed` of the analyzer; `rules`, the rule of every site;
        `model`, the name of the model, and `model_sha256`, the hash of its weights; `model_file` and
        `model_file_sha256` if there is a path; `versions`; `time`, in UTC.

    Example:

        json.dumps(provenance(analyzer, "model.keras"))
    """
    parameters = {name: plain(value) for name, value in _parameters(analyzer).items()}
    origin = {"model": analyzer.graph.name, "model_sha256": hash_of_weights(analyzer.model)}
    model_path = model_path or analyzer.model_path
    if model_path is not None:
        origin |= {"model_file": str(model_path), "model_file_sha256": hash_of_files(model_path)}
    return {
        "method": analyzer.name,
        "parameters": parameters,
        "seed": analyzer.seed if analyzer.seed is not None else parameters.get("seed"),
        **origin,
        "rules": rules(analyzer),
        "versions": versions(),
        "time": now(),
    }


def _parameters(analyzer):
    """All arguments of an analyzer except its model, with defaults for those that were not given."""
    defaults = {
        p.name: p.default for p in inspect.signature(analyzer.__class__).parameters.values() if p.default is not p.empty
    }
    return {name: value for name, value in {**defaults, **analyzer.config()}.items() if name != "model"}


def rules(analyzer: Any) -> list[dict[str, Any]]:
    """The rule of every site, from input to output; empty for an `Analyzer` that does not walk backwards."""
    return [{"site": b.site.path, "operation": b.site.operation.label, "rule": plain(b.rule)} for b in analyzer.bound]


def versions() -> dict[str, str]:
    """The versions of the software that computes relevance."""
    return {
        "revgraph": revgraph.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def hash_of_files(path: PathLike) -> str:
    """SHA-256 of a file, or of the names and hashes of all files in a directory."""
    path = Path(path)
    if path.is_file():
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    lines = (f"{hash_of_files(p)}  {p.relative_to(path).as_posix()}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_of_weights(model: Any) -> str:
    """SHA-256 of the shapes, types and values of the weights of a Keras model or a `Graph`."""
    digest = hashlib.sha256()
    for value in _weights(model):
        value = np.asarray(value)
        digest.update(f"{value.dtype.name}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _weights(model):
    if isinstance(model, Graph):
        for site in model.sites:
            for _, value in sorted(site.operation.read(tf.as_dtype(model.dtype)).items()):
                yield value
    else:
        yield from (variable.numpy() for variable in model.weights)


def plain(value: Any) -> Any:
    """A value in a form that JSON can hold and that is the same in every process."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Configured):
        return {value.name: plain(_parameters(value))}
    if isinstance(value, Composite):
        return {value.name: [f"{match}: {plain(rule)}" for match, rule in value.entries]}
    if isinstance(value, Rule):
        fields = (f"{f.name}={plain(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, np.ndarray | tf.Tensor):
        value = np.asarray(value)
        if value.size <= SHORT:
            return plain(value.tolist())
        content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype.name}{value.shape} sha256:{content}"
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    # The address of an object differs from process to process.
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
