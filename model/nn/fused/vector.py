"""The arithmetic of the compiled scan: vectors of float32, written as loops for numba.

Constants are float32, since a float64 in an expression would make all of it float64. NaN stays NaN.
"""

import math

import numpy as np

from model.nn.fused.machine_code import compiled, compiled_in_order
from uic.memory import Float32

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
# e^x = 2^n e^r with r in [-ln 2 / 2, ln 2 / 2]; the coefficients are those of Cephes' expf and tanhf.
_LOWEST, _HIGHEST, _LOG2_E = np.float32(-87.3), np.float32(88.3), np.float32(1.44269504)
_ROUND = np.float32(12582912)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_E5, _E4, _E3 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_E2, _E1, _E0 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_SMALL = np.float32(0.625)
_T4, _T3, _T2 = np.float32(-5.70498872745e-3), np.float32(2.06390887954e-2), np.float32(-5.37397155531e-2)
_T1, _T0 = np.float32(1.33314422036e-1), np.float32(-3.33332819422e-1)


@compiled_in_order
def exp(x: np.float32) -> np.float32:
    """e^x, of arguments below -87 as at -87."""
    x = _LOWEST if x < _LOWEST else x  # max() would take NaN for a number
    x = _HIGHEST if x > _HIGHEST else x  # see above
    # Added to 1.5 * 2^23 the fraction is rounded away, and n is in the lowest bits.
    shifted = x * _LOG2_E + _ROUND
    n = shifted - _ROUND
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = ((((_E5 * r + _E4) * r + _E3) * r + _E2) * r + _E1) * r + _E0
    power = np.int32((np.float32(shifted).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (series * (r * r) + (r + ONE)) * power


@compiled_in_order
def sigmoid(x: np.float32) -> np.float32:
    return ONE / (ONE + exp(-x))


@compiled_in_order
def tanh(x: np.float32) -> np.float32:
    square = x * x
    near = ((((_T4 * square + _T3) * square + _T2) * square + _T1) * square + _T0) * square * x + x
    size = abs(x)
    far = ONE - TWO / (exp(size + size) + ONE)
    far = -far if x < ZERO else far
    return near if size < _SMALL else far


@compiled_in_order
def softplus(x: np.float32) -> np.float32:
    return np.float32(math.log1p(math.exp(np.float64(x))))


@compiled
def add_product(y: Float32, weights: Float32, x: Float32) -> None:
    """y += x W, with W [in, out]."""
    inputs, outputs = weights.shape
    whole = inputs - inputs % 4
    for i in range(0, whole, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for o in range(outputs):
            y[o] += a * weights[i, o] + b * weights[i + 1, o] + c * weights[i + 2, o] + d * weights[i + 3, o]
    for i in range(whole, inputs):
        a = x[i]
        for o in range(outputs):
            y[o] += a * weights[i, o]


@compiled
def dot(x: Float32, y: Float32) -> np.float32:
    total = ZERO
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@compiled
def copy(y: Float32, x: Float32) -> None:
    """y = x; several times quicker, and quicker compiled, than y[:] = x, which looks whether they overlap."""
    for i in range(len(y)):
        y[i] = x[i]


@compiled
def clear(y: Float32) -> None:
    """y = 0."""
    for i in range(len(y)):
        y[i] = ZERO


@compiled
def add(y: Float32, x: Float32) -> None:
    """y += x."""
    for i in range(len(y)):
        y[i] += x[i]


@compiled
def softmax(x: Float32) -> None:
    """In place."""
    highest = x[0]
    for i in range(1, len(x)):
        highest = max(highest, x[i])
    total = ZERO
    for i in range(len(x)):
        x[i] = exp(x[i] - highest)
        total += x[i]
    for i in range(len(x)):
        x[i] /= total


@compiled
def softmax_back(d: Float32, weights: Float32) -> None:
    """The gradient of what went into a softmax, in place of that of the weights that came out."""
    inner = dot(d, weights)
    for i in range(len(d)):
        d[i] = weights[i] * (d[i] - inner)
