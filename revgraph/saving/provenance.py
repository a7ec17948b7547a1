"""Where results come from: the model, the method with its rules and parameters, versions and time, ready for JSON."""

import dataclasses
import datetime
import hashlib
import inspect
import platform
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import revgraph
from revgraph.composites import Composite
from revgraph.graph import Graph
from revgraph.reverse_rules import Rule
from revgraph.saving.configured import Configured

SHORT = 16
"""Arrays of up to so many entries are written out, longer ones by their hash."""


def provenance(analyzer: Configured, model_path=None) -> dict:
    """What is needed to compute the same relevance again.

    Args:
        analyzer: The analyzer that computes it.
        model_path: The file or directory that the model was loaded from; what `create_analyzer` was given by default.

    Returns:
        Dict of what JSON can hold: `method`, `parameters` and `seed` of the analyzer; `rules`, the rule of every site;
        `model`, its name, and `model_sha256`, the hash of its weights; with a path `model_file` and
        `model_file_sha256`; `versions`; `time`, in UTC.

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
    """The arguments of an analyzer but its model, those not given by their defaults."""
    defaults = {
        p.name: p.default for p in inspect.signature(analyzer.__class__).parameters.values() if p.default is not p.empty
    }
    return {name: value for name, value in {**defaults, **analyzer.config()}.items() if name != "model"}


def rules(analyzer) -> list[dict]:
    """The rule of every site, from input to output; empty for analyzers that do not walk backwards."""
    return [{"site": b.site.path, "operation": b.site.operation.label, "rule": plain(b.rule)} for b in analyzer.bound]


def versions() -> dict[str, str]:
    """Versions of what computes relevance."""
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


def hash_of_files(path) -> str:
    """SHA-256 of a file; of a directory that of the names and hashes of all files in it."""
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


def hash_of_weights(model) -> str:
    """SHA-256 of the shapes, types and values of a model's weights."""
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


def plain(value):
    """A value as JSON can hold it, the same in every process."""
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
    # The address of an object says nothing about it.
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
