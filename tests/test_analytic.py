"""Small networks whose relevance is derived by hand in a comment."""

import keras
import numpy as np
import pytest
from keras import layers

from revgraph import create_analyzer
from revgraph.composites import Composite
from revgraph.reverse_rules import AlphaBeta, Epsilon, Gamma, Pass

pytestmark = pytest.mark.usefixtures("float64")


def dense_model(*kernels, biases=None, activation=None):
    """Dense layers `dense0`, `dense1`, ... with these kernels (inputs, outputs)."""
    kernels = [np.asarray(k, "float64") for k in kernels]
    biases = biases or [None] * len(kernels)
    x = inputs = keras.Input((len(kernels[0]),))
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        last = i == len(kernels) - 1
        layer = layers.Dense(
            kernel.shape[1], name=f"dense{i}", use_bias=bias is not None, activation=None if last else activation
        )
        x = layer(x)
        layer.set_weights([kernel] if bias is None else [kernel, np.asarray(bias, "float64")])
    return keras.Model(inputs, x)


def close(actual, expected, rtol=1e-6):
    """Equal but for the stabiliser, 1e-7, which the numbers by hand leave out."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-6)


@pytest.fixture(scope="module")
def model_a():
    """Convolution, ReLU, flatten channel first, dense, ReLU."""
    inputs = keras.Input((4, 4, 1), dtype="float64")
    conv = layers.Conv2D(2, 3, name="conv", dtype="float64")
    dense = layers.Dense(4, name="dense", dtype="float64")
    x = layers.ReLU(name="relu1", dtype="float64")(conv(inputs))
    x = layers.Flatten(name="flatten", dtype="float64")(layers.Permute((3, 1, 2), dtype="float64")(x))
    x = layers.ReLU(name="relu2", dtype="float64")(dense(x))
    model = keras.Model(inputs, x, name="model_a")
    conv.set_weights([np.ones((3, 3, 1, 2)), np.array([-50.0, -75.0])])
    dense.set_weights(
        [np.repeat([[1], [1], [1], [1], [1], [-1], [-1], [-1]], 4, axis=1).astype("float64"), np.zeros(4)]
    )
    return model


IMAGE = np.arange(16.0).reshape(1, 4, 4, 1)


def test_model_a_epsilon(model_a):
    # The windows sum to 45, 54, 81, 90. Filter 1 (bias -50) after ReLU: 0, 4, 31, 40; filter 2 (bias -75): 0, 0, 6, 15.
    # Every output is 0 + 4 + 31 + 40 + 0 - 0 - 6 - 15 = 54; all four are maxima and start with 54 / 4. Together they
    # hand on the contributions: filter 1 [[0, 4], [31, 40]], filter 2 [[0, 0], [-6, -15]].
    # R / z is 1 in the active units of filter 1 and -1 in those of filter 2, so that the two lower windows cancel and
    # the upper right window remains: its pixels' own values.
    analyzer = create_analyzer("lrp.epsilon", model_a, epsilon=1e-9)
    relevance, inner = analyzer.analyze(IMAGE, return_layers=["conv"], layers_at="output")
    close(relevance[0, :, :, 0], [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]])
    close(np.moveaxis(inner["conv"][0], -1, 0), [[[0, 4], [31, 40]], [[0, 0], [-6, -15]]])


def test_model_a_deconvnet_and_guided_backprop(model_a):
    # From output 0 the flattened units get [1, 1, 1, 1 | 1, -1, -1, -1]. Deconvnet's ReLU keeps the positive ones: all
    # windows of filter 1 and the upper left one of filter 2. Guided backprop keeps of these only the active units: all
    # windows of filter 1 but the upper left one.
    windows = np.array([[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]])
    corner = np.zeros((4, 4))
    corner[:3, :3] = 1
    deconvnet = create_analyzer("deconvnet", model_a).analyze(IMAGE, neuron_selection=0)
    guided = create_analyzer("guided_backprop", model_a).analyze(IMAGE, neuron_selection=0)
    close(deconvnet[0, :, :, 0], windows + corner)
    close(deconvnet[0, :, :, 0], [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]])
    close(guided[0, :, :, 0], windows - corner)


@pytest.mark.parametrize("name", ["deconvnet", "guided_backprop"])
def test_model_a_inner_neurons(model_a, name):
    # A neuron's own ReLU counts: Deconvnet passes the 1 whether the neuron is active or not, guided backprop only where
    # it is. Neuron (0, 0) is dead in both filters: 45 - 50 and 45 - 75. Summed over all eight neurons every window
    # counts twice for Deconvnet; guided backprop counts the active ones: filter 1 all but the upper left, filter 2 the
    # lower two.
    analyzer = create_analyzer(name, model_a)
    windows = np.zeros((2, 2, 4, 4))
    for i in range(2):
        for j in range(2):
            windows[i, j, i : i + 3, j : j + 3] = 1
    for channel in range(2):
        one = analyzer.analyze(IMAGE, layer="relu1", neuron_selection=(0, 0, channel))
        close(one[0, :, :, 0], windows[0, 0] if name == "deconvnet" else np.zeros((4, 4)))
    everything = analyzer.analyze(IMAGE, layer="relu1", neuron_selection=(slice(None), slice(None), slice(None)))
    if name == "deconvnet":
        close(everything[0, :, :, 0], [[2, 4, 4, 2], [4, 8, 8, 4], [4, 8, 8, 4], [2, 4, 4, 2]])
    else:
        close(everything[0, :, :, 0], windows.sum((0, 1)) - windows[0, 0] + windows[1].sum(0))


B = np.full((3, 3), 2.0), np.full((3, 1), 3.0)
X = np.array([[1.0, 2.0, 3.0]])


def signed_b():
    """Model B with the first weight of the first unit negative."""
    first = B[0].copy()
    first[0, 0] = -2
    return dense_model(first, B[1], activation="relu")


def test_model_b_epsilon():
    # Every hidden unit is 2 + 4 + 6 = 12, the output 3 * 36 = 108. Each hidden unit gets 36 and shares it 2 : 4 : 6:
    # [6, 12, 18], three times. Relevance is homogeneous here: three times the input, three times the relevance.
    relevance = create_analyzer("lrp.epsilon", dense_model(*B, activation="relu"), epsilon=1e-9).analyze(
        np.concatenate([X, 3 * X])
    )
    close(relevance, [[18, 36, 54], [54, 108, 162]])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # Hidden units 8, 12, 12, output 96, R = 24, 36, 36 (the second layer's weights are equal, so gamma cancels).
        # gamma 1: unit 1 has w + w+ = [-2, 4, 4] and z = -2 + 8 + 12 = 18, so 24 [-2, 8, 12] / 18 = [-8/3, 32/3, 16].
        # The others give 36 [2, 4, 6] / 12 = [6, 12, 18] each.
        (Gamma(1, generalized=False), Gamma(0.25, generalized=False), [28 / 3, 104 / 3, 52]),
        (Gamma(1), Gamma(0.25), [28 / 3, 104 / 3, 52]),
        # alpha 1: unit 1 has z+ = 4 + 6, so 24 [0, 4, 6] / 10 = [0, 9.6, 14.4]; the others as before.
        (AlphaBeta(1, 0), AlphaBeta(1, 0), [12, 33.6, 50.4]),
        # Pass: what arrives at hidden unit j goes to input j.
        (Pass(), Epsilon(), [24, 36, 36]),
    ],
)
def test_model_b_with_a_negative_weight(first, second, expected):
    composite = Composite(("dense0", first), ("dense1", second))
    close(create_analyzer("lrp", signed_b(), rule=composite).analyze(X), [expected])


def with_identity(kernel, bias=None):
    """Dense plus identity."""
    inputs = keras.Input((2,))
    layer = layers.Dense(2, use_bias=bias is not None, name="dense")
    model = keras.Model(inputs, layers.Add(name="add")([layer(inputs), inputs]))
    layer.set_weights([np.asarray(w, "float64") for w in ([kernel] if bias is None else [kernel, bias])])
    return model


def test_skip_connection():
    # Output 1 is 5 (2 + 3) + 3 = 28: 25 by way of the layer, as [10, 15], and 3 straight to the second input.
    relevance = create_analyzer("lrp.epsilon", with_identity(np.full((2, 2), 5.0)), epsilon=1e-9).analyze(
        [[2.0, 3.0]], neuron_selection=1
    )
    close(relevance, [[10, 18]])


KERNEL, BIAS, A = np.array([[3.0, 5.0], [4.0, 6.0]]), np.array([7.0, 8.0]), np.array([[1.0, 2.0]])


def test_dense_lrp_0():
    # z = [3 + 8 + 7, 5 + 12 + 8] = [18, 25].
    # R_1 = 3/18 * 1/3 + 5/25 * 2/3 = 17/90, R_2 = 8/18 * 1/3 + 12/25 * 2/3 = 316/675.
    analyzer = create_analyzer("lrp.z", dense_model(KERNEL, biases=[BIAS]))
    relevance = analyzer.analyze(A, neuron_selection="all", initial_relevance=np.array([[1 / 3, 2 / 3]]))
    close(relevance, [[17 / 90, 316 / 675]])


@pytest.mark.parametrize(("output", "expected"), [(0, [4 / 19, 8 / 19]), (1, [5 / 27, 14 / 27])])
def test_residual_connection(output, expected):
    # z = [18 + 1, 25 + 2]. Output 1 gives 18/19 to the layer, which gives [3, 8] / 18 of it to the inputs and keeps
    # 7 / 18 in its bias, and 1/19 to the first input: [3 + 1, 8] / 19. Output 2: [5, 12 + 2] / 27.
    analyzer = create_analyzer("lrp.z", with_identity(KERNEL, BIAS))
    close(analyzer.analyze(A, neuron_selection=output, initial_relevance=1), [expected])


def test_max_pooling():
    # Windows of the image: their maxima are 10, 6, 10, 9. The 10 wins two windows and gets 1 + 3.
    image = np.array([[1.0, 2, 3], [10, 5, 6], [7, 8, 9]]).reshape(1, 3, 3, 1)
    start = np.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1) / 30
    inputs = keras.Input((3, 3, 1))
    model = keras.Model(inputs, layers.MaxPooling2D(2, strides=1)(inputs))
    relevance = create_analyzer("lrp.z", model).analyze(image, initial_relevance=start)
    close(relevance[0, :, :, 0], np.array([[0, 0, 0], [4, 0, 2], [0, 0, 4]]) / 30)


# alpha-beta and the bias. z = 1 - 1 - 1 = -1 = R.
# Split bias: z+ = 1, z- = -1 - 1. alpha 1: [-1, 0]. alpha 2, beta 1: [2 (-1) 1/1, -(-1) (-1)/(-2)] = [-2, 0.5].
# iNNvestigate, full bias in both: z+ = 1 - 1 = 0 is replaced by 1e-7: -1 / 1e-7 = -1e7.
@pytest.mark.filterwarnings("ignore:Relevance explodes")
@pytest.mark.parametrize(
    ("name", "convention", "expected"),
    [
        ("lrp.alpha_1_beta_0", "paper", [-1, 0]),
        ("lrp.alpha_2_beta_1", "paper", [-2, 0.5]),
        ("lrp.alpha_1_beta_0", "innvestigate", [-1e7, 0]),
    ],
)
def test_alpha_beta_where_the_bias_decides(name, convention, expected):
    model = dense_model([[1.0], [-1.0]], biases=[[-1.0]])
    close(create_analyzer(name, model, convention=convention).analyze([[1.0, 1.0]]), [expected])


# z = [1 - 6 + 6 - 2, -2 + 1 + 3 + 1.5] = [-1, 3.5], so the second unit is explained.
# Split bias: z+ = 1 + 3 + 1.5, z- = -2. 2 * 3.5 [0, 1, 3] / 5.5 - 3.5 [-2, 0, 0] / -2 = [-3.5, 14/11, 42/11].
# iNNvestigate: z- = -2 + 1.5, so the first entry is -3.5 (-2 / -0.5) = -14.
@pytest.mark.parametrize(("convention", "first"), [("paper", -3.5), ("innvestigate", -14)])
def test_alpha_beta_of_two_units(convention, first):
    model = dense_model([[1, -2], [-3, 0.5], [2, 1]], biases=[[-2, 1.5]])
    relevance = create_analyzer("lrp.alpha_2_beta_1", model, convention=convention).analyze(X)
    close(relevance, [[first, 14 / 11, 42 / 11]])


def test_flat_and_w_square_by_hand():
    # One unit with weights [1, -2, 3] and output 10: equal thirds; 1 : 4 : 9.
    model = dense_model([[1.0], [-2.0], [3.0]], biases=[[2.0]])
    x = np.array([[3.0, -1.0, 1.0]])
    close(create_analyzer("lrp.flat", model).analyze(x), [[10 / 3] * 3])
    close(create_analyzer("lrp.w_square", model).analyze(x), [[10 / 14, 40 / 14, 90 / 14]])


def test_bounded_by_hand():
    # x in [-1, 2], w = [1, -2]: x w - l w+ - h w- = [1 * 1 + 1, 0.5 * -2 + 2 * 2] = [2, 3], z = 1 - 1 + 5 = 5.
    model = dense_model([[1.0], [-2.0]], biases=[[5.0]])
    close(create_analyzer("deep_taylor.bounded", model, low=-1, high=2).analyze([[1.0, 0.5]]), [[2, 3]])


def test_average_pooling_shares_in_proportion():
    # The mean of [1, 2] and of [3, 6] is 1.5 and 4.5: each pair shares its mean 1 : 2.
    inputs = keras.Input((4, 1))
    model = keras.Model(inputs, layers.Flatten()(layers.AveragePooling1D(2)(inputs)))
    relevance = create_analyzer("lrp.alpha_2_beta_1", model).analyze(
        np.array([[[1.0], [2.0], [3.0], [6.0]]]), neuron_selection="all"
    )
    close(relevance[0, :, 0], [0.5, 1, 1.5, 3])


def test_the_start_is_the_logit_or_one():
    # Output 2 x_1 + 4 x_2 of [1, 1]: LRP shares 6 out, the gradient is the weights whatever the output.
    model = dense_model([[2.0], [4.0]])
    close(create_analyzer("lrp.z", model).analyze([[1.0, 1.0]]), [[2, 4]])
    close(create_analyzer("gradient", model).analyze([[3.0, 1.0]]), [[2, 4]])
    close(create_analyzer("input_t_gradient", model).analyze([[3.0, 1.0]]), [[6, 4]])
    close(create_analyzer("lrp.z", model).analyze([[1.0, 1.0]], initial_relevance=1), [[1 / 3, 2 / 3]])


def test_maxima_share_equally():
    # Two outputs of 3 each start with half of it.
    model = dense_model([[1.0, 2.0], [2.0, 1.0]])
    close(create_analyzer("lrp.z", model).analyze([[1.0, 1.0]]), [[0.5 + 1, 1 + 0.5]])
