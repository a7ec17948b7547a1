"""Problems of texts."""

import functools

import numpy as np

from revgraph.evaluate.problems import models
from revgraph.evaluate.problems.problem import Problem
from revgraph.graph.arguments import check_count, check_seed

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
"""The answers of `needle`."""

THINGS = ("ball", "car", "door", "house", "cup", "hat", "lamp", "tree")
"""What `needle` asks about."""

FILLERS = ("the", "and", "with", "here")
"""Words of `needle` that say nothing."""


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
    reference = functools.partial(models.transformer, length, len(vocabulary), len(COLOURS))
    return Problem(x, colours[rows, asked], truth, COLOURS, vocabulary, reference=reference, epochs=4)
