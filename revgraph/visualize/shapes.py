"""Shapes of samples: which of them may be one sample whose batch axis is missing."""

LARGE = 32
"""An image may be of any proportion if both of its sides have so many pixels."""


def is_like_an_image(shape: tuple[int, ...]) -> bool:
    """Whether an array has the shape of one image (height, width, channels)."""
    if len(shape) != 3:
        return False
    short, long = sorted(shape[:2])
    return shape[2] <= 4 and short >= 4 and (long <= 2 * short or short >= LARGE)


def is_like_a_series(shape: tuple[int, ...]) -> bool:
    """Whether an array has the shape of one time series (time, channels)."""
    return len(shape) == 2 and shape[0] >= 16 and shape[1] <= 3


def check_batch(shape: tuple[int, ...], kind: str | None, has_batch: bool) -> None:
    """Checks that an array is a batch of samples that can be drawn.

    The shape (8, 8, 1) may be one image or eight time series of eight steps. Such arrays are refused, because a picture
    of the wrong kind looks like an answer.

    Args:
        shape: The shape of the array.
        kind: `"images"`, `"series"` or `"features"`, or None if that is left to the number of axes.
        has_batch: Whether the first axis is known to be the batch.

    Raises:
        ValueError: The array has another number of axes, or may be one sample without a batch axis.
    """
    ranks = {"images": (4, 3), "series": (3, 2), "features": (2,), None: (5, 4, 3, 2)}[kind]
    if len(shape) not in ranks:
        raise ValueError(
            f"{_TAKEN[kind]}. Received shape {shape}. One sample needs a batch axis too, x[None]; for tokens there is "
            f"text."
        )
    if not has_batch and is_like_an_image(shape) and kind in ("images", None):
        series = f', or kind="series" for {_series(shape)}' if kind is None else ""
        raise ValueError(
            f"x of shape {shape} looks like one image, and a batch axis is missing. Pass x[None] and relevance[None] "
            f"for one image{series}."
        )
    if not has_batch and is_like_a_series(shape) and kind in ("series", None):
        features = f', or kind="features" for {shape[0]} samples of {shape[1]} features' if kind is None else ""
        raise ValueError(
            f"x of shape {shape} looks like one time series, and a batch axis is missing. Pass x[None] and "
            f"relevance[None] for one series{features}."
        )
    if not has_batch and kind is None and len(shape) == 2 and shape[0] == shape[1] >= 8:
        raise ValueError(
            f"x of shape {shape} looks like one gray image without axes for the batch and the channels. Pass "
            f'x[None, ..., None] and relevance[None] for one image, or kind="features" for {shape[0]} samples of '
            f"{shape[1]} features."
        )
    if kind is None and len(shape) == 3 and shape[1] == shape[2] >= 8:
        raise ValueError(
            f"x of shape {shape} looks like gray images without a channel axis, or like one image with its channels "
            f'first. Pass kind="images" for {shape[0]} gray images, x[None] with reduce_axis=1 for one image, or '
            f'kind="series" for {_series(shape)}.'
        )


_TAKEN = {
    None: "x is a batch of volumes (5 axes), images (4), time series (3) or features (2)",
    "images": 'kind="images" takes a batch of images, (batch, height, width, channels) or (batch, height, width)',
    "series": 'kind="series" takes a batch of time series, (batch, time, channels) or (batch, time)',
    "features": 'kind="features" takes a batch of features, (batch, features)',
}


def _series(shape):
    channels = f" and {shape[2]} channels" if shape[2] > 1 else ""
    return f"{shape[0]} time series of {shape[1]} steps{channels}"
