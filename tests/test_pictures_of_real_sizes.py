"""Long series, volumes and texts: what is strong is seen, however much there is."""

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib.collections import LineCollection, QuadMesh

import revgraph
from revgraph import visualize
from revgraph.visualize.kinds import LONG

pytestmark = pytest.mark.filterwarnings("ignore:The output of .* is a probability")

RNG = np.random.default_rng(0)


def strips(axes):
    """The values of the cells of each strip, from the one on top."""
    (mesh,) = axes.collections
    return np.ma.filled(mesh.get_array().astype(float), np.nan)[::-2]


def drawn(picture):
    """RGB of a figure."""
    picture.canvas.draw()
    return np.asarray(picture.canvas.buffer_rgba())[..., :3].astype(int)


def is_red(pixels):
    return (pixels[..., 0] > 80) & (pixels[..., 1] < 40) & (pixels[..., 2] < 60)


class TestSeries:
    def test_a_long_series_has_a_strip_for_each_channel(self):
        x, r = RNG.normal(size=(2, 500, 20)), RNG.normal(size=(2, 500, 20))
        axes = visualize.plot(x, r, samples=1).axes[0]
        (mesh,) = axes.collections
        assert isinstance(mesh, QuadMesh) and len(axes.lines) == 20
        np.testing.assert_allclose(strips(axes), r[0].T)
        colours = mesh.to_rgba(mesh.get_array())[::-2]
        wanted = visualize.heatmap(r, reduce_axis=None)[0].transpose(1, 0, 2)
        np.testing.assert_allclose(colours[..., :3], wanted, atol=0.01)
        assert axes.get_xlim() == (-0.5, 499.5)

    def test_a_short_series_has_coloured_curves(self):
        for time, kind in ((LONG, LineCollection), (LONG + 1, QuadMesh)):
            x = RNG.normal(size=(1, time, 2))
            assert all(isinstance(each, kind) for each in visualize.plot(x, x, kind="series").axes[0].collections)

    @pytest.mark.parametrize("time", [30, 500, 20_000])
    def test_one_relevant_step_is_seen(self, time):
        x, r = np.sin(np.arange(time) / 5)[None, :, None], np.zeros((1, time, 1))
        r[0, time // 3] = 1
        assert is_red(drawn(visualize.plot(x, r))).any()
        grid = visualize.plot_grid(x, dict.fromkeys("abcdef", r))
        assert is_red(drawn(grid)).any(axis=0).sum() >= 6

    def test_no_step_of_a_curve_hides_another(self):
        x, r = np.zeros((1, 30, 1)), np.zeros((1, 30, 1))
        r[0, 10] = 1
        red = is_red(drawn(visualize.plot(x, r, kind="series")))
        # But for the colour bar, which is at the right.
        heights = red[:, : red.shape[1] // 2].sum(axis=0)
        heights = heights[heights > 0]
        assert len(heights) > 10 and np.ptp(heights[1:-1]) <= 1

    def test_steps_that_share_a_pixel_have_the_colour_of_the_strongest(self):
        r = np.zeros((1, 9000, 1))
        r[0, 5000], r[0, 5001] = -3, 2
        (cells,) = strips(visualize.plot(np.ones_like(r), r).axes[0])
        assert len(cells) < 1000 and cells.min() == -3 and np.count_nonzero(cells) == 1

    @pytest.mark.parametrize("time", [9, 200])
    def test_a_curve_of_one_step_is_seen(self, time):
        x = np.ones((1, time, 1))
        picture = visualize.plot(x, x, lengths=[1], cmap_type="bwr", kind="series")
        assert (is_red(drawn(picture)) | (drawn(picture)[..., 0] - drawn(picture)[..., 1] > 200)).any()

    def test_padding_has_no_colour(self):
        x = RNG.normal(size=(2, 200, 2))
        mask = np.ones((2, 200), bool)
        mask[0, 50:60] = mask[0, 150:] = False
        first, second = visualize.plot(x, x, lengths=mask).axes[:2]
        for cells, r in zip(strips(first), x[0].T, strict=True):
            np.testing.assert_array_equal(np.isnan(cells), ~mask[0])
            np.testing.assert_allclose(cells[mask[0]], r[mask[0]])
        assert first.get_xlim() == second.get_xlim() and len(first.lines[0].get_xdata()) == 140

    def test_what_is_not_known_has_strips_alone(self):
        r = RNG.normal(size=(1, 300, 3))
        axes = visualize.plot_grid(None, {"a": r, "b": r}).axes[1]
        assert len(strips(axes)) == 3 and not axes.lines

    def test_names_stand_beside_the_first_column(self):
        x = RNG.normal(size=(1, 90, 2))
        first, second = visualize.plot_grid(x, {"a": x, "b": x}, channel_names=["left", "right"]).axes[:2]
        assert [label.get_text() for label in first.get_yticklabels()] == ["left", "right"]
        assert [label.get_text() for label in second.get_yticklabels()] == ["", ""]

    def test_names_that_do_not_fit(self):
        x = RNG.normal(size=(1, 90, 2))
        with pytest.raises(ValueError, match="3 channel names for 2 channels: pass one for each"):
            visualize.plot(x, x, channel_names=["a", "b", "c"])
        assert visualize.plot(x, x, channel_names=np.array(["a", "b"]))


def volumes(axis=1, at=(6, 1)):
    """Two volumes, and relevance in one slice of each."""
    x = RNG.random((2, 8, 9, 10, 1))
    r = 0.01 * RNG.normal(size=x.shape)
    for sample, position in enumerate(at):
        np.moveaxis(r[sample], axis - 1, 0)[position, 2:4, 3:5] += 1
    return x, r


def shown(axes):
    return np.asarray(axes.images[-1].get_array())[..., :3]


class TestVolumes:
    @pytest.mark.parametrize("axis", [1, 2, 3])
    def test_the_slice_with_most_relevance_is_drawn(self, axis):
        x, r = volumes(axis)
        picture = visualize.plot(x, r, axis=axis)
        last = x.shape[axis] - 1
        labels = [axes.get_ylabel() for axes in picture.axes if axes.get_ylabel()]
        assert labels == [f"slice {i} of 0 to {last}" for i in (6, 1)]
        for row, i in enumerate((6, 1)):
            image, values = (np.take(each[row], i, axis - 1) for each in (x, r))
            np.testing.assert_allclose(shown(picture.axes[3 * row])[..., :1], image)
            np.testing.assert_allclose(shown(picture.axes[3 * row + 1]), visualize.heatmap(values[None])[0], atol=0.01)

    def test_methods_share_the_slice(self):
        x, r = volumes()
        other = np.roll(r, 2, axis=1)
        picture = visualize.plot_grid(x, {"a": r, "b": 5 * other}, titles=["one", "two"])
        # The second has more.
        assert picture.axes[0].get_ylabel() == "one\nslice 0 of 0 to 7"
        assert picture.axes[3].get_ylabel() == "two\nslice 3 of 0 to 7"
        wanted = visualize.heatmap(r[:1, 0], absmax=np.abs(5 * other).max())[0]
        np.testing.assert_allclose(shown(picture.axes[1]), wanted, atol=0.01)

    def test_of_a_model(self):
        keras.utils.set_random_seed(0)
        body = [layers.Conv3D(2, 3, activation="relu"), layers.GlobalAveragePooling3D(), layers.Dense(2)]
        model = keras.Sequential([keras.Input((8, 9, 10, 1)), *body])
        x = volumes()[0].astype("float32")
        found = revgraph.create_analyzer("lrp.epsilon", model).analyze(x)
        best = np.abs(found).sum(axis=(2, 3, 4)).argmax(axis=1)
        picture = visualize.compare(model, x, ["lrp.epsilon"], labels=[0, 1])
        labels = [axes.get_ylabel().split("\n") for axes in picture.axes if axes.get_ylabel()]
        assert [lines[-1] for lines in labels] == [f"slice {i} of 0 to 7" for i in best]
        assert all("label output" in lines[1] for lines in labels)
        analyzers = [revgraph.create_analyzer(name, model) for name in ("gradient", "lrp.epsilon")]
        assert visualize.report(analyzers, x[:1]).page.count("<img") == 1

    def test_beside_other_inputs(self):
        x, r = volumes()
        table = np.ones((2, 3))
        picture = visualize.plot({"scan": x, "table": table}, {"scan": r, "table": table}, titles=["one", "two"])
        assert picture.subfigs[0].axes[0].get_ylabel() == "one\nslice 6 of 0 to 7"

    def test_relevance_without_channels_and_channels_in_front(self):
        x, r = volumes()
        plain = visualize.plot(x, r)
        for other in (
            visualize.plot(x, r[..., 0]),
            visualize.plot(np.moveaxis(x, -1, 1), np.moveaxis(r, -1, 1), reduce_axis=1),
        ):
            np.testing.assert_array_equal(shown(other.axes[4]), shown(plain.axes[4]))

    def test_a_montage_of_what_is_relevant(self):
        x, r = volumes()
        picture = visualize.plot_volume(x, r, slices=4, choose="relevant")
        rows = np.array(picture.axes[:16]).reshape(4, 4)
        for sample, i in enumerate((6, 1)):
            positions = [int(axes.get_title().split()[1]) for axes in rows[2 * sample]]
            # One of each quarter, and among them the one that has most.
            assert [p // 2 for p in positions] == [0, 1, 2, 3] and i in positions
            assert rows[2 * sample + 1, 0].get_ylabel() == f"most in slice {i}"
            column = positions.index(i)
            np.testing.assert_allclose(shown(rows[2 * sample, column])[..., 0], x[sample, i, ..., 0])
            wanted = visualize.heatmap(r, absmax=np.abs(r[sample]).max())[sample, i]
            np.testing.assert_allclose(shown(rows[2 * sample + 1, column]), wanted, atol=0.01)

    def test_an_even_montage_names_what_it_does_not_show(self):
        x, r = volumes()
        picture = visualize.plot_volume(x, r, slices=3)
        assert [axes.get_title() for axes in picture.axes[:3]] == ["slice 0", "slice 4", "slice 7"]
        assert [axes.get_ylabel() for axes in picture.axes if axes.get_ylabel()] == [
            "most in slice 6",
            "most in slice 1",
        ]

    def test_options_that_do_not_fit(self):
        x, r = volumes()
        with pytest.raises(ValueError, match="axis 1, 2 or 3. Received axis 4"):
            visualize.plot(x, r, axis=4)
        with pytest.raises(ValueError, match='choose is "even" or "relevant". Received: \'most\''):
            visualize.plot_volume(x, r, choose="most")
        with pytest.raises(ValueError, match="slices must be a positive int. Received: 0"):
            visualize.plot_volume(x, r, slices=0)
        with pytest.raises(TypeError, match="Volumes take the options .*axis.*Received: slices"):
            visualize.plot(x, r, slices=3)
        with pytest.raises(ValueError, match="for inputs of shape"):
            visualize.plot(x, r[:, :4])


@pytest.fixture(scope="module")
def reader():
    keras.utils.set_random_seed(0)
    words = layers.TextVectorization(output_sequence_length=300, vocabulary=["good", "bad", "film"])
    body = [layers.Embedding(5, 3), layers.GlobalAveragePooling1D(), layers.Dense(2, activation="softmax")]
    return keras.Sequential([keras.Input((), dtype="string"), words, *body])


TEXTS = np.array(["good film", "bad film bad"])


class TestTexts:
    def test_methods_stand_below_each_other(self, reader):
        names = ["gradient", "lrp.epsilon"]
        text = visualize.compare(reader, TEXTS, names, class_names=["no", "yes"], labels=[0, 1], scale="column")
        y = reader(TEXTS).numpy()
        above = [t.split("\n") for t in text.titles]
        assert [lines[-1] for lines in above] == names * 2
        assert above[0][0] == f"{['no', 'yes'][y[0].argmax()]}: {y[0].max():.3g}" and above[1] == ["lrp.epsilon"]
        assert text.tokens == (("good", "film"),) * 2 + (("bad", "film", "bad"),) * 2
        for place, name in enumerate(names):
            found = revgraph.create_analyzer(name, reader).analyze(TEXTS)
            np.testing.assert_allclose(text.relevance[2 + place], found[1, :3])
            wanted = visualize.heatmap(found, reduce_axis=None, scale="batch")
            np.testing.assert_allclose(text.colours[place], wanted[0, :2], atol=1e-6)

    @pytest.mark.parametrize("scale", ["all", "row", "column", "image"])
    def test_scales(self, reader, scale):
        analyzer = revgraph.create_analyzer("lrp.epsilon", reader)
        tokens, r = analyzer.tokens(TEXTS), np.zeros((2, 300))
        r[0, :2], r[1, :3] = [1, 2], [3, 1, 4]
        text = visualize.plot_grid(tokens, {"a": r, "b": 10 * r}, scale=scale, cmap_type="bwr")
        limits = {"all": [40] * 4, "row": [20, 20, 40, 40], "column": [4, 40, 4, 40], "image": [2, 20, 4, 40]}[scale]
        for colours, relevance, limit in zip(text.colours, text.relevance, limits, strict=True):
            np.testing.assert_allclose(colours[:, 1], 1 - relevance / limit, atol=1e-6)

    def test_only_so_many_texts(self, reader):
        assert len(visualize.compare(reader, TEXTS, ["gradient", "lrp.epsilon"], samples=1)) == 2

    def test_long_texts_wrap(self, reader):
        analyzer = revgraph.create_analyzer("lrp.epsilon", reader)
        x = np.array([" ".join(RNG.choice(["good", "bad", "film"], 300))])
        picture = visualize.plot(analyzer.tokens(x), analyzer.analyze(x)).picture(width=6)
        picture.canvas.draw()
        boxes = [each.get_window_extent() for each in picture.texts]
        assert len(boxes) == 300 and picture.get_figwidth() == 6
        assert all(b.x0 >= 0 and b.x1 <= picture.bbox.x1 and b.y0 >= 0 and b.y1 <= picture.bbox.y1 for b in boxes)

    def test_what_does_not_fit(self, reader):
        analyzer = revgraph.create_analyzer("lrp.epsilon", reader)
        tokens, r = analyzer.tokens(TEXTS), analyzer.analyze(TEXTS)
        with pytest.raises(ValueError, match=r"plot_grid\(analyzer.tokens\(texts\)"):
            visualize.plot_grid(TEXTS, {"a": r})
        assert visualize.plot_grid(tokens, {"a": r})
        with pytest.raises(TypeError, match="Texts take the options .*cmap_type.*Received: overlay"):
            visualize.plot_grid(tokens, {"a": r}, overlay=1)
        with pytest.raises(ValueError, match="scale is 'all'.*Received: 'batch'"):
            visualize.plot_grid(tokens, {"a": r}, scale="batch")
        with pytest.raises(ValueError, match="1 titles for 2 samples"):
            visualize.plot_grid(tokens, {"a": r}, titles=["one"])
        with pytest.raises(ValueError, match="relevance of shape"):
            visualize.plot_grid(tokens, {"a": r[:1]})
