"""Problems whose answer is known, and the numbers that compare relevance with it."""

import numpy as np
import pytest

from revgraph.evaluate import pointing_game, problems

TRUTH = np.array([[True, False, False], [False, True, True], [False, False, True]])


def test_the_pointing_game_by_hand():
    hits = np.array([[0.2, 0.1, -5.0], [-3.0, -2.0, -1.0], [9.0, 8.0, 7.0]])
    assert pointing_game(hits, TRUTH) == pytest.approx(2 / 3)
    # The second sample has two largest entries, of which one is at the truth. In the third all are alike.
    ties = np.array([[1, 0, 0], [2, 2, 0], [0, 0, 0]])
    assert pointing_game(ties, TRUTH) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_channels_are_summed():
    relevance = np.array([[[5.0, -5.0], [1.0, 1.0], [0.0, 0.0]]])
    assert pointing_game(relevance, [[False, True, False]]) == 1
    images = np.zeros((1, 2, 2), bool)
    images[0, 1, 0] = True
    assert pointing_game(images[..., None] + 0.5, images) == 1


@pytest.mark.parametrize(
    "relevance, truth, message",
    [
        (np.ones((3, 2)), TRUTH, "must have the shape of truth"),
        (np.where(TRUTH, np.nan, 1), TRUTH, "must be finite. It is not in 3 samples; the first is 0"),
        (np.ones((3, 3)), TRUTH & [True, True, False], "names none in sample 2"),
        (np.ones((3, 3)), TRUTH.astype(int), "array of bool"),
        (np.ones(3), TRUTH[0], "array of bool"),
    ],
)
def test_what_the_pointing_game_refuses(relevance, truth, message):
    with pytest.raises(ValueError, match=message):
        pointing_game(relevance, truth)


@pytest.mark.parametrize("length, pairs", [(16, 6), (17, 8), (5, 2), (12, 4)])
def test_the_needle_is_the_colour_of_the_thing_that_is_asked_about(length, pairs):
    problem = problems.needle(50, length, pairs, seed=3)
    assert problem.x.shape == problem.truth.shape == (50, length) and len(problem) == len(problem.words) == 50
    for words, answer, truth in zip(problem.words, problem.y, problem.truth, strict=True):
        *text, asked = words
        (place,) = np.flatnonzero(truth)
        # The thing occurs once, behind its colour, which is the answer and stands at one other place.
        assert text.count(asked) == 1 and text.index(asked) == place + 1
        assert text[place] == problem.classes[answer] and text.count(text[place]) == 2
        colours = [i for i, word in enumerate(text) if word in problems.COLOURS]
        assert len(colours) == pairs and all(text[i + 1] in problems.THINGS for i in colours)
        assert sum(word in problems.THINGS for word in text) == pairs


def test_needles_lie_everywhere_and_seeds_repeat():
    problem, again, other = (problems.needle(400, 12, 4, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(problem.x, again.x)
    assert (problem.x != other.x).any()
    assert problem.truth[:, :10].any(axis=0).all() and not problem.truth[:, 10:].any()
    assert set(problem.y) == set(range(len(problem.classes)))
    assert repr(problem) == "<Problem: 400 samples of shape (12,), 8.3% of the entries decide>"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"samples": 0}, "samples must be a positive int"),
        ({"pairs": 3}, "pairs must be an even number of at most 8. Received: 3"),
        ({"pairs": 10, "length": 40}, "pairs must be an even number"),
        ({"pairs": 6, "length": 12}, "at least 13 words"),
        ({"seed": -1}, "seed must be None or an int >= 0"),
    ],
)
def test_what_the_needle_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        problems.needle(**{"samples": 4, **options})


@pytest.mark.parametrize("shortest", [None, 2, 5])
def test_the_marked_numbers_of_an_addition_are_the_answer(shortest):
    problem = problems.addition(200, 6, shortest, seed=2)
    assert problem.x.shape == (200, 6, 2) and problem.x.dtype == problem.y.dtype == "float32"
    numbers, marks = problem.x[..., 0], problem.x[..., 1]
    np.testing.assert_array_equal(marks, problem.truth)
    assert np.all(problem.truth.sum(axis=1) == 2) and problem.truth.any(axis=0).all()
    np.testing.assert_array_equal(problem.contributions, numbers * marks)
    np.testing.assert_allclose(problem.y, problem.contributions.sum(axis=1), rtol=1e-6)
    # Padding stands behind the series, and has no marks.
    lengths = (numbers != 0).sum(axis=1)
    assert set(lengths) == set(range(shortest or 6, 7))
    assert not problem.x[np.arange(6) >= lengths[:, None]].any()
    assert -1 <= numbers.min() < -0.9 and 0.9 < numbers.max() <= 1
    assert not problem.words and repr(problem).startswith("<Problem: 200 samples of shape (6, 2), 33.3%")
    np.testing.assert_array_equal(problem.x, problems.addition(200, 6, shortest, seed=2).x)
    assert (problem.x != problems.addition(200, 6, shortest, seed=3).x).any()


@pytest.mark.parametrize("options", [{"length": 1}, {"shortest": 1}, {"shortest": 9}])
def test_what_an_addition_refuses(options):
    with pytest.raises(ValueError, match=r"The shortest series has 2 steps or more, .* Received: "):
        problems.addition(4, **options)


def _places():
    """Where XAI-TRIS has the T and the L."""
    first, second = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    first[1:4, 1] = first[2, 2] = True
    second[4:7, 5] = second[6, 6] = True
    return first, second


@pytest.mark.parametrize("background, strength", [("white", 0.18), ("correlated", 0.0125)])
def test_tetrominoes_are_mixed_as_in_xai_tris(background, strength):
    """Shapes and noise by their norms: a S / |S| + (1 - a) N / |N|. Both places decide."""
    problem = problems.tetrominoes(20000, "linear", background, seed=5)
    x, (first, second) = problem.x[..., 0], _places()
    assert (problem.truth == (first | second)).all() and np.abs(x).max() <= 1
    noise = x - x.mean(axis=0, where=(problem.y == 0)[:, None, None])
    size = np.sqrt((noise[problem.y == 0] ** 2).sum(axis=(1, 2)).mean())
    shape = (x[problem.y == 0].mean(axis=0) - x[problem.y == 1].mean(axis=0))[first].mean() * 2
    assert shape / size == pytest.approx(strength / (1 - strength), rel=0.03, abs=0.004)
    apart = np.abs(np.corrcoef(x[problem.y == 0, 0, 0], x[problem.y == 0, 0, 1])[0, 1])
    assert apart < 0.03 if background == "white" else apart > 0.9


def test_correlated_noise_went_through_a_gaussian_filter():
    ndimage = pytest.importorskip("scipy.ndimage")
    noise = np.random.default_rng(0).normal(size=(3, 8, 8))
    expected = ndimage.gaussian_filter(noise, (0, 3, 3))
    ratio = problems.pictures._smoothed(noise) / expected
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-9)


def test_the_shapes_of_the_other_difficulties():
    first, second = _places()
    xor = problems.tetrominoes(300, "xor", strength=1)
    signs = np.stack([xor.x[:, 1, 1, 0], xor.x[:, 4, 5, 0]], axis=1)
    np.testing.assert_array_equal(xor.y, signs.prod(axis=1) < 0)
    assert (xor.truth == (first | second)).all() and len(np.unique(np.sign(signs), axis=0)) == 4
    moved = problems.tetrominoes(2000, "moved", strength=1)
    assert (moved.truth.sum(axis=(1, 2)) == 4).all() and moved.truth.any(axis=0).all()
    np.testing.assert_array_equal(moved.truth, moved.x[..., 0] > 0)
    # A T has a block with three neighbours, an L has none, however it is turned.
    padded = np.pad(moved.truth.astype(int), ((0, 0), (1, 1), (1, 1)))
    beside = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    np.testing.assert_array_equal((beside * moved.truth).max(axis=(1, 2)) == 3, moved.y == 0)
    weaker = problems.tetrominoes(20000, "multiplicative", strength=0.7)
    deviation = weaker.x[weaker.y == 1, ..., 0].std(axis=0)
    np.testing.assert_allclose(deviation[second] / deviation[first].mean(), 0.3, rtol=0.1)
    assert (weaker.truth == (first | second)).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"difficulty": "easy"}, "difficulty is one of 'linear'"),
        ({"background": "pink"}, "background one of 'white', 'correlated'"),
        ({"strength": 1.5}, "strength is a share from 0 to 1. Received: 1.5"),
        ({"strength": -1}, "strength must be"),
    ],
)
def test_what_tetrominoes_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        problems.tetrominoes(4, **options)
