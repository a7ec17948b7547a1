"""Problems of pictures."""

import functools

import numpy as np

from revgraph.evaluate.problems import models
from revgraph.evaluate.problems.problem import Problem
from revgraph.graph.arguments import check_count, check_number, check_seed

DIFFICULTIES = ("linear", "multiplicative", "moved", "xor")
"""The difficulties of `tetrominoes`, from easy to hard."""

BACKGROUNDS = ("white", "correlated")
"""The backgrounds of `tetrominoes`."""

STRENGTHS = {
    "white": {"linear": 0.18, "multiplicative": 0.7, "moved": 0.65, "xor": 0.35},
    "correlated": {"linear": 0.0125, "multiplicative": 0.1, "moved": 0.2, "xor": 0.15},
}
"""The share of the shapes by background and difficulty, as in the paper."""

_T = np.array([[1, 0], [1, 1], [1, 0]], bool)
_L = np.array([[1, 0], [1, 0], [1, 1]], bool)
_PLACES = ((slice(1, 4), slice(1, 3)), (slice(4, 7), slice(5, 7)))
_SIZE = 8
_LARGEST = 5
"""The largest noise, in standard deviations. One pixel in two million has more, and is cut off."""


def tetrominoes(
    samples: int,
    difficulty: str = "linear",
    background: str = "white",
    strength: float | None = None,
    seed: int | None = 0,
) -> Problem:
    """Pictures of 8 x 8 pixels of noise with a T or an L of four blocks in them.  [Clark et al., 2024]

    * `"linear"`: the T is added at the upper left, or the L at the lower right;
    * `"multiplicative"`: the noise is weaker in the T, or in the L;
    * `"moved"`: the T or the L is added anywhere, and turned in any way;
    * `"xor"`: both are added where they are in `"linear"`, each with a sign. The class says whether the signs agree.

    A picture is a S / |S| + (1 - a) N / |N| for shapes S, noise N and the strength a, or (1 - a S) N under
    `"multiplicative"`. |N| is the norm that noise has on average.

    Where a shape is missing says as much as where one is. So in `"linear"` and `"multiplicative"` the pixels of both
    shapes decide.

    Args:
        samples: How many pictures.
        difficulty: One of those above.
        background: `"white"` (independent pixels), or `"correlated"` (noise behind a Gaussian filter of a deviation of
            3 pixels).
        strength: The share of the shapes, from 0 to 1; the rest is noise. By default it is that of the paper, at which
            the reference model solves at least 80 %.
        seed: Seed of the pictures. Another seed gives other pictures, for testing.

    Returns:
        A `Problem`: x are pictures (samples, 8, 8, 1), float32, between -1 and 1; y is 0 or 1; the pixels that decide
        are true.

    Raises:
        ValueError: An argument has an illegal value.

    Example:

        train, test = problems.tetrominoes(4000, "xor"), problems.tetrominoes(200, "xor", seed=1)

    Reference:
        Clark, Wilming and Haufe: *XAI-TRIS: Non-linear Image Benchmarks to Quantify False Positive Post-hoc Attribution
        of Feature Importance.* Machine Learning 113, 2024.
    """
    check_count("samples", samples)
    check_seed(seed)
    if difficulty not in DIFFICULTIES or background not in BACKGROUNDS:
        raise ValueError(
            f"difficulty is one of {', '.join(map(repr, DIFFICULTIES))}, and background one of "
            f"{', '.join(map(repr, BACKGROUNDS))}. Received: {difficulty!r}, {background!r}."
        )
    strength = STRENGTHS[background][difficulty] if strength is None else strength
    check_number("strength", strength, least=0)
    if strength > 1:
        raise ValueError(f"strength is a share from 0 to 1. Received: {strength!r}.")
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, samples)
    noise = random.normal(size=(samples, _SIZE, _SIZE))
    noise = _smoothed(noise) if background == "correlated" else noise
    shapes = np.zeros((samples, _SIZE, _SIZE))
    for picture, label in zip(shapes, y, strict=True):
        _draw(picture, label, difficulty, random)
    if difficulty == "multiplicative":
        x, largest = (1 - strength * shapes) * noise, float(_LARGEST)
    else:
        shape = strength / np.sqrt(np.count_nonzero(shapes[0]))
        x = shape * shapes + (1 - strength) / _SIZE * noise
        largest = shape + (1 - strength) / _SIZE * _LARGEST
    fixed = difficulty in ("linear", "multiplicative")
    truth = np.broadcast_to((shapes != 0).any(axis=0), shapes.shape).copy() if fixed else shapes != 0
    model = models.convolutional if difficulty == "moved" else models.dense
    reference = functools.partial(model, (_SIZE, _SIZE, 1), 2)
    x = np.clip(x / largest, -1, 1)[..., None].astype("float32")
    return Problem(x, y, truth, ("T", "L"), reference=reference, epochs=15)


def _draw(picture, label, difficulty, random):
    """Draws the shapes of a picture: 1 or -1 where they are."""
    if difficulty == "xor":
        first = random.choice([-1, 1])
        picture[_PLACES[0]][_T] = first
        picture[_PLACES[1]][_L] = first * (1 if label == 0 else -1)
    elif difficulty == "moved":
        shape = np.rot90((_T, _L)[label], random.integers(4))
        row, column = (random.integers(0, _SIZE - n + 1) for n in shape.shape)
        picture[row : row + shape.shape[0], column : column + shape.shape[1]][shape] = 1
    else:
        picture[_PLACES[label]][(_T, _L)[label]] = 1


def _smoothed(noise):
    """Noise of a mean square of one whose neighbouring pixels are alike.

    It went through a Gaussian filter of a deviation of 3 pixels along both axes. Beyond its edges a picture is
    mirrored.
    """
    reach = 12
    taps = np.exp(-((np.arange(-reach, reach + 1) / 3) ** 2) / 2)
    pixels = np.pad(np.arange(_SIZE), reach, mode="symmetric")
    kernel = np.zeros((_SIZE, _SIZE))
    for row, values in enumerate(kernel):
        np.add.at(values, pixels[row : row + len(taps)], taps)
    return kernel @ noise @ kernel.T * _SIZE / np.sum(kernel**2)


SHAPES = ("square", "cross", "ring")
"""The answers of `shapes`."""

_TINTS = np.array([[1, 0, 0], [0, 1, 0], [0.2, 0.4, 1], [1, 1, 0]], "float32")
_FORMS = np.zeros((3, 5, 5), bool)
_FORMS[0, 1:4, 1:4] = True
_FORMS[1, 2, :] = _FORMS[1, :, 2] = True
_FORMS[2] = True
_FORMS[2, 1:4, 1:4] = False


def shapes(samples: int, cells: int = 4, objects: int = 4, seed: int | None = 0) -> Problem:
    """Pictures of coloured shapes with a question: which shape has the colour of the first cell?

    It is a small relative of questions about pictures, as in CLEVR-XAI [Arras et al., 2022]. The first cell is filled
    with the colour that is asked about. One of the objects in the other cells has this colour. The class is its shape.

    Args:
        samples: How many pictures.
        cells: The picture has so many cells along each axis, of 5 x 5 pixels.
        objects: How many objects there are, of different colours, at most 4.
        seed: Seed of the pictures. Another seed gives other pictures, for testing.

    Returns:
        A `Problem`: x are pictures (samples, height, width, 3), float32, between 0 and 1; y is the number of the shape.
        The cell of the object that is asked about is true. The reference model is a relation network.

    Raises:
        ValueError: An argument has an illegal value.

    Example:

        train, test = problems.shapes(8000), problems.shapes(200, seed=1)

    Reference:
        Arras et al.: *CLEVR-XAI: A Benchmark Dataset for the Ground Truth Evaluation of Neural Network Explanations.*
        Information Fusion 81, 2022.
    """
    check_count("samples", samples)
    check_count("cells", cells)
    check_count("objects", objects)
    check_seed(seed)
    if objects > len(_TINTS) or objects > cells**2 - 1:
        raise ValueError(
            f"There are at most {len(_TINTS)} objects, of different colours, and one in a cell. Received: "
            f"objects={objects!r}, cells={cells!r}."
        )
    random, step = np.random.default_rng(seed), _FORMS.shape[1]
    x = np.zeros((samples, cells * step, cells * step, 3), "float32")
    truth = np.zeros(x.shape[:-1], bool)
    y = np.zeros(samples, int)
    for i in range(samples):
        places = 1 + random.permutation(cells**2 - 1)[:objects]
        tints = random.permutation(len(_TINTS))[:objects]
        forms = random.integers(0, len(SHAPES), objects)
        for place, tint, form in zip(places, tints, forms, strict=True):
            row, column = (step * n for n in divmod(place, cells))
            x[i, row : row + step, column : column + step][_FORMS[form]] = _TINTS[tint]
        row, column = (step * n for n in divmod(places[0], cells))
        truth[i, row : row + step, column : column + step] = True
        x[i, :step, :step] = _TINTS[tints[0]]
        y[i] = forms[0]
    reference = functools.partial(models.relational, cells * step, cells, len(SHAPES))
    return Problem(x, y, truth, SHAPES, reference=reference, epochs=20)


def clever_hans(samples: int, size: int = 16, seed: int | None = 0) -> Problem:
    """Pictures whose class can be told by a tag in a corner alone.  [Lapuschkin et al., 2019]

    A bright disk somewhere in the picture looks as if it were what the picture shows. It is the same in both classes.
    The tag is a small sign of two pixels at the lower left, upright or flat. So a model that gets the classes right
    looks at the tag, and a true explanation says so.

    Args:
        samples: How many pictures.
        size: Height and width, at least 12.
        seed: Seed of the pictures. Another seed gives other pictures, for testing.

    Returns:
        A `Problem`: x are pictures (samples, size, size, 1), float32; y is 0 or 1; the four pixels in which tags
        stand are true.

    Raises:
        ValueError: An argument has an illegal value.

    Example:

        train, test = problems.clever_hans(2000), problems.clever_hans(200, seed=1)

    Reference:
        Lapuschkin et al.: *Unmasking Clever Hans Predictors and Assessing What Machines Really Learn.* Nature
        Communications 10, 2019.
    """
    check_count("samples", samples)
    check_count("size", size)
    check_seed(seed)
    if size < 12:
        raise ValueError(f"A disk and a tag need a picture of at least 12 pixels. Received: size={size!r}.")
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, samples)
    x = random.normal(0, 0.1, (samples, size, size))
    rows, columns = np.mgrid[:size, :size]
    for picture, label in zip(x, y, strict=True):
        row, column, radius = random.uniform(3, size - 6), random.uniform(5, size - 3), random.uniform(2, 3)
        picture[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] += 1
        tag = (slice(size - 3, size - 1), 1) if label == 0 else (size - 2, slice(1, 3))
        picture[tag] += 0.6
    truth = np.zeros(x.shape, bool)
    truth[:, size - 3 : size - 1, 1:3] = True
    reference = functools.partial(models.convolutional, (size, size, 1), 2)
    return Problem(x[..., None].astype("float32"), y, truth, ("upright", "flat"), reference=reference, epochs=6)
