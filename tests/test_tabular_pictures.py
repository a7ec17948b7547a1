"""`plot_waterfall` and `plot_beeswarm`: what is drawn stands where the numbers say."""

import keras
import numpy as np
import pytest
from keras import layers

import revgraph
from revgraph.visualize import compare, plot, plot_beeswarm, plot_grid, plot_waterfall

X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
R = np.array([[0.5, -2.0, 1.0], [3.0, 0.25, -0.5]])


def bars(picture):
    """The bars from the lowest to the highest: name, where it begins, its length, its colour."""
    (axes,) = picture.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    return [(n, p.get_x(), p.get_width(), p.get_facecolor()) for n, p in zip(names, axes.patches, strict=True)]


def test_a_waterfall_leads_to_the_output():
    found = bars(plot_waterfall(X, R, [10.0, 20.0], feature_names=["a", "b", "c"]))
    assert [name for name, *_ in found] == ["a = 1", "c = 3", "b = 2"]
    # 10 is the output, and 0.5 - 2 + 1 is the relevance.
    np.testing.assert_allclose([begin for _, begin, *_ in found], [10.5, 11.0, 12.0])
    np.testing.assert_allclose([length for _, _, length, _ in found], [0.5, 1.0, -2.0])
    reddish = [colour[0] > colour[2] for *_, colour in found]
    assert reddish == [True, True, False]


def test_small_features_share_a_bar():
    found = bars(plot_waterfall(X, R, [[10.0], [20.0]], sample=-1, top=1))
    assert [(name, begin, length) for name, begin, length, _ in found] == [
        ("2 others", 17.25, -0.25),
        ("feature 0 = 4", 17.0, 3.0),
    ]


def test_a_waterfall_of_deep_lift_begins_at_the_output_of_the_reference():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="tanh"), layers.Dense(1)])
    reference = np.full(3, 0.5)
    relevance = revgraph.create_analyzer("deep_lift", model, reference_inputs=reference).analyze(X)
    found = bars(plot_waterfall(X, relevance, model.predict(X, verbose=0)))
    begin = model.predict(reference[None], verbose=0)[0, 0]
    np.testing.assert_allclose(found[0][1], begin, atol=1e-5)


def test_a_beeswarm_has_a_point_for_each_row_in_the_order_of_mean_relevance():
    picture = plot_beeswarm(X, R, feature_names=["a", "b", "c"])
    axes = picture.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a (1.8)", "b (1.1)", "c (0.75)"]
    for points, column in zip(axes.collections, [0, 1, 2], strict=True):
        np.testing.assert_allclose(points.get_offsets()[:, 0], R[:, column])
        assert points.get_array().tolist() == [0, 1]  # the values of the feature rise


def test_points_of_equal_relevance_do_not_hide_each_other():
    axes = plot_beeswarm(np.ones((9, 1)), np.zeros((9, 1))).axes[0]
    heights = axes.collections[0].get_offsets()[:, 1]
    assert len(set(np.round(heights, 6))) == 9 and np.abs(heights).max() < 0.5


@pytest.mark.parametrize("draw", [lambda x, r, **o: plot_waterfall(x, r, [1.0, 2.0], **o), plot_beeswarm])
def test_what_does_not_fit(draw):
    with pytest.raises(ValueError, match=r"x\[None\]"):
        draw(X[0], R[0])
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        draw(X, R[:, :2])
    with pytest.raises(ValueError, match="2 feature names for 3"):
        draw(X, R, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="top"):
        draw(X, R, top=0)
    with pytest.raises(ValueError):
        draw(X, R * np.nan)


def test_a_waterfall_needs_the_output_that_was_explained():
    with pytest.raises(ValueError, match=r"outputs\[:, 3\]"):
        plot_waterfall(X, R, np.ones((2, 4)))
    with pytest.raises(IndexError, match="from 0 to 1"):
        plot_waterfall(X, R, [1.0, 2.0], sample=2)


def names_of(axes):
    return [label.get_text().split(" = ")[0] for label in axes.get_yticklabels()]


def lengths_of(axes):
    return [bar.get_width() for bar in axes.patches]


def test_rows_have_one_order_of_features_and_one_axis():
    picture = plot(X, R, feature_names=["a", "b", "c"])
    first, second = picture.axes
    # The means of |R| are 1.75, 1.125 and 0.75.
    assert names_of(first) == names_of(second) == ["a", "b", "c"]
    assert [label.get_text() for label in second.get_yticklabels()] == ["a = 4", "b = 5", "c = 6"]
    assert (lengths_of(first), lengths_of(second)) == ([0.5, -2.0, 1.0], [3.0, 0.25, -0.5])
    assert first.get_xlim() == second.get_xlim() and first.get_xlim()[1] > 3
    own = plot(X, R, scale="image")
    assert own.axes[0].get_xlim() != own.axes[1].get_xlim() and names_of(own.axes[0]) == names_of(own.axes[1])


def test_columns_have_the_order_of_the_mean_over_all_of_them():
    picture = plot_grid(X, {"one": R, "two": R * [0, 5, 1]}, feature_names=["a", "b", "c"])
    grid = np.array(picture.axes).reshape(2, 2)
    assert names_of(grid[0, 0]) == names_of(grid[1, 0]) == ["b", "a", "c"]
    # Names stand beside the first column alone, and are true of all.
    assert names_of(grid[0, 1]) == [""] * 3
    assert [lengths_of(axes) for axes in grid[0]] == [[-2, 0.5, 1], [-10, 0, 1]]
    assert len({axes.get_xlim() for axes in grid.flat}) == 1
    own = np.array(plot_grid(X, {"one": R, "two": R * 5}, scale="column").axes).reshape(2, 2)
    assert own[0, 0].get_xlim() == own[1, 0].get_xlim() != own[0, 1].get_xlim()


def test_what_is_left_out_is_told_in_every_row():
    first, second = plot(X, R, top=1).axes
    # Of the second feature the first row has more than of the one that is drawn.
    assert (first.get_xlabel(), second.get_xlabel()) == ("2 others, the largest -2", "2 others, the largest -0.5")
    assert plot(X, R, top=3).axes[0].get_xlabel() == ""


@pytest.mark.parametrize("options", [{"percentile": 50}, {"absmax": 1}, {"absmax": 9}], ids=str)
def test_no_bar_is_longer_than_its_axis(options):
    for axes in plot(X, R, **options).axes:
        low, high = axes.get_xlim()
        assert low < -2 and high > 3
    assert plot(X, R, absmax=9).axes[0].get_xlim()[1] > 9


def test_compare_has_one_order_too():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dense(2)])
    picture = compare(model, X, ["gradient", "lrp.epsilon"], 1, feature_names=["a", "b", "c"])
    found = [revgraph.create_analyzer(name, model).analyze(X, 1) for name in ("gradient", "lrp.epsilon")]
    order = np.argsort(-np.abs(found).mean(axis=(0, 1)))
    grid = np.array(picture.axes).reshape(2, 2)
    for (row, column), axes in np.ndenumerate(grid):
        np.testing.assert_allclose(lengths_of(axes), found[column][row][order], rtol=1e-6)
    assert names_of(grid[0, 0]) == ["abc"[i] for i in order]


def test_options_of_features_that_do_not_fit():
    with pytest.raises(ValueError, match="2 feature names for 3 features: pass one for each"):
        plot(X, R, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="top must be a positive int. Received: 0"):
        plot(X, R, top=0)
    assert plot(X, R, feature_names=np.array(["a", "b", "c"]), top=1)
