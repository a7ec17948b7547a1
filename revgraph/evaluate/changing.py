"""How metrics change samples: what takes the place of a unit, and which units are changed together."""

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from revgraph.evaluate.explained import Explained
from revgraph.extras import needed
from revgraph.graph.arguments import check_count

Baseline = float | str | ArrayLike | Callable[[np.ndarray], ArrayLike]
"""What takes the place of a unit; see `changed`."""

Regions = int | tuple[int, ...] | str | np.ndarray | None
"""Which units are changed together; see `regions_of`."""

BASELINES = ("zero", "mean", "blur", "inpaint")


def changer(explained: Explained, baseline: Baseline, seed: int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """A function that puts a baseline in the place of units.

    Args:
        explained: The samples.
        baseline: A number; an array that broadcasts against a sample; a function of the samples that returns an array
            of their shape; or a name: `"zero"`, `"mean"` (of the channel, over the sample), `"blur"` (a Gaussian of a
            tenth of the size), or `"inpaint"` (from the neighbours, as in ROAD [Rong et al., 2022]). For samples of ids
            it is an id; `"zero"` is the id 0, which stands for padding in Keras.
        seed: Seed of the noise of `"inpaint"`.

    Returns:
        A function of a mask, true at the units that are changed, of the shape `explained.unit_shape`. It returns the
        changed samples.

    Raises:
        ValueError: The baseline is unknown, or does not fit the samples.

    Reference:
        Rong et al.: *A Consistent and Efficient Evaluation Strategy for Attribution Methods.* ICML, 2022.
    """
    x = explained.x
    if isinstance(baseline, str) and baseline == "inpaint":
        _check_numbers(x, baseline)
        return lambda mask: _inpainted(explained, mask, seed)
    filled = _filled(explained, baseline)
    return lambda mask: np.where(explained.spread(mask), filled, x).astype(x.dtype)


def _check_numbers(x, baseline):
    if x.dtype.kind not in "f":
        raise ValueError(
            f"baseline={baseline!r} is for samples of numbers, and x holds {x.dtype}. Pass the id that stands for no "
            f"token, such as baseline=0."
        )


def _filled(explained, baseline):
    x = explained.x
    if callable(baseline):
        values = baseline(x)
    elif isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(
                f"baseline is a number, an array, a function, or one of {', '.join(map(repr, BASELINES))}. Received: "
                f"{baseline!r}."
            )
        if baseline == "zero":
            return np.zeros_like(x)
        _check_numbers(x, baseline)
        inner = tuple(axis for axis in range(1, x.ndim) if axis != explained.channel_axis)
        values = x.mean(axis=inner, keepdims=True) if baseline == "mean" else _blurred(x, inner)
    else:
        values = baseline
    try:
        return np.broadcast_to(np.asarray(values), x.shape)
    except ValueError:
        raise ValueError(
            f"baseline must broadcast against one sample of shape {x.shape[1:]}. Received shape {np.shape(values)}."
        ) from None


def _blurred(x, axes):
    deviations = [x.shape[axis] / 10 if axis in axes else 0 for axis in range(x.ndim)]
    return needed("scipy.ndimage", 'baseline="blur"').gaussian_filter(x, sigma=deviations)


NOISE = 0.01
"""Standard deviation of the noise of `"inpaint"`, as a share of that of the samples. It hides where the mask is."""


def _inpainted(explained, mask, seed):
    """Samples whose masked units are weighted means of their neighbours, which may be masked themselves.

    A neighbour along k axes has weight 2^-k. So in pictures those at an edge count twice those at a corner.
    """
    channels_last = (
        explained.x if explained.channel_axis is None else np.moveaxis(explained.x, explained.channel_axis, -1)
    )
    values = channels_last.reshape(*mask.shape, -1).astype("float64")
    noise = np.random.default_rng(seed).normal(0, NOISE * values.std() + 1e-12, values.shape)
    for sample, masked in zip(values, mask, strict=True):
        if masked.any() and not masked.all():
            sample[masked] = _means_of_neighbours(sample, masked)
        elif masked.all():
            sample[...] = sample.mean(axis=tuple(range(masked.ndim)))
    values = np.where(mask[..., None], values + noise, values).reshape(channels_last.shape)
    values = values if explained.channel_axis is None else np.moveaxis(values, -1, explained.channel_axis)
    return values.astype(explained.x.dtype)


def _means_of_neighbours(sample, masked):
    """The values of masked units, (units, channels), each the weighted mean of its neighbours."""
    sparse, linalg = (needed(f"scipy.{name}", 'baseline="inpaint"') for name in ("sparse", "sparse.linalg"))
    count, places = int(masked.sum()), np.argwhere(masked)
    number = np.full(masked.shape, -1)
    number[masked] = np.arange(count)
    rows, columns, entries = [np.arange(count)], [np.arange(count)], [np.zeros(count)]
    known = np.zeros((count, sample.shape[-1]))
    for step in itertools.product((-1, 0, 1), repeat=masked.ndim):
        if not any(step):
            continue
        near = places + step
        inside = ((near >= 0) & (near < masked.shape)).all(axis=1)
        weight, there = 0.5 ** np.count_nonzero(step), tuple(near[inside].T)
        unknown = number[there]
        own = np.flatnonzero(inside)
        entries[0][own] += weight
        rows.append(own[unknown >= 0])
        columns.append(unknown[unknown >= 0])
        entries.append(np.full(len(rows[-1]), -weight))
        known[own[unknown < 0]] += weight * sample[tuple(part[unknown < 0] for part in there)]
    system = sparse.coo_array(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), (count, count)
    )
    return linalg.spsolve(system.tocsc(), known).reshape(known.shape)


def regions_of(explained: Explained, regions: Regions) -> np.ndarray:
    """Numbers of the regions of units that are changed together.

    Args:
        explained: The samples.
        regions: None for single units; the size of a region along each axis, an int or one per axis; `"superpixels"`
            (SLIC, needs scikit-image); or an array of region numbers, of `explained.unit_shape` or for all samples
            alike.

    Returns:
        An int array of `explained.unit_shape`. The numbers of each sample begin at 0, without a gap.

    Raises:
        ValueError: The regions do not fit the samples.
    """
    shape = explained.unit_shape
    if regions is None:
        return np.broadcast_to(np.arange(np.prod(shape[1:], dtype=int)).reshape(shape[1:]), shape)
    if isinstance(regions, str):
        return _superpixels(explained, regions)
    if isinstance(regions, np.ndarray):
        return _given(regions, shape)
    if explained.x.dtype.kind in "iu":
        raise ValueError(
            f"regions={regions!r} groups neighbouring numbers, and x holds ids, whose units are tokens. Leave regions "
            f"out, or pass an array with the number of the word that each token belongs to."
        )
    sizes = (regions,) * (len(shape) - 1) if isinstance(regions, int) else tuple(regions)
    for size in sizes:
        check_count("regions", size)
    if len(sizes) != len(shape) - 1:
        raise ValueError(f"regions has a size for each of the axes {shape[1:]}. Received: {regions!r}.")
    blocks = [np.arange(n) // size for n, size in zip(shape[1:], sizes, strict=True)]
    grid = np.ravel_multi_index(np.meshgrid(*blocks, indexing="ij"), [int(b[-1]) + 1 for b in blocks])
    return np.broadcast_to(grid, shape)


def _given(regions, shape):
    if regions.dtype.kind not in "iu" or regions.shape not in (shape, shape[1:]):
        raise ValueError(
            f"regions is an array of ints of shape {shape} or {shape[1:]}. Received: {regions.dtype}, shape "
            f"{regions.shape}."
        )
    return np.stack(
        [np.unique(each, return_inverse=True)[1].reshape(each.shape) for each in np.broadcast_to(regions, shape)]
    )


def _superpixels(explained, regions):
    if regions != "superpixels":
        raise ValueError(f"regions is None, sizes, an array, or 'superpixels'. Received: {regions!r}.")
    x = explained.x
    if x.ndim != 4 or x.dtype.kind != "f" or explained.channel_axis is None:
        raise ValueError(f"Superpixels are for pictures, (samples, height, width, channels). Received shape {x.shape}.")
    slic = needed("skimage.segmentation", 'regions="superpixels"').slic
    pictures = np.moveaxis(x, explained.channel_axis, -1)
    return np.stack([slic(picture, start_label=0, channel_axis=-1, n_segments=50) for picture in pictures])


def places(explained: Explained, values: np.ndarray, regions: np.ndarray, largest_first: bool = True) -> np.ndarray:
    """When each unit is changed, if regions are changed in the order of the sum of their values.

    Args:
        explained: The samples.
        values: A value of each unit.
        regions: The numbers of regions, from `regions_of`.
        largest_first: The order.

    Returns:
        Numbers between 0 and 1 of `explained.unit_shape`. A unit is among the first share s if its number is below s.
    """
    result = np.empty(explained.unit_shape)
    for place, value, region in zip(result, values, regions, strict=True):
        sums = np.bincount(region.ravel(), weights=value.ravel())
        order = np.argsort(-sums if largest_first else sums, kind="stable")
        rank = np.empty(len(sums))
        rank[order] = (np.arange(len(sums)) + 0.5) / len(sums)
        place[...] = rank[region]
    return result
