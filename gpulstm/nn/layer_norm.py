"""Layer norm: each vector of features is centred and scaled by its own mean and deviation."""

import math
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .. import arrays, initialisers
from ..arrays import Array


class _Cache(NamedTuple):
    x: Array  # (..., size)
    saved: tuple[Array, Array]  # (rows, size) normalised x and (rows, 1) 1 / deviation; on CuPy x and its moments


class LayerNorm:
    """Normalises the last axis, with PyTorch's names and formula.

    ::

        n = (x - mean) / sqrt(variance + epsilon)        out = weight * n + bias

    Mean and variance are over the last axis, both divided by ``size``. ``params`` has ``weight`` (size,), which begins
    with ones, and ``bias`` (size,), which begins with zeros.

    ``xp`` is the array library (numpy, cupy, torch, jax.numpy, ...).

    Ba, Kiros and Hinton, Layer normalization, 2016.
    """

    def __init__(self, size: int, *, epsilon: float = 1e-5, dtype: Any = "float32", xp: ModuleType = np) -> None:
        self.size = initialisers.require_size("size", size)
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float, np.integer, np.floating)):
            raise TypeError(f"epsilon must be a number, got {type(epsilon).__name__}")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be positive and finite, got {epsilon}; it keeps a constant row from 0 / 0")
        self.epsilon = float(epsilon)
        values = {"weight": np.ones(self.size), "bias": np.zeros(self.size)}
        self.params = initialisers.converted(values, dtype, xp)

    def __call__(self, x: Array) -> Array:
        """x (..., size) -> out (..., size); keeps nothing."""
        return self.forward(x)[0]

    def forward(self, x: Array) -> tuple[Array, _Cache]:
        """x (..., size), any leading axes -> out (..., size), and what `backward` needs.

        Raises TypeError or ValueError where x is no match for the parameters.
        """
        weight, bias = self.params["weight"], self.params["bias"]
        arrays.require_array("x", x)
        arrays.require_floating("x", x)
        arrays.check_same({"weight": weight, "bias": bias, "x": x})
        if x.ndim == 0 or x.shape[-1] != self.size:
            raise ValueError(f"x must have shape (..., size) = (..., {self.size}), got {tuple(x.shape)}")
        rows = _rows(x)
        with arrays.on_device_of(x):
            if arrays.is_numpy(x):
                out, saved = _numpy_forward(rows, weight, bias, self.epsilon)
            elif arrays.is_cupy(x):
                from ..engines import cupy_layer_norm

                out, moments = cupy_layer_norm.forward(rows, weight, bias, self.epsilon)
                saved = (rows, moments)
            else:
                out, saved = _portable_forward(rows, weight, bias, self.epsilon)
            return _reshaped(out, x.shape), _Cache(x, saved)

    def backward(self, cache: _Cache, dout: Array) -> tuple[Array, dict[str, Array]]:
        """dout (..., size) -> dx (..., size), and the gradients under the parameters' names.

        ::

            g = dout * weight        dx = (g - mean(g) - n * mean(g * n)) / sqrt(variance + epsilon)
            dweight = sum of dout * n over all leading axes        dbias = sum of dout

        Raises TypeError or ValueError where dout is no match for what `forward` returned.
        """
        x, saved = cache
        arrays.check_same({"x": x, "dout": dout})
        if tuple(dout.shape) != tuple(x.shape):
            raise ValueError(f"dout must have the shape of forward's result, {tuple(x.shape)}, got {tuple(dout.shape)}")
        rows, weight = _rows(dout), self.params["weight"]
        with arrays.on_device_of(x):
            if arrays.is_numpy(x):
                dx, dweight, dbias = _numpy_backward(*saved, weight, rows)
            elif arrays.is_cupy(x):
                from ..engines import cupy_layer_norm

                dx, dweight, dbias = cupy_layer_norm.backward(saved[0], weight, saved[1], rows)
            else:
                dx, dweight, dbias = _portable_backward(*saved, weight, rows)
            return _reshaped(dx, x.shape), {"weight": dweight, "bias": dbias}

    def __repr__(self) -> str:
        epsilon = "" if self.epsilon == 1e-5 else f", epsilon={self.epsilon}"
        return f"LayerNorm({self.size}{epsilon}, dtype={arrays.dtype_name(self.params['weight'])!r})"


def _rows(x: Array) -> Array:
    """x (..., size) as (rows, size)."""
    return _reshaped(x, (math.prod(x.shape[:-1]), x.shape[-1]))


def _reshaped(x: Array, shape: tuple[int, ...]) -> Array:
    return arrays.namespace(x).reshape(x, tuple(shape))


def _numpy_forward(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    with np.errstate(invalid="ignore", over="ignore"):  # infinities come out as IEEE says
        n = x - np.mean(x, axis=-1, keepdims=True)
        scale = np.einsum("rk,rk->r", n, n)[:, None]
        scale /= x.shape[-1]
        scale += epsilon
        scale **= -0.5
        n *= scale
        out = n * weight
        out += bias
    return out, (n, scale)


def _numpy_backward(
    n: np.ndarray, scale: np.ndarray, weight: np.ndarray, dout: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    size = n.shape[-1]
    with np.errstate(invalid="ignore", over="ignore"):
        dx = dout * weight
        mean_gn = np.einsum("rk,rk->r", dx, n)[:, None] / size
        dx -= np.mean(dx, axis=-1, keepdims=True)
        dx -= n * mean_gn
        dx *= scale
        return dx, np.einsum("rk,rk->k", dout, n), np.sum(dout, axis=0)


def _portable_forward(x: Array, weight: Array, bias: Array, epsilon: float) -> tuple[Array, tuple[Array, Array]]:
    xp = arrays.namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    scale = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + epsilon)
    n = centred * scale
    return n * weight + bias, (n, scale)


def _portable_backward(n: Array, scale: Array, weight: Array, dout: Array) -> tuple[Array, Array, Array]:
    xp = arrays.namespace(n)
    g = dout * weight
    mean_g, mean_gn = (xp.mean(a, axis=-1, keepdims=True) for a in (g, g * n))
    return (g - mean_g - n * mean_gn) * scale, xp.sum(dout * n, axis=0), xp.sum(dout, axis=0)
