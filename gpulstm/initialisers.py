"""How parameters begin.

Everything is drawn by NumPy in float64 and then converted, so one seed gives the same parameters in every library, up
to the rounding of their dtype.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from . import arrays
from .arrays import Array
from .options import Options
from .parameters import GATES

WEIGHTS = ("uniform", "glorot")
"""The names of `Start.init`."""


@dataclass(frozen=True)
class Start:
    """How an LSTM begins; see `started` for what is allowed."""

    init: str = "uniform"
    forget_bias: float | None = None
    chrono: float | None = None


def started(init: Any, forget_bias: Any, chrono: Any, *, bias: bool, options: Options) -> Start:
    """`Start` from what a user wrote. Raises TypeError or ValueError that names the argument and the reason."""
    if not isinstance(init, str) or init not in WEIGHTS:
        raise ValueError(f"init must be one of {', '.join(map(repr, WEIGHTS))}, got {init!r}")
    for name, value in (("forget_bias", forget_bias), ("chrono", chrono)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise TypeError(f"{name} must be a number or None, got {value!r}")
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")
        if not bias:
            raise ValueError(
                f"{name} must be None without a bias, got {value}: bias=False leaves nothing to put it into"
            )
    if chrono is not None:
        _refuse_chrono(chrono, forget_bias, options)
    if forget_bias is not None and options.coupled:
        raise ValueError(
            f"forget_bias must be None with coupled gates, got {forget_bias}: their forget gate is one minus the input "
            f"gate and has no bias of its own; chrono works with them"
        )
    if init == "glorot" and forget_bias is None and chrono is None and bias and not options.coupled:
        forget_bias = 1.0  # Keras' unit_forget_bias
    return Start(init, None if forget_bias is None else float(forget_bias), None if chrono is None else float(chrono))


def _refuse_chrono(chrono: Any, forget_bias: Any, options: Options) -> None:
    if not chrono > 2:
        raise ValueError(
            f"chrono must be above 2, got {chrono}: it is the longest dependency in time steps, and the forget gates' "
            f"time scales are drawn between 2 and it"
        )
    if forget_bias is not None:
        raise ValueError(
            f"forget_bias must be None with chrono, got {forget_bias}: both would set the forget gate's bias"
        )
    if options.activations[0].name != "sigmoid":
        raise ValueError(
            f"chrono must come with gates of activation 'sigmoid', got {options.activations[0].name!r}: its biases are "
            f"the logarithms of odds"
        )


def generator(rng: Any) -> np.random.Generator:
    """A NumPy generator from a seed, a generator, or None for fresh entropy."""
    if rng is not None and not isinstance(rng, (int, np.integer, np.random.Generator, np.random.SeedSequence)):
        raise TypeError(f"rng must be None, an integer seed or a numpy.random.Generator, got {type(rng).__name__}")
    if isinstance(rng, (int, np.integer)) and rng < 0:
        raise ValueError(f"rng must not be negative, got {rng}")
    return np.random.default_rng(rng)


def seed_for(random: bool, rng: Any) -> int:
    """The seed of a call's masks. Where nothing is random, ``rng`` is checked but no generator moves on."""
    if random:
        return seed(rng)
    if rng is not None and not isinstance(rng, np.random.Generator):
        seed(rng)
    return 0


def seed(rng: Any) -> int:
    """A seed below 2^64 for `gpulstm.philox`: the integer itself, or one drawn from a generator or fresh entropy."""
    if isinstance(rng, bool):
        raise TypeError("rng must be None, an integer seed or a numpy.random.Generator, got bool")
    if isinstance(rng, (int, np.integer)):
        if not 0 <= rng < 2**64:
            raise ValueError(f"rng must be a seed between 0 and 2^64 - 1, got {rng}")
        return int(rng)
    return int(generator(rng).integers(2**64, dtype=np.uint64))


def uniform(
    shapes: Mapping[str, tuple[int, ...]], bound: float, dtype: Any, xp: ModuleType, rng: Any
) -> dict[str, Array]:
    """Parameters drawn from (-bound, bound), PyTorch's way."""
    draw, convert = generator(rng), _converter(dtype, xp)
    return convert({name: draw.uniform(-bound, bound, shape) for name, shape in shapes.items()})


def converted(values: Mapping[str, np.ndarray], dtype: Any, xp: ModuleType) -> dict[str, Array]:
    """NumPy's float64 values as parameters of another dtype and library."""
    return _converter(dtype, xp)(values)


def of_lstm(
    shapes: Mapping[str, tuple[int, ...]], hidden_size: int, start: Start, dtype: Any, xp: ModuleType, rng: Any
) -> dict[str, Array]:
    """The parameters of an LSTM or a cell.

    ::

        "uniform"   all weights and biases     uniform in +-1/sqrt(hidden)                          as PyTorch
        "glorot"    weight_ih, weight_hr       uniform in +-sqrt(6 / (rows + columns))              as Keras
                    weight_hh                  orthogonal: W^T W = 1                                as Keras
                    bias                       zero, of the forget gate one                         as Keras
                    weight_peephole            uniform in +-1/sqrt(hidden)
        always      layer norm                 gains one, biases zero
        chrono = T  b_f = log(u), b_i = -b_f   u uniform in (1, T - 1)

    Glorot's rows and columns are those of the four gates together, as Keras counts them. The biases of ``forget_bias``
    and ``chrono`` are put in last, so the other parameters are those of the same seed without them. A forget gate
    sigmoid(log(u)) keeps a cell's content for about 1 / (1 - sigmoid(log(u))) = 1 + u steps.

    Glorot and Bengio 2010; Saxe et al. 2014; Jozefowicz et al. 2015; chrono: Tallec and Ollivier, Can recurrent neural
    networks warp time?, ICLR 2018.
    """
    draw, convert = generator(rng), _converter(dtype, xp, half=True)
    bound = hidden_size**-0.5
    values = {name: _values(_kind(name), shape, start.init, bound, draw) for name, shape in shapes.items()}
    of_input, of_forget = (
        slice(GATES.index(gate) * hidden_size, (GATES.index(gate) + 1) * hidden_size) for gate in ("input", "forget")
    )
    for bias in (values[name] for name in shapes if _kind(name) == "bias"):
        if start.forget_bias is not None:
            bias[of_forget] = start.forget_bias
        if start.chrono is not None:
            bias[of_forget] = np.log(draw.uniform(1, start.chrono - 1, hidden_size))
            bias[of_input] = -bias[of_forget]
    return convert(values)


def _kind(name: str) -> str:
    """A parameter's name without its layer and direction."""
    return name.partition("_l")[0]


def _values(kind: str, shape: tuple[int, ...], init: str, bound: float, draw: np.random.Generator) -> np.ndarray:
    if kind.startswith("weight_norm"):
        return np.ones(shape)
    if kind.startswith("bias_norm"):
        return np.zeros(shape)
    if init == "glorot" and kind == "weight_hh":
        return _orthogonal(shape, draw)
    if init == "glorot" and kind == "bias":
        return np.zeros(shape)
    if init == "glorot" and kind in ("weight_ih", "weight_hr"):
        bound = math.sqrt(6 / sum(shape))
    return draw.uniform(-bound, bound, shape)


def _orthogonal(shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """A matrix drawn evenly from those with orthonormal columns, or rows where there are fewer rows than columns."""
    q, r = np.linalg.qr(draw.normal(size=(max(shape), min(shape))))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)  # the signs that QR chose are not evenly drawn
    return q if shape[0] >= shape[1] else q.T


def _converter(dtype: Any, xp: ModuleType, *, half: bool = False) -> Any:
    """The function that turns NumPy's float64 values into parameters. Refuses a bad library or dtype here already.

    ``half`` says whether there are CuPy kernels for 16 bits.
    """
    xp = arrays.standard_namespace(xp)
    name = floating_name(dtype, arrays.dtypes_of(xp, half=half))
    ours = xp is np or xp is sys.modules.get("cupy")
    if name == "bfloat16":
        host = arrays.bfloat16() if ours else np.dtype(np.float64)
    else:
        host = np.dtype(name)

    def convert(values: Mapping[str, np.ndarray]) -> dict[str, Array]:
        found = {key: np.ascontiguousarray(value.astype(host)) for key, value in values.items()}
        if xp is np:
            return found
        return {key: xp.asarray(a, dtype=host if ours else getattr(xp, name)) for key, a in found.items()}

    return convert


def floating_name(dtype: Any, allowed: tuple[str, ...]) -> str:
    """The plain name of a dtype given as a string, a NumPy dtype or any library's own dtype object."""
    try:
        name = "None" if dtype is None else np.dtype(dtype).name  # to NumPy None is float64, to PyTorch float32
    except TypeError:
        name = str(dtype).rpartition(".")[2]
    if name not in allowed:
        where = f"; {arrays.WHERE_HALF}" if name in arrays.HALF_DTYPES else ""
        raise TypeError(f"dtype must be {' or '.join(allowed)}, got {dtype!r}{where}")
    return name


def require_size(name: str, value: Any, at_least: int = 1) -> int:
    """A size as an int. Raises TypeError or ValueError unless it is an integer that is large enough."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")
    return int(value)
