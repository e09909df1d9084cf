"""The compile gate for rounding: a cell state has the same bits in every choice of a kernel's tiles.

How many sequences a block runs depends on the batch, so a sequence by itself may meet another choice than among others.
Of ``f * c + i * g`` the compiler fuses one of the products with the sum, and which one it takes may differ from choice
to choice; the stand-in, which fuses none, cannot see that. So the code that NVRTC makes is looked at.
"""

import re

import pytest

from gpulstm.cuda.catalogue import Specialisation
from tests.cuda_on_cpu import nvrtc
from tests.test_nvrtc_gate import nvrtc_or_skip

_INSTRUCTION = re.compile(r"\s+(?:@!?%p\d+ )?([a-z][\w.:]*)\s+(%\w+)(?:\|%\w+)?,\s*(.*);")
SHUFFLE, PRODUCT, OTHER = "shuffle", "product", "other"
CHOICES = {
    ("lstm_resident_forward", "float32", (False, False, False)): ((2,), (4,)),
    ("lstm_resident_forward", "float32", (True, False, False)): ((2,), (4,)),
    ("lstm_resident_forward", "float32", (True, False, True)): ((2,), (4,)),
    ("lstm_persistent_forward", "float32", (False, False, False)): ((2, 1, 1), (4, 1, 2)),
    ("lstm_persistent_forward", "float32", (True, False, False)): ((2, 1, 1), (2, 1, 4)),
    ("lstm_persistent_half_forward", "float16", (False, False, False)): ((2, 2, 2, 0, 1, 1), (16, 4, 4, 2, 2, 4)),
    ("lstm_persistent_half_forward", "bfloat16", (True, False, False)): ((2, 2, 2, 0, 1, 1), (16, 4, 4, 2, 2, 4)),
    ("lstm_persistent_forward", "float32", (True, True, False)): ((2, 1, 1),),
    ("lstm_cluster_forward", "float32", ()): ((2, 1, 1), (2, 1, 8)),
}


def ptx(source: str, options: tuple[str, ...]) -> str:
    nvrtc_or_skip()
    return nvrtc.ptx(source, options, "90")


def fused(text: str) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of every a * b + c * d in which a number from another lane takes part: what a and b are, whose product is not
    rounded, and what c and d are, whose product is."""
    made = {m[2]: (m[1], m[3].split(", ")) for m in map(_INSTRUCTION.match, text.splitlines()) if m}

    def kind(register: str) -> str:
        operation, operands = made.get(register, ("", []))
        if operation == "mov.b32":  # from the integers that shuffles know
            return kind(operands[0])
        return SHUFFLE if operation.startswith("shfl.sync.idx") else PRODUCT if operation.startswith("mul") else OTHER

    found = set()
    for operation, operands in made.values():
        if operation.startswith("fma.") and made.get(operands[2], ("",))[0].startswith("mul."):
            whole, rounded = (tuple(sorted(map(kind, pair))) for pair in (operands[:2], made[operands[2]][1]))
            if SHUFFLE in whole + rounded:
                found.add((whole, rounded))
    return found


@pytest.mark.parametrize(("entry", "dtype", "features"), CHOICES, ids=str)
def test_a_cell_state_is_rounded_alike_in_every_choice_of_tiles(entry, dtype, features):
    """f * c is fused; i * g, or i * (g * mask), is rounded first. Where gates can be coupled, f is not as it came."""
    resident_without_peepholes = entry == "lstm_resident_forward" and not features[2]
    of_f = SHUFFLE if not any(features) or resident_without_peepholes else OTHER
    wanted = {((OTHER, of_f), (PRODUCT if any(features) else SHUFFLE, SHUFFLE))}
    for tiles in CHOICES[entry, dtype, features]:
        one = Specialisation(entry, dtype, features, tiles)
        assert fused(ptx(one.source, one.options)) == wanted, f"{entry} {features} {tiles}"


@pytest.mark.parametrize(("line", "which"), [("fmaf(a, b, c * d)", 0), ("fmaf(c, d, a * b)", 1)])
def test_the_gate_reads_which_product_is_fused(line, which):
    source = f"""extern "C" __global__ void self_test(float* x) {{
        const float a = x[threadIdx.x], b = x[threadIdx.x + 32];
        const float c = __shfl_sync(0xFFFFFFFFu, a, 1), d = __shfl_sync(0xFFFFFFFFu, b, 2);
        x[threadIdx.x] = {line};
    }}"""
    products = (OTHER, OTHER), (SHUFFLE, SHUFFLE)
    assert fused(ptx(source, ())) == {products if which == 0 else products[::-1]}
