"""Problems: data that are made up, so that it is known which entries decide the answer."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from revgraph.graph.arguments import check_count, check_seed

__all__ = ["Problem", "addition", "needle"]

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
"""The answers of `needle`."""

THINGS = ("ball", "car", "door", "house", "cup", "hat", "lamp", "tree")
"""What `needle` asks about."""

FILLERS = ("the", "and", "with", "here")
"""Words of `needle` that say nothing."""


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Samples, their answers, and the entries that decide them.

    Args:
        x: The inputs, (samples, ...).
        y: The right answers, (samples,): the number of a class, or a value.
        truth: True at the entries of x that decide the answer, (samples, ...), without an axis of channels.
        classes: Names of the classes; empty where answers are values.
        vocabulary: Names of the ids in x; empty where x has no ids.
        contributions: How much each entry adds to a value, (samples, ...), like `truth`. They add up to y. None where
            answers are classes.

    Example:

        problem = problems.needle(500)
        model.fit(problem.x, problem.y)
        pointing_game(analyzer.analyze(problem.x, problem.y), problem.truth)
    """

    x: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    classes: Sequence[str] = ()
    vocabulary: Sequence[str] = ()
    contributions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def words(self) -> list[list[str]]:
        """The ids of each sample by their names. It is empty where x has no ids."""
        return [[self.vocabulary[i] for i in ids] for ids in self.x] if self.vocabulary else []

    def __repr__(self) -> str:
        deciding = self.truth.reshape(len(self), -1).sum(axis=1).mean() / self.truth[0].size
        return f"<Problem: {len(self)} samples of shape {self.x.shape[1:]}, {deciding:.1%} of the entries decide>"


def needle(samples: int, length: int = 16, pairs: int = 6, seed: int | None = 0) -> Problem:
    """Texts that name things and their colours, and end with a thing whose colour is asked for.

        and red ball blue cup here white door ... the white hat cup    ->    blue

    The needle is the colour in front of the thing that the last word asks about. It is the answer, so only this word
    is true in `truth`. The other pairs are distractors. Each colour stands in two pairs, so neither the words alone
    nor how often they occur give the answer away. The places of pairs are random.

    A model that reads from left to right cannot know at a colour which thing it belongs to. What such models learn is
    to carry the colour to the thing first, and to find the thing again from the last word. The last attention then
    looks at the thing, and not at the needle.

    Args:
        samples: How many texts.
        length: Words of each text, the last one included.
        pairs: Colours with a thing in each text, an even number of at most 8. What is left of the length is filled
            with words that say nothing.
        seed: Seed of the texts. Another seed gives other texts, for testing.

    Returns:
        A `Problem`: x are ids (samples, length), int32, y the number of the colour.

    Raises:
        ValueError: An argument has an illegal value, or so many pairs do not fit into the length.

    Example:

        train, test = problems.needle(20000), problems.needle(500, seed=1)
        print(test.words[0], test.classes[test.y[0]])
    """
    check_count("samples", samples)
    check_count("length", length)
    check_count("pairs", pairs)
    check_seed(seed)
    if pairs % 2 or pairs > len(THINGS):
        raise ValueError(f"pairs must be an even number of at most {len(THINGS)}. Received: {pairs!r}.")
    if length < 2 * pairs + 1:
        raise ValueError(
            f"A text of {pairs} pairs and a last word has at least {2 * pairs + 1} words. Received: length={length!r}."
        )
    random = np.random.default_rng(seed)
    vocabulary = (*THINGS, *COLOURS, *FILLERS)
    first_colour, first_filler = len(THINGS), len(THINGS) + len(COLOURS)

    def drawn(kinds, count):
        """Different numbers below `kinds` for each sample, (samples, count)."""
        return random.random((samples, kinds)).argsort(axis=1)[:, :count]

    things, colours = drawn(len(THINGS), pairs), drawn(len(COLOURS), pairs // 2)
    colours = random.permuted(np.concatenate([colours, colours], axis=1), axis=1)
    # A place is a pair or one filler. Pairs come later in the text by the pairs in front of them.
    places = np.sort(drawn(length - 1 - pairs, pairs), axis=1) + np.arange(pairs)
    asked = random.integers(0, pairs, samples)

    rows, columns = np.arange(samples), np.arange(samples)[:, None]
    x = random.integers(first_filler, len(vocabulary), (samples, length), dtype=np.int32)
    x[columns, places] = first_colour + colours
    x[columns, places + 1] = things
    x[:, -1] = things[rows, asked]
    truth = np.zeros(x.shape, bool)
    truth[rows, places[rows, asked]] = True
    return Problem(x, colours[rows, asked], truth, COLOURS, vocabulary)


def addition(samples: int, length: int = 8, shortest: int | None = None, seed: int | None = 0) -> Problem:
    """Series of numbers. Two of them are marked, and the task is to add these.  [Hochreiter and Schmidhuber, 1997]

        number   0.3  -0.5   0.9   0.1  -0.2   0.4
        mark       0     1     0     0     1     0        ->    -0.5 - 0.2 = -0.7

    Each marked number contributes itself, and all others contribute nothing. Relevance that is right is thus known step
    by step, and not only where it should be.  [Arras et al., 2019]

    Args:
        samples: How many series.
        length: Steps of each series.
        shortest: Steps of the shortest series. Where it is given, series have between so many and `length` steps, and
            are padded with zeros behind them. By default all have the same length.
        seed: Seed of the series. Another seed gives other series, for testing.

    Returns:
        A `Problem`: x are the numbers, between -1 and 1, and their marks, (samples, length, 2), float32; y the sums.

    Raises:
        ValueError: An argument has an illegal value, or a series is too short for two numbers.

    Example:

        test = problems.addition(500, seed=1)
        relevance = analyzer.analyze(test.x).sum(axis=2)
        np.corrcoef(relevance.ravel(), test.contributions.ravel())[0, 1]

    References:
        Hochreiter and Schmidhuber: *Long Short-Term Memory.* Neural Computation 9(8), 1997.
        Arras et al.: *Evaluating Recurrent Neural Network Explanations.* BlackboxNLP, 2019.
    """
    check_count("samples", samples)
    check_count("length", length)
    shortest = length if shortest is None else shortest
    check_count("shortest", shortest)
    check_seed(seed)
    if not 2 <= shortest <= length:
        raise ValueError(
            f"The shortest series has 2 steps or more, and at most as many as the longest, {length}. Received: "
            f"{shortest!r}."
        )
    random = np.random.default_rng(seed)
    there = np.arange(length) < random.integers(shortest, length + 1, (samples, 1))
    numbers = np.where(there, random.uniform(-1, 1, there.shape), 0).astype("float32")
    # The two steps of each series with the largest random numbers are marked.
    marked = np.zeros(there.shape, bool)
    np.put_along_axis(marked, np.where(there, random.random(there.shape), -1).argsort(axis=1)[:, -2:], True, axis=1)
    contributions = np.where(marked, numbers, 0)
    x = np.stack([numbers, marked], axis=-1, dtype="float32")
    return Problem(x, contributions.sum(axis=1), marked, contributions=contributions)
