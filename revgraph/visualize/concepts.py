"""`plot_references`, `plot_prototypes` and `plot_clusters`: concepts as pictures. Needs matplotlib."""

from collections.abc import Callable
from typing import Any

import numpy as np

from revgraph.concepts.fields import box
from revgraph.concepts.mixtures import Prototypes
from revgraph.concepts.reference_samples import Reference, References, samples_of
from revgraph.concepts.strategies import Clusters
from revgraph.extras import needed
from revgraph.reverse.pictures import Picture
from revgraph.visualize.colormaps import DEFAULT
from revgraph.visualize.heatmaps import displayable, heatmap, reduced

SMOOTH = 3.2 / 224
"""The width of the filter that smooths a heat map before it crops and masks, as a share of the image."""

SMALLEST = 1 / 8
"""No crop is smaller than this share of the image."""

DISTINCT = 10
"""Clusters of larger numbers share the colours of smaller ones."""


def plot_references(
    references: References,
    *,
    crop: float | None = 0.1,
    mask: float | None = 0.2,
    opacity: float = 0.3,
    heatmaps: bool = False,
    pictures: Callable[[Reference], np.ndarray] | None = None,
    cmap_type: Any = DEFAULT,
) -> Picture:
    """Draws reference samples: a row for each channel, a column for each sample, cropped and masked by relevance.

    Args:
        references: What `revgraph.concepts.references` returns.
        crop: Images are cropped to where the smoothed heat map exceeds this share of its maximum, inside of the
            receptive field. None shows them whole.
        mask: Pixels where the smoothed heat map is below this share of its maximum are darkened. None darkens none.
        opacity: The brightness that darkened pixels keep.
        heatmaps: Add a row with the heat maps below each row.
        pictures: Function from a `Reference` to the image to show, (height, width, channels), where the model takes
            images in a form that does not look like one. By default the sample is stretched to what can be shown.
        cmap_type: Colour map of heat maps; see `heatmap`.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        TypeError: `references` is something else.
        ValueError: Samples are no images, or a share is not between 0 and 1.

    Example:

        revgraph.visualize.plot_references(revgraph.concepts.references(found, "conv3", [3, 12], analyzer, x))
    """
    if not isinstance(references, References):
        raise TypeError(f"Expected what revgraph.concepts.references returns. Received: {type(references).__name__}.")
    for name, share in (("crop", crop), ("mask", mask), ("opacity", opacity)):
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{name} is a number from 0 to 1. Received: {share!r}.")
    columns = max(map(len, references.channels.values()))
    each = 2 if heatmaps else 1
    rows = len(references.channels) * each
    picture = Picture(1.25 * columns + 0.6, 1.35 * rows + 0.5)
    grid = picture.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for row, (channel, found) in enumerate(references.channels.items()):
        grid[each * row, 0].set_ylabel(f"channel {channel}", fontsize=9)
        for column, one in enumerate(found):
            image = _image(one, pictures)
            shown, heat = _cropped(one, image, crop, mask, opacity)
            axes = grid[each * row, column]
            axes.imshow(np.clip(shown, 0, 1), interpolation="nearest")
            axes.set_title(f"{one.sample}: {one.value:.2g}", fontsize=7, pad=2)
            if heatmaps:
                colours = heatmap(heat[None], cmap_type, reduce_axis=None)[0]
                grid[each * row + 1, column].imshow(colours, interpolation="nearest")
    picture.suptitle(f"{references.layer}: samples with the largest {references.by} of each channel", fontsize=10)
    return picture


def _image(reference, pictures):
    """The image of a reference as RGB between 0 and 1, (height, width, 3)."""
    if isinstance(reference.x, dict | list | tuple) or np.ndim(reference.x) != 3:
        shape = "several inputs" if not isinstance(reference.x, np.ndarray) else f"shape {reference.x.shape}"
        raise ValueError(
            f"References are drawn for images (height, width, channels), and these samples have {shape}. The samples, "
            f"their relevance and receptive fields are in references[channel]."
        )
    image = reference.x if pictures is None else np.asarray(pictures(reference))
    if image.shape[:2] != reference.x.shape[:2]:
        raise ValueError(
            f"pictures gives an image of shape {image.shape} for a sample of shape {reference.x.shape}: height and "
            f"width must agree."
        )
    return displayable(image[None])[0]


def _cropped(reference, image, crop, mask, opacity):
    """The image as it is shown, and the heat map, both cropped."""
    heat = reduced(reference.relevance[None])[0]
    if crop is None and mask is None:
        return image, heat
    positive = np.maximum(heat, 0) if heat.max() > 0 else np.abs(heat)
    smooth = needed("scipy.ndimage", "plot_references").gaussian_filter(positive, SMOOTH * max(heat.shape))
    inside = np.zeros(heat.shape, bool)
    inside[reference.field[:2]] = True
    smooth = np.where(inside, smooth, 0)
    smooth = smooth / (smooth.max() or 1)
    if mask is not None:
        image = image * np.where(smooth > mask, 1, opacity)[..., None]
    where = (slice(None), slice(None))
    if crop is not None:
        found = smooth > crop
        where = _square(box(found if found.any() else inside), heat.shape)
    return image[where], heat[where]


def _square(found, shape):
    """A square around a box, inside of an image as far as there is room."""
    side = max(*(s.stop - s.start for s in found), int(np.ceil(SMALLEST * max(shape))))
    slices = []
    for s, size in zip(found, shape, strict=True):
        length = min(side, size)
        start = int(np.clip((s.start + s.stop - length) // 2, 0, size - length))
        slices.append(slice(start, start + length))
    return tuple(slices)


def plot_prototypes(
    prototypes: Prototypes,
    label: int,
    dataset: Any = None,
    *,
    analyzer: Any = None,
    samples: int = 4,
    concepts: int = 3,
    cmap_type: Any = DEFAULT,
) -> Picture:
    """Draws the prototypes of a class: a column for each, with its nearest samples, and the relevance of its channels.

    Args:
        prototypes: What `revgraph.concepts.prototypes` returns.
        label: The class.
        dataset: The dataset that was collected, for pictures of samples. Without it there are none.
        analyzer: The analyzer that was used. It goes with `dataset`.
        samples: How many samples are shown of each prototype.
        concepts: How many channels are taken of each prototype. The union of all is shown.
        cmap_type: Colour map of relevance; see `heatmap`.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        KeyError: There are no prototypes of that class.
        TypeError: `prototypes` is something else.
        ValueError: There is a dataset and no analyzer, or the dataset is another one.

    Example:

        revgraph.visualize.plot_prototypes(ways, 3, x, analyzer=analyzer)
    """
    if not isinstance(prototypes, Prototypes):
        raise TypeError(f"Expected what revgraph.concepts.prototypes returns. Received: {type(prototypes).__name__}.")
    if not isinstance(label, int | np.integer):
        raise TypeError(f"A picture has the prototypes of one class, an int. Received: {label!r}.")
    parts = prototypes[label]
    if dataset is not None and analyzer is None:
        raise ValueError(
            "Pictures of samples need the analyzer, too: pass analyzer=, the one with which they were collected."
        )
    chosen = list(dict.fromkeys(int(c) for part in parts for c in part.top(concepts)))
    means = np.stack([part.mean for part in parts])
    chosen.sort(key=lambda c: -np.abs(means[:, c]).max())
    shown = samples if dataset is not None else 0
    height = 1.15 * shown + 0.28 * len(chosen)
    picture = Picture(1.2 * len(parts) + 1.1, height + 1.1)
    ratios = [1.15] * shown + [0.28 * len(chosen)]
    grid = picture.add_gridspec(shown + 1, len(parts), height_ratios=ratios)
    if shown:
        wanted = {int(i) for part in parts for i in part.samples[:shown]}
        found = samples_of(prototypes.collection, dataset, analyzer.graph, wanted)
        some = next(iter(found.values()))[0]
        if np.ndim(some) != 3:
            raise ValueError(
                f"Samples are drawn for images (height, width, channels), and these have shape {np.shape(some)}. Leave "
                f"the dataset out for a picture of the channels alone."
            )
        for column, part in enumerate(parts):
            for row, index in enumerate(part.samples[:shown]):
                axes = picture.add_subplot(grid[row, column])
                axes.set(xticks=[], yticks=[])
                axes.imshow(displayable(found[int(index)][0][None])[0], interpolation="nearest")
                axes.set_title(f"{part.share:.0%}" if row == 0 else "", fontsize=9)
                axes.set_xlabel(str(index), fontsize=6, labelpad=1)
    axes = picture.add_subplot(grid[shown, :])
    table = means[:, chosen].T
    colours = heatmap(table[None], cmap_type, reduce_axis=None)[0]
    axes.imshow(colours, aspect="auto")
    axes.set_yticks(range(len(chosen)), [f"channel {c}" for c in chosen], fontsize=7)
    names = [f"{number}" if shown else f"{number}\n{part.share:.0%}" for number, part in enumerate(parts)]
    axes.set_xticks(range(len(parts)), names, fontsize=7)
    axes.set_xlabel("prototype", fontsize=8)
    for (i, j), value in np.ndenumerate(table):
        dark = np.dot(colours[i, j, :3], [0.299, 0.587, 0.114]) < 0.5
        axes.text(j, i, f"{value:+.2g}", ha="center", va="center", fontsize=6, color="w" if dark else "k")
    unit = "share of |relevance|" if prototypes.shares else "relevance"
    picture.suptitle(f"Prototypes of class {label}: {unit} of channels of {prototypes.layer}", fontsize=10)
    return picture


def plot_clusters(
    clusters: Clusters, label: int | None = None, clustering: str | None = None, cmap_type: Any = DEFAULT
) -> Picture:
    """Draws the strategies of a class: eigenvalues, samples in the plane, and the mean heat map of each cluster.

    Args:
        clusters: What `revgraph.concepts.clusters` returns.
        label: The class; by default the only one, or the first.
        clustering: The name of a clustering; by default `Strategies.usual`.
        cmap_type: Colour map of heat maps; see `heatmap`.

    Returns:
        A `Picture`, a matplotlib figure.

    Raises:
        KeyError: There is no such class or clustering.
        TypeError: `clusters` is something else.

    Example:

        revgraph.visualize.plot_clusters(revgraph.concepts.clusters("relevance.h5"), 3)
    """
    if not isinstance(clusters, Clusters):
        raise TypeError(f"Expected what revgraph.concepts.clusters returns. Received: {type(clusters).__name__}.")
    label = next(iter(clusters.strategies)) if label is None and None not in clusters.strategies else label
    found = clusters[label]
    clustering = clustering or found.usual
    numbers = sorted({int(c) for c in found.clusters.get(clustering, ())} - {-1}) or [0]
    sizes = [len(found.members(clustering, number)) for number in numbers]
    maps = np.stack([clusters.mean_map(label, clustering, number) for number in numbers])
    picture = Picture(max(7.5, 1.3 * len(numbers) + 0.5), 5.2)
    parts: Any = picture.subfigures(2, 1, height_ratios=[3, 2])
    above, below = parts
    left, right = above.subplots(1, 2)
    ascending = np.sort(found.eigenvalues)
    left.plot(np.arange(1, len(ascending) + 1), ascending, "o-", color="0.3", markersize=3, linewidth=1)
    left.axvline(found.suggested + 0.5, color="tab:red", linewidth=1, linestyle="--")
    many = f"{found.suggested} {'strategy' if found.suggested == 1 else 'strategies'}"
    left.set_title(f"largest gap between eigenvalues: {many}", fontsize=9)
    left.set_xlabel("eigenvalues, in ascending order", fontsize=8)
    left.tick_params(labelsize=7)
    plane = found.embedding[:, -2:] if found.picture is None else found.picture
    for number in [-1, *numbers]:
        inside = found.clusters[clustering] == number
        colour = "0.8" if number < 0 else f"C{number % DISTINCT}"
        right.scatter(*plane[inside].T, s=9, color=colour, linewidths=0)
    right.set(xticks=[], yticks=[])
    right.set_title(f"{len(found.rows)} samples, {clustering}", fontsize=9)
    grid = below.subplots(1, len(numbers), squeeze=False)[0]
    maps = maps if maps.ndim == 3 else maps.reshape(len(maps), 1, -1)
    for axes, number, size, colours in zip(
        grid, numbers, sizes, heatmap(maps, cmap_type, reduce_axis=None), strict=True
    ):
        axes.imshow(colours, interpolation="nearest", aspect="auto" if maps.shape[1] == 1 else "equal")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(f"C{number % DISTINCT}")
        axes.spines[:].set_linewidth(2)
        axes.set_title(f"cluster {number}: {size}", fontsize=8)
    what = "all samples" if label is None else f"class {label}"
    picture.suptitle(f"Strategies for {what}, with the mean heat map of each cluster", fontsize=10)
    return picture
