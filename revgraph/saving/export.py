"""Analyzers as SavedModels that run without revgraph: `analyzer.export(path)`."""

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.graph.types import PathLike
from revgraph.reverse.targets import NONE
from revgraph.reverse.walk import Walk


def export(walk: Walk, traced: Graph, path: PathLike, version: int | None = None, overwrite: bool = False) -> Path:
    """Writes an analyzer as a SavedModel, which runs with TensorFlow alone.

    Its signature `serving_default` takes the model's inputs by name, for batches of any size, and `neuron_selection`,
    int32 (batch,): a position in the flattened output, or -1 for the largest value. A model with several outputs takes
    `neuron_selection_<output>` for each of them, where -3 selects nothing. The signature returns `output` and
    `relevance`, or `output_<name>` and `relevance_<input>` if there are several.

    Args:
        walk: The analyzer's walk from the model's outputs.
        traced: The graph of the model before canonization.
        path: The directory to write.
        version: Number of the version directory inside `path`, which TensorFlow Serving expects. None for no such
            directory.
        overwrite: Replace a directory that exists.

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
    # Variables that are no attributes of the module would not be saved.
    module.weights = list(function.graph.variables)
    with _silence():
        tf.saved_model.save(module, path, signatures=function)


@contextlib.contextmanager
def _silence():
    """Keeps TensorFlow from logging the temporary name of the folder that it writes."""
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
        ends = [forward.values[slot] for slot in walk.graph.output_slots]
        pulled = walk.pulled(forward, [(_checked(*each),) for each in zip(chosen, ends, selections, strict=True)])
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


def _checked(index, y, name):
    """The positions that are selected in an output, after a check that runs with the graph."""
    size = tf.reduce_prod(tf.shape(y)[1:])
    wrong = tf.boolean_mask(index, (index < NONE) | (index >= size))
    says = f"{name} is a position in the flattened output, or -1 for the largest value. Received, and size:"
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [says, wrong, size])]):
        return tf.identity(index)


class _Tail:
    """The sites between the tensors that are explained and the model's outputs, mostly a softmax.

    Args:
        traced: The graph of the model before canonization.
        explained: The graph whose outputs are explained.
    """

    def __init__(self, traced: Graph, explained: Graph):
        self._dtype, self._outputs = traced.dtype, traced.output_slots
        producers, sites, stack = traced.producers(), [], list(traced.output_slots)
        while stack:
            slot = stack.pop()
            if slot not in explained.output_slots and slot in producers:
                site = producers[slot]
                sites.append(site)
                stack.extend(site.inputs)
        order = {site: i for i, site in enumerate(traced.sites)}
        self._sites = sorted(dict.fromkeys(sites), key=lambda site: order[site])

    def __call__(self, values: Mapping[int, tf.Tensor]) -> list[tf.Tensor]:
        """The model's outputs.

        Args:
            values: The tensor of every slot of the explained graph.
        """
        values = dict(values)
        for site in self._sites:
            given = [values[slot] for slot in site.inputs]
            results = site.operation(given, site.operation.weights(self._dtype, given))
            values.update(zip(site.outputs, results, strict=True))
        return [values[slot] for slot in self._outputs]


def _identifier(name: str) -> str:
    """A name as a valid name of an argument of a signature."""
    name = re.sub(r"\W", "_", name)
    return f"_{name}" if name[:1].isdigit() else name
