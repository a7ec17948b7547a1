"""`RelevanceCallback`: TensorBoard shows what the network looks at while it learns."""

import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from revgraph.analyzers import Analyzer, create_analyzer
from revgraph.analyzers.analyzer import Unsupported
from revgraph.graph.types import PathLike, Selection
from revgraph.reverse.ledger import FIELDS
from revgraph.visualize.heatmaps import displayable, heatmap
from revgraph.visualize.shapes import check_batch

__all__ = ["RelevanceCallback"]


class RelevanceCallback(keras.callbacks.Callback):
    """Writes heatmaps and the conservation of chosen samples to TensorBoard, epoch by epoch.

    Args:
        x: Samples to explain: images (batch, height, width, channels) are written as heatmaps beside the image, time
            series and features as `revgraph.visualize.plot` draws them, which needs matplotlib.
        log_dir: Folder of the event files.
        analyzer: Name of an analyzer, a pair of name and keyword arguments, or an `Analyzer` of the model that is
            trained. It uses the weights at the end of each epoch.
        neuron_selection: What is explained; see `Analyzer.analyze`. With a fixed class the pictures of all epochs
            answer the same question.
        every: The number of epochs from one writing to the next.
        conservation: Write how much relevance arrives at the inputs, and how much biases, constants, rules and
            stabilisers absorb, as mean shares of the start.
        **options: For images those of `revgraph.visualize.heatmap`, for other samples those of
            `revgraph.visualize.plot`.

    Raises:
        ValueError: An option is illegal, or x cannot be drawn.

    Example:

        callback = revgraph.callbacks.RelevanceCallback(x_test[:8], "logs", "lrp.epsilon_plus", y_test[:8])
        model.fit(x_train, y_train, epochs=20, callbacks=[callback])
        # tensorboard --logdir logs
    """

    def __init__(
        self,
        x: ArrayLike,
        log_dir: PathLike,
        analyzer: str | tuple[str, Mapping[str, Any]] | Analyzer = "lrp.epsilon_plus",
        neuron_selection: Selection = None,
        *,
        every: int = 1,
        conservation: bool = True,
        **options: Any,
    ):
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is a positive number of epochs. Received: {every!r}.")
        self.x = np.asarray(x)
        if self.x.ndim != 4:
            check_batch(self.x.shape, options.get("kind"), has_batch=True)
        self.log_dir = os.fspath(log_dir)
        self.analyzer = analyzer
        self.neuron_selection = neuron_selection
        self.every = every
        self.conservation = conservation
        self.options = options

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Makes the analyzer and opens the file of events."""
        self._made = self._make()
        self._writer = tf.summary.create_file_writer(self.log_dir)

    def _make(self):
        if isinstance(self.analyzer, Analyzer):
            return self.analyzer
        name, arguments = (self.analyzer, {}) if isinstance(self.analyzer, str) else self.analyzer
        return create_analyzer(name, self.model, **arguments)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes pictures and shares, if it is time for them."""
        if (epoch + 1) % self.every:
            return
        relevance = self._made.analyze(self.x, self.neuron_selection)
        with self._writer.as_default(step=epoch):
            _write_images("relevance", self._pictures(relevance))
            if self.conservation:
                self._write_shares()
        self._writer.flush()

    def _write_shares(self):
        try:
            report = self._made.conservation(self.x, self.neuron_selection)
        except Unsupported:
            return
        for name in FIELDS[1:]:
            _write_scalar(f"conservation/{name}", report.mean_share(getattr(report, name)))

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Closes the file of events."""
        self._writer.close()

    def _pictures(self, relevance):
        """A PNG of 8 bits for each sample."""
        if self.x.ndim != 4:
            from revgraph.visualize.figures import plot

            return [
                plot(self.x[i : i + 1], relevance[i : i + 1], **self.options)._repr_png_() for i in range(len(self.x))
            ]
        axis = self.options.get("reduce_axis", -1)
        images = displayable(np.moveaxis(self.x, axis, -1))
        colours = np.moveaxis(heatmap(relevance, **self.options), axis, -1)
        pairs = tf.image.convert_image_dtype(np.concatenate([images, colours], axis=2), tf.uint8)
        return [tf.io.encode_png(pair).numpy() for pair in pairs]


def _write_images(tag, pngs):
    """Writes images as `tf.summary.image` does, which needs TensorBoard installed where the network is trained."""
    width, height = (str(size).encode() for size in tf.io.decode_png(pngs[0]).shape[1::-1])
    tf.summary.write(tag, tf.constant([width, height, *pngs]), metadata=_metadata("images"))


def _write_scalar(tag, value):
    tf.summary.write(tag, tf.constant(value, tf.float32), metadata=_metadata("scalars"))


def _metadata(plugin):
    metadata = tf.compat.v1.SummaryMetadata
    return metadata(plugin_data=metadata.PluginData(plugin_name=plugin))
