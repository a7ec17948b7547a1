"""`collect`: one pass over a dataset that finds the samples on which each channel is most relevant and most active."""

import hashlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers import Analyzer
from revgraph.analyzers.inputs import packed
from revgraph.analyzers.reverse_analyzer import ReverseAnalyzer
from revgraph.concepts.collection import Collection, ConceptFile
from revgraph.datasets.engines import engine_of
from revgraph.datasets.runs import to_the_end
from revgraph.datasets.streams import Batch
from revgraph.datasets.tasks import Task
from revgraph.datasets.work import Work
from revgraph.graph import Graph
from revgraph.graph.analysis import Facts
from revgraph.graph.types import PathLike, Selection, Tensors
from revgraph.reverse.sides import SIDES, are_sides
from revgraph.reverse.walk import Question, input_spec


def collect(
    analyzer: Any,
    dataset: Any,
    layers: str | keras.Layer | Sequence[str | keras.Layer],
    out: PathLike,
    neuron_selection: Selection = None,
    batch_size: int | None = None,
    *,
    n: int = 40,
    over: str = "sum",
    shares: bool = False,
    labels: Any = None,
    resume: bool | None = None,
    overwrite: bool = False,
    on_failure: str = "record",
    model_path: PathLike | None = None,
    verbose: int = 1,
    workers: int = 1,
    engine: str | None = None,
) -> Collection:
    """Finds, for each channel of some layers, the samples of a dataset on which it is most relevant and most active.

    A channel stands for a concept: what it is most relevant for shows what the network uses it for (RelMax), and what
    it is most active for shows what it detects (ActMax). Both rankings are kept for all samples, and for the samples of
    each class that was explained. The relevance of every channel on every sample is kept, too: `prototypes` uses it.

    Memory holds one batch at a time, and the rankings of one layer. The run may end at any moment: finished batches are
    kept in `NAME.partial` beside the output, and the same call continues behind them.

    Args:
        analyzer: An analyzer that walks backwards, such as `lrp.epsilon_plus`.
        dataset: As in `revgraph.explain_dataset`.
        layers: Names or paths of layers, whose channels are the last axis of their output. For a dense layer channels
            are neurons; for a tensor of tokens (batch, tokens, features) they are features.
        out: The file to write: HDF5 if it ends in `.h5`, a Zarr group if it ends in `.zarr`.
        neuron_selection: What to explain, as in `revgraph.explain_dataset`. By default each sample's largest output.
            With `"label"`, samples of a classifier with a single output are of the class of their label, 0 or 1, and
            relevance is that of the output, which speaks for class 1.
        batch_size: Number of samples that are computed at once, as in `revgraph.explain_dataset`.
        n: How many samples are kept for each channel.
        over: How the positions of a channel become the value by which samples are ranked: `"sum"` or `"max"`.
        shares: Divide values by the sum of the absolute values of all channels of the sample, before samples are
            ranked.
        labels: Labels of arrays, (samples,) or (samples, classes).
        resume, overwrite, on_failure, model_path, verbose, workers, engine: As in `revgraph.explain_dataset`.

    Returns:
        A `Collection`, which reads the file. It prints as a table of the layers, and remembers the analyzer and the
        dataset for `references`.

    Raises:
        FileExistsError: The output exists, or there is an interrupted run.
        KeyError: The model has no such layer.
        TypeError: The analyzer does not walk backwards, or `dataset` is no dataset.
        ValueError: An argument is illegal; a layer has several outputs, or lies behind the output that is explained; an
            interrupted run has another question or other data; or all samples failed.
        OSError: Writing failed, for example because the disk is full. Finished batches are kept.

    References:
        Achtibat et al., "From attribution maps to human-understandable explanations through Concept Relevance
        Propagation", Nature Machine Intelligence 5, 2023.

    Example:

        found = revgraph.concepts.collect(analyzer, x, ["conv2", "conv3"], "concepts.h5")
        found.ranking("conv3").samples[:8, 12]  # the 8 samples on which channel 12 has most relevance
    """
    if not isinstance(analyzer, ReverseAnalyzer):
        raise TypeError(
            f"collect takes an analyzer that walks backwards, such as create_analyzer('lrp.epsilon_plus', model), "
            f"because only such a one has relevance of layers. Received: {analyzer!r}."
        )
    named = [layers] if isinstance(layers, str | keras.Layer) else list(layers)
    if not named:
        raise ValueError("layers is empty: name at least one layer.")
    paths = tuple(dict.fromkeys(_path(analyzer.traced, layer) for layer in named))
    output = ConceptFile(out, paths, n, over, shares)
    asked = {"layers": list(paths), "n": int(n), "over": over, "shares": bool(shares)}
    task = Task.of(
        "collect", analyzer, dataset, output, neuron_selection, batch_size, labels, on_failure, model_path, **asked
    )
    work = Collecting(analyzer, task.selection, layers=paths)
    to_the_end(task, output, resume, overwrite, verbose, work, engine_of(engine, workers))
    return Collection(out, analyzer=analyzer, dataset=dataset)


def _path(graph: Graph, layer: Any) -> str:
    """The path of a layer, whose output is one tensor of channels.

    Raises:
        KeyError: The model has no such layer.
        ValueError: It has no channels.
    """
    call = graph.find(layer)
    slots = Facts(graph).of_samples(call.outputs)
    if len(slots) != 1 or len(graph.specs[slots[0]].shape) < 2:
        shapes = ", ".join(str(graph.specs[slot].shape) for slot in call.outputs)
        raise ValueError(
            f"Channels are the last axis of a tensor (batch, ..., channels), and {call.path!r} gives {shapes}. Name "
            f"the layer that makes the tensor that you mean."
        )
    return call.path


def summary(
    analyzer: Any, layers: Sequence[str], inputs: Tensors, selection: Selection
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Relevance and activation of all channels of some layers, reduced over positions.

    Args:
        analyzer: An analyzer that walks backwards.
        layers: The paths of the layers.
        inputs: A batch, as `analyze` takes it.
        selection: What is explained.

    Returns:
        For each layer, for relevance and then for activation: the sum over positions, (batch, channels), the largest
        value, (batch, channels), and its position, int32 (batch, channels, axes). Then the tensors at which relevance
        starts.
    """
    # Some analyzers make another one for each size of the inputs.
    analyzer = analyzer.at(inputs) if hasattr(analyzer, "at") else analyzer
    names, starts = analyzer.starts(None, False, False)
    slots = tuple(_slot(analyzer.traced, path, starts) for path in layers)
    walk = analyzer.walk(Question(starts, tuple((slot,) for slot in slots), (*slots, *starts)))
    ((flat, chosen, _),) = analyzer.questions(walk, names, inputs, selection, None, None, 0)
    result = walk.relevance(flat, chosen, reduce=_over_positions)
    parts, count = [], len(flat[0])
    for path, shape, kinds in zip(layers, result["shapes"], result["kinds"], strict=True):
        if len(kinds[0][0]) != count:
            raise ValueError(
                f"The output of {path!r} has {len(kinds[0][0])} rows for {count} samples, so its channels do not "
                f"belong to samples. Name the layer around it."
            )
        size = tuple(shape.numpy())
        for sums, largest, places in kinds:
            where = np.unravel_index(places.numpy(), size) if size else ()
            position = np.stack(where, axis=-1) if size else np.zeros((*places.shape, 0))
            parts += [sums.numpy(), largest.numpy(), position.astype(np.int32)]
    return parts, [y.numpy() for y in result["outputs"]]


def _over_positions(result: dict[str, Any]) -> dict[str, Any]:
    """Of each layer the sum, the maximum and its place over positions, of relevance and of activation."""
    activations = result["values"][: len(result["layers"])]

    def reduced(tensor):
        flat = tf.reshape(tensor, (tf.shape(tensor)[0], -1, tf.shape(tensor)[-1]))
        place = tf.argmax(flat, axis=1, output_type=tf.int32)
        return tf.reduce_sum(flat, axis=1), tf.reduce_max(flat, axis=1), place

    pairs = zip(result["layers"], activations, strict=True)
    return {
        "kinds": [(reduced(relevance), reduced(activation)) for (relevance,), activation in pairs],
        "shapes": [tf.shape(activation)[1:-1] for activation in activations],
        "outputs": result["values"][len(activations) :],
    }


class Collecting(Work):
    """The summaries of all batches.

    Args:
        analyzer, selection: See `Work`.
        layers: The paths of the layers.
    """

    def __init__(self, analyzer: Analyzer, selection: Any, layers: Sequence[str]):
        super().__init__(analyzer, selection, layers=layers)
        self.layers = layers

    def _compute(self, batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        inputs = packed(batch.inputs, self.graph)
        return summary(self.analyzer, self.layers, inputs, self.selected(batch))

    def _arrays(
        self, batch: Batch, relevance: list[np.ndarray], outputs: list[np.ndarray]
    ) -> dict[str, np.ndarray | None]:
        arrays: dict[str, np.ndarray | None] = {
            "index": batch.index,
            "label": batch.labels,
            "class": _classes(self.selected(batch), outputs, len(batch.index)),
            "digest": digests(batch.inputs, self.graph),
            "output": outputs[0] if len(outputs) == 1 else None,
        }
        parts = iter(relevance)
        for i in range(len(self.layers)):
            for kind in ("relevance", "activation"):
                names = (f"{i}/{kind}", f"{i}/{kind}/max", f"{i}/{kind}/position")
                arrays |= dict(zip(names, (next(parts) for _ in names), strict=True))
        return arrays


def _slot(graph, path, starts):
    """The slot of a layer's output. Relevance must be able to reach it."""
    (slot,) = Facts(graph).of_samples(graph.find(path).outputs)
    producers, reached, stack = graph.producers(), set(starts), list(starts)
    while stack:
        site = producers.get(stack.pop())
        for below in site.inputs if site else ():
            if below not in reached:
                reached.add(below)
                stack.append(below)
    if slot not in reached:
        raise ValueError(
            f"No relevance reaches the layer {path!r}: it lies behind the values that are explained, or beside them. "
            f"Name a layer on the way to the output."
        )
    return slot


def _classes(selection, outputs, count):
    """The class that is explained of each sample, (batch,); -1 where no single class is."""
    unknown = np.full(count, -1, np.int64)
    if len(outputs) != 1 or outputs[0].ndim != 2:
        return unknown
    if selection is None or (isinstance(selection, str) and selection == "max_activation"):
        # The only unit of a binary classifier speaks for the second class where it is positive.
        (y,) = outputs
        return (y[:, 0] > 0).astype(np.int64) if y.shape[1] == 1 else y.argmax(axis=1).astype(np.int64)
    if are_sides(selection):
        chosen = np.array([list(SIDES).index(word) for word in np.atleast_1d(selection)], np.int64)
        return np.broadcast_to(chosen, (count,)).copy()
    if isinstance(selection, bool) or not isinstance(selection, int | np.integer | np.ndarray):
        return unknown
    units = outputs[0].shape[1]
    return np.broadcast_to(np.asarray(selection, np.int64) % units, (count,)).copy()


def explained_classes(analyzer: Any, x: Tensors, layer: str, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
    """Relevance of the channels of a layer, and the class that is explained.

    Args:
        analyzer: An analyzer that walks backwards.
        x: Samples, as `analyze` takes them.
        layer: The path of the layer.
        selection: What is explained.

    Returns:
        Arrays (batch, channels) and int64 (batch,). The class is -1 where no single class is explained.
    """
    (relevance, *_), outputs = summary(analyzer, [layer], x, selection)
    chosen = np.asarray(selection) if isinstance(selection, list) else selection
    return relevance, _classes(chosen, outputs, len(relevance))


def digests(inputs: Sequence[np.ndarray], graph: Graph) -> np.ndarray:
    """A hash of each sample, uint64 (batch,).

    Args:
        inputs: The model's inputs as a flat list, (batch, ...) each.
        graph: The graph of the model.
    """
    specs = [input_spec(graph, slot) for slot in graph.input_slots]
    arrays = [np.asarray(x, spec.dtype.as_numpy_dtype) for x, spec in zip(inputs, specs, strict=True)]
    found = []
    for i in range(len(arrays[0])):
        hashed = hashlib.blake2b(digest_size=8)
        for array in arrays:
            hashed.update(np.ascontiguousarray(array[i]).tobytes())
        found.append(hashed.digest())
    return np.frombuffer(b"".join(found), "<u8")
