"""Analyzers as SavedModels that run without revgraph: `analyzer.export(path)`."""

import contextlib
import logging
import os
import re
import tempfile
from pathlib import Path

import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.reverse.walk import Walk


def export(walk: Walk, traced: Graph, path, version=None, overwrite=False) -> Path:
    """Writes an analyzer as a SavedModel, which needs TensorFlow alone to run.

    Its signature `serving_default` takes the model's inputs by name and `neuron_selection`, int32 of shape (batch,): a
    position in the flattened output, or -1 for the largest; a model of several outputs takes one
    `neuron_selection_<output>` for each, where -3 selects nothing. It returns the model's `output` and `relevance`, or
    `output_<name>` and `relevance_<input>` where there are several, for batches of any size.

    Args:
        walk: The analyzer's walk from the model's outputs.
        traced: The graph of the model, as it is.
        path: The directory to write.
        version: Number of the version directory to write inside `path`, as TensorFlow Serving wants it.
        overwrite: Replace what exists.

    Returns:
        The directory of the SavedModel.

    Raises:
        FileExistsError: The directory exists.
        ValueError: The version is not a positive int.

    Example:

        analyzer.export("explainer")
        serve = tf.saved_model.load("explainer").signatures["serving_default"]
        relevance = serve(image=x, neuron_selection=tf.constant([-1]))["relevance"]
    """
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
        raise ValueError(f"version is a positive int, the name of a directory, or None. Received: {version!r}.")
    final = Path(os.fspath(path)) / ("" if version is None else str(version))
    if final.exists() and not overwrite:
        raise FileExistsError(f"{str(final)!r} exists. Pass overwrite=True to replace it.")
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=".revgraph-") as folder:
        whole = os.path.join(folder, "whole")
        _save(_serving_function(walk, traced), whole)
        if final.exists():
            os.replace(final, os.path.join(folder, "old"))
        os.replace(whole, final)
    return final


def _save(function, path):
    module = tf.Module()
    # What the function reads has to hang on the module, or it would not be saved.
    module.weights = list(function.graph.variables)
    with _silence():
        tf.saved_model.save(module, path, signatures=function)


@contextlib.contextmanager
def _silence():
    """TensorFlow logs the folder that it writes, which gets its final name only afterwards."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def _serving_function(walk, traced):
    """The concrete function behind the signature."""
    tail = _Tail(traced, walk.graph)
    outputs, inputs = traced.output_names, walk.graph.input_names
    several = len(outputs) > 1
    explained = walk.graph.output_names
    selections = [f"neuron_selection_{_identifier(n)}" if several else "neuron_selection" for n in explained]

    def serve(*tensors):
        given, chosen = tensors[: len(inputs)], tensors[len(inputs) :]
        forward = walk.reverse.forward(given)
        pulled = walk.pulled(forward, [(index,) for index in chosen])
        results = tail(forward.values)
        named = zip([f"output_{_identifier(n)}" if several else "output" for n in outputs], results, strict=True)
        keys = [f"relevance_{_identifier(n)}" if len(inputs) > 1 else "relevance" for n in inputs]
        return {**dict(named), **dict(zip(keys, pulled["relevance"], strict=True))}

    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, name=_identifier(name))
        for spec, name in zip(walk.input_specs(), inputs, strict=True)
    ]
    specs += [tf.TensorSpec((None,), tf.int32, name=name) for name in selections]
    return tf.function(serve, autograph=False).get_concrete_function(*specs)


class _Tail:
    """What stands between the tensors that are explained and the model's outputs: softmax, mostly.

    Args:
        traced: The graph of the model, as it is.
        explained: The graph whose outputs are explained.
    """

    def __init__(self, traced: Graph, explained: Graph):
        self._dtype, self._outputs = traced.dtype, traced.output_slots
        producers, self._sites, stack = traced.producers(), [], list(traced.output_slots)
        while stack:
            slot = stack.pop()
            if slot not in explained.output_slots and slot in producers:
                site = producers[slot]
                self._sites.append(site)
                stack.extend(site.inputs)
        order = {site: i for i, site in enumerate(traced.sites)}
        self._sites = sorted(dict.fromkeys(self._sites), key=order.get)

    def __call__(self, values):
        values = dict(values)
        for site in self._sites:
            given = [values[slot] for slot in site.inputs]
            results = site.operation(given, site.operation.weights(self._dtype, given))
            values.update(zip(site.outputs, results, strict=True))
        return [values[slot] for slot in self._outputs]


def _identifier(name) -> str:
    """A name that a signature can have."""
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() else name
