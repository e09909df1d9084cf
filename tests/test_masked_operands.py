"""Products of float32 as three of TF32 on a GPU whose `mma` rounds its operands, as the PTX ISA allows.

Up to compute capability 9.0 they drop the lower 13 bits, which the kernels build on; from 10.0 on the kernels clear
these bits before, so that either is right.
"""

import re

import numpy as np
import pytest

from gpulstm.cuda import sources
from tests.cuda_on_cpu import cupy_on_cpu, nvrtc
from tests.test_nvrtc_gate import nvrtc_or_skip

KERNELS = """
extern "C" __global__ void product(const float* a, const float* b, float* d) {
    __shared__ volatile unsigned mask;
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    if (threadIdx.x == 0) mask = HIGH_BITS;
    __syncthreads();
    const unsigned words[4] = {__float_as_uint(a[g * 8 + t]), __float_as_uint(a[(g + 8) * 8 + t]),
                               __float_as_uint(a[g * 8 + t + 4]), __float_as_uint(a[(g + 8) * 8 + t + 4])};
    const unsigned column[2] = {__float_as_uint(b[t * 8 + g]), __float_as_uint(b[(t + 4) * 8 + g])};
    const unsigned low[2] = {low_part(column[0]), low_part(column[1])};
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    multiply_add(sums, words, column, low, high_bits_of(&mask));
    for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

extern "C" __global__ void sums(const float* a, const float* b, float* d) {
    float first = a[threadIdx.x], second = b[threadIdx.x];
    d[threadIdx.x] = sum_over_warp(first);
    sums_over_warp(first, second);
    d[threadIdx.x + 32] = first, d[threadIdx.x + 64] = second;
}
"""
FITTING = 2.0**-20  # of the norm: three products leave out 2^-21 of each term, and float32 rounds


def source() -> str:
    folder = sources.kernel_folder().resolve()
    return "\n".join(["#define REAL float", *sources._inlined(folder / "warp_sums.cuh", folder, seen=set()), KERNELS])


def errors(capability: str, *, rounds: bool) -> dict[str, float]:
    """By how much of the norm results are off."""
    nvrtc_or_skip()
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype("float32") for shape in ((16, 8), (8, 8)))
    with cupy_on_cpu("ptx", compute_capability=capability, rounds_tf32=rounds) as cupy:
        module = cupy.RawModule(code=source(), options=("--std=c++14",))
        given = [cupy.asarray(each) for each in (a, b)]
        found = {}
        for name, size in (("product", 128), ("sums", 96)):
            found[name] = cupy.empty(size, "float32")
            module.get_function(name)((1,), (32,), (*given, found[name]))
        found = {name: each.get().astype("float64") for name, each in found.items()}
    a, b = a.astype("float64"), b.astype("float64")
    first, second = (each.reshape(-1)[:32].sum() for each in (a, b))
    wanted = {"product": (a @ b).reshape(-1), "sums": np.repeat((first, first, second), 32)}
    return {name: float(np.linalg.norm(found[name] - w) / np.linalg.norm(w)) for name, w in wanted.items()}


@pytest.mark.parametrize(("capability", "rounds"), [("100", True), ("90", False)])
def test_products_and_sums_are_those_of_float32(capability, rounds):
    for name, error in errors(capability, rounds=rounds).items():
        assert error < FITTING, name


def test_without_the_masks_rounding_would_be_seen():
    """So the interpreter's switch is one, and compute capability 9.0 is known not to need them."""
    for name, error in errors("90", rounds=True).items():
        assert 2.0**-15 < error < 2.0**-9, name


def test_no_other_kernel_multiplies_in_tf32():
    """What hands words over to `mma` by itself would need masks of its own."""
    folder = sources.kernel_folder()
    users = {path.name for path in folder.iterdir() if "multiply_add_tf32(" in path.read_text()}
    assert users == {"tensor_core.cuh", "warp_sums.cuh"}
    assert {path.name for path in folder.iterdir() if re.search(r"mma\..*tf32", path.read_text())} == {
        "tensor_core.cuh"
    }


def test_the_switch_rounds_every_product():
    text = nvrtc.ptx(source(), ("--std=c++14",), "90") if nvrtc_or_skip() else ""
    products = text.count("mma.sync")
    rounded = nvrtc.ptx(source(), ("--std=c++14",), "90 with rounding")
    assert products == rounded.count("mma.sync") > 0 and rounded.count("cvt.rna.tf32") == 6 * products
