"""What ViRelAy and CoRelAy want: three axes with the channels first, labels as integers, a project file."""

import json
from pathlib import Path

import numpy as np


def three_axes(samples, data_format="channels_last") -> np.ndarray:
    """Samples with their channels first, and at least three axes each.

    Args:
        samples: Array (samples, ..., channels), or (samples, channels, ...) for `"channels_first"`; samples with one
            axis or two have no channels.
        data_format: `"channels_last"` or `"channels_first"`.

    Returns:
        Array (samples, channels, height, width), or with more axes for volumes.
    """
    if samples.ndim <= 3:
        axes = samples.shape[1:]
        return samples.reshape(len(samples), *(1,) * (3 - len(axes)), *axes)
    return np.moveaxis(samples, -1, 1) if data_format == "channels_last" else samples


def label_dtype(staging) -> np.dtype:
    """How labels are stored: uint16 for classes, bool for several classes per sample, float32 for other numbers."""
    low, high = 0, 0
    for batch in staging.batches("label"):
        labels = batch["label"]
        if labels.ndim > 1:
            return np.dtype(bool)
        if np.any(labels != np.floor(labels)):
            return np.dtype("float32")
        low, high = min(low, int(labels.min())), max(high, int(labels.max()))
    return np.dtype("int64" if low < 0 else "uint16" if high < 2**16 else "uint32")


def write_project(sink, folder: Path, specs, origin):
    """Writes `project.yaml` and the label map beside an `HDF5` output."""
    stem = sink.target.stem
    ((_, *shape), _) = next((spec for name, spec in specs.items() if name.startswith("input")), ((0, 0, 0), None))
    _, height, width = three_axes(np.empty((0, *shape), bool), sink._data_format()).shape[1:4]
    names = sink.class_names or origin.get("class_names")
    if not names:
        classes = specs["prediction"][0][1] if len(specs.get("prediction", ((),))[0]) == 2 else 0
        names = [f"class {i}" for i in range(classes)]
    # CoRelAy names the analyses of a class by its WordNet id, or where there is none by its number so written.
    label_map = [{"index": i, "word_net_id": f"{i:08d}", "name": str(name)} for i, name in enumerate(names)]
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
  analyses: []
"""
    (folder / "project.yaml").write_text(text, encoding="utf-8")
