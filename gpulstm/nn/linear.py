"""The linear layer: y = x W^T + b."""

import math
from types import ModuleType
from typing import Any

import numpy as np

from .. import arrays, initialisers
from ..arrays import Array


class Linear:
    """A linear map of the last axis, ``out = x @ weight.T + bias``, with PyTorch's names and shapes.

    ``params`` has ``weight`` (output_size, input_size) and, unless ``bias`` is False, ``bias`` (output_size,),
    drawn uniformly between -1/sqrt(input_size) and 1/sqrt(input_size).

    ``xp`` is the array library (numpy, cupy, torch, jax.numpy, ...), ``rng`` a seed or a `numpy.random.Generator`.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        bias: bool = True,
        dtype: Any = "float32",
        xp: ModuleType = np,
        rng: Any = None,
    ) -> None:
        self.input_size = initialisers.require_size("input_size", input_size)
        self.output_size = initialisers.require_size("output_size", output_size)
        shapes = {"weight": (self.output_size, self.input_size)} | ({"bias": (self.output_size,)} if bias else {})
        self.params = initialisers.uniform(shapes, self.input_size**-0.5, dtype, xp, rng)

    def __call__(self, x: Array) -> Array:
        """x (..., input_size) -> out (..., output_size); keeps nothing."""
        return self.forward(x)[0]

    def forward(self, x: Array) -> tuple[Array, Array]:
        """x (..., input_size), any leading axes -> out (..., output_size), and what `backward` needs.

        Raises TypeError or ValueError where x is no match for the parameters.
        """
        weight, bias = self.params["weight"], self.params.get("bias")
        arrays.require_array("x", x)
        arrays.require_floating("x", x)
        arrays.check_same({"weight": weight, "x": x})
        if x.ndim == 0 or x.shape[-1] != self.input_size:
            raise ValueError(f"x must have shape (..., input_size) = (..., {self.input_size}), got {tuple(x.shape)}")
        out = x @ weight.T
        return (out if bias is None else out + bias), x

    def backward(self, cache: Array, dout: Array) -> tuple[Array, dict[str, Array]]:
        """dout (..., output_size) -> dx (..., input_size), and the gradients under the parameters' names.

        ::

            dx = dout W        dW = dout^T x        db = sum of dout over all leading axes

        Raises TypeError or ValueError where dout is no match for what `forward` returned.
        """
        x, weight = cache, self.params["weight"]
        arrays.check_same({"x": x, "dout": dout})
        expected = (*x.shape[:-1], self.output_size)
        if tuple(dout.shape) != expected:
            raise ValueError(f"dout must have the shape of forward's result, {expected}, got {tuple(dout.shape)}")
        xp = arrays.namespace(x)
        rows = math.prod(x.shape[:-1])  # spelt out, because -1 is ambiguous for an empty batch
        flat_dout = xp.reshape(dout, (rows, self.output_size))
        grads = {"weight": flat_dout.T @ xp.reshape(x, (rows, self.input_size))}
        if "bias" in self.params:
            grads["bias"] = xp.sum(flat_dout, axis=0)
        return dout @ weight, grads
