"""The matrix oracle: every rule's formula in NumPy, on the dense matrix of a layer.

Written from the papers, and independent of the library: the matrix comes from calling the Keras layer on basis vectors.

Shapes: W (inputs, outputs), b (outputs,), x (batch, inputs), R (batch, outputs); results (batch, inputs).
"""

import numpy as np


def matrix(function, shapes):
    """(W, b) of an affine function of one array, or of a list of them.

    Args:
        function: Takes arrays (batch, ...) in a list, gives one array.
        shapes: Shape of each input, without the batch axis.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    basis = np.concatenate([np.zeros((1, sum(sizes))), np.eye(sum(sizes))])
    parts = np.split(basis, np.cumsum(sizes)[:-1], axis=1)
    y = np.asarray(function([part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]))
    y = y.reshape(len(basis), -1).astype("float64")
    return y[1:] - y[0], y[0]


def average_pooling(x, size, strides, padding):
    """The mean over the real elements of each window, channels last, in any number of dimensions."""
    spatial = x.shape[1:-1]
    windows = []
    for n, k, s in zip(spatial, *(np.broadcast_to(v, len(spatial)) for v in (size, strides)), strict=True):
        if padding == "valid":
            windows.append([(i, i + k) for i in range(0, n - k + 1, s)])
        else:
            count = -(-n // s)
            before = max((count - 1) * s + k - n, 0) // 2
            windows.append([(max(i * s - before, 0), min(i * s - before + k, n)) for i in range(count)])
    return means(x, windows)


def means(x, windows):
    """The mean over each window, given as pairs (start, stop) for each axis."""
    y = np.empty((len(x), *map(len, windows), x.shape[-1]))
    for index in np.ndindex(*map(len, windows)):
        span = tuple(slice(*windows[axis][i]) for axis, i in enumerate(index))
        y[(slice(None), *index)] = x[(slice(None), *span)].mean(axis=tuple(range(1, x.ndim - 1)))
    return y


def flat(x):
    return np.asarray(x).reshape(len(x), -1)


def pos(t):
    return np.maximum(t, 0)


def neg(t):
    return np.minimum(t, 0)


def safe_divide(r, z, epsilon):
    """r / (z + epsilon sgn(z)), sgn(0) = +1; nothing is shared out where r is 0."""
    denominator = z + epsilon * np.where(z >= 0, 1.0, -1.0)
    return np.divide(r, denominator, out=np.zeros_like(denominator), where=denominator != 0)


def share(contributions, bias, R, epsilon):
    """R_j = sum_k c_jk / (sum_i c_ik + bias_k) R_k, contributions of shape (batch, inputs, outputs)."""
    s = safe_divide(R, contributions.sum(axis=1) + bias, epsilon)
    return np.einsum("njk,nk->nj", contributions, s)


def contributions(W, x):
    """c_jk = x_j w_jk."""
    return x[:, :, None] * W[None]


def lrp_0(W, b, x, R, bias=True, epsilon=1e-7):
    return share(contributions(W, x), b * bias, R, epsilon)


lrp_epsilon = lrp_0


def z_plus(W, b, x, R, bias=True, epsilon=1e-7):
    return share(pos(contributions(W, x)), pos(b) * bias, R, epsilon)


def z_plus_fast(W, b, x, R, epsilon=1e-7):
    return share(contributions(pos(W), x), 0, R, epsilon)


def alpha_beta(W, b, x, R, alpha, beta, bias=True, rare_neurons=False, epsilon=1e-7):
    c = contributions(W, x)
    gain, loss = pos(c), neg(c)
    a, d = np.full(R.shape, float(alpha)), np.full(R.shape, float(beta))
    if rare_neurons and beta:
        only_gain = loss.sum(axis=1) + neg(b) * bias == 0
        only_loss = gain.sum(axis=1) + pos(b) * bias == 0
        a[only_gain], d[only_loss] = 1, -1
    return share(gain, pos(b) * bias, a * R, epsilon) - share(loss, neg(b) * bias, d * R, epsilon)


def gamma(W, b, x, R, gamma, generalized=True, bias=True, epsilon=1e-7):
    if not generalized:
        return share(contributions(W + gamma * pos(W), x), b * bias, R, epsilon)
    c = contributions(W, x)
    positive = c.sum(axis=1) + b >= 0
    up = share(c + gamma * pos(c), (b + gamma * pos(b)) * bias, R * positive, epsilon)
    down = share(c + gamma * neg(c), (b + gamma * neg(b)) * bias, R * ~positive, epsilon)
    return up + down


def z_box(W, b, x, R, low, high, epsilon=1e-7):
    low, high = (np.broadcast_to(bound, x.shape) for bound in (low, high))
    c = contributions(W, x) - contributions(pos(W), low) - contributions(neg(W), high)
    return share(c, 0, R, epsilon)


def w_square(W, b, x, R, epsilon=1e-7):
    return share(contributions(W**2, np.ones_like(x)), 0, R, epsilon)


def flat_rule(W, b, x, R, epsilon=1e-7):
    return share(contributions(1.0 * (W != 0), np.ones_like(x)), 0, R, epsilon)


# iNNvestigate 2.1.2.


def safe_divide_zeros(r, z):
    """r / (z + 1e-7 (z == 0))."""
    return r / (z + 1e-7 * (z == 0))


def share_zeros(contributions, bias, R):
    s = safe_divide_zeros(R, contributions.sum(axis=1) + bias)
    return np.einsum("njk,nk->nj", contributions, s)


def innvestigate_z(W, b, x, R, bias=True):
    return share_zeros(contributions(W, x), b * bias, R)


def innvestigate_alpha_beta(W, b, x, R, alpha, beta, bias=True):
    c = contributions(W, x)
    return alpha * share_zeros(pos(c), b * bias, R) - beta * share_zeros(neg(c), b * bias, R)


def innvestigate_z_plus_fast(W, b, x, R):
    return share_zeros(contributions(pos(W), x), 0, R)


def innvestigate_bounded(W, b, x, R, low, high):
    return share_zeros(
        contributions(W, x)
        - contributions(pos(W), np.full_like(x, low))
        - contributions(neg(W), np.full_like(x, high)),
        0,
        R,
    )


def innvestigate_w_square(W, b, x, R):
    return share_zeros(contributions(W**2, np.ones_like(x)), 0, R)


def innvestigate_flat(W, b, x, R):
    return share_zeros(contributions(1.0 * (W != 0), np.ones_like(x)), 0, R)
