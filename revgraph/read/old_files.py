"""Files of Keras 2: their configuration is rewritten where Keras 3 would misread it."""

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

INSIDE = ("layer", "backward_layer", "cell")
"""Keys of a configuration under which wrappers and recurrent layers hold other layers."""


@keras.saving.register_keras_serializable("revgraph", "hard_sigmoid_of_keras_2")
def hard_sigmoid(x: Any) -> Any:
    """What Keras 2 calls `hard_sigmoid`: x / 5 + 1 / 2, cut off at 0 and 1. That of Keras 3 is x / 6 + 1 / 2.

    Args:
        x: A tensor.

    Returns:
        A tensor of the same shape.
    """
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


@contextlib.contextmanager
def readable(path: Path, config: Any) -> Iterator[Path]:
    """Gives the path of a file that Keras 3 reads as Keras 2 did, for the time of a `with` block.

    That is the file itself, or a temporary copy whose configuration is `modernized`. The file is never changed.

    Args:
        path: The file, which Keras 2 wrote.
        config: The configuration of the model in it.
    """
    today = modernized(config)
    if today == config:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="revgraph-") as folder:
        copy = Path(folder, f"model{path.suffix}")
        if h5py.is_hdf5(path):
            with h5py.File(path) as old, h5py.File(copy, "w") as new:
                new.attrs.update(old.attrs)
                new.attrs["model_config"] = json.dumps(today)
                old.copy("model_weights", new)
        else:
            with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w") as new:
                for name in old.namelist():
                    new.writestr(name, json.dumps(today) if name == "config.json" else old.read(name))
        yield copy


def modernized(config: Any) -> Any:
    """Rewrites a configuration of Keras 2 so that Keras 3 understands it.

    A Sequential model of Keras 2 may give its input shape at its first layer, with a batch axis. Keras 3 would take
    the batch axis for a part of the shape, so an InputLayer is put in front. A layer inside of another layer gets the
    name of the module that it is from. The function that both call `hard_sigmoid` becomes that of Keras 2. Keras 3
    allows no slash in the name of a layer, so a slash becomes an underscore.

    Args:
        config: The configuration, as JSON values. It is not changed.

    Returns:
        The new configuration; one that is equal to `config` where nothing needs to be rewritten.
    """
    names = {name: name.replace("/", "_") for name in _names(config) if "/" in name}
    return _modernized(config, names)


def _names(config):
    """The names of all layers in a configuration."""
    if isinstance(config, dict):
        inner = config.get("config")
        if "class_name" in config and isinstance(inner, dict) and isinstance(inner.get("name"), str):
            yield inner["name"]
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _names(part)


def _modernized(config, names):
    if isinstance(config, str):
        return names.get(config, config)
    if isinstance(config, list):
        return [_modernized(part, names) for part in config]
    if not isinstance(config, dict):
        return config
    config = {key: _modernized(part, names) for key, part in config.items()}
    for key in ("activation", "recurrent_activation"):
        if config.get(key) == "hard_sigmoid":
            config[key] = keras.saving.serialize_keras_object(hard_sigmoid)
    for key in INSIDE:
        layer = config.get(key)
        if isinstance(layer, dict) and "module" not in layer:
            homes = [home for home in (keras.layers, keras) if hasattr(home, layer.get("class_name", ""))]
            config[key] = {**layer, "module": homes[0].__name__, "registered_name": None} if homes else layer
    if config.get("class_name") == "Sequential" and "config" in config:
        model = config["config"]
        # Before Keras 2.2.3 the configuration of a Sequential model was the list of its layers.
        model = {"name": config.get("name"), "layers": model} if isinstance(model, list) else model
        config["config"] = {**model, "layers": _begun(model["layers"])} if model.get("layers") else model
    return config


def _begun(layers: list[dict]) -> list[dict]:
    """The layers of a Sequential model, with an InputLayer in front where the input shape is known."""
    first, *rest = layers
    begin = _input(first)
    if begin is None or begin is first:
        return layers
    config = {key: value for key, value in first["config"].items() if key != "batch_input_shape"}
    return [begin, {**first, "config": config}, *rest]


def _input(layer: dict) -> dict | None:
    """The InputLayer with which a layer begins, or one with its input shape; None where the shape is not known."""
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
