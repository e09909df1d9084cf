"""How a layer with layer norm may be laid out where all its time steps run in one launch. Pure arithmetic.

A layer is laid out as the plain one is, in kernels of its own (`kernels/lstm_resident_layer_norm_forward.cu` and its
neighbours), and each step has two sums over all hidden units more.

None of these kernels has run on a GPU yet. What is predicted is the plain layer's time and, for each of the two sums,
what handing over costs: floors measured on one H200, which benchmarks/results/notes.md lists (0.70 us all to all with
16 blocks, 1.06 with 132); in a block of its own, an assumed `IN_A_BLOCK`. The planner takes them all the same, because
the loop is bound to be slower: it launches a product and a kernel in each step, forward and again backward, and each
launch was measured to take 4.9 to 6.8 us.
"""

from typing import Any

FORWARD = ("lstm_resident_layer_norm_forward", "lstm_persistent_layer_norm_forward")
BACKWARD = ("lstm_resident_layer_norm_backward", "lstm_persistent_layer_norm_backward")

SEQUENCES_PER_TILE = 8
IN_A_BLOCK = 0.12  # microseconds of a barrier, some ten shuffles and a square root: 200 to 250 cycles
ALL_TO_ALL = (0.64, 0.0032)  # microseconds, and more for each block: 0.70 with 16, 1.06 with 132
UNITS_OF_A_WARP = 8  # whose sums are handed over together, forward


def with_layer_norm(choice: Any) -> Any:
    """A `planner.Choice` of the plain layer as one of the layer with layer norm."""
    kernel = choice.kernel.replace(choice.schedule, f"{choice.schedule}_layer_norm")
    cost = choice.microseconds + 2 * _microseconds_of_a_sum(choice)
    reason = f"{cost:.1f} us a step predicted with layer norm, from floors, not measured"
    return choice._replace(kernel=kernel, microseconds=cost, reason=reason)


def _microseconds_of_a_sum(choice: Any) -> float:
    if choice.schedule == "resident":
        return IN_A_BLOCK
    passes = -(-choice.share // (SEQUENCES_PER_TILE * choice.tiles[2]))
    return passes * (ALL_TO_ALL[0] + ALL_TO_ALL[1] * choice.blocks)


def forward_words(steps: int, batch: int, hidden: int) -> tuple[int, ...]:
    """Shape of the 32-bit words through which the persistent forward kernel's blocks hand each other their sums: of r's
    squares one for each warp, and two of c, each padded to a multiple of four words."""
    return steps, batch, 3 * padded(-(-hidden // UNITS_OF_A_WARP))


def backward_words(choice: Any, steps: int, batch: int) -> tuple[int, ...]:
    """The same of the backward kernel: two pairs for each block."""
    return steps, batch, 2 * padded(2 * choice.blocks)


def padded(words: int) -> int:
    """They are loaded four at a time."""
    return -(-words // 4) * 4
