"""The functions that every kernel may call."""

from .numbers_of_c import BOOL, DOUBLE, FLOAT

# Functions of one number, by their double's name. CUDA's C++ has each for float under the plain name too.
ONE = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "tanh", "sinh", "cosh", "sin", "cos"),
    *("tan", "atan", "asin", "acos", "erf", "fabs", "floor", "ceil", "trunc", "round", "rint"),
)
TWO = ("pow", "fmin", "fmax", "fmod", "atan2", "copysign", "hypot")
THREE = ("fma",)
FAST = {  # of less precision on a GPU; here they are the precise ones
    "__expf": "exp",
    "__logf": "log",
    "__log2f": "log2",
    "__sinf": "sin",
    "__cosf": "cos",
    "__tanhf": "tanh",
    "__frsqrt_rn": "rsqrt",
    "__fsqrt_rn": "sqrt",
    "__powf": "pow",
    "__fmaf_rn": "fma",
}
OPERATIONS = {"__fadd_rn": "+", "__fsub_rn": "-", "__fmul_rn": "*", "__fdiv_rn": "/", "__fdividef": "/"}
FREE = ("fabs", "floor", "ceil", "trunc", "round", "rint", "copysign", "fmin", "fmax")  # no floating-point operation
TESTS = ("isnan", "isinf", "isfinite")
ATOMICS = ("atomicAdd", "atomicSub", "atomicExch", "atomicMax", "atomicMin", "atomicCAS", "atomicOr", "atomicAnd")
SHUFFLES = ("__shfl_sync", "__shfl_down_sync", "__shfl_up_sync", "__shfl_xor_sync")
VOTES = ("__ballot_sync", "__any_sync", "__all_sync")
FENCES = ("__threadfence", "__threadfence_block")
BARRIERS = ("__syncthreads", "__grid_sync", "__syncwarp")
WAITS = (*SHUFFLES, *VOTES, *BARRIERS)

_ARGUMENTS = {**dict.fromkeys(ONE, 1), **dict.fromkeys(TWO, 2), **dict.fromkeys(THREE, 3)}


def mathematics(name: str):
    """(helper's name, number of arguments, type or None for that of the arguments), or None if there is no such one."""
    if name in FAST:
        return FAST[name], _ARGUMENTS[FAST[name]], FLOAT
    if name in _ARGUMENTS:
        return name, _ARGUMENTS[name], None
    if name.endswith("f") and name[:-1] in _ARGUMENTS:
        return name[:-1], _ARGUMENTS[name[:-1]], FLOAT
    return None


def result_type(wanted, arguments):
    """float where all arguments are, else double: the overloads of CUDA's C++."""
    if wanted is not None:
        return wanted
    return FLOAT if all(value.type == FLOAT for value in arguments) else DOUBLE


def known() -> list[str]:
    """Every name, to suggest from."""
    floats = [name + "f" for name in _ARGUMENTS]
    return [*_ARGUMENTS, *floats, *FAST, *OPERATIONS, *TESTS, *ATOMICS, *WAITS, *FENCES, "min", "max", "abs"]


__all__ = ["BOOL", "known", "mathematics", "result_type"]
