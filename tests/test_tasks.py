"""Tasks of KerasHub, from texts and images to relevance: preprocessors, tokens, next tokens, continuations."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

import revgraph
from revgraph import NextToken, create_analyzer, visualize
from revgraph.analyzers import LRP, TaskAnalyzer

hub = pytest.importorskip("keras_hub")

WORDS = "the film was great not boring a story with lovely actors and music".split()
TEXTS = ["the film was great", "not boring storys"]
PROMPTS = ["the film was", "the film"]
LENGTH = 12


def spread(model):
    """Weights that are large enough for outputs to depend on them."""
    generator = np.random.default_rng(0)
    for variable in model.weights:
        if variable.shape and "norm" not in variable.path:
            variable.assign(generator.normal(0, 0.3, variable.shape))
    return model


def word_tokenizer():
    return hub.models.BertTokenizer(
        vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"], lowercase=True
    )


def backbone(kind=hub.models.BertBackbone, size=19):
    return kind(
        vocabulary_size=size,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=12,
        max_sequence_length=LENGTH,
        dropout=0,
    )


@pytest.fixture(scope="module")
def classifier():
    preprocessor = hub.models.BertTextClassifierPreprocessor(word_tokenizer(), sequence_length=LENGTH)
    return spread(hub.models.BertTextClassifier(backbone(), num_classes=2, preprocessor=preprocessor))


def byte_tokenizer(kind=hub.models.GPT2Tokenizer, first=("<|endoftext|>",)):
    """Knows letters, and a few words with the space in front of them."""
    vocabulary, merges = [*first, "\u0120", *map(chr, range(ord("a"), ord("z") + 1))], []
    for word in ("the", "\u0120film", "\u0120was", "\u0120great", "\u0120paris", "paris", "\u0120is"):
        for i in range(1, len(word)):
            pair = f"{word[:i]} {word[i]}"
            merges += [pair] if pair not in merges else []
            vocabulary += [word[: i + 1]] if word[: i + 1] not in vocabulary else []
    return kind(vocabulary={token: i for i, token in enumerate(vocabulary)}, merges=merges)


@pytest.fixture(scope="module")
def speaker():
    preprocessor = hub.models.GPT2CausalLMPreprocessor(byte_tokenizer(), sequence_length=LENGTH)
    size = preprocessor.tokenizer.vocabulary_size()
    return spread(hub.models.GPT2CausalLM(backbone(hub.models.GPT2Backbone, size), preprocessor))


@pytest.fixture(scope="module")
def of_classifier(classifier):
    return create_analyzer("lrp.cp", classifier)


@pytest.fixture(scope="module")
def of_speaker(speaker):
    return create_analyzer("lrp.attnlrp", speaker)


class TestTexts:
    def test_strings_give_relevance_per_token(self, classifier, of_classifier):
        assert isinstance(of_classifier, LRP) and isinstance(of_classifier, TaskAnalyzer)
        found = of_classifier.analyze(TEXTS, 1)
        prepared = classifier.preprocessor(TEXTS)
        np.testing.assert_array_equal(found, of_classifier.analyze(prepared, 1)["token_ids"])
        assert found.shape == (2, LENGTH) and np.all(found[:, :4] != 0) and np.all(found[0, 6:] == 0)
        outputs = classifier.predict(TEXTS, verbose=0)
        graph = {name: np.asarray(part) for name, part in prepared.items()}
        np.testing.assert_allclose(of_classifier.graph(graph), outputs, rtol=1e-4, atol=1e-5)

    def test_tokens(self, of_classifier):
        tokens = of_classifier.tokens(TEXTS)
        assert tokens[0] == ("[CLS]", "the", "film", "was", "great", "[SEP]")
        assert tokens[1] == ("[CLS]", "not", "boring", "story", "##s", "[SEP]")
        assert tokens.special[0].tolist() == [True, *4 * [False], True, *6 * [False]]
        assert tokens.padding[0].tolist() == 6 * [False] + 6 * [True]
        assert of_classifier.tokens("the robot")[0] == ("[CLS]", "the", "[UNK]", "[SEP]")

    def test_tokens_are_replaced_by_a_token(self, classifier):
        analyzer = create_analyzer("occlusion", classifier, reference_inputs="[MASK]")
        found = analyzer.analyze(TEXTS, 1)
        prepared = {name: np.asarray(part) for name, part in classifier.preprocessor(TEXTS).items()}
        whole = np.asarray(classifier(prepared))[:, 1]
        for j in range(6):
            ids = prepared["token_ids"].copy()
            ids[:, j] = classifier.preprocessor.tokenizer.token_to_id("[MASK]")
            change = whole - np.asarray(classifier({**prepared, "token_ids": ids}))[:, 1]
            np.testing.assert_allclose(found[:, j], change, rtol=1e-3, atol=1e-5)
        with pytest.raises(ValueError, match="'token_ids' has ids: pass one that says nothing"):
            create_analyzer("occlusion", classifier)

    def test_texts_as_background(self, classifier):
        background = ["a story", "the music was boring", "film"]
        found, gap = create_analyzer("deep_lift", classifier, background=background).analyze(
            TEXTS, 1, return_convergence_delta=True
        )
        assert found.shape == (2, LENGTH)
        np.testing.assert_allclose(gap, 0, atol=1e-4)
        each = [create_analyzer("deep_lift", classifier, background=text) for text in background]
        expected = np.mean([analyzer.analyze(TEXTS, 1) for analyzer in each], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("given", [np.array, tf.constant, lambda texts: np.array(texts, object), tuple])
    def test_texts_in_every_form(self, given, of_classifier):
        expected = of_classifier.analyze(TEXTS, 1)
        if given is tuple:
            # A tuple has the segments of pairs of texts.
            tokens = of_classifier.tokens((TEXTS[:1], ["great music"]))
            assert tokens[0][5:] == ("[SEP]", "great", "music", "[SEP]")
            return
        np.testing.assert_array_equal(of_classifier.analyze(given(TEXTS), 1), expected)
        np.testing.assert_allclose(of_classifier.analyze(TEXTS[0], 1), expected[:1], rtol=1e-4, atol=1e-6)

    def test_datasets_and_generators(self, of_classifier):
        texts = [*TEXTS, "great music"]
        expected = of_classifier.analyze(texts, 1)
        dataset = tf.data.Dataset.from_tensor_slices((texts, [0, 1, 0])).batch(2)
        for stream in (dataset, (texts[i : i + 2] for i in (0, 2))):
            np.testing.assert_allclose(of_classifier.analyze(stream, 1), expected, rtol=1e-4, atol=1e-6)
        with pytest.raises(ValueError, match="the dataset is empty"):
            of_classifier.analyze(iter(()), 1)

    def test_the_other_questions(self, of_classifier):
        found = of_classifier.analyze(TEXTS, 1)
        np.testing.assert_allclose(of_classifier.record(TEXTS).analyze(1), found, rtol=1e-4, atol=1e-6)
        ledger, prepared = of_classifier.conservation(TEXTS, 1), of_classifier.preprocess(TEXTS)
        every = sum(part.sum(axis=1) for part in of_classifier.analyze(prepared, 1).values())
        np.testing.assert_allclose(ledger.input, every, rtol=1e-3, atol=1e-5)
        assert len(of_classifier.attentions(TEXTS, 1)) == 2
        with_layers, layers_of, delta = of_classifier.analyze(
            TEXTS, 1, return_layers="token_embedding", return_convergence_delta=True, batch_size=1
        )
        np.testing.assert_allclose(with_layers, found, rtol=1e-4, atol=1e-6)
        assert layers_of["token_embedding"].shape == (2, LENGTH) and delta.shape == (2,)

    def test_path_methods_compare_tokens_alone(self, classifier):
        prepared = classifier.preprocessor(TEXTS)
        y = np.asarray(classifier(prepared))[:, 1]
        for reference, token in (("padding", 0), ("film", 6), (7, 7)):
            ids = tf.fill(tf.shape(prepared["token_ids"]), token)
            difference = y - np.asarray(classifier({**prepared, "token_ids": ids}))[:, 1]
            for method, options in (("deep_lift", {}), ("integrated_gradients", {"steps": 64})):
                analyzer = create_analyzer(method, classifier, reference_inputs=reference, **options)
                found = analyzer.analyze(TEXTS, 1)
                np.testing.assert_allclose(found.sum(axis=1), difference, atol=1e-5 if not options else 1e-2)
        zeros = create_analyzer("deep_lift", classifier).analyze(TEXTS, 1, return_convergence_delta=True)
        assert np.abs(zeros[1]).max() < 1e-5 and zeros[0].shape == (2, LENGTH)

    def test_it_is_saved(self, of_classifier, tmp_path):
        of_classifier.save(tmp_path / "task.revgraph")
        loaded = revgraph.load_analyzer(tmp_path / "task.revgraph")
        np.testing.assert_allclose(loaded.analyze(TEXTS, 1), of_classifier.analyze(TEXTS, 1), rtol=1e-5, atol=1e-7)
        assert loaded.tokens(TEXTS)[0] == of_classifier.tokens(TEXTS)[0]

    def test_pictures(self, classifier, of_classifier):
        outputs = classifier.predict(TEXTS, verbose=0)
        tokens, found = of_classifier.tokens(TEXTS), of_classifier.analyze(TEXTS)
        drawn = visualize.plot(tokens, found, outputs, ["bad", "good"], "max_activation")
        assert drawn.titles[0].split(":")[0] in ("bad", "good") and "[PAD]" not in drawn.to_html()

    def test_methods_are_compared(self, classifier, of_classifier):
        text = visualize.compare(classifier, TEXTS, ["gradient", of_classifier], 1, ["bad", "good"], labels=[0, 1])
        assert [title.split("\n")[-1] for title in text.titles] == ["gradient", "lrp.cp"] * 2
        assert text.titles[2].split("\n")[0].startswith("good: ") and "label good" in text.titles[2]
        tokens, found = of_classifier.tokens(TEXTS), of_classifier.analyze(TEXTS, 1)
        for i in range(2):
            assert text.tokens[2 * i + 1] == tokens[i]
            np.testing.assert_allclose(text.relevance[2 * i + 1], found[i, : len(tokens[i])], rtol=1e-5, atol=1e-7)


class TestNextTokens:
    def test_it_is_that_after_the_last_token(self, speaker, of_speaker):
        tokens = of_speaker.tokens(PROMPTS)
        assert tokens[0] == ("<|endoftext|>", "the", " film", " was") and tokens.padding[1].tolist() == 3 * [False] + [
            True
        ]
        found = of_speaker.analyze(PROMPTS)
        # Without padding, and without the end that training adds.
        for i, prompt in enumerate(PROMPTS):
            ids = tokens.ids[i : i + 1, : len(tokens[i])]
            alone = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
            best = int(np.asarray(speaker(alone))[0, -1].argmax())
            expected = of_speaker.inner.analyze(alone, (ids.shape[1] - 1, best))["token_ids"]
            np.testing.assert_allclose(found[i : i + 1, : ids.shape[1]], expected, rtol=1e-3, atol=1e-5, err_msg=prompt)
        np.testing.assert_array_equal(found, of_speaker.analyze(PROMPTS, NextToken()))
        np.testing.assert_array_equal(of_speaker.analyze(of_speaker.preprocess(PROMPTS))["token_ids"], found)

    def test_a_token_by_text_or_id_and_a_contrast(self, speaker, of_speaker):
        paris, great = (speaker.preprocessor.tokenizer.token_to_id(t) for t in ("\u0120paris", "\u0120great"))
        one, other = of_speaker.analyze(PROMPTS, NextToken(" paris")), of_speaker.analyze(PROMPTS, NextToken(" great"))
        np.testing.assert_array_equal(one, of_speaker.analyze(PROMPTS, NextToken(paris)))
        np.testing.assert_array_equal(one, of_speaker.analyze(PROMPTS, NextToken("\u0120paris")))
        mixed = of_speaker.analyze(PROMPTS, NextToken([" paris", " great"]))
        np.testing.assert_allclose(mixed, [one[0], other[1]], rtol=1e-4, atol=1e-6)
        # Gradients are linear in the output.
        gradient = create_analyzer("input_t_gradient", speaker)
        parts = [gradient.analyze(PROMPTS, NextToken(token)) for token in (paris, great)]
        contrast = gradient.analyze(PROMPTS, NextToken(" paris", against=" great"))
        np.testing.assert_allclose(contrast, parts[0] - parts[1], rtol=1e-3, atol=1e-5)
        prepared = of_speaker.preprocess(PROMPTS)
        expected = of_speaker.inner.analyze(
            {name: part[:1] for name, part in prepared.items()}, lambda y: y[:, 3, paris] - y[:, 3, great]
        )
        np.testing.assert_allclose(
            of_speaker.analyze(PROMPTS, NextToken(paris, against=great))[:1],
            expected["token_ids"],
            rtol=1e-3,
            atol=1e-5,
        )

    def test_the_place(self, of_speaker):
        by_place = of_speaker.analyze(PROMPTS, NextToken(" is", after=1))
        assert np.all(by_place[:, 2:] == 0) and np.all(by_place[:, :2] != 0)
        np.testing.assert_allclose(of_speaker.analyze(PROMPTS, NextToken(" is", after=[-3, -2])), by_place, rtol=1e-5)
        np.testing.assert_allclose(of_speaker.record(PROMPTS).analyze(NextToken(" is", after=1)), by_place, rtol=1e-3)
        assert of_speaker.conservation(PROMPTS, NextToken(" is", after=1)).start.shape == (2,)

    @pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "smoothgrad", "deep_lift", "lrp.epsilon"])
    def test_every_method(self, method, speaker):
        options = {"seed": 0, "augment_by_n": 4} if method == "smoothgrad" else {}
        found = create_analyzer(method, speaker, **options).analyze(PROMPTS, NextToken(" is", against=" was"))
        assert found.shape == (2, 4) and np.isfinite(found).all() and found[1, 3] == 0 and np.all(found[:, :3] != 0)

    def test_a_continuation(self, speaker, of_speaker):
        table = of_speaker.continuation("the film was", " great paris")
        assert table.said == (" great", " paris") and table.read == ("<|endoftext|>", "the", " film", " was", " great")
        for i, text in enumerate(("the film was", "the film was great")):
            row = of_speaker.analyze(text, NextToken(table.said[i]))[0]
            np.testing.assert_allclose(table.relevance[i, : len(row)], row, rtol=1e-3, atol=1e-5)
            assert not table.relevance[i, len(row) :].any()
            logits = np.asarray(speaker({k: tf.constant(v) for k, v in of_speaker.preprocess(text).items()}))[0, -1]
            said = of_speaker.preprocessing.token_of(table.said[i])
            np.testing.assert_allclose(table.scores[i], logits[said], rtol=1e-3)
            np.testing.assert_allclose(table.chances[i], tf.nn.softmax(logits)[said], rtol=1e-3)
        ids = [speaker.preprocessor.tokenizer.token_to_id(t) for t in ("\u0120great", "\u0120paris")]
        again = of_speaker.continuation("the film was", ids, batch_size=1)
        np.testing.assert_allclose(again.relevance, table.relevance, rtol=1e-3, atol=1e-5)
        contrast = of_speaker.continuation("the film was", " great paris", against=" is")
        row = of_speaker.analyze("the film was", NextToken(" great", against=" is"))[0]
        np.testing.assert_allclose(contrast.relevance[0, :4], row, rtol=1e-3, atol=1e-5)
        assert visualize.plot_continuation(table).axes

    def test_titles_say_which_token_is_explained(self, speaker, of_speaker):
        prepared = {name: tf.constant(part) for name, part in of_speaker.preprocess(PROMPTS).items()}
        logits = np.asarray(speaker(prepared))[[0, 1], [3, 2]]
        chances = tf.nn.softmax(logits).numpy()
        best = chances.argmax(axis=1)
        text_of, ids_of = of_speaker.preprocessing.text_of, of_speaker.preprocessing.token_of
        expected = [f"next token {text_of(i)!r}: {chances[row, i]:.1%}" for row, i in enumerate(best)]
        assert of_speaker.next_tokens(PROMPTS) == visualize.titles(of_speaker, PROMPTS) == expected
        with pytest.raises(ValueError, match="this model predicts tokens. Leave out labels"):
            visualize.titles(of_speaker, PROMPTS, labels=[0, 1])
        paris, great = ids_of(" paris"), ids_of(" great")
        found = visualize.titles(of_speaker, PROMPTS, NextToken(" paris", against=[" great", great]))
        assert found == [f"next token ' paris': {row[paris]:.1%}, not ' great': {row[great]:.1%}" for row in chances]
        bare = create_analyzer("lrp.cp", hub.models.GPT2CausalLM(speaker.backbone, None))
        found = visualize.titles(bare, of_speaker.preprocess(PROMPTS), NextToken(paris))
        assert [title.split(":")[0] for title in found] == 2 * [f"next token '#{paris}'"]

    def test_titles_of_classes(self, classifier, of_classifier):
        y = classifier.predict(TEXTS, verbose=0)
        found = visualize.titles(of_classifier, TEXTS, 1, ["bad", "good"])
        for title, row in zip(found, y, strict=True):
            assert title.split(":")[0] == "good" and float(title.split(":")[1]) == pytest.approx(row[1], rel=1e-2)
        assert of_classifier.next_tokens(TEXTS) is None

    def test_a_word_without_its_space(self, speaker, of_speaker):
        prepared = {name: tf.constant(part) for name, part in of_speaker.preprocess("the film is").items()}
        logits = np.asarray(speaker(prepared))[0, -1]
        plain, spaced = (speaker.preprocessor.tokenizer.token_to_id(t) for t in ("paris", "\u0120paris"))
        if logits[spaced] > logits[plain]:
            with pytest.warns(UserWarning, match="two tokens.*NextToken\\(' paris'\\)"):
                of_speaker.analyze("the film is", NextToken("paris"))
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message=".*two tokens")
                of_speaker.analyze("the film is", NextToken("paris"))

    def test_what_is_no_token(self, of_speaker, of_classifier):
        for selection, error, message in (
            (
                NextToken("paris film"),
                ValueError,
                "is not one token of the vocabulary, but 2: 'paris', ' film'. Name one",
            ),
            (NextToken(999), ValueError, "There is no token with the id 999. Ids go from 0"),
            (NextToken(2.5), TypeError, "A token is its text or its id. Received: 2.5"),
            (NextToken(" is", after=7), ValueError, "sample 0 have the places 0 to 3. Received: after=7"),
            (NextToken(" is", after=[1, 3]), ValueError, "sample 1 have the places 0 to 2. Received: after=3"),
            (NextToken(" is", against=" is"), ValueError, "' is', and it is compared with itself"),
            (NextToken([1, 2, 3]), ValueError, "token has 3 entries for 2 texts"),
        ):
            with pytest.raises(error, match=message):
                of_speaker.analyze(PROMPTS, selection)
        with pytest.raises(ValueError, match=r"needs one output \(batch, tokens, vocabulary\)"):
            of_classifier.analyze(TEXTS, NextToken(3))
        for selection in (5, " is"):
            with pytest.raises(ValueError, match=r"a token at every place.*Pass revgraph.NextToken\("):
                of_speaker.analyze(PROMPTS, selection)
        of_backbone = create_analyzer("lrp.cp", of_speaker.preprocessing.model.backbone)
        with pytest.raises(TypeError, match=r"is none: select a token by its place and id"):
            of_backbone.analyze(of_speaker.preprocess(PROMPTS), NextToken(3))
        with pytest.raises(TypeError, match="no preprocessor that makes numbers of them"):
            of_backbone.analyze(PROMPTS)
        with pytest.raises(TypeError, match="The prompt is one text, or the ids of its tokens. Received: \\['the film"):
            of_speaker.continuation(PROMPTS, " is")
        with pytest.raises(ValueError, match="does not continue texts"):
            of_classifier.continuation("the film", " was")
        # The remedy of the first message.
        assert len(of_speaker.continuation("the film was", "paris film")) == 2

    def test_a_continuation_that_joins_the_prompt(self, of_speaker):
        with pytest.raises(ValueError, match="are read as one token.*Begin the continuation with a space"):
            of_speaker.continuation("the fil", "m")
        with pytest.raises(ValueError, match="The prompt or the continuation has no tokens"):
            of_speaker.continuation("the film", "")
        with pytest.raises(ValueError, match="more tokens than fit. Raise model.preprocessor.sequence_length"):
            of_speaker.continuation("the film" + 12 * " film", " was")
        with pytest.raises(ValueError, match="longer than a table of positions"):
            of_speaker.continuation("the film", 12 * " was")
        assert len(of_speaker.continuation("the fil", " was")) == 1
        assert len(of_speaker.continuation("the fil", of_speaker.preprocessing.ids_of("m"))) == 1

    def test_a_model_without_a_preprocessor(self, speaker, of_speaker):
        bare = hub.models.GPT2CausalLM(speaker.backbone, None)
        analyzer, prepared = create_analyzer("lrp.attnlrp", bare), of_speaker.preprocess(PROMPTS)
        token = of_speaker.preprocessing.token_of(" is")
        expected = of_speaker.analyze(PROMPTS, NextToken(token))
        found = analyzer.analyze(prepared, NextToken(token))["token_ids"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        ids = of_speaker.tokens(PROMPTS).ids[0].tolist()
        table = analyzer.continuation(ids, [token])
        np.testing.assert_allclose(table.relevance, expected[:1], rtol=1e-3, atol=1e-5)
        with pytest.raises(ValueError, match="has no tokenizer: give the id of the token ' is'"):
            analyzer.analyze(prepared, NextToken(" is"))
        with pytest.raises(ValueError, match=r"no tokenizer that knows the words.*vocabulary=\[...\]"):
            analyzer.tokens(prepared)
        words = list(speaker.preprocessor.tokenizer.get_vocabulary())
        assert analyzer.tokens(prepared, vocabulary=words)[0][:2] == (words[ids[0]], words[ids[1]])


@pytest.fixture(scope="module")
def translator():
    tokenizer = byte_tokenizer(hub.models.BartTokenizer, ("<s>", "<pad>", "</s>", "<mask>"))
    preprocessor = hub.models.BartSeq2SeqLMPreprocessor(tokenizer, encoder_sequence_length=8, decoder_sequence_length=6)
    size = tokenizer.vocabulary_size()
    return spread(hub.models.BartSeq2SeqLM(backbone(hub.models.BartBackbone, size), preprocessor))


class TestAnEncoderAndADecoder:
    X = {"encoder_text": ["the film was", "the film"], "decoder_text": ["the", "the film"]}

    def test_each_has_its_own_tokens(self, translator):
        analyzer = create_analyzer("lrp.cp", translator)
        tokens, found = analyzer.tokens(self.X), analyzer.analyze(self.X, NextToken(" is"))
        assert tokens["encoder_token_ids"][1] == ("<s>", "the", " film", "</s>")
        for name, each in tokens.items():
            assert found[name].shape == each.ids.shape and not found[name][each.padding].any()
        assert np.any(found["encoder_token_ids"]) and np.any(found["decoder_token_ids"])
        drawn = visualize.plot(tokens, found, titles=visualize.titles(analyzer, self.X, NextToken(" is")))
        assert drawn.tokens[:2] == (tokens["decoder_token_ids"][0], tokens["encoder_token_ids"][0])
        assert drawn.titles[0].startswith("next token ' is': ") and drawn.titles[1] == "encoder"

    @pytest.mark.parametrize("begun", ["", "the"])
    def test_a_continuation_is_explained_by_the_source_and_by_what_was_written(self, translator, begun):
        analyzer = create_analyzer("lrp.cp", translator)
        source = "the film was"
        prompt = {"encoder_text": source, "decoder_text": begun} if begun else source
        table = analyzer.continuation(prompt, " great paris", against=" is")
        read = ("<s>", "the", " film", " was", "</s>")
        assert table.tokens[: table.source] == read and table.said == (" great", " paris")
        assert table.tokens[table.source : table.first] == ("</s>", "<s>", *([begun] if begun else []))
        for i, written in enumerate((begun, f"{begun} great")):
            x = {"encoder_text": [source], "decoder_text": [written]}
            found = analyzer.analyze(x, NextToken(table.said[i], against=" is"))
            row = np.concatenate([found["encoder_token_ids"][0, : len(read)], found["decoder_token_ids"][0]])
            np.testing.assert_allclose(table.relevance[i, : len(row)], row, rtol=1e-3, atol=1e-5)
            assert not table.relevance[i, len(row) :].any() and len(row) == table.first + i
            title = visualize.titles(analyzer, x, NextToken(table.said[i]))[0]
            assert title == f"next token {table.said[i]!r}: {table.chances[i]:.1%}"
        ids = analyzer.preprocess({"encoder_text": [source], "decoder_text": [begun]})
        again = analyzer.continuation(ids, analyzer.preprocessing.ids_of(" great paris"), against=" is", batch_size=1)
        np.testing.assert_allclose(again.relevance[:, : table.first + 1], table.relevance, rtol=1e-3, atol=1e-5)
        assert again.tokens == table.tokens and visualize.plot_continuation(table).axes

    def test_prompts_that_do_not_fit(self, translator):
        analyzer = create_analyzer("lrp.cp", translator)
        with pytest.raises(TypeError, match="a text, a dict of 'encoder_text' and 'decoder_text', or what the model"):
            analyzer.continuation([1, 2], " is")
        long = "the film was great is paris was great"
        for prompt in (long, {"encoder_text": long, "decoder_text": "the"}):
            with (
                pytest.warns(UserWarning),
                pytest.raises(ValueError, match="Raise model.preprocessor.encoder_sequence"),
            ):
                analyzer.continuation(prompt, " is")
        with pytest.raises(TypeError, match="The prompt is one text.*Call continuation once for each text"):
            analyzer.continuation(self.X, " is")
        with pytest.raises(ValueError, match="are read as one token"):
            analyzer.continuation({"encoder_text": "the", "decoder_text": "the fil"}, "m")
        # The remedy.
        translator.preprocessor.encoder_sequence_length = 12
        assert len(analyzer.continuation(long, " is")) == 1
        translator.preprocessor.encoder_sequence_length = 8


class TestOtherTasks:
    def test_images(self):
        converter = hub.layers.ImageConverter(image_size=(8, 8), scale=1 / 255)
        body = hub.models.ViTBackbone(
            image_shape=(8, 8, 3), patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12
        )
        preprocessor = hub.models.ViTImageClassifierPreprocessor(image_converter=converter)
        model = hub.models.ViTImageClassifier(body, num_classes=3, preprocessor=preprocessor)
        images = np.random.default_rng(0).integers(0, 256, (2, 16, 12, 3)).astype("uint8")
        analyzer = create_analyzer("lrp.vit", model)
        prepared, found = analyzer.preprocess(images), analyzer.analyze(images, 1)
        assert found.shape == prepared.shape == (2, 8, 8, 3) and prepared.max() <= 1
        np.testing.assert_array_equal(found, analyzer.inner.analyze(prepared, 1))
        np.testing.assert_array_equal(found, analyzer.analyze({"images": prepared}, 1))
        # Nothing is preprocessed twice.
        smooth = revgraph.analyzers.GaussianSmoother(analyzer, augment_by_n=1, noise_scale=0)
        np.testing.assert_allclose(smooth.analyze(images, 1), found, rtol=1e-4, atol=1e-6)
        assert create_analyzer("integrated_gradients", model, steps=4).analyze(images, 1).shape == found.shape
        assert visualize.plot(prepared, found, model.predict(images, verbose=0))
        assert visualize.compare(model, images, ["gradient", "lrp.vit"], 1)
        with pytest.raises(ValueError, match=r"has no tokenizer.*plot\(analyzer.preprocess\(x\), relevance\)"):
            analyzer.tokens(images)

    def test_what_hides_tokens_by_chance(self):
        preprocessor = hub.models.BertMaskedLMPreprocessor(
            word_tokenizer(), sequence_length=LENGTH, mask_selection_length=2
        )
        model = hub.models.BertMaskedLM(backbone(), preprocessor)
        analyzer = create_analyzer("lrp.cp", model)
        with pytest.raises(ValueError, match="hides tokens by chance.*x, _, _ = model.preprocessor"):
            analyzer.analyze(TEXTS, (0, 3))
        x, _, _ = model.preprocessor(TEXTS)
        assert analyzer.analyze(x, (0, 3))["token_ids"].shape == (2, LENGTH)


class TestBadInput:
    def test_no_preprocessor(self, classifier):
        model = hub.models.BertTextClassifier(classifier.backbone, num_classes=2, preprocessor=None)
        analyzer = create_analyzer("lrp.cp", model)
        with pytest.raises(ValueError, match="its attribute `preprocessor` is None.*Set model.preprocessor, or pass"):
            analyzer.analyze(TEXTS, 1)
        assert analyzer.analyze(classifier.preprocessor(TEXTS), 1)["token_ids"].shape == (2, LENGTH)
        model.preprocessor = classifier.preprocessor
        assert analyzer.analyze(TEXTS, 1).shape == (2, LENGTH)

    def test_a_vocabulary_that_was_not_downloaded(self, classifier):
        preprocessor = hub.models.BertTextClassifierPreprocessor(
            hub.models.BertTokenizer(vocabulary=None), sequence_length=LENGTH
        )
        model = hub.models.BertTextClassifier(classifier.backbone, num_classes=2, preprocessor=preprocessor)
        analyzer = create_analyzer("lrp.cp", model)
        for ask in (lambda: analyzer.analyze(TEXTS, 1), lambda: analyzer.tokens(TEXTS)):
            with pytest.raises(ValueError, match="BertTokenizer has no vocabulary.*from_preset.*set_vocabulary"):
                ask()
        assert analyzer.analyze(classifier.preprocessor(TEXTS), 1)["token_ids"].shape == (2, LENGTH)
        preprocessor.tokenizer.set_vocabulary(classifier.preprocessor.tokenizer.get_vocabulary())
        assert analyzer.analyze(TEXTS, 1).shape == (2, LENGTH)

    def test_numbers_in_the_place_of_texts(self, of_classifier):
        for wrong in (np.ones((2, 4), "int32"), [[1, 2, 3]], None):
            with pytest.raises(TypeError, match="takes texts.*'padding_mask', 'segment_ids', 'token_ids'"):
                of_classifier.analyze(wrong, 1)
        with pytest.raises(ValueError, match="does not take what was given.*Give what model.predict takes"):
            of_classifier.analyze({"text": TEXTS}, 1)

    @pytest.mark.parametrize("empty", [[], (), {"text": []}])
    def test_no_texts(self, empty, of_classifier):
        with pytest.raises(ValueError, match="the batch is empty. Pass at least one sample"):
            of_classifier.analyze(empty, 1)

    @pytest.mark.parametrize("beside", [3, None, 2.5])
    def test_something_else_among_texts(self, beside, of_classifier):
        for wrong in ([*TEXTS, beside], [beside, *TEXTS], np.array([*TEXTS, beside], object), (TEXTS, [beside, "a"])):
            with pytest.raises(TypeError, match=f"holds strings alone. Received: {beside}.*Write it as a string"):
                of_classifier.analyze(wrong, 1)
        # The remedies.
        assert of_classifier.analyze([*TEXTS, str(beside)], 1).shape == of_classifier.analyze([*TEXTS, ""], 1).shape

    def test_dicts_of_ids_that_lack_something_or_have_more(self, classifier, of_classifier):
        x = dict(classifier.preprocessor(TEXTS))
        expected = of_classifier.analyze(x, 1)["token_ids"]
        less = {name: part for name, part in x.items() if name != "padding_mask"}
        with pytest.raises(ValueError, match="Received: a dict of 'segment_ids', 'token_ids'. Add 'padding_mask', or"):
            of_classifier.analyze(less, 1)
        with pytest.raises(ValueError, match="Add 'padding_mask', and leave out 'mask', or give texts"):
            of_classifier.analyze({**less, "mask": x["padding_mask"]}, 1)
        with pytest.warns(UserWarning, match="'labels': no such inputs of the model"):
            np.testing.assert_array_equal(of_classifier.analyze({**x, "labels": [0, 1]}, 1)["token_ids"], expected)

    def test_a_length_above_the_table_of_positions(self, classifier):
        reader = hub.models.BertTextClassifierPreprocessor(word_tokenizer(), sequence_length=LENGTH + 4)
        model = hub.models.BertTextClassifier(classifier.backbone, num_classes=2, preprocessor=reader)
        analyzer = create_analyzer("lrp.cp", model)
        with pytest.raises(ValueError, match="that of '.*position_embedding' has 12 rows.*sequence_length = 12"):
            analyzer.analyze(TEXTS, 1)
        reader.sequence_length = 12
        assert analyzer.analyze(TEXTS, 1).shape == (2, 12)

    def test_ids_and_sequences_that_the_model_does_not_take(self, of_classifier):
        ids = np.ones((1, 4), "int32")
        with pytest.raises(ValueError, match="Input 'token_ids' has the id 99.*so ids go from 0 to 18"):
            of_classifier.analyze({"token_ids": 99 * ids, "padding_mask": ids, "segment_ids": 0 * ids}, 1)
        long = np.ones((1, LENGTH + 1), "int32")
        with pytest.raises(ValueError, match="longer than a table of positions"):
            of_classifier.analyze({"token_ids": long, "padding_mask": long, "segment_ids": 0 * long}, 1)

    def test_a_reference_that_is_no_token(self, classifier):
        with pytest.raises(ValueError, match="'the film' is not one token"):
            create_analyzer("deep_lift", classifier, reference_inputs="the film")


def test_a_text_that_does_not_fit_is_a_warning(of_speaker, speaker):
    fits = "the film was"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_speaker.analyze(fits)
    with pytest.warns(UserWarning, match="Text 1 has more tokens than fit.*sequence_length"):
        of_speaker.analyze([fits, "the film was great " * speaker.preprocessor.sequence_length])


def test_whole_datasets_of_texts(classifier, tmp_path):
    """The preprocessor makes ids of each batch; what is read may be a list, an array, or a stream."""
    analyzer, texts = create_analyzer("lrp.attnlrp", classifier), ["a good film", "bad", "film good bad"]
    stream = tf.data.Dataset.from_tensor_slices(texts)
    datasets = {"list": texts, "array": np.array(texts), "samples": stream, "batches": stream.batch(2)}
    expected = analyzer.analyze(texts)
    for kind, dataset in datasets.items():
        assert revgraph.explain_dataset(analyzer, dataset, tmp_path / kind, verbose=0, ledger=True).explained == 3
        written = np.load(tmp_path / kind / "attribution.token_ids-00000.npy")
        np.testing.assert_allclose(written, expected, rtol=1e-5, atol=1e-7)
