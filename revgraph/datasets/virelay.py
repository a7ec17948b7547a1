"""The formats of ViRelAy and CoRelAy: samples of three axes with the channels first, integer labels, a project file."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from revgraph.datasets.staging import Staging

if TYPE_CHECKING:
    # Sinks write projects, so they import this module.
    from revgraph.datasets.sinks import HDF5


PROJECT = "project.yaml"
"""The name of the file that ViRelAy opens."""

NO_ANALYSES = "analyses: []"
"""The end of a project without analyses."""


def three_axes(samples: np.ndarray, data_format: str = "channels_last") -> np.ndarray:
    """Samples with the channels first, and with at least three axes each.

    Args:
        samples: Array (samples, ..., channels), or (samples, channels, ...) for `"channels_first"`. Samples with one or
            two axes have no channels.
        data_format: `"channels_last"` or `"channels_first"`.

    Returns:
        Array (samples, channels, height, width), or with more axes for volumes.
    """
    if samples.ndim <= 3:
        axes = samples.shape[1:]
        return samples.reshape(len(samples), *(1,) * (3 - len(axes)), *axes)
    return np.moveaxis(samples, -1, 1) if data_format == "channels_last" else samples


def as_given(samples: np.ndarray, axes: int) -> np.ndarray:
    """Samples that `three_axes` stored, with the axes that they had, and with the channels last.

    Args:
        samples: Array (samples, channels, height, width), or with more axes for volumes.
        axes: How many axes a sample had.
    """
    if axes < 3:
        return samples.reshape(len(samples), *samples.shape[4 - axes :])
    return np.moveaxis(samples, 1, -1)


def label_dtype(staging: Staging) -> np.dtype:
    """The dtype of stored labels: uint16 for classes, bool for several classes per sample, float32 for other numbers.

    Labels beyond uint16 are stored as uint32, and negative ones as int64.
    """
    low, high = 0, 0
    for batch in staging.batches("label"):
        labels = batch["label"]
        if labels.ndim > 1:
            return np.dtype(bool)
        if np.any(labels != np.floor(labels)):
            return np.dtype("float32")
        low, high = min(low, int(labels.min())), max(high, int(labels.max()))
    return np.dtype("int64" if low < 0 else "uint16" if high < 2**16 else "uint32")


def write_project(
    sink: "HDF5", folder: Path, specs: dict[str, tuple[tuple[int, ...], np.dtype]], origin: dict[str, Any]
) -> None:
    """Writes `project.yaml` and the label map beside an `HDF5` output.

    Args:
        sink: The output.
        folder: The directory to write into.
        specs: Shape and dtype of each array, see `Staging.specs`.
        origin: Where the results come from.
    """
    stem = sink.target.stem
    (_, *shape) = next((shape for name, (shape, _) in specs.items() if name.startswith("input")), (0, 0, 0))
    _, height, width = three_axes(np.empty((0, *shape), bool), sink._data_format()).shape[1:4]
    names = sink.class_names or origin.get("class_names")
    if not names:
        predictions = specs["prediction"][0] if "prediction" in specs else ()
        names = [f"class {i}" for i in range(predictions[1] if len(predictions) == 2 else 0)]
    label_map = [{"index": i, "word_net_id": category_name(i), "name": str(name)} for i, name in enumerate(names)]
    (folder / f"{stem}.label-map.json").write_text(json.dumps(label_map, indent=1), encoding="utf-8")
    quoted = {
        "name": f"{origin['model']}, {origin['method']}",
        "model": origin["model"],
        "label_map": f"{stem}.label-map.json",
        "dataset": stem,
        "inputs": f"{stem}.input.h5",
        "method": origin["method"],
        "source": sink.target.name,
    }
    quoted = {name: json.dumps(value) for name, value in quoted.items()}
    strategy = "true_label" if origin["neuron_selection"] == "label" else "predicted_label"
    text = f"""\
project:
  name: {quoted["name"]}
  model: {quoted["model"]}
  label_map: {quoted["label_map"]}
  dataset:
    name: {quoted["dataset"]}
    type: hdf5
    path: {quoted["inputs"]}
    input_width: {width}
    input_height: {height}
    up_sampling_method: none
    down_sampling_method: none
  attributions:
    attribution_method: {quoted["method"]}
    attribution_strategy: {strategy}
    sources:
    - {quoted["source"]}
  {NO_ANALYSES}
"""
    (folder / PROJECT).write_text(text, encoding="utf-8")


def category_name(number: int) -> str:
    """The name that the analyses of a class have.

    CoRelAy names them by the WordNet id of the class. Classes without one have their number in that format.
    """
    return f"{number:08d}"


def add_analysis(attributions: Path, method: str, analysis: Path) -> Path | None:
    """Adds an analysis to the `project.yaml` beside attributions, if that is the one that `write_project` wrote.

    Args:
        attributions: The file with the attributions.
        method: The name of the analysis in ViRelAy.
        analysis: The file with the analysis.

    Returns:
        The project; None if there is no such project.
    """
    project = attributions.parent / PROJECT
    if not project.is_file():
        return None
    text = project.read_text(encoding="utf-8")
    source = f"    - {json.dumps(os.path.relpath(analysis, project.parent).replace(os.sep, '/'))}\n"
    head, found, rest = text.partition("\n  analyses:")
    if not found or f"    - {json.dumps(attributions.name)}\n" not in head + "\n":
        return None
    entry = f"  - analysis_method: {json.dumps(method)}\n    sources:\n{source}"
    if entry in rest:
        return project
    kept = rest.removeprefix(" []").removeprefix("\n")
    new = project.with_name(f"{project.name}.new")
    new.write_text(f"{head}\n  analyses:\n{kept}{entry}", encoding="utf-8")
    os.replace(new, project)
    return project
