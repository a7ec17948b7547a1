"""`Preprocessing`: how a model that has its own preprocessor makes its inputs of texts and images.

Tasks of KerasHub have one. It is known by what it offers: `model.preprocessor`, called on the data, and its
`tokenizer` with `id_to_token`. So the core needs no KerasHub.
"""

import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from revgraph.analyzers.inputs import check_texts
from revgraph.analyzers.prepared import MASKS, mask_name, mask_of, part_of, prefix_of, texts_by_input, token_names
from revgraph.analyzers.reference import FROM_ZERO, SAME
from revgraph.analyzers.tokens import Tokens, texts_of
from revgraph.graph.callers import outside
from revgraph.graph.graph import holds_strings
from revgraph.graph.types import Tensors
from revgraph.read.keras.signature import has_any_size


def has_preprocessor(model: Any) -> bool:
    """Whether a model is of a kind that has a preprocessor of its own, in front of what it computes; it may be None.

    A preprocessor that a model calls itself, as one of its layers, is none of these.
    """
    if not isinstance(model, keras.Model) or not hasattr(model, "preprocessor"):
        return False
    is_inside = has_any_size(model) or any(layer is model.preprocessor for layer in model.layers)
    return prepares_by_itself(model) or not is_inside


def prepares_by_itself(model: Any) -> bool:
    """Whether `predict` of a model gives all data to its preprocessor, as a task of KerasHub does."""
    return hasattr(model, "preprocess_samples")


class Preprocessing:
    """Makes the inputs of a model by the model's own preprocessor.

    Args:
        model: The model. What its preprocessor is counts when it is used.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the preprocessor; None where there is none."""
        return getattr(self.model.preprocessor, "tokenizer", None)

    @property
    def generates(self) -> bool:
        """Whether the model continues texts, so that what is explained is a token that follows."""
        return hasattr(type(self.model), "generate") or hasattr(self.model.preprocessor, "generate_preprocess")

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The names of the model's inputs."""
        taken = getattr(self.model, "input", None)
        if isinstance(taken, Mapping):
            return frozenset(taken)
        return frozenset(tensor.name for tensor in keras.tree.flatten(taken) if hasattr(tensor, "name"))

    def is_ready(self, x: Tensors) -> bool:
        """Whether x is what the model itself takes, so that no preprocessor is needed: a dict by its input names."""
        return isinstance(x, Mapping) and bool(self.names) and self.names <= set(x)

    def __call__(self, x: Tensors) -> Tensors:
        """The inputs of the model.

        Args:
            x: Texts, images, or what else the preprocessor takes; or a dict by the names of the model's inputs, which
                stays as it is. So do numbers, if `predict` does not give them to the preprocessor.

        Raises:
            TypeError: Numbers where the preprocessor takes texts.
            ValueError: There is no preprocessor, or it lacks something, or does not take x.
        """
        if self.is_ready(x) or not (prepares_by_itself(self.model) or _has_strings(x)):
            return x
        check_texts(x)
        if isinstance(x, Mapping) and token_names(x) and not _has_strings(x):
            missing, unknown = (
                ", ".join(map(repr, sorted(names))) for names in (self.names - set(x), set(x) - self.names)
            )
            raise ValueError(
                f"A dict of ids for {self.model.name!r} is {self.own_inputs()}. Received: {_described(x)}. Add "
                f"{missing}{f', and leave out {unknown}' if unknown else ''}, or give texts to the preprocessor."
            )
        preprocessor = self.model.preprocessor
        if preprocessor is None:
            if not holds_strings(x) and not isinstance(x, Mapping):
                return x
            raise ValueError(
                f"The model {self.model.name!r} has no preprocessor: its attribute `preprocessor` is None, so strings "
                f"cannot be given to it. Set model.preprocessor, or pass {self.own_inputs()}."
            )
        self._check_complete()
        x = _readable(x)
        if self._reads_text_only() and not _has_strings(x):
            raise TypeError(
                f"The preprocessor of {self.model.name!r} takes texts: a string or a list of strings. Received: "
                f"{_described(x)}. Ids are given by the names of the model's inputs: {self.own_inputs()}."
            )
        # What `predict` does. A preprocessor that is called takes a pair of texts for a text and its label.
        usual = getattr(self.model, "preprocess_samples", preprocessor)
        made = self._made(getattr(preprocessor, "generate_preprocess", usual) if self.generates else usual, x)
        if isinstance(made, Mapping) and not self.names <= set(made):
            # Such as the positions of tokens, which the loop that generates text counts itself.
            also = self._made(usual, x)
            made = {**{name: also[name] for name in self.names & set(also)}, **made}
        if isinstance(made, Mapping) and "mask_positions" in made:
            raise ValueError(
                f"The preprocessor of {self.model.name!r} hides tokens by chance, as training needs it, so it would "
                f"hide others each time. Call it once, and explain what it returns: x, _, _ = "
                f"model.preprocessor(texts), or pass {self.own_inputs()}."
            )
        made = keras.tree.map_structure(np.asarray, made)
        self._warn_of_cuts(x, made)
        return self._without_padding(made) if self.generates else made

    def _made(self, make, x):
        try:
            made, _, _ = keras.utils.unpack_x_y_sample_weight(make(x))
        except Exception as error:
            # A preprocessor may raise anything.
            raise ValueError(
                f"The preprocessor of {self.model.name!r}, {type(self.model.preprocessor).__name__}, does not take "
                f"what was given ({_described(x)}): {_first_line(error)} Give what model.predict takes, or "
                f"{self.own_inputs()}."
            ) from error
        return made

    def _warn_of_cuts(self, x, made):
        """Warns of texts that do not fit into the preprocessor's length, so that a part of them is explained."""
        try:
            self.check_whole(texts_by_input(x, token_names(made)), made)
        except ValueError as error:
            warnings.warn(f"{error} What is explained is what the preprocessor has left of it.", stacklevel=outside())

    def check_whole(self, texts: Mapping[str, Sequence[str]], made: Tensors) -> None:
        """Checks that nothing was cut off from texts.

        Args:
            texts: The texts for each input of tokens.
            made: What the preprocessor made of them.

        Raises:
            ValueError: A text has more tokens than fit.
        """
        for name, each in texts.items():
            which = (f"{prefix_of(name)}sequence_length", "sequence_length")
            length = next((n for n in which if getattr(self.model.preprocessor, n, None) is not None), None)
            if self.tokenizer is None or length is None:
                continue
            rows, mask = np.asarray(part_of(made, name)), mask_of(name, made)
            for i, (text, row) in enumerate(zip(each, rows, strict=True)):
                full = mask is None or bool(np.all(mask[i]))
                if full and _spelled(self.ids_of(text)) not in _spelled(row):
                    raise ValueError(
                        f"Text {i} has more tokens than fit. Raise model.preprocessor.{length}, which is "
                        f"{getattr(self.model.preprocessor, length)}."
                    )

    def own_inputs(self) -> str:
        """What the model takes without a preprocessor, in words."""
        return f"what the model itself takes, a dict of {', '.join(map(repr, sorted(self.names)))}"

    def _reads_text_only(self):
        preprocessor = self.model.preprocessor
        others = ("image_converter", "audio_converter")
        return self.tokenizer is not None and all(getattr(preprocessor, name, None) is None for name in others)

    def _check_complete(self):
        """Refuses a tokenizer that has no vocabulary, because its files were not downloaded."""
        tokenizer = self.tokenizer
        if tokenizer is None or not hasattr(tokenizer, "vocabulary_size"):
            return
        try:
            tokenizer.vocabulary_size()
        except Exception as error:
            setters = [name for name in dir(tokenizer) if name.startswith("set_")]
            own = f"give it one with preprocessor.tokenizer.{setters[0]}(...), " if setters else ""
            raise ValueError(
                f"The preprocessor of {self.model.name!r} cannot be used: its {type(tokenizer).__name__} has no "
                f"vocabulary, which is a file of its own. Make the task with from_preset(...), which downloads the "
                f"vocabulary, {own}or pass {self.own_inputs()}."
            ) from error

    @staticmethod
    def _without_padding(made):
        """Inputs of a model that generates text, without the padding behind the longest text.

        A token depends on those before it alone, so what is behind the last one changes nothing.
        """
        masks = {name: mask_of(name, made) for name in token_names(made)}
        known = {*masks, *(name for name in made if isinstance(made, Mapping) and name.endswith(MASKS))}
        if not isinstance(made, Mapping) or known != set(made) or any(mask is None for mask in masks.values()):
            return made
        name = next((name for name in masks if "decoder" in name), None) or (next(iter(masks)) if masks else None)
        if name is None or (len(masks) > 1 and "decoder" not in name):
            return made
        mask = masks[name]
        length = int(np.flatnonzero(np.any(mask, axis=0)).max(initial=0)) + 1
        cut = {name, mask_name(name, made)}
        return {key: part[:, :length] if key in cut else part for key, part in made.items()}

    def tokens(self, x: Tensors) -> Tokens | dict[str, Tokens]:
        """The tokens of texts.

        Args:
            x: See `__call__`.

        Returns:
            `Tokens`, or for several inputs with tokens a dict of them by the name of the input.
        """
        made = self(x)
        if self.tokenizer is None and token_names(made):
            raise ValueError(
                f"The model {self.model.name!r} has no tokenizer that knows the words of its ids. Set "
                f"model.preprocessor, or pass the words in the order of the ids: analyzer.tokens(x, vocabulary=[...])."
            )
        if self.tokenizer is None:
            raise ValueError(
                f"The preprocessor of {self.model.name!r} has no tokenizer, so its inputs have no text. Images are "
                f"drawn with revgraph.visualize.plot(analyzer.preprocess(x), relevance)."
            )
        names = token_names(made)
        if not names:
            raise ValueError(f"None of the inputs {sorted(self.names)} of {self.model.name!r} has the ids of tokens.")
        found = {name: self.tokens_of(np.asarray(part_of(made, name)), mask_of(name, made)) for name in names}
        return found if len(found) > 1 else next(iter(found.values()))

    def tokens_of(self, ids: np.ndarray, mask: np.ndarray | None) -> Tokens:
        """The tokens of ids.

        Args:
            ids: Ids (batch, tokens).
            mask: True where there is no padding; None where only the id of padding says it.
        """
        tokenizer = self.tokenizer
        pad = getattr(tokenizer, "pad_token_id", None)
        padding = ~np.asarray(mask).astype(bool) if mask is not None else ids == pad
        special = np.isin(ids, [i for i in getattr(tokenizer, "special_token_ids", []) if i is not None])
        return Tokens(texts_of(ids, self.text_of), ids, special & ~padding, np.broadcast_to(padding, ids.shape))

    def text_of(self, token: int) -> str:
        """The text of a token. One that begins a word begins with a space where the tokenizer says so.

        An id that has no text, such as the padding of RWKV, is shown by its number.
        """
        tokenizer, token = self.tokenizer, int(token)
        try:
            piece = tokenizer.id_to_token(token)
        except (KeyError, IndexError):
            return f"#{token}"
        piece = piece.decode("utf-8", "replace") if isinstance(piece, bytes) else str(piece)
        if hasattr(tokenizer, "merges"):
            # Pieces of bytes have characters that stand for them.
            text = _as_text(tokenizer.detokenize([token]))
            return piece if not text or "\ufffd" in text else text
        return piece.replace("\u2581", " ")

    def name_of(self, token: int) -> str:
        """The text of a token; its number where no tokenizer knows it."""
        return f"#{token}" if self.tokenizer is None else self.text_of(token)

    def token_of(self, token: Any) -> int:
        """The id of a token that is given as an id or as text.

        Raises:
            TypeError: It is neither.
            ValueError: The text is not one token of the vocabulary, or there is no such id.
        """
        tokenizer = self.tokenizer
        if isinstance(token, int | np.integer) and not isinstance(token, bool):
            size = tokenizer.vocabulary_size() if tokenizer is not None else None
            if token < 0 or (size is not None and token >= size):
                raise ValueError(
                    f"There is no token with the id {token}. Ids go from 0 to {size - 1 if size else '?'}."
                )
            return int(token)
        if not isinstance(token, str):
            raise TypeError(f"A token is its text or its id. Received: {token!r} of type {type(token).__name__}.")
        if tokenizer is None:
            raise ValueError(f"The model {self.model.name!r} has no tokenizer: give the id of the token {token!r}.")
        pieces = self.ids_of(token)
        texts = [self.text_of(piece) for piece in pieces]
        # A tokenizer may write another case, or a space at the beginning.
        if len(pieces) == 1 and texts[0].strip().casefold() == token.strip().casefold():
            return pieces[0]
        known = self._in_vocabulary(token)
        if known is not None:
            return known
        raise ValueError(
            f"{token!r} is not one token of the vocabulary, but {len(pieces)}: {', '.join(map(repr, texts))}. Name one "
            f"token, such as {texts[0]!r}, or explain them one by one with analyzer.continuation(prompt, {token!r})."
            if len(pieces) > 1
            else f"{token!r} is no token of the vocabulary, and reads as {texts}. Name a token of the vocabulary."
        )

    def _in_vocabulary(self, token):
        """The id of a token as the vocabulary writes it; None where the vocabulary does not have it."""
        try:
            found = int(self.tokenizer.token_to_id(token))
            return found if self.tokenizer.id_to_token(found) == token else None
        except Exception:
            # The tokenizer raises whatever its table does.
            return None

    def ids_of(self, text: str) -> list[int]:
        """The ids of the tokens of a text, without special ones at its ends."""
        ids = self.tokenizer.tokenize(tf.constant(text))
        ids = ids.to_list() if hasattr(ids, "to_list") else np.asarray(ids).ravel().tolist()
        return [int(i) for i in keras.tree.flatten(ids)]

    def references(self, reference: Any) -> Any:
        """Reference inputs for each input of the model: tokens by text become ids, and only tokens are compared.

        Args:
            reference: As the user gave them, for all inputs or by name. `"padding"` is the padding token.
        """
        names = token_names(dict.fromkeys(self.names))
        if not names or not isinstance(getattr(self.model, "input", None), Mapping):
            return reference
        if not isinstance(reference, Mapping):
            floating = {name for name, tensor in self.model.input.items() if "float" in str(tensor.dtype)}
            rest = {name: FROM_ZERO if name in floating else SAME for name in self.names}
            reference = {**rest, **dict.fromkeys(names, reference)}
        return {name: self._reference(part) if name in names else part for name, part in reference.items()}

    def _reference(self, part):
        if not isinstance(part, str) or part in (FROM_ZERO, SAME):
            return part
        if part != "padding":
            return self.token_of(part)
        pad = getattr(self.tokenizer, "pad_token_id", None)
        if pad is None:
            raise ValueError(f'The tokenizer of {self.model.name!r} has no padding token: name one, or take "zeros".')
        return int(pad)


def _readable(x):
    """A single text as a batch of one, and arrays of objects as lists, which preprocessors take."""
    if isinstance(x, str | bytes):
        return [x]
    if isinstance(x, np.ndarray) and x.dtype.kind == "O":
        return x.tolist()
    if isinstance(x, Mapping):
        return {name: _readable(part) for name, part in x.items()}
    return tuple(map(_readable, x)) if isinstance(x, tuple) else x


def _has_strings(x):
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) else [x]
    return any(map(holds_strings, parts))


def _as_text(text):
    text = text.numpy() if tf.is_tensor(text) else text
    text = text[0] if isinstance(text, list) and text else text
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _described(x):
    if isinstance(x, Mapping):
        return f"a dict of {', '.join(map(repr, sorted(map(str, x))))}"
    return f"{type(x).__name__} of shape {np.shape(x)}" if hasattr(x, "shape") else type(x).__name__


def _spelled(ids):
    """Ids as text, in which runs of ids can be searched."""
    return f" {' '.join(str(int(i)) for i in ids)} "


def _first_line(error):
    """What an error says. Keras puts the reason behind a line that names the layer, in bold."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    return lines[1] if lines[0].startswith("Exception encountered when calling") and len(lines) > 1 else lines[0]
