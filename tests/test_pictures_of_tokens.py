"""Pictures of tokens: in notebooks, on light pages and dark ones, in figures for papers, and tables token x token."""

import dataclasses
import re

import numpy as np
import pytest

import revgraph
from revgraph import visualize
from revgraph.analyzers import Continuation, Tokens


def tokens_of(*rows, special=("[CLS]", "[SEP]"), left=False):
    length = max(map(len, rows))
    fill = [["[PAD]"] * (length - len(row)) for row in rows]
    padded = [pad + list(row) if left else list(row) + pad for row, pad in zip(rows, fill, strict=True)]
    texts = np.array(padded, object)
    return Tokens(texts, np.zeros(texts.shape, int), np.isin(texts, special), texts == "[PAD]")


PIECES = tokens_of(["[CLS]", "the", "act", "##ors", "[SEP]"], ["[CLS]", "bor", "##ing", "[SEP]"])
RELEVANCE = np.array([[0.1, -2, 1, 4, 0], [0, 1, -1, 0.5, 9]])


def shown(markup):
    """The text that a browser shows."""
    return re.sub(r"<[^>]*>", "", markup.replace("<br>", "\n"))


def test_padding_is_not_drawn_and_special_tokens_are_marked():
    text = visualize.plot(PIECES, RELEVANCE)
    assert isinstance(text, visualize.Text) and text.tokens == (PIECES[0], PIECES[1])
    markup = text._repr_html_()
    assert "[PAD]" not in markup and markup.count("dashed") == markup.count(", special") == 4
    # The largest relevance of a text has the strongest colour, and that of padding counts for nothing.
    assert [part.max() for part in text.relevance] == [4, 1] and np.array_equal(text.relevance[1], RELEVANCE[1, :4])


def test_padding_on_the_left():
    tokens = tokens_of(["a", "b"], ["c"], left=True)
    text = visualize.plot(tokens, np.array([[1.0, 2.0], [9.0, 3.0]]))
    assert text.tokens == (("a", "b"), ("c",)) and text.relevance[1].tolist() == [3.0]


def test_words_are_joined_as_their_tokenizer_cut_them():
    assert shown(visualize.plot(PIECES, RELEVANCE).to_html()) == "[CLS] the actors [SEP][CLS] boring [SEP]"
    spaced = tokens_of(["<s>", "The", " beaut", "iful", " city", ",", "\n", " "], special=("<s>",))
    assert shown(visualize.plot(spaced, np.ones((1, 8))).to_html()) == "<s> The beautiful city,\u21b5 \u2423".replace(
        "<s>", "&lt;s&gt;"
    )
    assert shown(visualize.text(["two", "words"], [1.0, 2.0]).to_html()) == "two words"
    assert r"\strut act}}\colorbox" in visualize.plot(PIECES, RELEVANCE).to_latex()


def test_titles_have_the_class_and_the_score():
    outputs = np.array([[0.2, 0.8], [0.7, 0.3]])
    text = visualize.plot(PIECES, RELEVANCE, outputs, ["bad", "good"], "max_activation")
    assert text.titles == ("good: 0.8", "bad: 0.7") and "<b>good: 0.8</b>" in text.to_html()
    assert visualize.plot(PIECES, RELEVANCE, outputs).titles == ("output 1: 0.8", "output 0: 0.7")
    contrast = visualize.plot(PIECES, RELEVANCE, outputs, ["bad", "good"], lambda y: y[:, 1] - y[:, 0])
    assert contrast.titles == ("good - bad: 0.6", "good - bad: -0.4")
    assert visualize.plot(PIECES, RELEVANCE, outputs, ["bad", "good"], 1).titles == ("good: 0.8", "good: 0.3")
    assert visualize.plot(PIECES, RELEVANCE, titles=["a", "b"], samples=1).titles == ("a",)


def test_each_input_has_its_own_tokens_beside_its_own_relevance():
    answers = tokens_of(["<s>", "die", " Schau"], ["<s>"], special=("<s>",))
    tokens = {"encoder_token_ids": PIECES, "decoder_token_ids": answers}
    relevance = {"decoder_token_ids": np.array([[8.0, -1, 2], [0.5, 3, 3]]), "encoder_token_ids": RELEVANCE}
    text = visualize.plot(tokens, relevance, titles=["one", "two"])
    assert text.tokens == (PIECES[0], answers[0], PIECES[1], answers[1])
    assert text.titles == ("one, encoder", "decoder", "two, encoder", "decoder")
    assert [part.tolist() for part in text.relevance][1::2] == [[8, -1, 2], [0.5]]
    # The inputs of a sample share a scale, and those of another one do not.
    expected = visualize.heatmap(np.array([[4.0, -2, 8], [1, 0.5, -1]]), reduce_axis=None)
    for found, colour in zip((text.colours[0][3], text.colours[1][0]), expected[0, ::2], strict=True):
        np.testing.assert_allclose(found, colour)
    np.testing.assert_allclose(text.colours[3][0], expected[1, 1])
    of_batch = visualize.plot(tokens, relevance, scale="batch")
    np.testing.assert_allclose(of_batch.colours[3][0], visualize.heatmap([[0.5, 8.0]], reduce_axis=None)[0, 0])
    assert of_batch.titles == 2 * ("encoder", "decoder")
    assert visualize.plot(tokens, relevance, samples=1).tokens == text.tokens[:2]
    assert text.special[1].tolist() == [True, False, False] and text.picture().texts
    for wrong, given in ((RELEVANCE, "an array"), ({"encoder_token_ids": RELEVANCE}, "a dict of 'encoder_token_ids'")):
        with pytest.raises(ValueError, match=f"'decoder_token_ids' need a dict with the relevance of each.*{given}"):
            visualize.plot(tokens, wrong)
    with pytest.raises(ValueError, match="the tokens of the same texts. Received those of \\[1, 2\\] texts"):
        visualize.plot({**tokens, "decoder_token_ids": answers.part(slice(1))},
                       {**relevance, "decoder_token_ids": np.ones((1, 3))})  # fmt: skip


def test_special_tokens_are_marked_on_strong_colours():
    """The dashes have the colour of the letters, which are black or white, whichever can be read."""
    figure = visualize.plot(PIECES, np.array([[9.0, 0, 0, 0, -0.1], [0, 0, 0, 0, 0]])).picture()
    assert [line.get_color() for line in figure.artists] == ["#FFFFFF", "#000000", "#000000", "#000000"]
    figure.canvas.draw()
    inks = [word.get_color() for word in figure.texts if word.get_text().startswith("[")]
    assert inks == [line.get_color() for line in figure.artists]
    for line in figure.artists:
        box = line.get_window_extent()
        inside = [word.get_bbox_patch().get_window_extent() for word in figure.texts if word.get_text()[0] == "["]
        assert any(each.x0 <= box.x0 and box.x1 <= each.x1 and each.y0 < box.y0 < each.y1 for each in inside)


def luminance(rgb):
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return light @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("cmap", ["RdBu_r", "seismic", "bwr", "coldnhot", "gray", "coolio"])
def test_letters_can_be_read_on_light_pages_and_on_dark_ones(cmap):
    values = np.linspace(-1, 1, 41)
    markup = visualize.text(["word"] * 41, values, cmap).to_html()
    found = re.findall(r"rgba\((\d+),(\d+),(\d+),([\d.]+)\)", markup)
    assert len(found) == 41
    *rgb, opacity = np.array(found, float).T
    colours, opacity = np.stack(rgb, axis=1) / 255, opacity[:, None]
    for page, letters in ((1.0, 0.0), (0.07, 0.88)):
        behind = luminance(opacity * colours + (1 - opacity) * page)
        ends = np.sort([behind, np.broadcast_to(luminance(np.full(3, letters)), behind.shape)], axis=0)
        # 4.5 is what WCAG asks of text; letters on dark pages are usually not quite white.
        assert ((ends[1] + 0.05) / (ends[0] + 0.05)).min() > (4.5 if page == 1 else 3.5)


def test_red_is_for_and_blue_against():
    markup = visualize.text(["for", "against"], [1.0, -1.0]).to_html()
    (red, _, blue), (other_red, _, other_blue) = (
        map(int, found) for found in re.findall(r"rgba\((\d+),(\d+),(\d+)", markup)
    )
    assert red > blue and other_blue > other_red


def test_a_figure_for_papers(tmp_path):
    text = visualize.plot(PIECES, RELEVANCE, titles=["$5 & <b>", "second"])
    figure = text.picture(width=2.0, fontsize=8)
    words = [each.get_text() for each in figure.texts]
    assert words == [r"\$5 & <b>", "[CLS]", "the", "act", "ors", "[SEP]", "second", "[CLS]", "bor", "ing", "[SEP]"]
    renderer = figure.canvas.get_renderer()
    boxes = [each.get_window_extent(renderer) for each in figure.texts]
    # Lines are broken at the width, and nothing lies on something else.
    assert max(box.x1 for box in boxes) <= 2.0 * figure.dpi + 1
    for i, a in enumerate(boxes):
        assert not any(a.overlaps(b) for b in boxes[i + 1 :])
    for name in ("text.png", "text.pdf", "text.svg"):
        text.savefig(tmp_path / name, width=3)
        assert (tmp_path / name).stat().st_size > 500
    with pytest.raises(ValueError, match="width and fontsize are positive"):
        text.picture(width=0)


def test_files_of_texts_and_what_no_figure_can_be(tmp_path):
    text = visualize.plot(PIECES, RELEVANCE)
    for name, written in (("a.html", text.to_html()), ("a.tex", text.to_latex())):
        text.savefig(tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8") == written
    for figure in (text.picture(), visualize.plot(np.ones((1, 4, 4, 3)), np.ones((1, 4, 4, 3)))):
        with pytest.raises(ValueError, match="ends with one of .*svg.*Received: '.html'. For a web page write an SVG"):
            figure.savefig(tmp_path / "b.html")
        figure.savefig(tmp_path / "b.svg")
        with open(tmp_path / "c", "wb") as file:
            figure.savefig(file, format="png")
        assert (tmp_path / "c").stat().st_size > 500 and not (tmp_path / "b.html").exists()


def table(said=2, before=3):
    relevance = np.tril(np.arange(1.0, said * (before + said - 1) + 1).reshape(said, -1), before - 1)
    names = ("<s>", " $a", "\n", *(f" w{i}" for i in range(before + said - 3)))
    return Continuation(names, before, relevance, np.zeros(said), np.full(said, 0.25), np.zeros(before + said, bool))


def test_the_table_of_a_continuation():
    drawn = visualize.plot_continuation(table())
    axes = drawn.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["<s>", r"\$a", "\u21b5", "w0"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["w0  25%", "w1  25%"]
    # What does not come before a token is white, and has no number.
    assert len(axes.texts) == 7 and np.all(axes.images[0].get_array()[0, 3] == 1)
    assert not visualize.plot_continuation(table(2, 30)).axes[0].texts
    with pytest.raises(TypeError, match="draws what analyzer.continuation"):
        visualize.plot_continuation(np.ones((2, 3)))


def test_the_table_of_an_encoder_and_a_decoder():
    found = dataclasses.replace(table(2, 5), source=3, against=(" x", " y"))
    drawn = visualize.plot_continuation(found)
    assert sorted(line.get_xdata()[0] for line in drawn.axes[0].lines) == [2.5, 4.5]
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["w2  25%, not x", "w3  25%, not y"]
    assert "' w2', not ' x'" in str(found)


def test_a_continuation_prints_as_a_table():
    text = str(table())
    assert "'w1'" not in text and "' w1'" in text and "probability" in text and "<table>" in table()._repr_html_()
    assert len(table()) == 2 and table().said == (" w0", " w1") and table().read[-1] == " w0"


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"tokens of shape \(2, 5\), and relevance of shape \(2, 4\)"):
        visualize.plot(PIECES, RELEVANCE[:, :4])
    with pytest.raises(ValueError, match="of that input. Received a dict of 'a_token_ids', 'b_token_ids'"):
        visualize.plot(PIECES, {"a_token_ids": RELEVANCE, "b_token_ids": RELEVANCE})
    assert len(visualize.plot(PIECES, {"token_ids": RELEVANCE, "padding_mask": RELEVANCE})) == 2
    with pytest.raises(ValueError, match=r"Pass analyzer.tokens\(texts\)"):
        visualize.plot(["a text", "another"], RELEVANCE)
    with pytest.raises(ValueError, match="1 titles for 2 samples"):
        visualize.plot(PIECES, RELEVANCE, titles=["one"])


def test_tokens_show_themselves():
    assert str(PIECES) == "[CLS] | the | act | ##ors | [SEP]\n[CLS] | bor | ##ing | [SEP]"
    assert repr(PIECES) == "<Tokens: 2 texts of up to 5 tokens>"
    assert list(PIECES)[1] == PIECES[1] == ("[CLS]", "bor", "##ing", "[SEP]") and len(PIECES) == 2
    assert PIECES.last().tolist() == [4, 3] and len(PIECES.part(slice(1, 2))) == 1
    markup = tokens_of(["<b>", "x"])._repr_html_()
    assert "&lt;b&gt;" in markup and "<b>" not in markup
    assert revgraph.NextToken is revgraph.analyzers.NextToken
