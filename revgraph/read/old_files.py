"""Files of Keras 2, whose Sequential models say their input shape at their first layer, and more in another way."""

import contextlib
import json
import tempfile
from pathlib import Path

import h5py
import keras

INSIDE = ("layer", "backward_layer", "cell")
"""Where wrappers and recurrent layers have the layers inside of them."""


@contextlib.contextmanager
def readable(path, config):
    """The path of an .h5 file that Keras 3 reads: the file itself, or a copy with `modernized` configuration.

    The file itself is never changed.

    Args:
        path: The file.
        config: The configuration of the model in it.
    """
    today = modernized(config)
    if today == config:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="revgraph-") as folder:
        copy = Path(folder, "model.h5")
        with h5py.File(path) as old, h5py.File(copy, "w") as new:
            new.attrs.update(old.attrs)
            new.attrs["model_config"] = json.dumps(today)
            old.copy("model_weights", new)
        yield copy


def modernized(config):
    """A configuration as Keras 3 takes it.

    Every Sequential model whose input shape is known begins with an InputLayer: Keras 3 takes the shape at a first
    layer, which has a batch axis, for one without. Layers inside of layers say that they are Keras's.
    """
    if isinstance(config, list):
        return [modernized(part) for part in config]
    if not isinstance(config, dict):
        return config
    config = {key: modernized(part) for key, part in config.items()}
    for key in INSIDE:
        layer = config.get(key)
        if isinstance(layer, dict) and "module" not in layer:
            homes = [home for home in (keras.layers, keras) if hasattr(home, layer.get("class_name", ""))]
            config[key] = {**layer, "module": homes[0].__name__, "registered_name": None} if homes else layer
    if config.get("class_name") == "Sequential" and "config" in config:
        model = config["config"]
        # Before Keras 2.2.3 there was nothing but the list of layers.
        model = {"name": config.get("name"), "layers": model} if isinstance(model, list) else model
        config["config"] = {**model, "layers": _begun(model["layers"])} if model.get("layers") else model
    return config


def _begun(layers) -> list:
    """Layers that begin with an InputLayer where the input shape is known."""
    first, *rest = layers
    begin = _input(first)
    if begin is None or begin is first:
        return layers
    config = {key: value for key, value in first["config"].items() if key != "batch_input_shape"}
    return [begin, {**first, "config": config}, *rest]


def _input(layer) -> dict | None:
    """The InputLayer that a layer begins with, or that stands for the input shape it names; None where it has none."""
    kind, config = layer["class_name"], layer["config"]
    if kind == "InputLayer":
        return layer
    if config.get("batch_input_shape"):
        inner = layer
        while isinstance(inner["config"].get("layer"), dict):
            inner = inner["config"]["layer"]
        dtype = "int32" if inner["class_name"] == "Embedding" else config.get("dtype") or "float32"
        name = f"{config.get('name') or kind.lower()}_input"
        return {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": config["batch_input_shape"], "dtype": dtype, "name": name},
        }
    layers = config.get("layers") or []
    if kind in ("Model", "Functional") and len(config.get("input_layers", ())) == 1:
        layers = [inner for inner in layers if inner.get("name") == config["input_layers"][0][0]]
    elif kind != "Sequential":
        layers = []
    return _input(layers[0]) if layers else None
