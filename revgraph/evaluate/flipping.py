"""Tests whether relevance is high where it matters: inputs are changed there, and the model's scores should fall."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike

from revgraph.analyzers.analyzer import Analyzer
from revgraph.graph.arguments import check_count, check_number, check_seed
from revgraph.graph.tables import Table, Tabular
from revgraph.reverse.targets import from_start

__all__ = ["FlippingCurve", "Perturbation", "PerturbationAnalysis", "pixel_flipping"]


class Perturbation:
    """Changes the image regions that an analysis finds most relevant.

    Args:
        perturbation_function: `"zeros"`, `"gaussian"` (noise of standard deviation 0.3), `"mean"` (of the region),
            `"invert"` (-x), or a function of one region of one channel, an array of `region_shape`.
        num_perturbed_regions: Number of regions of each image that are changed.
        region_shape: Height and width of a region, in pixels.
        reduce_function: Reduces the channels of the analysis to one. It is called with `axis` and `keepdims`.
        aggregation_function: Reduces each region of the analysis to one number. It is called with `axis`.
        pad_mode: How images are padded whose size is no multiple of the region's; see `numpy.pad`. The padding is cut
            off again.
        in_place: Change the images themselves.
        value_range: (min, max) to which perturbed images are clipped; None for no clipping.
        seed: Seed of the noise.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.

    Raises:
        TypeError: `perturbation_function` is neither a name nor a function.
        ValueError: There is no such function, or `region_shape` is not two positive ints.

    Example:

        perturbed = Perturbation("mean", num_perturbed_regions=5).perturbate_on_batch(x, relevance)
    """

    def __init__(
        self,
        perturbation_function: str | Callable[[np.ndarray], Any],
        num_perturbed_regions: int = 0,
        region_shape: tuple[int, int] = (9, 9),
        reduce_function: Callable[..., np.ndarray] = np.mean,
        aggregation_function: Callable[..., np.ndarray] = np.mean,
        pad_mode: Any = "reflect",
        in_place: bool = False,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
        data_format: str | None = None,
    ):
        check_seed(seed)
        self._random = np.random.default_rng(seed)
        known: dict[str, Callable[[np.ndarray], Any]] = {
            "zeros": np.zeros_like,
            "gaussian": lambda region: self._random.normal(0.0, 0.3, region.shape),
            "mean": np.mean,
            "invert": np.negative,
        }
        if isinstance(perturbation_function, str):
            if perturbation_function not in known:
                names = ", ".join(map(repr, known))
                text = f"one of {names}, or a function. Received: {perturbation_function!r}."
                raise ValueError(f"perturbation_function is {text}")
            perturbation_function = known[perturbation_function]
        elif not callable(perturbation_function):
            raise TypeError(f"perturbation_function is a function or a name. Received: {perturbation_function!r}.")
        if len(tuple(region_shape)) != 2 or min(region_shape) < 1:
            raise ValueError(f"region_shape is a height and a width, positive ints. Received: {region_shape!r}.")
        self.perturbation_function = perturbation_function
        check_number("num_perturbed_regions", num_perturbed_regions, least=0)
        self.num_perturbed_regions = num_perturbed_regions
        self.region_shape = tuple(region_shape)
        self.reduce_function = reduce_function
        self.aggregation_function = aggregation_function
        self.pad_mode = pad_mode
        self.in_place = in_place
        self.value_range = value_range
        self.data_format = data_format or keras.config.image_data_format()

    def perturbate_on_batch(self, x: ArrayLike, analysis: ArrayLike) -> np.ndarray:
        """Changes the most relevant regions of images.

        Args:
            x: Images, (batch, height, width, channels), or channels first.
            analysis: Relevance of x, of the same shape.

        Returns:
            The changed images, of x's shape. With `in_place` this is x.

        Raises:
            ValueError: Shapes do not fit.
        """
        x, analysis = np.asarray(x), np.asarray(analysis)
        if x.ndim != 4 or analysis.shape != x.shape:
            raise ValueError(
                f"Expected images with four axes and an analysis of the same shape. Received shapes {x.shape} and "
                f"{analysis.shape}."
            )
        images, relevance = self._channels_first(x), self._channels_first(analysis)
        regions, window = self._regions(images)
        relevance, _ = self._regions(self.reduce_function(relevance, axis=1, keepdims=True))
        chosen = self._most_relevant(self.aggregation_function(relevance, axis=(3, 5))[:, 0])
        for sample, row, column in np.argwhere(chosen):
            for region in regions[sample, :, row, :, column, :]:
                region[...] = self.perturbation_function(region.copy())
        if self.value_range is not None:
            np.clip(regions, *self.value_range, out=regions)
        shape = regions.shape
        perturbed = regions.reshape(shape[0], shape[1], shape[2] * shape[3], shape[4] * shape[5])[window]
        perturbed = np.moveaxis(perturbed, 1, -1) if self.data_format == "channels_last" else perturbed
        if not self.in_place:
            return np.ascontiguousarray(perturbed)
        x[...] = perturbed
        return x

    def _channels_first(self, x):
        return np.moveaxis(x, -1, 1) if self.data_format == "channels_last" else x

    def _regions(self, images):
        """Padded images, (batch, channels, rows, region height, columns, region width), and slices without padding."""
        pads, window = [(0, 0), (0, 0)], [slice(None), slice(None)]
        for size, region in zip(images.shape[2:], self.region_shape, strict=True):
            missing = -size % region
            pads.append((missing // 2, missing - missing // 2))
            window.append(slice(missing // 2, missing // 2 + size))
        padded = np.pad(images, pads, self.pad_mode) if any(map(any, pads)) else images.copy()
        (height, width), (h, w) = padded.shape[2:], self.region_shape
        regions = np.ascontiguousarray(padded).reshape(*padded.shape[:2], height // h, h, width // w, w)
        return regions, tuple(window)

    def _most_relevant(self, scores):
        """A mask, (batch, rows, columns), of the regions with the highest scores."""
        flat = scores.reshape(len(scores), -1)
        ranks = np.argsort(np.argsort(-flat, axis=1, kind="stable"), axis=1)
        return (ranks < self.num_perturbed_regions).reshape(scores.shape)


class PerturbationAnalysis:
    """Evaluates a model while more and more of the most relevant regions are perturbed.

    Args:
        analyzer: The analyzer that explains the images.
        model: The compiled Keras model that is evaluated.
        generator: Batches (x, y): a `keras.utils.PyDataset`, a `tf.data.Dataset`, a list or generator of batches, or
            one pair of arrays.
        perturbation: A `Perturbation`.
        steps: Number of steps.
        regions_per_step: Number of regions that each step adds.
        recompute_analysis: Explain the perturbed images anew at each step.
        verbose: Print the steps.

    Raises:
        TypeError: `perturbation` is no `Perturbation`.
        ValueError: There are no batches, or batches are not pairs.

    Example:

        perturbation = Perturbation("zeros", region_shape=(4, 4))
        scores = PerturbationAnalysis(analyzer, model, (x, y), perturbation, steps=10).compute_perturbation_analysis()
    """

    def __init__(
        self,
        analyzer: Analyzer,
        model: Any,
        generator: Iterable[Any],
        perturbation: Perturbation,
        steps: int = 1,
        regions_per_step: int = 1,
        recompute_analysis: bool = False,
        verbose: bool = False,
    ):
        if not isinstance(perturbation, Perturbation):
            raise TypeError(f"perturbation is a revgraph.perturbation.Perturbation. Received: {perturbation!r}.")
        self.analyzer = analyzer
        self.model = model
        self.perturbation = perturbation
        check_count("steps", steps)
        check_count("regions_per_step", regions_per_step)
        self.steps = steps
        self.regions_per_step = regions_per_step
        self.recompute_analysis = recompute_analysis
        self.verbose = verbose
        self.batches = list(_batches(generator))
        if not self.batches:
            raise ValueError("Nothing to perturb: the generator gave no batches.")
        if not recompute_analysis:
            self._analyses = [analyzer.analyze(x) for x, _ in self.batches]

    def compute_on_batch(self, x: ArrayLike, analysis: ArrayLike | None = None, return_analysis: bool = False) -> Any:
        """Perturbs a batch.

        Args:
            x: Images, (batch, height, width, channels), or channels first.
            analysis: Relevance of x, of the same shape. By default it is computed.
            return_analysis: Return a pair of the perturbed images and their relevance.
        """
        analysis = self.analyzer.analyze(x) if analysis is None else analysis
        perturbed = self.perturbation.perturbate_on_batch(x, analysis)
        return (perturbed, analysis) if return_analysis else perturbed

    def evaluate_on_batch(self, x: ArrayLike, y: ArrayLike, analysis: ArrayLike | None = None) -> Any:
        """The model's scores on a perturbed batch, as `model.evaluate` returns them."""
        return self._evaluate([(self.compute_on_batch(x, analysis), y)])

    def compute_perturbation_analysis(self) -> list[Any]:
        """The model's scores before the first step and after each step, as `model.evaluate` returns them."""
        scores, regions = [self._evaluate(self.batches)], self.perturbation.num_perturbed_regions
        try:
            for batches in self._perturbed():
                scores.append(self._evaluate(batches))
                if self.verbose:
                    print(f"Step {len(scores) - 1} of {self.steps}: {scores[-1]}")
        finally:
            self.perturbation.num_perturbed_regions = regions
        return scores

    def _perturbed(self):
        """The perturbed batches of each step."""
        current = [np.array(x) for x, _ in self.batches]
        for step in range(1, self.steps + 1):
            if self.recompute_analysis:
                self.perturbation.num_perturbed_regions = self.regions_per_step
                current = [self.compute_on_batch(x) for x in current]
            else:
                self.perturbation.num_perturbed_regions = step * self.regions_per_step
                images = (np.array(x) for x, _ in self.batches)
                current = [self.compute_on_batch(x, a) for x, a in zip(images, self._analyses, strict=True)]
            yield [(x, y) for x, (_, y) in zip(current, self.batches, strict=True)]

    def _evaluate(self, batches):
        return self.model.evaluate((batch for batch in batches), steps=len(batches), verbose=0)


def _batches(source):
    if isinstance(source, tuple):
        x, y = source
        batches = ((x[i : i + 256], y[i : i + 256]) for i in range(0, len(x), 256))
    elif isinstance(source, keras.utils.PyDataset):
        batches = (source[i] for i in range(len(source)))
    else:
        batches = source
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise ValueError(f"Batches are pairs (x, y). Received {type(batch).__name__}.")
        yield tuple(np.asarray(part) for part in batch)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FlippingCurve(Tabular):
    """The fall of a score while pixels are replaced. It prints as a table.

    Args:
        fractions: The fraction of replaced pixels at each step, (steps + 1,), from 0 to 1.
        scores: The score of each sample at each step, (samples, steps + 1).
    """

    fractions: np.ndarray
    scores: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The curve averaged over samples, (steps + 1,)."""
        return self.scores.mean(axis=0)

    @property
    def area(self) -> np.ndarray:
        """The area under the curve of each sample, (samples,). It is small if the most relevant pixels matter most."""
        widths = np.diff(self.fractions)
        return ((self.scores[:, 1:] + self.scores[:, :-1]) / 2 * widths).sum(axis=1)

    @property
    def aopc(self) -> np.ndarray:
        """The mean drop below the first score over all steps, (samples,).  [Samek et al., 2017]"""
        return (self.scores[:, :1] - self.scores).mean(axis=1)

    def table(self) -> Table:
        """The mean score by the fraction of replaced pixels."""
        rows = list(zip(map(float, self.fractions), map(float, self.mean), strict=True))
        return Table(("replaced", "score"), rows, footer=f"area {self.area.mean():.4g}, AOPC {self.aopc.mean():.4g}")

    def __repr__(self):
        return f"<pixel flipping of {len(self.scores)} samples: area {self.area.mean():.4g}>"


ORDERS = ("most_relevant_first", "least_relevant_first", "random")
"""The orders in which `pixel_flipping` replaces pixels."""


def pixel_flipping(
    model: Any,
    x: ArrayLike,
    relevance: ArrayLike | Analyzer,
    neuron_selection: ArrayLike | None = None,
    *,
    steps: int = 20,
    replacement: ArrayLike | Callable[[np.ndarray], ArrayLike] = 0.0,
    order: str = "most_relevant_first",
    batch_size: int = 32,
    channel_axis: int | None = -1,
    seed: int = 0,
) -> FlippingCurve:
    """Replaces pixels in the order of their relevance and follows the model's output.  [Samek et al., 2017]

    Args:
        model: A Keras model with one input and one output of shape (batch, classes).
        x: Inputs, (samples, ...).
        relevance: Relevance of x, of its shape or without its channel axis, or an analyzer that computes it.
        neuron_selection: The output that is followed: an int, or one int per sample. By default it is the largest
            output of each sample.
        steps: Number of steps from no to all pixels.
        replacement: The new value of pixels: a number, an array that broadcasts against one sample, `"mean"` (over
            the pixels of the sample, per channel), or a function of x that returns an array of x's shape.
        order: `"most_relevant_first"`, `"least_relevant_first"` or `"random"`.
        batch_size: Samples per forward pass.
        channel_axis: The axis whose entries are replaced together, as one pixel. None if every entry is a pixel of its
            own, as it is for samples with one axis.
        seed: Seed of the random order.

    Returns:
        A `FlippingCurve`.

    Raises:
        ValueError: A shape does not fit, or an argument has an illegal value.

    Example:

        curve = pixel_flipping(model, x, analyzer, steps=10)
        print(curve, curve.area)
    """
    x = np.asarray(x)
    if order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(map(repr, ORDERS))}. Received: {order!r}.")
    check_count("steps", steps)
    check_count("batch_size", batch_size)
    check_seed(seed)
    first = _outputs(model, x, batch_size)
    if first.ndim != 2:
        raise ValueError(f"pixel_flipping follows outputs of shape (batch, classes). Received: {first.shape}.")
    index = first.argmax(axis=1) if neuron_selection is None else np.broadcast_to(neuron_selection, len(x))
    if index.dtype.kind not in "iu":
        raise ValueError(f"neuron_selection takes an int, or one per sample. Received: {neuron_selection!r}.")
    index = from_start(index, first.shape[1], neuron_selection)
    if isinstance(relevance, Analyzer):
        relevance = relevance.analyze(x, index, batch_size=batch_size)
    channel_axis = None if x.ndim == 2 else channel_axis
    pixels = _pixels(np.asarray(relevance), x, channel_axis)
    ranks = _ranks(pixels, order, seed)
    filled = _filled(x, replacement, channel_axis)
    scores, count = [first], ranks.shape[1]
    thresholds = np.round(np.linspace(0, count, steps + 1)).astype(int)
    for threshold in thresholds[1:]:
        mask = (ranks < threshold).reshape(pixels.shape)
        mask = mask if channel_axis is None else np.expand_dims(mask, channel_axis)
        flipped = np.where(mask, filled, x).astype(x.dtype)
        scores.append(_outputs(model, flipped, batch_size))
    followed = np.stack([y[np.arange(len(x)), index] for y in scores], axis=1)
    return FlippingCurve(thresholds / count, followed)


def _outputs(model, x, batch_size):
    batches = (x[i : i + batch_size] for i in range(0, len(x), batch_size))
    return np.concatenate([np.asarray(model.predict_on_batch(batch)) for batch in batches])


def _pixels(relevance, x, channel_axis):
    """The relevance of each pixel, (samples, ...)."""
    if relevance.shape == x.shape:
        return relevance if channel_axis is None else relevance.sum(axis=channel_axis)
    without = x.shape if channel_axis is None else np.delete(x.shape, channel_axis)
    if relevance.shape != tuple(without):
        raise ValueError(
            f"relevance must have the shape of x, {x.shape}, or that without its channel axis. Received: "
            f"{relevance.shape}."
        )
    return relevance


def _ranks(pixels, order, seed):
    """The place of each pixel in the order, (samples, pixels), from 0."""
    flat = pixels.reshape(len(pixels), -1)
    if order == "random":
        flat = np.random.default_rng(seed).permuted(np.broadcast_to(np.arange(flat.shape[1]), flat.shape), axis=1)
    sign = 1 if order == "least_relevant_first" else -1
    return np.argsort(np.argsort(sign * flat, axis=1, kind="stable"), axis=1)


def _filled(x, replacement, channel_axis):
    """The replacement of every pixel, of x's shape."""
    if callable(replacement):
        replacement = replacement(x)
    elif isinstance(replacement, str):
        if replacement != "mean":
            raise ValueError(f'replacement is a number, an array, a function or "mean". Received: {replacement!r}.')
        channel = None if channel_axis is None else channel_axis % x.ndim
        replacement = x.mean(axis=tuple(i for i in range(1, x.ndim) if i != channel), keepdims=True)
    try:
        return np.broadcast_to(np.asarray(replacement), x.shape)
    except ValueError:
        raise ValueError(
            f"replacement must broadcast against one sample of shape {x.shape[1:]}. Received shape "
            f"{np.shape(replacement)}."
        ) from None
