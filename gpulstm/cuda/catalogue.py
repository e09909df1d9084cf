"""Every kernel, the file it stands in, and the switches that specialise it.

The engine asks for one specialisation at a time; the compile gate walks through all of them. Both go through this
table, so a kernel cannot be used without having been compiled for every architecture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from . import sources

REAL_OF_DTYPE = {"float32": "float", "float64": "double"}

# kernel -> (file, feature switches that its body reads)
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lstm_forward_step": ("lstm_forward_step.cu", ("BIAS", "LENGTHS", "KEEP")),
    "lstm_backward_step": ("lstm_backward_step.cu", ("DY", "LENGTHS")),
    "column_sum": ("column_sum.cu", ()),
    "lstm_variant_cell_forward": ("lstm_variant_cell_forward.cu", ("LAYERNORM",)),
    "lstm_variant_cell_backward": ("lstm_variant_cell_backward.cu", ("LAYERNORM",)),
    "lstm_variant_output_forward": ("lstm_variant_output.cu", ()),
    "lstm_variant_output_backward": ("lstm_variant_output.cu", ()),
    "lstm_variant_initial_gradient": ("lstm_variant_output.cu", ()),
    "masked_copy": ("masked_copy.cu", ()),
    "sigmoid": ("elementwise.cu", ()),
    "sigmoid_backward": ("elementwise.cu", ()),
    "tanh_forward": ("elementwise.cu", ()),
    "tanh_backward": ("elementwise.cu", ()),
    "gate_activations": ("gate_activations.cu", ()),
    "gate_activations_backward": ("gate_activations.cu", ()),
    "cell_update": ("cell_update.cu", ()),
    "cell_update_backward": ("cell_update.cu", ()),
    "sgd_step": ("sgd_step.cu", ()),
    "adam_step": ("adam_step.cu", ()),
    "sum_of_squares": ("clip_gradients.cu", ()),
    "scale_to_norm": ("clip_gradients.cu", ()),
    "clip_values": ("clip_gradients.cu", ()),
}


@dataclass(frozen=True)
class Specialisation:
    """One kernel compiled for one storage type and one setting of its switches."""

    entry: str
    dtype: str
    features: tuple[bool, ...] = ()

    @property
    def file(self) -> str:
        return KERNELS[self.entry][0]

    @property
    def source(self) -> str:
        """The file's text, headers inlined."""
        return sources.read(self.file)

    @property
    def options(self) -> tuple[str, ...]:
        """Compiler options, the same for NVRTC and for a host compiler."""
        switches = zip(KERNELS[self.entry][1], self.features, strict=True)
        return (
            "--std=c++14",
            f"-DREAL={REAL_OF_DTYPE[self.dtype]}",
            *(f"-D{name}={int(on)}" for name, on in switches),
        )


def specialisations() -> Iterator[Specialisation]:
    """All of them: every kernel x storage type x setting of its switches."""
    for entry, (_, switches) in KERNELS.items():
        for dtype in REAL_OF_DTYPE:
            for features in product((False, True), repeat=len(switches)):
                yield Specialisation(entry, dtype, features)
