"""Every kernel, the file it stands in, and the switches that specialise it.

The engine asks for one specialisation at a time; the compile gate walks through all of them. Both go through this
table, so a kernel cannot be used without having been compiled for every architecture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from . import (
    cluster_half_layouts,
    half_layouts,
    layer_norm_layouts,
    resident_layouts,
    resident_tensor_layouts,
    sources,
    wide_layouts,
)
from .cluster_layouts import CLUSTER_TILES

REAL_OF_DTYPE = {"float32": "float", "float64": "double"}
SWITCH_OF_DTYPE = {"float16": "FLOAT16", "bfloat16": "BFLOAT16"}
"""Arrays of 16 bits: what `kernels/storage.cuh` is switched by. Their kernels compute in float32."""

# kernel -> (file, feature switches that its body reads)
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lstm_forward_step": ("lstm_forward_step.cu", ("BIAS", "LENGTHS", "KEEP")),
    "lstm_one_step_forward": ("lstm_one_step_forward.cu", ("SEVERAL",)),
    "lstm_backward_step": ("lstm_backward_step.cu", ("DY", "LENGTHS")),
    "column_sum": ("column_sum.cu", ()),
    "lstm_variant_cell_forward": ("lstm_variant_cell_forward.cu", ("LAYERNORM", "REPLAYED")),
    "lstm_variant_cell_backward": ("lstm_variant_cell_backward.cu", ("LAYERNORM", "REPLAYED")),
    "lstm_variant_output_forward": ("lstm_variant_output.cu", ("REPLAYED",)),
    "lstm_variant_output_backward": ("lstm_variant_output.cu", ("REPLAYED",)),
    "lstm_variant_initial_gradient": ("lstm_variant_output.cu", ("REPLAYED",)),
    "lstm_variant_first_input": ("lstm_variant_output.cu", ("REPLAYED",)),
    "replay_arguments": ("replay_arguments.cu", ()),
    "masked_copy": ("masked_copy.cu", ()),
    "widen": ("convert.cu", ()),
    "narrow": ("convert.cu", ()),
    "without_padding": ("padding.cu", ()),
    "state_of_running": ("padding.cu", ()),
    "clear_inputs": ("padding.cu", ()),
    "embedding_forward": ("embedding.cu", ()),
    "embedding_gradient_chunks": ("embedding.cu", ()),
    "embedding_gradient_join": ("embedding.cu", ()),
    "layer_norm_forward": ("layer_norm.cu", ()),
    "layer_norm_backward": ("layer_norm.cu", ()),
    "layer_norm_parameter_gradient": ("layer_norm.cu", ()),
    "sigmoid": ("elementwise.cu", ()),
    "sigmoid_backward": ("elementwise.cu", ()),
    "tanh_forward": ("elementwise.cu", ()),
    "tanh_backward": ("elementwise.cu", ()),
    "gate_activations": ("gate_activations.cu", ()),
    "gate_activations_backward": ("gate_activations.cu", ()),
    "cell_update": ("cell_update.cu", ()),
    "cell_update_backward": ("cell_update.cu", ()),
    "lstm_resident_forward": ("lstm_resident_forward.cu", ("OPTIONS", "BIDIRECTIONAL", "PEEPHOLES")),
    "lstm_resident_backward": ("lstm_resident_backward.cu", ("OPTIONS", "BIDIRECTIONAL", "PEEPHOLES")),
    "lstm_resident_tensor_forward": ("lstm_resident_tensor_forward.cu", ("OPTIONS", "BIDIRECTIONAL")),
    "lstm_resident_tensor_backward": ("lstm_resident_tensor_backward.cu", ("OPTIONS", "BIDIRECTIONAL", "EACH_STEP")),
    "lstm_persistent_forward": ("lstm_persistent_forward.cu", ("OPTIONS", "BIDIRECTIONAL", "LAYERS")),
    "lstm_persistent_backward": ("lstm_persistent_backward.cu", ("OPTIONS", "BIDIRECTIONAL", "LAYERS")),
    "lstm_layer_norm_inputs_forward": ("lstm_layer_norm_inputs.cu", ()),
    "lstm_layer_norm_inputs_backward": ("lstm_layer_norm_inputs.cu", ()),
    "lstm_layer_norm_gain_gradient": ("lstm_layer_norm_inputs.cu", ()),
    "lstm_layer_norm_slope_sums": ("lstm_layer_norm_slope_sums.cu", ("OPTIONS",)),
    "lstm_draw_options": ("lstm_draw_options.cu", ()),
    "lstm_resident_layer_norm_forward": ("lstm_resident_layer_norm_forward.cu", ()),
    "lstm_resident_layer_norm_backward": ("lstm_resident_layer_norm_backward.cu", ()),
    "lstm_persistent_layer_norm_forward": ("lstm_persistent_layer_norm_forward.cu", ("OPTIONS",)),
    "lstm_persistent_layer_norm_once_forward": ("lstm_persistent_layer_norm_once_forward.cu", ("OPTIONS",)),
    "lstm_persistent_layer_norm_backward": ("lstm_persistent_layer_norm_backward.cu", ("OPTIONS",)),
    "lstm_persistent_half_forward": ("lstm_persistent_half_forward.cu", ("OPTIONS", "BIDIRECTIONAL", "LAYERS")),
    "lstm_persistent_half_backward": ("lstm_persistent_half_backward.cu", ("OPTIONS", "BIDIRECTIONAL", "LAYERS")),
    "lstm_wide_forward": ("lstm_wide_forward.cu", ("OPTIONS",)),
    "lstm_wide_backward": ("lstm_wide_backward.cu", ("OPTIONS",)),
    "lstm_cluster_forward": ("lstm_cluster_forward.cu", ()),
    "lstm_cluster_backward": ("lstm_cluster_backward.cu", ()),
    "lstm_cluster_half_forward": ("lstm_cluster_half_forward.cu", ()),
    "lstm_cluster_half_backward": ("lstm_cluster_half_backward.cu", ()),
    "sgd_step": ("sgd_step.cu", ()),
    "adam_step": ("adam_step.cu", ()),
    "sum_of_squares": ("clip_gradients.cu", ()),
    "scale_to_norm": ("clip_gradients.cu", ()),
    "clip_values": ("clip_gradients.cu", ()),
    "softmax_cross_entropy_count": ("softmax_cross_entropy.cu", ()),
    "softmax_cross_entropy": ("softmax_cross_entropy.cu", ()),
    "softmax_cross_entropy_mean": ("softmax_cross_entropy.cu", ()),
    "masked_softmax": ("masked_softmax.cu", ()),
    "masked_softmax_backward": ("masked_softmax.cu", ()),
    "ctc_log_normaliser": ("ctc.cu", ()),
    "ctc_forward_backward": ("ctc.cu", ()),
    "ctc_gradient": ("ctc.cu", ()),
}

# Kernels whose blocks come in clusters, the size of which is their first tile: from compute capability 9.0 on.
CLUSTERED = ("lstm_cluster_forward", "lstm_cluster_backward", *cluster_half_layouts.TILES)

# kernel -> (names of its tile sizes, every choice of them). These are float32 alone but for the
# resident ones and those with layer norm. A thread holds 16 * QUADS registers of weights, or 4 * MTILES * KTILES, or
# 8 * MTILES * JTILES.
TILES: dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]] = {
    **{
        kernel: (resident_layouts.NAMES, resident_layouts.tiles_of(kernel))
        for kernel in (*resident_layouts.KERNELS, *resident_layouts.LAYER_NORM_TILES)
    },
    "lstm_persistent_forward": (
        ("MTILES", "KTILES", "NTILES"),
        (
            *((2, depth, sequences) for depth in (1, 2, 4, 6, 8) for sequences in (1, 2, 4)),
            *((4, depth, sequences) for depth in (1, 2, 4) for sequences in (1, 2)),
        ),
    ),
    "lstm_persistent_backward": (
        ("MTILES", "JTILES", "NTILES"),
        (
            *((2, outputs, sequences) for outputs in (1, 2, 3, 4) for sequences in (1, 2, 4)),
            *((4, outputs, sequences) for outputs in (1, 2) for sequences in (1, 2, 4)),
        ),
    ),
    "lstm_cluster_forward": (("CLUSTER", "QUADS", "SEQUENCES"), CLUSTER_TILES),
    "lstm_cluster_backward": (("CLUSTER", "QUADS", "SEQUENCES"), CLUSTER_TILES),
}
TILES |= {  # the kernels with layer norm are laid out as those without are
    name.replace("persistent", "persistent_layer_norm"): choices
    for name, choices in TILES.items()
    if name.startswith("lstm_persistent")
}
TILES["lstm_persistent_layer_norm_once_forward"] = layer_norm_layouts.ONCE_NAMES, layer_norm_layouts.ONCE_TILES

# The same for kernels of 16 bits alone.
HALF_TILES: dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]] = {
    kernel: (half_layouts.NAMES, choices) for kernel, choices in half_layouts.TILES.items()
}
CLUSTER_HALF_TILES: dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]] = {
    kernel: (cluster_half_layouts.NAMES, choices) for kernel, choices in cluster_half_layouts.TILES.items()
}
# The same of blocks that have all weights, on the tensor cores.
RESIDENT_TENSOR_TILES: dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]] = {
    kernel: (resident_tensor_layouts.NAMES[kernel], choices)
    for kernel, choices in resident_tensor_layouts.TILES.items()
}
TILES_IN_16_BITS = HALF_TILES | CLUSTER_HALF_TILES | RESIDENT_TENSOR_TILES

# The same for kernels of float32 that read a part of the weights from L2 in each step.
WIDE_TILES: dict[str, tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]] = {
    kernel: (wide_layouts.NAMES, choices) for kernel, choices in wide_layouts.TILES.items()
}
TILED = TILES | TILES_IN_16_BITS | WIDE_TILES

# With the switch BIDIRECTIONAL a launch runs both directions of a layer. There are kernels of those tiles whose weights
# a device holds twice, and where registers are left for what tells the directions apart.
BIDIRECTIONAL: dict[str, tuple[tuple[int, ...], ...]] = {
    "lstm_resident_forward": TILES["lstm_resident_forward"][1],
    "lstm_resident_backward": TILES["lstm_resident_backward"][1],
    "lstm_persistent_forward": tuple(tiles for tiles in TILES["lstm_persistent_forward"][1] if tiles[1] <= 4),
    "lstm_persistent_backward": tuple(t for t in TILES["lstm_persistent_backward"][1] if t[0] * t[1] <= 4),
    **{
        kernel: tuple(tiles for tiles in choices if half_layouts.largest_hidden(kernel, tiles) <= 1024)
        for kernel, (_, choices) in HALF_TILES.items()
    },
    **resident_tensor_layouts.TILES_WITH_SWITCHES,
}

# The same of the switch OPTIONS, where registers are short: other kernels have it for all of their tiles.
WITH_OPTIONS = {
    "lstm_persistent_layer_norm_once_forward": layer_norm_layouts.ONCE_TILES_WITH_OPTIONS,
    **resident_tensor_layouts.TILES_WITH_SWITCHES,
}
# The same with OPTIONS too: registers are shorter there.
_TOO_TIGHT = {
    "lstm_resident_backward": ((6,),),
    "lstm_persistent_half_forward": ((8, 4, 4, 2, 2, 4),),
}
BIDIRECTIONAL_OPTIONS = {
    kernel: tuple(tiles for tiles in choices if tiles not in _TOO_TIGHT.get(kernel, ()))
    for kernel, choices in BIDIRECTIONAL.items()
}
# With the switch LAYERS a launch runs layers on top of each other. There are kernels of those tiles that leave room for
# the weights of a second product: forward in registers, back in up to 64 KB of shared memory, and in 16 bits in shared
# memory either way.
LAYERS: dict[str, tuple[tuple[int, ...], ...]] = {
    "lstm_persistent_forward": tuple(t for t in TILES["lstm_persistent_forward"][1] if t[0] * t[1] <= 8),
    "lstm_persistent_backward": tuple(t for t in TILES["lstm_persistent_backward"][1] if t[0] * t[1] <= 4),
    **half_layouts.TILES_OF_LAYERS,
}

BESIDE_OPTIONS = ("PEEPHOLES", "EACH_STEP")
"""Switches of options that layers with fewer of them do not pay for."""

TF32 = ("lstm_persistent_forward", "lstm_persistent_backward")  # kernels of float32 that multiply in TF32 if asked to
LAYER_NORM = (  # the same, which take arrays of 16 bits, too, and multiply them so: such a number is one of TF32
    *("lstm_persistent_layer_norm_forward", "lstm_persistent_layer_norm_backward"),
    "lstm_persistent_layer_norm_once_forward",
)

# Kernels that know arrays of 16 bits: for them alone, and all, of which the others know float32 and float64 too.
IN_16_BITS_ALONE = ("widen", "narrow")
IN_16_BITS = (
    *("lstm_forward_step", "lstm_backward_step", "column_sum", "masked_copy"),
    *("lstm_variant_cell_forward", "lstm_variant_cell_backward", "lstm_variant_output_forward"),
    *("lstm_variant_output_backward", "lstm_variant_first_input", "lstm_variant_initial_gradient"),
    *("without_padding", "state_of_running", "clear_inputs"),
    *("lstm_layer_norm_inputs_forward", "lstm_layer_norm_inputs_backward", "lstm_layer_norm_gain_gradient"),
    "lstm_layer_norm_slope_sums",
    *IN_16_BITS_ALONE,
)

# Kernels whose blocks wait for each other, so that all of them have to run at the same time.
COOPERATIVE = (*("lstm_persistent_forward", "lstm_persistent_backward", *HALF_TILES, *WIDE_TILES, *LAYER_NORM),)


@dataclass(frozen=True)
class Specialisation:
    """One kernel compiled for one storage type and one setting of its switches."""

    entry: str
    dtype: str
    features: tuple[bool, ...] = ()
    tiles: tuple[int, ...] = ()

    @property
    def file(self) -> str:
        return KERNELS[self.entry][0]

    @property
    def source(self) -> str:
        """The file's text, headers inlined, behind the definitions that specialise it.

        They stand in the text and not among the options because CuPy compiles an empty program for every set of
        options that is new to a process, even where its cache has the kernel: 16 ms each.
        """
        return "".join(f"#define {name} {value}\n" for name, value in self.definitions.items()) + sources.read(
            self.file
        )

    @property
    def options(self) -> tuple[str, ...]:
        """Compiler options, the same for NVRTC and for a host compiler, and for all kernels."""
        return ("--std=c++14",)

    @property
    def definitions(self) -> dict[str, str | int]:
        """Macros and their values."""
        switches = zip(KERNELS[self.entry][1], self.features, strict=True)
        return {
            "REAL": REAL_OF_DTYPE.get(self.dtype, "float"),
            **{switch: 1 for dtype, switch in SWITCH_OF_DTYPE.items() if dtype == self.dtype},
            **({"TF32": int(self.dtype != "float32")} if self.entry in (*TF32, *LAYER_NORM) else {}),
            **{name: int(on) for name, on in switches},
            **dict(zip(self._tile_names, self.tiles, strict=True)),
        }

    @property
    def is_cooperative(self) -> bool:
        """Whether its blocks wait for each other."""
        return self.entry in COOPERATIVE

    @property
    def cluster(self) -> int:
        """Blocks of a cluster; 1 where there are none."""
        return self.tiles[0] if self.entry in CLUSTERED else 1

    @property
    def _tile_names(self) -> tuple[str, ...]:
        return TILED.get(self.entry, ((), ()))[0]


def dtypes_of(entry: str) -> tuple[str, ...]:
    """The dtypes of the arrays that a kernel takes; "tf32" is float32, multiplied in TF32."""
    if entry in TILES_IN_16_BITS:
        return tuple(SWITCH_OF_DTYPE)
    if entry in (*resident_layouts.KERNELS, *resident_layouts.LAYER_NORM_TILES):
        return resident_layouts.DTYPES
    if entry in TILED:
        if entry in LAYER_NORM:
            return ("float32", "tf32", *SWITCH_OF_DTYPE)
        return ("float32", "tf32") if entry in TF32 else ("float32",)
    wide = () if entry in IN_16_BITS_ALONE else tuple(REAL_OF_DTYPE)
    return (*wide, *SWITCH_OF_DTYPE) if entry in IN_16_BITS else wide


def specialisations() -> Iterator[Specialisation]:
    """All of them: every kernel x storage type x setting of its switches x choice of its tiles. `BESIDE_OPTIONS` come
    beside OPTIONS alone; several layers in one launch have neither options nor a second direction; and there are fewer
    tiles where a launch runs more than one layer or direction (`LAYERS`, `BIDIRECTIONAL`, `BIDIRECTIONAL_OPTIONS`) or
    has options (`WITH_OPTIONS`, and `layer_norm_layouts.TOO_TIGHT_IN_TF32`)."""
    for entry, (_, choices) in TILED.items():
        for dtype in dtypes_of(entry):
            for features in product((False, True), repeat=len(KERNELS[entry][1])):
                on = dict(zip(KERNELS[entry][1], features, strict=True))
                names = "OPTIONS", "BIDIRECTIONAL", "LAYERS"
                options, both, layers = (on.get(name, False) for name in names)
                if layers and (options or both) or not options and any(on.get(name) for name in BESIDE_OPTIONS):
                    continue
                some = WITH_OPTIONS.get(entry, choices) if options else choices
                if options and dtype == "tf32":
                    too_tight = layer_norm_layouts.TOO_TIGHT_IN_TF32.get(entry, ())
                    some = tuple(tiles for tiles in some if tiles not in too_tight)
                if both:
                    some = (BIDIRECTIONAL_OPTIONS if options else BIDIRECTIONAL)[entry]
                for tiles in LAYERS[entry] if layers else some:
                    yield Specialisation(entry, dtype, features, tiles)
    for entry, (_, switches) in KERNELS.items():
        if entry in TILED:
            continue
        for dtype in dtypes_of(entry):
            for features in product((False, True), repeat=len(switches)):
                yield Specialisation(entry, dtype, features)
