"""PTX of a GPU whose `mma` rounds the operands of TF32 to the nearest, where others drop their lower 13 bits.

The PTX ISA promises that these bits are ignored for `wgmma` alone. What is computed must hold on either kind of GPU.
"""

import re

ROUNDING = "with rounding"
"""Behind a compute capability: what `architecture` is then."""

_PRODUCT = re.compile(
    r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.tf32\.tf32\.f32\s*(\{[^}]*\}),\s*\{([^}]*)\},\s*\{([^}]*)\},\s*(\{[^}]*\});"
)


def rounded(ptx: str) -> str:
    """The same, with every operand of every product in TF32 rounded before."""
    return _PRODUCT.sub(_with_rounding, ptx)


def _with_rounding(product: re.Match) -> str:
    sums, a, b, addends = product.groups()
    words = [word.strip() for word in f"{a}, {b}".split(",")]
    nearest = [f"nearest{i}" for i in range(len(words))]
    lines = [f".reg .b32 {', '.join(nearest)};"]
    lines += [f"cvt.rna.tf32.f32 {name}, {word};" for name, word in zip(nearest, words, strict=True)]
    operation = product[0].split(None, 1)[0]
    of_a, of_b = ", ".join(nearest[: a.count(",") + 1]), ", ".join(nearest[a.count(",") + 1 :])
    lines.append(f"{operation} {sums}, {{{of_a}}}, {{{of_b}}}, {addends};")
    return "{\n" + "\n".join(lines) + "\n}"
