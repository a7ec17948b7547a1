"""`load_model` reads a model from a file or a directory."""

import contextlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.graph.types import PathLike
from revgraph.read.old_files import readable
from revgraph.read.savedmodel.reader import read_function, read_savedmodel


def load_model(
    path: PathLike,
    signature: str | None = None,
    safe_mode: bool = True,
    custom_objects: Mapping[str, Any] | None = None,
) -> keras.Model | Graph:
    """Reads a model from a `.keras` or `.h5` file, or from a SavedModel directory.

    Keras 3 reads the files of Keras 3, and most files of Keras 2. `tf_keras`, if it is installed, reads the others.
    Of a SavedModel the TensorFlow operations of one signature are read, whether `model.export`, Keras 2's `model.save`
    or `tf.saved_model.save` wrote it.

    Opening a SavedModel runs a program, which can read and write files. Open only SavedModels that you trust.

    Args:
        path: The file or the directory.
        signature: Name of the signature of a SavedModel. By default `"serving_default"`, or the only one.
        safe_mode: Whether to refuse files with Lambda layers, because reading them runs their Python code. It does not
            cover SavedModels.
        custom_objects: The model's own classes and functions by name, as `keras.models.load_model` takes them.

    Returns:
        A `keras.Model`. For a SavedModel, and for a file that only `tf_keras` can read, a `Graph`, which analyzers take
        in the place of a model.

    Raises:
        FileNotFoundError: There is no such file or directory.
        ValueError: It is not a model, is damaged, has Lambda layers, or has no signatures.
        KeyError: The SavedModel has no such signature.

    Example:

        model = revgraph.load_model("exported/")
        analyzer = revgraph.create_analyzer("lrp.epsilon_plus_flat", model)
    """
    path = Path(os.fspath(path))
    if not path.exists():
        raise FileNotFoundError(f"There is no file or directory {str(path)!r}.")
    if path.name in ("saved_model.pb", "saved_model.pbtxt"):
        path = path.parent
    if path.is_dir():
        _check_savedmodel(path)
        return read_savedmodel(path, signature)
    if signature is not None:
        raise ValueError(f"signature= is for SavedModel directories, and {str(path)!r} is a file.")
    return _from_file(path, safe_mode, custom_objects)


def check_not_given(signature: str | None, custom_objects: Mapping[str, Any] | None) -> None:
    """Checks that arguments for reading a file are not given together with a model that is read already.

    Args:
        signature: As `load_model` takes it.
        custom_objects: As `load_model` takes it.

    Raises:
        TypeError: One of them is given.
    """
    if signature is not None:
        raise TypeError("signature= goes with the path of a SavedModel, not with a model.")
    if custom_objects is not None:
        raise TypeError("custom_objects= goes with the path of a model, not with a model.")


def _check_savedmodel(path):
    if any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        return
    versions = sorted((p.name for p in path.iterdir() if (p / "saved_model.pb").is_file()), key=lambda n: (len(n), n))
    hint = f" It has SavedModels in it, though, such as {str(path / versions[-1])!r}." if versions else ""
    raise ValueError(f"The directory {str(path)!r} is not a SavedModel: it has no saved_model.pb.{hint}")


def _from_file(path, safe_mode, custom_objects):
    config, version = _description(path)
    if safe_mode and _has_lambda(config):
        raise ValueError(
            f"The model in {str(path)!r} has Lambda layers, whose Python code would run when it is read. Pass "
            f"safe_mode=False if you trust where it comes from."
        )
    try:
        with contextlib.nullcontext(path) if version.startswith("3.") else readable(path, config) as file:
            return keras.models.load_model(file, custom_objects=custom_objects, compile=False, safe_mode=safe_mode)
    except Exception as error:
        # Keras raises many types of errors for files that it cannot read.
        if version.startswith("2."):
            return _from_keras_2(path, safe_mode, custom_objects, config, error)
        raise ValueError(f"Keras cannot read the model in {str(path)!r}: {_reason(error, config)}") from error


def _description(path: Path) -> tuple[Any, str]:
    """The configuration of the model in a file (JSON values), and the version of Keras that wrote it."""
    if zipfile.is_zipfile(path):
        return _zip_description(path)
    if h5py.is_hdf5(path):
        return _hdf5_description(path)
    kind = "damaged or cut short" if path.suffix in (".keras", ".h5", ".hdf5") else "not a model"
    raise ValueError(
        f"The file {str(path)!r} is {kind}: models are .keras files, .h5 files and SavedModel directories."
    )


def _zip_description(path):
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json"))
            damaged = archive.testzip()
        if not isinstance(metadata, dict):
            raise ValueError(f"metadata.json is {metadata!r}, and not a dict")
    # RuntimeError: JSON that is nested too deep, a password, or a method of compression that is not there.
    except (KeyError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"The file {str(path)!r} is not a model that Keras wrote, or is damaged: {error}") from error
    if damaged:
        raise ValueError(f"The file {str(path)!r} is damaged: {damaged} cannot be read.")
    return config, _text(metadata.get("keras_version", ""))


def _hdf5_description(path):
    try:
        with h5py.File(path) as file:
            config, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "")
    except OSError as error:
        raise ValueError(f"The file {str(path)!r} is damaged or cut short: {_reason(error)}") from error
    if config is None:
        raise ValueError(
            f"The file {str(path)!r} holds no model, only weights or other data. Build the model, and read weights "
            f"with model.load_weights."
        )
    try:
        return json.loads(_text(config)), _text(version)
    # RecursionError: JSON that is nested too deep.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The file {str(path)!r} is damaged: its model_config is no JSON ({error}).") from error


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _has_lambda(config: Any) -> bool:
    """Whether a configuration has a Lambda layer or a lambda function in it."""
    if isinstance(config, dict):
        return config.get("class_name") in ("Lambda", "__lambda__") or any(map(_has_lambda, config.values()))
    return isinstance(config, list) and any(map(_has_lambda, config))


def _from_keras_2(path, safe_mode, custom_objects, config, error):
    """The graph of a model that Keras 2 wrote and Keras 3 cannot read."""
    reason = _reason(error, config)
    try:
        import tf_keras
    except ImportError:
        raise ValueError(
            f"The model in {str(path)!r} was written by Keras 2, and Keras 3 cannot read it: {reason} With "
            f"tf_keras installed (pip install tf_keras) revgraph reads it."
        ) from error
    try:
        model = tf_keras.models.load_model(path, custom_objects, compile=False, safe_mode=safe_mode)
    except Exception as other:
        reasons = " ".join(dict.fromkeys((reason, _reason(other, config))))
        raise ValueError(f"Neither Keras 3 nor tf_keras can read the model in {str(path)!r}: {reasons}") from other
    specs = {x.name: tf.TensorSpec(x.shape, x.dtype, name=x.name) for x in model.inputs}

    def serve(inputs):
        outputs = model([inputs[name] for name in specs] if len(specs) > 1 else next(iter(inputs.values())))
        return dict(zip(model.output_names, tf.nest.flatten(outputs), strict=True))

    return read_function(tf.function(serve, autograph=False).get_concrete_function(specs), model.name, keep=model)


_MISSING = re.compile(
    r"(?:Could not locate (?:class|function)|Unknown [a-z ]+:?|Cannot deserialize object of type"
    r"|Could not interpret [a-z ]+ identifier:) (?:{.*?'class_name': )?['`]?([\w>]+)"
)
"""The messages with which Keras 2 and Keras 3 say that they do not know a class or a function."""


def _reason(error: Exception, config: Any = None) -> str:
    """Why a model cannot be read, in one line: the class that Keras does not know, or the first line of the error.

    Args:
        error: The error that Keras raised.
        config: The configuration of the model, which has the registered names of classes.
    """
    missing = _MISSING.search(str(error))
    if missing is None:
        # Keras tells first what could not be made, and behind these words why.
        text = re.split(r"(?:Exception|Error) encountered[^:]*:", str(error))[-1]
        return (text.strip().splitlines() or [type(error).__name__])[0]
    name = _function_name(config) or missing[1] if missing[1] == "function" else missing[1]
    key = _registered_name(config, name) or name
    return f"it has the class or function {name!r}, which Keras does not know. Pass custom_objects={{{key!r}: ...}}."


def _function_name(config: Any) -> str | None:
    """The name of the first function of a configuration; Keras may say only that it is a function."""
    if isinstance(config, dict) and config.get("class_name") == "function" and isinstance(config.get("config"), str):
        return config["config"]
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return next(filter(None, map(_function_name, parts)), None)


def _registered_name(config: Any, name: str) -> str | None:
    """The name under which Keras looks up a class of a configuration; None where the configuration has none."""
    if isinstance(config, dict) and config.get("class_name") == name:
        return config.get("registered_name")
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return next(filter(None, (_registered_name(part, name) for part in parts)), None)
