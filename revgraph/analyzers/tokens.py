"""`Tokens`: the text of what a model reads, and which tokens are special or padding."""

import dataclasses
import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from revgraph.graph.graph import Graph
from revgraph.read.savedmodel.words import WordTable


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of some texts, one for each relevance that `analyze` returns for these texts.

    `tokens[0]` are the tokens of the first text as strings, without padding. A token that begins a word may begin with
    a space, and a token inside of a word with `##`, as the tokenizer writes it.

    Args:
        texts: The text of each token, (batch, tokens), strings.
        ids: The ids of the tokens, (batch, tokens).
        special: Which tokens the tokenizer has added, such as `[CLS]`, (batch, tokens), bool.
        padding: Which tokens only fill the batch, (batch, tokens), bool. Where a text has an entry for each word of a
            vocabulary, these are the words that it does not have.

    Example:

        tokens = analyzer.tokens(["a sentence", "another one"])
        revgraph.visualize.plot(tokens, analyzer.analyze(["a sentence", "another one"]))
    """

    texts: np.ndarray
    ids: np.ndarray
    special: np.ndarray
    padding: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, sample: int) -> tuple[str, ...]:
        return tuple(self.texts[sample][~self.padding[sample]])

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def part(self, samples: slice) -> "Tokens":
        """The tokens of some of the texts."""
        return Tokens(self.texts[samples], self.ids[samples], self.special[samples], self.padding[samples])

    def last(self) -> np.ndarray:
        """The place of the last token of each text that is no padding, (batch,)."""
        return last_places(self.padding)

    def __str__(self) -> str:
        return "\n".join(" | ".join(row) for row in self)

    def __repr__(self) -> str:
        return f"<Tokens: {len(self)} texts of up to {max(map(len, self), default=0)} tokens>"

    def _repr_html_(self) -> str:
        rows = (
            " ".join(
                f'<span style="border:1px solid;border-radius:0.2em;padding:0 0.2em;opacity:{0.6 if odd else 1}">'
                f"{html.escape(text)}</span>"
                for text, odd, pad in zip(*columns, strict=True)
                if not pad
            )
            for columns in zip(self.texts, self.special, self.padding, strict=True)
        )
        return "".join(f'<p style="line-height:1.9">{row}</p>' for row in rows)


def last_places(padding: np.ndarray) -> np.ndarray:
    """The place of the last entry of each row that is no padding.

    Args:
        padding: bool (batch, tokens).

    Raises:
        ValueError: A row has padding alone.
    """
    empty = np.flatnonzero(padding.all(axis=1))
    if len(empty):
        raise ValueError(
            f"The text of sample {empty[0]} has no tokens, so there is none after which another one comes."
        )
    return padding.shape[1] - 1 - np.argmin(padding[:, ::-1], axis=1)


def texts_of(ids: np.ndarray, text_of: Callable[[int], str]) -> np.ndarray:
    """The text of every id, in an array of strings of the same shape. Each id is asked for once."""
    distinct, places = np.unique(ids, return_inverse=True)
    texts = np.array([text_of(int(i)) for i in distinct] or [""], dtype=object)
    return texts[places.reshape(ids.shape)]


def tokens_of_vocabulary(numbers: np.ndarray, vocabulary: Any, are_ids: bool, fills: bool = False) -> Tokens:
    """The tokens of ids, or of one entry for each word of a vocabulary.

    Args:
        numbers: Ids (batch, tokens), or one number for each word (batch, words).
        vocabulary: The words in the order of their ids, or a dict of words and ids; None for numbers in their place.
        are_ids: Whether the numbers are ids.
        fills: Whether there may be entries behind the last word that stand for no word.

    Raises:
        TypeError: It is no vocabulary.
        ValueError: The vocabulary has fewer words than there are ids or entries.
    """
    words = None if vocabulary is None else _words(vocabulary)
    numbers = numbers.astype("int64") if are_ids else numbers
    count = int(numbers.max(initial=-1)) + 1 if are_ids else numbers.shape[1]
    if fills and words is not None:
        words += [f"#{i}" for i in range(len(words), count)]
    if words is not None and len(words) < count:
        raise ValueError(
            f"The vocabulary has {len(words)} words, and there {'are ids up to' if are_ids else 'is an entry'} "
            f"{count - 1}. Pass the vocabulary with which the model was made, with its words for padding and for "
            f"unknown words."
        )
    ids = numbers if are_ids else np.broadcast_to(np.arange(count), numbers.shape)
    texts = texts_of(ids, lambda i: f"#{i}" if words is None or i < 0 else words[i])
    # The first word of a vocabulary of Keras is empty where id 0 is padding.
    padding = (texts == "") if are_ids else numbers == 0
    return Tokens(texts, ids, np.zeros(ids.shape, bool), padding.astype(bool))


def _words(vocabulary):
    """The words of a vocabulary in the order of their ids."""
    if isinstance(vocabulary, Mapping):
        pairs = [(i, word) if isinstance(i, int | np.integer) else (word, i) for i, word in vocabulary.items()]
        by_id = {int(i): word for i, word in pairs}
        vocabulary = [by_id.get(i, f"#{i}") for i in range(max(by_id, default=-1) + 1)]
    elif isinstance(vocabulary, str | set | frozenset):
        raise TypeError(
            f"vocabulary is a list of words in the order of their ids, or a dict of words and ids. Received: "
            f"{type(vocabulary).__name__}."
        )
    return [word.decode() if isinstance(word, bytes) else str(word) for word in vocabulary]


def vocabulary_of(graph: Graph, slot: int, are_ids: bool) -> Sequence[Any] | Mapping[str, int] | None:
    """The words behind the numbers that a model makes of strings; None where no layer and no table says so.

    Args:
        graph: A graph.
        slot: The slot of the numbers.
        are_ids: Whether the numbers are ids, and not one for each word.
    """
    before = graph.strings[slot]
    layers = [call.layer for call in before.calls if hasattr(call.layer, "get_vocabulary")]
    if layers:
        return layers[-1].get_vocabulary()
    tables = [site.operation for site in before.sites if isinstance(site.operation, WordTable)]
    if len(tables) != 1:
        return None
    words, others = tables[0].words(), tables[0].number_of_others()
    texts = np.array([*words], object).reshape(-1, *(1,) * (len(before.specs[before.inputs].shape) - 1))
    rows = np.asarray(graph.cast(slot, tf.constant(texts, tf.string))).reshape(len(texts), -1)
    # What the model does with a number of the table is not known, so each word is tried.
    alone = [np.unique(row[row != 0] if are_ids else np.flatnonzero(row)).tolist() for row in rows]
    tried = [found == [number] for found, number in zip(alone, words.values(), strict=True) if len(found) == 1]
    if not tried or not all(tried):
        return None
    names = {others: "[UNK]", **{number: word for word, number in words.items()}}
    # No word has the number 0 if it fills the texts up.
    fill = {"": 0} if are_ids and others > 0 and 0 not in names else {}
    return {**fill, **{word: number for number, word in names.items() if number >= 0}}
