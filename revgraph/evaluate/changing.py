"""How metrics change samples: what takes the place of a unit, and which units are changed together."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from revgraph.evaluate.explained import Explained
from revgraph.extras import needed
from revgraph.graph.arguments import check_count

Baseline = float | str | ArrayLike | Callable[[np.ndarray], ArrayLike] | Mapping[str, Any]
"""What takes the place of a unit; see `changer`."""

Regions = int | tuple[int, ...] | str | np.ndarray | Mapping[str, Any] | None
"""Which units are changed together; see `regions_of`."""

BASELINES = ("zero", "mean", "blur", "inpaint", "mask")


def changer(explained: Explained, baseline: Baseline, seed: int = 0) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A function that puts a baseline in the place of units.

    Args:
        explained: The samples.
        baseline: A number; an array that broadcasts against a sample; a function of the samples that returns an array
            of their shape; or a name: `"zero"`, `"mean"` (of the channel, over the sample), `"blur"` (a Gaussian of a
            tenth of the size), or `"inpaint"` (from the neighbours, as in ROAD [Rong et al., 2022]). For samples of ids
            it is an id; `"zero"` is the id that stands for padding, which is 0 in Keras, and `"mask"` the tokenizer's
            id of a hidden token. Several inputs take a dict of these by their names, where those without an entry get
            zero.
        seed: Seed of the noise of `"inpaint"`.

    Returns:
        A function of a mask, true at the units that are changed, (samples, units). It returns the changed samples of
        each of the parts. Padding stays as it is.

    Raises:
        ValueError: The baseline is unknown, or does not fit the samples.

    Reference:
        Rong et al.: *A Consistent and Efficient Evaluation Strategy for Attribution Methods.* ICML, 2022.
    """
    given = [b if b is not None else "zero" for b in explained.by_part(baseline, "baseline")]
    changers = [_changer(part, each, seed) for part, each in zip(explained.parts, given, strict=True)]

    def changed(mask):
        masks = explained.split(mask & explained.present)
        return [change(each) for change, each in zip(changers, masks, strict=True)]

    return changed


def _changer(part, baseline, seed):
    x = part.x
    if isinstance(baseline, str) and baseline == "inpaint":
        _check_numbers(part, baseline)
        return lambda mask: _inpainted(part, mask.reshape(part.shape), seed)
    filled = _filled(part, baseline)
    return lambda mask: np.where(part.spread(mask), filled, x).astype(x.dtype)


def _check_numbers(part, baseline):
    if part.x.dtype.kind not in "f" or part.ids:
        what = "ids" if part.ids else part.x.dtype
        raise ValueError(
            f"baseline={baseline!r} is for samples of numbers, and the input {part.name!r} holds {what}. Pass the id "
            f"that stands for no token, such as baseline=0; with several inputs a dict of baselines by their names."
        )


def _filled(part, baseline):
    x = part.x
    if callable(baseline):
        values = baseline(x)
    elif isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(
                f"baseline is a number, an array, a function, or one of {', '.join(map(repr, BASELINES))}. Received: "
                f"{baseline!r}."
            )
        if baseline == "zero":
            return np.full_like(x, part.zero)
        if baseline == "mask":
            if part.mask is None:
                raise ValueError(
                    f"baseline='mask' is for tokens, and no tokenizer says which id hides one of {part.name!r}. Pass "
                    f"the id, such as baseline=0."
                )
            return np.full_like(x, part.mask)
        _check_numbers(part, baseline)
        inner = tuple(axis for axis in range(1, x.ndim) if axis != part.axis)
        values = x.mean(axis=inner, keepdims=True) if baseline == "mean" else _blurred(x, inner)
    else:
        values = baseline
    try:
        return np.broadcast_to(np.asarray(values), x.shape)
    except ValueError:
        raise ValueError(
            f"baseline must broadcast against one sample of {part.name!r} of shape {x.shape[1:]}. Received shape "
            f"{np.shape(values)}."
        ) from None


def _blurred(x, axes):
    deviations = [x.shape[axis] / 10 if axis in axes else 0 for axis in range(x.ndim)]
    return needed("scipy.ndimage", 'baseline="blur"').gaussian_filter(x, sigma=deviations)


NOISE = 0.01
"""Standard deviation of the noise of `"inpaint"`, as a share of that of the samples. It hides where the mask is."""


def _inpainted(part, mask, seed):
    """Samples whose masked units are weighted means of their neighbours, which may be masked themselves.

    A neighbour along k axes has weight 2^-k. So in pictures those at an edge count twice those at a corner.
    """
    channels_last = part.x if part.axis is None else np.moveaxis(part.x, part.axis, -1)
    values = channels_last.reshape(*mask.shape, -1).astype("float64")
    noise = np.random.default_rng(seed).normal(0, NOISE * values.std() + 1e-12, values.shape)
    for sample, masked in zip(values, mask, strict=True):
        if masked.any() and not masked.all():
            sample[masked] = _means_of_neighbours(sample, masked)
        elif masked.all():
            sample[...] = sample.mean(axis=tuple(range(masked.ndim)))
    values = np.where(mask[..., None], values + noise, values).reshape(channels_last.shape)
    values = values if part.axis is None else np.moveaxis(values, -1, part.axis)
    return values.astype(part.x.dtype)


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
            (SLIC, needs scikit-image); or an array of region numbers, of the shape of the samples without channels, or
            for all samples alike. Several inputs take a dict of these by their names.

    Returns:
        Ints, (samples, units). The numbers of each sample begin at 0, without a gap. Regions of one input come behind
        those of another.

    Raises:
        ValueError: The regions do not fit the samples.
    """
    found, first = [], np.zeros((len(explained), 1), int)
    for part, each in zip(explained.parts, explained.by_part(regions, "regions"), strict=True):
        numbers = _regions(part, each).reshape(len(explained), part.count)
        found.append(first + numbers)
        first = found[-1].max(axis=1, keepdims=True, initial=-1) + 1
    return np.concatenate(found, axis=1)


def _regions(part, regions):
    shape = part.shape
    if regions is None:
        return np.broadcast_to(np.arange(part.count).reshape(shape[1:]), shape)
    if isinstance(regions, str):
        return _superpixels(part, regions)
    if isinstance(regions, np.ndarray):
        return _given(regions, shape)
    if part.ids:
        raise ValueError(
            f"regions={regions!r} groups neighbouring numbers, and {part.name!r} holds ids, whose units are tokens. "
            f"Leave regions out, or pass an array with the number of the word that each token belongs to."
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


def _superpixels(part, regions):
    if regions != "superpixels":
        raise ValueError(f"regions is None, sizes, an array, or 'superpixels'. Received: {regions!r}.")
    if len(part.shape) != 3 or part.x.dtype.kind != "f":
        raise ValueError(
            f"Superpixels are for pictures of numbers, (samples, height, width, channels), or without channels under "
            f"channel_axis=None. Received {part.x.dtype} of shape {part.x.shape}."
        )
    slic = needed("skimage.segmentation", 'regions="superpixels"').slic
    pictures = part.x if part.axis is None else np.moveaxis(part.x, part.axis, -1)
    channels = None if part.axis is None else -1
    return np.stack([slic(picture, start_label=0, channel_axis=channels, n_segments=50) for picture in pictures])


def places(explained: Explained, regions: np.ndarray, largest_first: bool = True) -> np.ndarray:
    """When each unit is changed, if regions are changed in the order of the sum of their relevance.

    Args:
        explained: The samples.
        regions: The numbers of regions, from `regions_of`.
        largest_first: The order.

    Returns:
        Numbers between 0 and 1, (samples, units). A unit is among the first share s if its number is below s. Padding
        has infinity.
    """
    result = np.full(regions.shape, np.inf)
    for place, value, region, here in zip(result, explained.relevance, regions, explained.present, strict=True):
        _, own = np.unique(region[here], return_inverse=True)
        sums = np.bincount(own, weights=value[here])
        order = np.argsort(-sums if largest_first else sums, kind="stable")
        rank = np.empty(len(sums))
        rank[order] = (np.arange(len(sums)) + 0.5) / len(sums)
        place[here] = rank[own]
    return result
