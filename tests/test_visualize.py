"""Pictures: what colours mean, what stands where, and that nothing passed in is changed."""

import io
import re
import subprocess
import sys

import keras
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from keras import layers
from PIL import Image

import revgraph
from revgraph import visualize
from revgraph.reverse.pictures import Picture
from revgraph.visualize import ColorMap, colormap
from revgraph.visualize.heatmaps import displayable
from revgraph.visualize.images import ZENNIT

RNG = np.random.default_rng(0)
R = RNG.normal(size=(3, 4, 5, 2))


class TestColourMaps:
    @pytest.mark.parametrize("name", [name for name in visualize.MAPS if colormap(name).diverging])
    def test_the_centre_is_zero(self, name):
        cmap = colormap(name)
        low, zero, high = cmap(np.array([0, 0.5, 1]))
        assert np.ptp(zero) < 0.01 and not np.allclose(low, high, atol=0.2)
        np.testing.assert_allclose(zero, cmap.palette()[128] / 255, atol=1e-9)

    def test_the_language(self):
        cmap = ColorMap("00f,80:fff,f00")
        np.testing.assert_allclose(cmap(np.array([-1, 0, 0.25, 0.5, 1, 2])),
                                   [[0, 0, 1], [0, 0, 1], [0.5, 0.5, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0]])  # fmt: skip
        np.testing.assert_allclose(ColorMap("000, 0f0, 0a0b0c")(0.75), [5 / 255, (255 + 11) / 510, 6 / 255])
        np.testing.assert_allclose(ColorMap("40:000,fff")(np.array([0, 0.25])), [[0, 0, 0]] * 2, atol=0.01)

    @pytest.mark.parametrize("source", ["fff", "00f,xyz", "ff:000,00:fff", "00f,,fff"])
    def test_what_is_not_in_the_language(self, source):
        with pytest.raises(ValueError, match="colour map's source"):
            ColorMap(source)

    @pytest.mark.parametrize("name", ["seismic", "bwr", "gray", "RdBu_r", "RdBu"])
    def test_ours_are_matplotlibs(self, name):
        values = np.linspace(0, 1, 101)
        theirs = matplotlib.colormaps[name].resampled(2001)(values)[:, :3]
        np.testing.assert_allclose(colormap(name)(values), theirs, atol=0.003)

    def test_any_of_matplotlibs(self):
        for cmap in ("viridis", matplotlib.colormaps["viridis"]):
            values = np.linspace(0, 1, 256)
            np.testing.assert_allclose(colormap(cmap)(values), matplotlib.colormaps["viridis"](values), atol=1e-9)

    def test_turned_round(self):
        values = np.linspace(0, 1, 11)
        for name in ("coldnhot", "wred", "bwr"):
            np.testing.assert_allclose(colormap(f"{name}_r")(values), colormap(name)(1 - values), atol=1e-9)
        np.testing.assert_allclose(colormap("bwr_r")(0.5), [1, 1, 1])

    @pytest.mark.parametrize("name", ["RdBu", "RdBu_r", "bwr_r", "coolwarm_r", "seismic", "RdYlBu"])
    def test_red_speaks_for_whatever_map_is_named(self, name):
        relevance = np.array([[[[1.0], [-1.0]]]])
        (positive, negative) = visualize.heatmap(relevance, name)[0, 0]
        assert positive[0] > positive[2] and negative[2] > negative[0]

    def test_maps_that_are_no_names_are_taken_as_they_are(self):
        for cmap in ("f00,fff,00f", colormap("bwr_r"), matplotlib.colormaps["RdBu"]):
            assert visualize.heatmap(np.ones((1, 1, 1, 1)), cmap)[0, 0, 0, 2] > 0.3

    def test_which_are_diverging(self):
        for name in ("seismic", "bwr", "coldnhot", "coleus", "RdBu_r", "PuOr", "coolwarm"):
            assert colormap(name).diverging, name
        for name in ("gray", "wred", "wblue", "cold", "viridis", "hot", "Reds"):
            assert not colormap(name).diverging, name

    def test_unknown(self):
        with pytest.raises(ValueError, match="No colour map is named 'sismic'"):
            colormap("sismic")
        with pytest.raises(TypeError, match="Received: 3"):
            colormap(3)


class TestHeatmap:
    def test_zero_is_in_the_middle_and_the_largest_at_the_end(self):
        relevance = np.array([[[-1.0, 0.0, 2.0]]])[..., None]
        red, white, half_blue = [1, 0, 0], [1, 1, 1], [0.5, 0.5, 1]
        rgb = visualize.heatmap(relevance, "bwr")
        assert rgb.dtype == np.float32 and rgb.shape == (1, 1, 3, 3)
        np.testing.assert_allclose(rgb[0, 0], [half_blue, white, red])

    def test_channels(self):
        for op, by_hand in [
            ("sum", R.sum(-1)),
            ("mean", R.mean(-1)),
            ("absmax", np.where(np.abs(R[..., 0]) > np.abs(R[..., 1]), R[..., 0], R[..., 1])),
            (np.max, R.max(-1)),
        ]:
            expected = visualize.heatmap(by_hand[..., None])
            np.testing.assert_array_equal(visualize.heatmap(R, reduce_op=op), expected)
            first = visualize.heatmap(np.moveaxis(R, -1, 1), reduce_op=op, reduce_axis=1)
            np.testing.assert_array_equal(first, np.moveaxis(expected, -1, 1))
        np.testing.assert_array_equal(
            visualize.heatmap(R.sum(-1), reduce_axis=None), visualize.heatmap(R, reduce_op="sum")
        )

    def test_scale(self):
        relevance = np.array([1.0, 4.0]).reshape(2, 1, 1, 1)
        alone = visualize.heatmap(relevance, "bwr")[:, 0, 0]
        together = visualize.heatmap(relevance, "bwr", scale="batch")[:, 0, 0]
        chosen = visualize.heatmap(relevance, "bwr", absmax=2)[:, 0, 0]
        each = visualize.heatmap(relevance, "bwr", absmax=[2, 8])[:, 0, 0]
        np.testing.assert_allclose(alone[:, 1], [0, 0])
        np.testing.assert_allclose(together[:, 1], [0.75, 0])
        np.testing.assert_allclose(chosen[:, 1], [0.5, 0])
        np.testing.assert_allclose(each[:, 1], [0.5, 0.5])

    def test_percentile_and_gamma(self):
        relevance = np.concatenate([np.arange(100.0), [1e6]]).reshape(1, 1, 101, 1)
        green = visualize.heatmap(relevance, "bwr", percentile=99)[0, 0, :, 1]
        np.testing.assert_allclose(green, 1 - np.clip(np.arange(101) / 99, 0, 1), atol=1e-6)
        green = visualize.heatmap(relevance, "bwr", percentile=99, gamma=0.5)[0, 0, :, 1]
        np.testing.assert_allclose(green, 1 - np.sqrt(np.clip(np.arange(101) / 99, 0, 1)), atol=1e-6)

    def test_sequential_maps_start_at_zero_where_nothing_is_negative(self):
        positive = np.array([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1)
        np.testing.assert_allclose(visualize.heatmap(positive, "gray")[0, 0, :, 0], [0, 0.5, 1])
        np.testing.assert_allclose(visualize.heatmap(positive - 1, "gray")[0, 0, :, 0], [0, 0.5, 1])
        np.testing.assert_allclose(visualize.heatmap(positive, "bwr")[0, 0, :, 2], [1, 0.5, 0])
        clipped = visualize.heatmap(positive - 1, "gray", input_is_positive_only=True)
        np.testing.assert_allclose(clipped[0, 0, :, 0], [0, 0, 1])
        forced = visualize.heatmap(positive, "gray", input_is_positive_only=False)
        np.testing.assert_allclose(forced[0, 0, :, 0], [0.5, 0.75, 1])

    def test_alpha(self):
        assert visualize.heatmap(R, alpha_cmap=True).shape == (3, 4, 5, 4)
        assert np.all(visualize.heatmap(R, "viridis", alpha_cmap=True)[..., 3] == 1)

    def test_no_relevance_is_the_centre(self):
        np.testing.assert_allclose(visualize.heatmap(np.zeros((1, 2, 2, 3)), "bwr"), 1)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"reduce_op": "max"}, "reduce_op is 'sum'"),
            ({"scale": "all"}, 'scale is "image" or "batch"'),
            ({"gamma": 0}, "gamma must be a positive"),
            ({"percentile": 0}, "percentile is a number"),
        ],
    )
    def test_illegal_options(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            visualize.heatmap(R, **arguments)

    def test_there_is_no_colour_for_nan(self):
        with pytest.raises(ValueError, match="NaN or infinite"):
            visualize.heatmap(np.full((1, 2, 2, 1), np.nan))
        with pytest.raises(TypeError, match="array of numbers"):
            visualize.heatmap(np.full((1, 2, 2, 1), "a"))


class TestInnvestigate:
    def test_nothing_is_changed_in_place_and_batches_work(self):
        x = R.copy()
        for function in ("project", "heatmap", "graymap", "gamma", "clip_quantile"):
            getattr(visualize, function)(x)
            np.testing.assert_array_equal(x, R)

    def test_project(self):
        x = np.array([[-1.0, 2.0], [4.0, 0.0], [0.0, 0.0]])
        np.testing.assert_allclose(visualize.project(x), [[0.25, 1], [1, 0.5], [0.5, 0.5]])
        np.testing.assert_allclose(visualize.project(x, (0, 255), 4), [[95.625, 191.25], [255, 127.5], [127.5, 127.5]])
        np.testing.assert_allclose(visualize.project(x, absmax=[1, 8, 1])[:, 0], [0, 0.75, 0.5])
        positive = visualize.project(np.array([[1, 2], [3, 4]]), input_is_positive_only=True)
        np.testing.assert_allclose(positive, [[0.5, 1], [0.75, 1]])

    def test_heatmap_is_seismic_where_asked(self):
        x = RNG.normal(size=(1, 6, 6, 3))
        theirs = matplotlib.colormaps["seismic"](visualize.project(x.sum(-1), (0, 255)).astype(int))[..., :3]
        ours = visualize.heatmap(x, cmap_type="seismic", reduce_op="sum", reduce_axis=-1, alpha_cmap=False)
        np.testing.assert_allclose(ours, theirs, atol=0.02)

    def test_graymap(self):
        x = RNG.normal(size=(2, 6, 6, 3))
        np.testing.assert_allclose(visualize.graymap(x)[..., 0], visualize.project(x.sum(-1)), atol=1e-6)

    def test_gamma(self):
        x = np.array([-4.0, -1.0, 0.0, 1.0, 2.0])
        np.testing.assert_allclose(visualize.gamma(x), [-4, -2, 0, 2, np.sqrt(8)])
        np.testing.assert_allclose(visualize.gamma(x, 2, maxamp=2), [-8, -0.5, 0, 0.5, 2])
        np.testing.assert_allclose(visualize.gamma(x + 1, minamp=1), visualize.gamma(x) + 1)
        np.testing.assert_array_equal(visualize.gamma(np.zeros(3)), 0)
        np.testing.assert_allclose(visualize.gamma(np.array([1, 4])), [2, 4])

    def test_clip_quantile(self):
        x = np.arange(101.0)
        np.testing.assert_allclose(visualize.clip_quantile(x, 5), np.clip(x, 5, 95))
        np.testing.assert_allclose(visualize.clip_quantile(x, 95), np.clip(x, 5, 95))
        np.testing.assert_allclose(visualize.clip_quantile(x, (10, 50)), np.clip(x, 10, 50))


class TestImages:
    def test_zero_is_white(self):
        array = np.array([[-3.0, 0.0, 1.5]])
        image = visualize.imgify(array)
        assert image.mode == "P" and image.size == (3, 1)
        pixels = np.asarray(image.convert("RGB"))[0]
        np.testing.assert_allclose(pixels, [[0, 0, 255], [255, 255, 255], [255, 128, 128]], atol=2)

    def test_bounds(self):
        ramp = np.array([[0.0, 1.0, 4.0]])
        assert np.asarray(visualize.imgify(ramp, cmap="gray")).tolist() == [[0, 64, 255]]
        assert np.asarray(visualize.imgify(ramp, cmap="gray", symmetric=True)).tolist() == [[128, 159, 255]]
        assert np.asarray(visualize.imgify(ramp, vmin=0, vmax=8, cmap="gray")).tolist() == [[0, 32, 128]]
        assert np.asarray(visualize.imgify(np.zeros((1, 2)))).tolist() == [[128, 128]]

    def test_colours(self):
        array = RNG.integers(0, 255, (4, 5, 3), np.uint8)
        for given in (array, np.moveaxis(array, -1, 0)):
            image = visualize.imgify(given)
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), array)

    def test_grid(self):
        batch = np.arange(5.0).reshape(5, 1, 1) * np.ones((5, 2, 3))
        grid = visualize.gridify(batch)
        np.testing.assert_array_equal(grid[::2, ::3, 0], [[0, 1], [2, 3], [4, 0]])
        assert grid.shape == (6, 6, 1)
        filled = visualize.gridify(batch, (2, 3), fill_value=9)
        np.testing.assert_array_equal(filled[::2, ::3, 0], [[0, 1, 2], [3, 4, 9]])
        np.testing.assert_array_equal(visualize.gridify(batch, (1, 2))[0, ::3, 0], [0, 1])
        channels_first = RNG.random((4, 3, 6, 7))
        np.testing.assert_array_equal(visualize.gridify(channels_first)[:6, 7:], np.moveaxis(channels_first[1], 0, -1))

    def test_a_grid_of_relevance_is_filled_with_zero(self):
        image = visualize.imgify(RNG.normal(size=(3, 4, 4)), grid=(2, 2))
        np.testing.assert_array_equal(np.asarray(image)[4:, 4:], 128)

    def test_each_sample_of_a_grid_has_its_own_scale(self):
        batch = np.array([1.0, 10.0]).reshape(2, 1, 1) * np.array([[0.0, 1.0]])
        assert np.asarray(visualize.imgify(batch, cmap="gray", grid=(1, 2))).tolist() == [[0, 255, 0, 255]]
        shared = visualize.imgify(batch, vmax=10, cmap="gray", grid=(1, 2))
        assert np.asarray(shared).tolist() == [[0, 26, 0, 255]]
        each = visualize.imgify(batch, vmax=[2, 20], cmap="gray", grid=(1, 2))
        assert np.asarray(each).tolist() == [[0, 128, 0, 128]]

    def test_saved(self, tmp_path):
        visualize.imsave(tmp_path / "r.png", R.sum(-1), cmap="coldnhot", grid=True)
        with Image.open(tmp_path / "r.png") as image:
            assert image.mode == "P" and image.size == (5, 12)
        stream = io.BytesIO()
        visualize.imsave(stream, R.sum(-1)[0], format="gif")
        assert stream.getvalue().startswith(b"GIF")

    @pytest.mark.parametrize("name", ZENNIT)
    def test_palettes(self, name):
        palette = visualize.palette(name)
        assert palette.shape == (256, 3) and palette.dtype == np.uint8
        strong = visualize.palette(name, level=2.0)
        np.testing.assert_array_equal(strong[:64], np.tile(palette[0], (64, 1)))
        np.testing.assert_array_equal(strong[-64:], np.tile(palette[-1], (64, 1)))

    def test_zennits_seismic_is_zennits(self):
        np.testing.assert_array_equal(
            visualize.palette("seismic")[[0, 128, 255]], [[0, 0, 208], [208] * 3, [208, 0, 0]]
        )

    @pytest.mark.parametrize("shape, grid", [((4,), False), ((4, 4, 2), False), ((2, 4, 4, 2), True), ((4, 4), True)])
    def test_shapes_that_are_no_images(self, shape, grid):
        with pytest.raises(ValueError, match=r"has height, width.*Received shape"):
            visualize.imgify(np.zeros(shape), grid=grid)


@pytest.fixture(scope="module")
def model():
    image = keras.Input((6, 6, 1), name="image")
    x = layers.Flatten()(layers.Conv2D(3, 3, activation="relu")(image))
    return keras.Model(image, layers.Dense(3, name="logits")(x), name="tiny")


X = RNG.random((3, 6, 6, 1)).astype("float32")
S = RNG.normal(size=(3, 6, 6, 1))


def shown(axes):
    """The RGB that an axes shows."""
    return np.asarray(axes.images[-1].get_array())[..., :3]


class TestPlot:
    def test_images(self):
        picture = visualize.plot(X, S, np.eye(3) * 5, ["cat", "dog", "cow"])
        axes = picture.axes[:9]
        assert [a.get_title() for a in axes[:3]] == ["input", "relevance", "overlay"]
        assert [axes[i].get_ylabel() for i in (0, 3, 6)] == ["cat: 5", "dog: 5", "cow: 5"]
        for i in range(3):
            np.testing.assert_allclose(shown(axes[3 * i]), np.repeat(X[i], 3, -1))
            np.testing.assert_allclose(shown(axes[3 * i + 1]), visualize.heatmap(S)[i], atol=0.01)
        assert len(picture.axes) == 9 + 3
        limits = [bar.get_ylim()[1] for bar in picture.axes[9:]]
        np.testing.assert_allclose(limits, np.abs(S).max(axis=(1, 2, 3)))

    @pytest.mark.parametrize("under", ["gray", "colour"])
    def test_relevance_can_be_seen_on_black_and_on_coloured_images(self, under):
        x = np.zeros((1, 2, 2, 3))
        x[0, 0, 0] = 1, 0, 0
        picture = visualize.plot(x, np.zeros((1, 2, 2, 1)), kind="images", overlay_on=under)
        shown = picture.axes[2].images[0].get_array()
        assert shown.min() >= 0.3 and (np.ptp(shown[0, 0]) > 0.2) == (under == "colour")
        with pytest.raises(ValueError, match="overlay_on"):
            visualize.plot(x, x, kind="images", overlay_on="red")

    def test_one_scale_for_a_batch(self):
        picture = visualize.plot(X, S, scale="batch", cmap_type="coldnhot", gamma=0.5, percentile=90)
        wanted = visualize.heatmap(
            S, "coldnhot", absmax=np.percentile(np.abs(S.reshape(3, -1)), 90, axis=1).max(), gamma=0.5
        )
        np.testing.assert_allclose(shown(picture.axes[4]), wanted[1], atol=0.02)
        assert len(picture.axes) == 9 + 1

    def test_the_selected_class_is_named(self):
        outputs = np.array([[1.0, 2.0, 3.0]] * 3)
        picture = visualize.plot(X, S, outputs, neuron_selection=[0, 1, 0])
        assert [picture.axes[i].get_ylabel() for i in (0, 3, 6)] == ["output 0: 1", "output 1: 2", "output 0: 1"]
        assert visualize.plot(X, S, outputs, neuron_selection=1).axes[6].get_ylabel() == "output 1: 2"
        assert visualize.plot(X, S, titles=["a", "b", "c"]).axes[3].get_ylabel() == "b"

    def test_channels_first_and_relevance_without_channels(self):
        x, r = np.moveaxis(RNG.random((1, 6, 7, 3)), -1, 1), RNG.normal(size=(1, 6, 7, 3))
        first = visualize.plot(x, np.moveaxis(r, -1, 1), reduce_axis=1)
        assert shown(first.axes[0]).shape == (6, 7, 3)
        np.testing.assert_allclose(shown(first.axes[1]), visualize.heatmap(r)[0], atol=0.01)
        without = visualize.plot(np.moveaxis(x, 1, -1), r.sum(-1))
        np.testing.assert_array_equal(shown(without.axes[1]), shown(first.axes[1]))

    def test_pictures_have_the_proportions_of_the_images(self):
        wide, high = (visualize.plot(x, x) for x in (RNG.random((4, 5, 10, 3)), RNG.random((4, 10, 5, 3))))
        for picture, proportion in ((wide, 0.5), (high, 2.0)):
            picture.canvas.draw()
            rows = [picture.axes[3 * i].get_window_extent() for i in range(4)]
            assert rows[0].height / rows[0].width == pytest.approx(proportion, rel=0.01)
            gaps = [above.y0 - below.y1 for above, below in zip(rows, rows[1:], strict=False)]
            assert max(gaps) < 0.2 * rows[0].height

    def test_the_first_samples_only(self):
        assert len(visualize.plot(np.repeat(X, 5, 0), np.repeat(S, 5, 0), scale="batch").axes) == 8 * 3 + 1
        assert len(visualize.plot(X, S, samples=1).axes) == 3 + 1

    def test_positive_relevance_has_half_a_bar(self):
        bar = visualize.plot(X, np.abs(S), scale="batch").axes[-1]
        np.testing.assert_allclose(bar.get_ylim(), [0, np.abs(S).max()])
        sequential = visualize.plot(X, np.abs(S), scale="batch", cmap_type="viridis")
        np.testing.assert_allclose(
            shown(sequential.axes[1]), visualize.heatmap(np.abs(S), "viridis", scale="batch")[0], atol=0.01
        )

    def test_series(self):
        x, r = RNG.normal(size=(2, 20, 3)), RNG.normal(size=(2, 20, 3))
        r[:, :, 2] = 0
        picture = visualize.plot(x, r, titles=["one", "two"], channel_names=["a", "b", "c"])
        axes = picture.axes[0]
        assert axes.get_title(loc="left") == "one"
        assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
        colours = np.array([line.get_colors() for line in axes.collections])[..., :3]
        wanted = visualize.heatmap(r, reduce_axis=None)[0]
        np.testing.assert_allclose(colours, np.moveaxis(wanted, 1, 0), atol=0.01)

    @pytest.mark.parametrize("channels", [True, False])
    def test_padding_of_series_is_left_out(self, channels):
        x, r = RNG.normal(size=(3, 9, 2)), RNG.normal(size=(3, 9, 2) if channels else (3, 9))
        x[:, 7:] = 0
        # The relevance of padding does not count for the scale.
        r[0, 4:] = r[1, 7:] = 100
        lengths = [4, 7, 9]
        picture = visualize.plot(x, r, lengths=lengths, samples=2)
        first, second = picture.axes[:2]
        assert [len(line.get_xdata()) for line in (*first.lines, *second.lines)] == [4, 4, 7, 7]
        assert first.get_xlim() == second.get_xlim() == (0, 6)
        colours = np.array([line.get_colors() for line in first.collections])[..., :3]
        wanted = visualize.heatmap(r[:1, :4], reduce_axis=None)[0]
        np.testing.assert_allclose(colours, np.moveaxis(wanted, 1, 0) if channels else [wanted] * 2, atol=0.01)
        masked = visualize.plot(x, r, lengths=np.arange(9) < np.array(lengths)[:, None], samples=2)
        assert masked._repr_png_() == picture._repr_png_()

    def test_padding_in_front_is_left_out_too(self):
        x = RNG.normal(size=(2, 6, 1))
        mask = np.array([[False, False, True, True, False, False], [False, True, False, True, True, False]])
        axes = visualize.plot_grid(x, {"a": x}, lengths=mask).axes
        assert [list(each.lines[0].get_xdata()) for each in axes[:2]] == [[2, 3], [1, 3, 4]]

    def test_many_channels_can_be_read(self):
        heights = [visualize.plot(np.ones((1, 5, n)), np.ones((1, 5, n))).get_figheight() for n in (1, 2, 6, 40)]
        assert heights[0] == heights[1] < heights[2] < heights[3] and heights[3] > 40 * 0.2
        assert visualize.plot_grid(X[..., 0], dict.fromkeys("abcde", X[..., 0]), kind="series").get_figwidth() <= 16

    @pytest.mark.parametrize(
        "lengths, message",
        [
            ([3], "one int of at most 5 per sample"),
            ([3, 6], "up to 6"),
            ([3.0, 2.0], "Received: float64"),
            (np.ones((2, 4), bool), r"mask of bool of shape \(2, 5\)"),
            ([3, 0], "lengths leave none of sample 1"),
        ],
    )
    def test_lengths_that_do_not_fit(self, lengths, message):
        with pytest.raises(ValueError, match=message):
            visualize.plot(np.ones((2, 5, 1)), np.ones((2, 5, 1)), lengths=lengths)

    def test_features(self):
        x, r = RNG.normal(size=(2, 5)), np.array([[1.0, -3.0, 0.5, 0.0, 2.0]] * 2)
        axes = visualize.plot(x, r, feature_names=list("abcde"), top=3).axes[0]
        assert [label.get_text()[0] for label in axes.get_yticklabels()] == ["b", "e", "a"]
        np.testing.assert_allclose([bar.get_width() for bar in axes.patches], [-3, 2, 1])
        wanted = visualize.heatmap(r, reduce_axis=None)[0]
        np.testing.assert_allclose([bar.get_facecolor()[:3] for bar in axes.patches], wanted[[1, 4, 0]], atol=0.01)

    @pytest.mark.parametrize("x, r", [((2, 4), (2, 3)), ((2, 6, 5, 3), (2, 3, 3, 3)), ((2, 9, 3), (2, 4, 3))])
    def test_relevance_of_something_else_is_refused(self, x, r):
        with pytest.raises(ValueError, match="for inputs of shape"):
            visualize.plot(np.ones(x), np.ones(r))
        with pytest.raises(ValueError, match="for inputs of shape"):
            visualize.plot_grid(np.ones(x), {"gradient": np.ones(r)})

    def test_several_inputs_in_one_figure(self):
        x = {"photo": X, "series": np.ones((3, 5, 2)), "table": np.ones((3, 4))}
        r = {name: np.full(value.shape, i + 1.0) for i, (name, value) in enumerate(x.items())}
        outputs = np.eye(3) * 5
        picture = visualize.plot(x, r, outputs, ["cat", "dog", "cow"], samples=2, feature_names=list("abcd"))
        photo, series, table = picture.subfigs
        assert [part.get_suptitle() for part in picture.subfigs] == list(x)
        assert photo.axes[3].get_ylabel() == "dog: 5" and series.axes[0].get_title(loc="left") == "cat: 5"
        np.testing.assert_allclose(shown(photo.axes[1]), visualize.heatmap(r["photo"])[0], atol=0.01)
        assert table.axes[0].get_yticklabels()[0].get_text() == "a = 1"
        assert [bar.get_width() for bar in table.axes[1].patches] == [3.0] * 4

    def test_what_does_not_fit_of_several_inputs(self):
        x = {"a": np.ones((2, 3)), "b": np.ones((2, 4))}
        with pytest.raises(ValueError, match="dict of 'a', 'b'.*no dict"):
            visualize.plot(x, np.ones((2, 3)))
        with pytest.raises(ValueError, match="Received: a dict of 'a'"):
            visualize.plot(x, {"a": np.ones((2, 3))})
        with pytest.raises(ValueError, match="shape"):
            visualize.plot(x, {"a": np.ones((2, 3)), "b": np.ones((2, 3))})
        with pytest.raises(TypeError, match="Received: overlay"):
            visualize.plot(x, x, overlay=1)

    def test_pictures_are_saved_for_print_and_shown(self, tmp_path, monkeypatch):
        picture = visualize.plot(X[:1], S[:1], kind="images")
        for ending in ("png", "pdf", "svg"):
            assert picture.save(tmp_path / f"x.{ending}").stat().st_size > 1000
        picture.savefig(tmp_path / "screen.png")
        wide, narrow = (Image.open(tmp_path / name).width for name in ("x.png", "screen.png"))
        assert wide == pytest.approx(2 * narrow, abs=3)
        opened = []
        monkeypatch.setattr(Image.Image, "show", lambda image: opened.append(image.size))
        picture.show()
        assert len(opened) == 1

    def test_nothing_is_changed(self, tmp_path):
        x, s = X.copy(), S.copy()
        visualize.plot(x, s).savefig(tmp_path / "x.png")
        np.testing.assert_array_equal(x, X)
        np.testing.assert_array_equal(s, S)

    def test_notebooks_show_it_and_pyplot_does_not_know_it(self):
        import matplotlib.pyplot

        picture = visualize.plot(X, S)
        assert isinstance(picture, Picture) and matplotlib.pyplot.get_fignums() == []
        pixels = matplotlib.image.imread(io.BytesIO(picture._repr_png_()))
        assert pixels.ndim == 3 and pixels.std() > 0.1

    @pytest.mark.parametrize(
        "x, r, options, error, message",
        [
            (X[0, 0, 0], S, {}, ValueError, "needs a batch axis"),
            (X, S[:2], {}, ValueError, r"relevance has shape \(2, 6, 6, 1\), for inputs of shape \(3, 6, 6, 1\)"),
            (X, S, {"cmap": "bwr"}, TypeError, "Images take the options .*cmap_type.*Received: cmap"),
            (X, S, {"scale": "row"}, ValueError, 'scale is "image" or "batch"'),
            (X, S * np.nan, {}, ValueError, "NaN"),
        ],
    )
    def test_what_does_not_fit(self, x, r, options, error, message):
        with pytest.raises(error, match=message):
            visualize.plot(x, r, **options)

    @pytest.mark.parametrize("low, high", [(0, 1), (0, 1.1), (0, 16), (0, 255), (-1, 1), (-120, 151)])
    def test_preprocessed_images_can_be_shown(self, low, high):
        x = low + (high - low) * RNG.random((2, 4, 4, 3))
        rgb = displayable(x)
        assert rgb.min() >= 0 and rgb.max() <= 1 and rgb.max() > 0.8
        assert displayable(x[..., :1]).shape == (2, 4, 4, 3)
        np.testing.assert_allclose(displayable(np.full((1, 2, 2, 3), 51, np.uint8)), 0.2, rtol=1e-6)


ONE_IMAGE = [(8, 8, 1), (6, 6, 1), (28, 28, 1), (32, 32, 3), (48, 64, 3), (40, 400, 3), (10, 12, 4), (16, 16, 2)]
SEVERAL = [(3, 28, 28), (1, 8, 8), (3, 32, 32), (60, 28, 28)]


class TestBatchAxis:
    """A picture of one sample taken for a batch looks like an answer, so arrays that may be either are refused."""

    @pytest.mark.parametrize("shape", ONE_IMAGE, ids=str)
    @pytest.mark.parametrize("draw", [visualize.plot, lambda x, r, **o: visualize.plot_grid(x, {"a": r}, **o)])
    def test_one_image(self, draw, shape):
        x = RNG.random(shape)
        with pytest.raises(ValueError, match=r'batch axis is missing.*x\[None\].*kind="series"'):
            draw(x, x)
        with pytest.raises(ValueError, match=r"batch axis is missing.*x\[None\]"):
            draw(x, x, kind="images")
        assert draw(x[None], x[None]).axes[0].images
        assert not draw(x, x, kind="series", samples=2).axes[0].images

    @pytest.mark.parametrize("shape", SEVERAL, ids=str)
    def test_images_without_channels(self, shape):
        x = RNG.random(shape)
        with pytest.raises(ValueError, match='kind="images" for .* gray images.*kind="series"'):
            visualize.plot(x, x)
        picture = visualize.plot(x, x, kind="images", samples=1)
        np.testing.assert_allclose(shown(picture.axes[0]), np.repeat(x[0, ..., None], 3, -1))
        np.testing.assert_allclose(shown(picture.axes[1]), visualize.heatmap(x, reduce_axis=None)[0], atol=0.01)
        assert not visualize.plot(x, x, kind="series", samples=1).axes[0].images

    @pytest.mark.parametrize("shape", [(64, 1), (64, 2), (500, 3)], ids=str)
    def test_one_series(self, shape):
        x = RNG.normal(size=shape)
        with pytest.raises(ValueError, match=r'one time series.*batch axis is missing.*x\[None\].*kind="features"'):
            visualize.plot(x, x)
        with pytest.raises(ValueError, match=r"batch axis is missing.*x\[None\]"):
            visualize.plot(x, x, kind="series")
        assert visualize.plot(x, x, kind="features").axes[0].patches
        assert visualize.plot(x[None], x[None]).axes[0].collections

    def test_one_gray_image(self):
        x = RNG.random((8, 8))
        with pytest.raises(ValueError, match=r'x\[None, ..., None\].*kind="features"'):
            visualize.plot(x, x)
        assert visualize.plot(x[None, ..., None], x[None]).axes[0].images

    @pytest.mark.parametrize("shape", [(2, 20, 3), (8, 100, 1), (500, 20, 1), (3, 16, 6), (4, 50), (150, 4), (9, 30)])
    def test_batches_of_other_shapes_need_no_kind(self, shape):
        x = RNG.normal(size=shape)
        assert visualize.plot(x, x).axes and visualize.plot_grid(x, {"a": x}, samples=2).axes

    @pytest.mark.parametrize("shape", [(8, 8, 1), (64, 2)], ids=str)
    def test_outputs_or_titles_of_every_sample_tell_that_there_is_a_batch(self, shape):
        x = RNG.normal(size=shape)
        y = np.eye(len(x))
        assert not visualize.plot(x, x, y).axes[0].images
        assert visualize.plot(x, x, titles=["a"] * len(x)).axes[0].get_title(loc="left") == "a"
        options = {"channel_names": ["a"]} if len(shape) == 3 else {"top": 1}
        assert not visualize.plot(x, x, **options).axes[0].images
        with pytest.raises(ValueError, match="batch axis is missing"):
            visualize.plot(x, x, y[:1])
        with pytest.raises(ValueError, match="batch axis is missing"):
            visualize.plot(x, x, y[0])

    @pytest.mark.parametrize(
        "kind, shape", [("images", (3, 4)), ("series", (2, 3, 4, 1)), ("features", (2, 3, 4)), ("series", (5,))]
    )
    def test_a_kind_of_another_rank(self, kind, shape):
        with pytest.raises(ValueError, match=f'kind="{kind}" takes a batch.*Received shape'):
            visualize.plot(np.zeros(shape), np.zeros(shape), kind=kind)
        with pytest.raises(ValueError, match="kind is 'images', 'series', 'features' or None. Received: 'image'"):
            visualize.plot(X, S, kind="image")

    def test_series_without_channels(self):
        x = RNG.normal(size=(2, 30))
        assert len(visualize.plot(x, x, kind="series").axes[0].collections) == 1

    def test_compare_knows_from_the_model_that_there_is_a_batch(self):
        series = keras.Sequential([keras.Input((8, 1)), layers.Flatten(), layers.Dense(2)])
        x = RNG.normal(size=(8, 8, 1)).astype("float32")
        assert not visualize.compare(series, x, ["gradient"]).axes[0].images
        flat = keras.Sequential([keras.Input((8, 8)), layers.Flatten(), layers.Dense(2)])
        with pytest.raises(ValueError, match='kind="images"'):
            visualize.compare(flat, x[..., 0][:, None] + x, ["gradient"])
        assert visualize.compare(flat, x[..., 0][:, None] + x, ["gradient"], kind="images").axes[0].images

    @pytest.mark.parametrize("shape", ONE_IMAGE, ids=str)
    def test_heatmaps(self, shape):
        x = RNG.normal(size=shape)
        for draw in (visualize.heatmap, visualize.graymap):
            with pytest.raises(ValueError, match=r"batch axis is missing.*X\[None\].*reduce_axis=None"):
                draw(x)
        assert visualize.heatmap(x[None]).shape == (1, *shape[:2], 3)
        # One scale for all is the same picture, whichever is meant.
        np.testing.assert_array_equal(visualize.heatmap(x, scale="batch"), visualize.heatmap(x[None])[0])
        assert visualize.heatmap(x.sum(-1), reduce_axis=None).shape == (*shape[:2], 3)

    @pytest.mark.parametrize("shape", [s for s in ONE_IMAGE if s[-1] in (1, 3)], ids=str)
    def test_grids_of_images(self, shape):
        x = RNG.normal(size=shape)
        with pytest.raises(ValueError, match=r"batch axis is missing.*leave out grid"):
            visualize.imgify(x, grid=True)
        with pytest.raises(ValueError, match=r"batch axis is missing.*x\[None\]"):
            visualize.gridify(x)
        assert visualize.imgify(x).size == shape[1::-1]

    def test_volumes(self):
        with pytest.raises(ValueError, match=r"needs a batch axis too, x\[None\]"):
            visualize.plot_volume(np.zeros((4, 4, 4, 1)), np.zeros((4, 4, 4, 1)))


class TestGrid:
    def test_one_scale_by_default(self):
        picture = visualize.plot_grid(X, {"a": S, "b": 4 * S}, titles=["x", "y", "z"])
        axes = np.array(picture.axes[:9]).reshape(3, 3)
        assert [a.get_title() for a in axes[0]] == ["input", "a", "b"]
        assert [a.get_ylabel() for a in axes[:, 0]] == ["x", "y", "z"]
        for row in range(3):
            for column, factor in ((1, 1), (2, 4)):
                wanted = visualize.heatmap(factor * S, absmax=4 * np.abs(S).max())[row]
                np.testing.assert_allclose(shown(axes[row, column]), wanted, atol=0.01)
        assert len(picture.axes) == 9 + 1

    @pytest.mark.parametrize("scale, bars", [("column", 2), ("row", 3), ("image", 0)])
    def test_other_scales(self, scale, bars):
        picture = visualize.plot_grid(X, {"a": S, "b": 4 * S}, scale=scale)
        assert len(picture.axes) == 9 + bars
        axes = np.array(picture.axes[:9]).reshape(3, 3)
        each = np.abs(S).max(axis=(1, 2, 3))
        absmax = {"column": np.full(3, each.max()), "row": 4 * each, "image": each}[scale]
        np.testing.assert_allclose(shown(axes[1, 1]), visualize.heatmap(S, absmax=absmax)[1], atol=0.01)

    def test_what_does_not_fit(self):
        with pytest.raises(TypeError, match="dict from names to relevance"):
            visualize.plot_grid(X, S)
        with pytest.raises(ValueError, match="relevance of 'a' has shape"):
            visualize.plot_grid(X, {"a": S[:1]})
        with pytest.raises(ValueError, match="scale is 'all', 'column', 'row', 'image'"):
            visualize.plot_grid(X, {"a": S}, scale="batch")


class TestCompare:
    def test_names_keywords_and_analyzers(self, model):
        own = revgraph.create_analyzer("lrp.epsilon", model)
        names = ["lrp.z", ("lrp.epsilon", {"epsilon": 10.0}), own]
        picture = visualize.compare(model, X, names, class_names=["a", "b", "c"], samples=2)
        axes = np.array(picture.axes[:8]).reshape(2, 4)
        assert [a.get_title().replace("\n", "") for a in axes[0]] == [
            "input",
            "lrp.z",
            "lrp.epsilon",
            "lrp.epsilon (2)",
        ]
        outputs = model.predict(X, verbose=0)
        wanted = [f"{'abc'[o.argmax()]}: {o.max():.3g}" for o in outputs[:2]]
        assert [a.get_ylabel() for a in axes[:, 0]] == wanted
        relevances = [revgraph.create_analyzer("lrp.z", model).analyze(X[:2]), own.analyze(X[:2])]
        absmax = np.abs(relevances).max()
        for column, r in zip((1, 3), relevances, strict=True):
            np.testing.assert_allclose(shown(axes[1, column]), visualize.heatmap(r, absmax=absmax)[1], atol=0.01)

    def test_a_class_per_sample_and_a_dict(self, model):
        picture = visualize.compare(model, X, {"lrp.z": {}, "gradient": {}}, [2, 0, 1], scale="column")
        assert [picture.axes[i].get_ylabel().split(":")[0] for i in (0, 3, 6)] == ["output 2", "output 0", "output 1"]
        wanted = revgraph.create_analyzer("gradient", model).analyze(X, [2, 0, 1])
        np.testing.assert_allclose(shown(picture.axes[2]), visualize.heatmap(wanted, scale="batch")[0], atol=0.01)

    def test_one_line(self, model):
        assert len(visualize.compare(model, X).axes) == 3 * 6 + 1

    def test_nothing_to_compare(self, model):
        with pytest.raises(ValueError, match="name at least one"):
            visualize.compare(model, X, [])


class TestVolumes:
    V, W = RNG.random((2, 5, 4, 3, 1)), RNG.normal(size=(2, 5, 4, 3, 1))

    @pytest.mark.parametrize("axis", [1, 2, 3])
    def test_slices(self, axis):
        picture = visualize.plot_volume(self.V, self.W, axis, slices=3)
        size = self.V.shape[axis]
        axes = np.array(picture.axes[:12]).reshape(4, 3)
        chosen = [0, (size - 1) // 2, size - 1] if size != 4 else [0, 2, 3]
        assert [a.get_title() for a in axes[0]] == [f"slice {i}" for i in chosen]
        for i, a in zip(chosen, axes[2], strict=True):
            np.testing.assert_allclose(shown(a)[..., 0], np.take(self.V[1], i, axis - 1)[..., 0])
        coloured = axes[1, 1].images[-1].get_array()
        wanted = visualize.heatmap(self.W)
        np.testing.assert_allclose(coloured[..., :3], np.take(wanted[0], chosen[1], axis - 1), atol=0.01)

    def test_with_a_slider(self):
        ipywidgets = pytest.importorskip("ipywidgets")
        widget = visualize.plot_volume(self.V, self.W, slider=True)
        assert isinstance(widget, ipywidgets.interactive)
        slider = widget.children[0]
        assert (slider.min, slider.max, slider.value) == (0, 4, 2)

    def test_what_does_not_fit(self):
        with pytest.raises(ValueError, match=r"\(batch, depth, height, width, channels\).*Received"):
            visualize.plot_volume(self.V[0], self.W[0])
        with pytest.raises(ValueError, match="axis 1, 2 or 3"):
            visualize.plot_volume(self.V, self.W, 0)


class TestText:
    def test_html_is_escaped_and_coloured(self):
        text = visualize.text(["<b>", "good"], [-1.0, 2.0], "bwr")
        markup = text._repr_html_()
        assert "&lt;b&gt;" in markup and "<b>" not in markup and "script" not in markup
        # Half as strong is half as opaque, of the same blue and red.
        assert re.search(r"rgba\(\d+,\d+,255,0.45\)", markup) and re.search(r"rgba\(2\d\d,0,0,0.90\)", markup)
        assert 'title="2"' in markup
        assert str(text) == "<b>(-1) good(+2)"
        assert repr(text) == "<Text: 1 texts, 2 tokens>"

    def test_latex(self):
        latex = visualize.text(["50%_{x}", "\\"], [1.0, -1.0], "bwr").to_latex()
        assert latex == (
            r"\colorbox[HTML]{FF0000}{\textcolor[HTML]{FFFFFF}{\strut 50\%\_\{x\}}} "
            r"\colorbox[HTML]{0000FF}{\textcolor[HTML]{FFFFFF}{\strut \textbackslash{}}}"
        )

    def test_several_texts_of_different_length(self):
        relevance = np.array([[1.0, -2.0, 9.0], [3.0, 4.0, 5.0]])
        own = visualize.text([["a", "b"], ["c", "d", "e"]], relevance, "bwr", titles=["<1>", "2"])
        assert own._repr_html_().count("<p") == 2 and "<b>&lt;1&gt;</b>" in own._repr_html_()
        np.testing.assert_allclose(own.colours[0], [[1, 0.5, 0.5], [0, 0, 1]])
        shared = visualize.text([["a", "b"], ["c", "d", "e"]], relevance, "bwr", scale="batch")
        np.testing.assert_allclose(shared.colours[0], [[1, 0.8, 0.8], [0.6, 0.6, 1]], atol=1e-6)

    def test_in_the_terminal(self):
        from rich.console import Console

        console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
        console.print(visualize.text(["bad", "good"], [-1.0, 1.0], "bwr"))
        assert "48;2;0;0;255mbad" in console.file.getvalue() and "good" in console.file.getvalue()

    def test_what_does_not_fit(self):
        with pytest.raises(ValueError, match="3 tokens needs as many"):
            visualize.text(["a", "b", "c"], [1.0])
        with pytest.raises(ValueError, match="2 texts, and relevance of 1"):
            visualize.text([["a"], ["b"]], [[1.0]])


def test_a_missing_extra_is_named():
    code = """
import sys
sys.modules.update(matplotlib=None, PIL=None)
from revgraph import visualize
visualize.heatmap([[[[1.0]]]]), visualize.text(["a"], [1.0]).to_latex()
for use in ("plot", "compare", "plot_volume", "imgify"):
    try:
        getattr(visualize, use)
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.count('pip install "revgraph[plot]"') == 4, done.stderr


def test_tab_completion_finds_everything():
    assert {"plot", "compare", "heatmap", "imgify", "text"} <= set(dir(visualize))
    with pytest.raises(AttributeError, match="plott"):
        getattr(visualize, "plott")  # noqa: B009


def test_several_inputs_are_not_compared_in_one_figure():
    """What the error says works."""
    image, table = keras.Input((6, 6, 1), name="image"), keras.Input((4,), name="table")
    both = keras.layers.Concatenate()([keras.layers.Flatten()(image), table])
    model = keras.Model({"image": image, "table": table}, keras.layers.Dense(2)(both))
    x = {"image": np.ones((2, 6, 6, 1), "float32"), "table": np.ones((2, 4), "float32")}
    with pytest.raises(ValueError, match="compare draws one input, and x has 2: 'image', 'table'"):
        visualize.compare(model, x, ["gradient", "lrp.epsilon"])
    found = {name: revgraph.create_analyzer(name, model).analyze(x) for name in ("gradient", "lrp.epsilon")}
    with pytest.raises(ValueError, match=r"plot_grid\(x\['image'\]"):
        visualize.plot_grid(x, found)
    visualize.plot_grid(x["image"], {name: relevance["image"] for name, relevance in found.items()})
