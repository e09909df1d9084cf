"""Which kernels a layer's first training call compiles, for layers of all kinds, and what NVRTC takes for them."""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import NamedTuple

from gpulstm.cuda import both_directions, catalogue, planner, stacked_layers
from gpulstm.cuda.catalogue import KERNELS, SWITCH_OF_DTYPE, Specialisation
from gpulstm.cuda.choices import Choice, Device

H200 = Device(90, 132, 232448, True)
STEPS = 128
OPTIONS, LAYER_NORM, BOTH = "options", planner.LAYER_NORM, planner.LAYER_NORM_AND_OPTIONS
BESIDE = ("", OPTIONS, LAYER_NORM, BOTH)

HIDDEN = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
BATCHES = (1, 8, 32, 128)
DTYPES = ("float32", "tf32", "float16", "bfloat16", "float64")


class Layer(NamedTuple):
    """A layer whose first forward and backward pass is asked about, with bias and a gradient of y. ``beside`` is what
    it has beyond the plain LSTM: one of `BESIDE`, of which "options" are zoneout and peepholes, beside layer norm
    zoneout alone."""

    hidden: int
    batch: int
    dtype: str
    beside: str = ""
    directions: int = 1
    layers: int = 1

    def __str__(self) -> str:
        several = f", {self.layers} layers" if self.layers > 1 else ""
        several += ", both directions" if self.directions > 1 else ""
        return f"H {self.hidden}, N {self.batch}, {self.dtype}{f', {self.beside}' if self.beside else ''}{several}"


def every_layer() -> Iterator[Layer]:
    """Of all sizes, types and kinds."""
    for hidden, batch, dtype, beside in product(HIDDEN, BATCHES, DTYPES, BESIDE):
        one = Layer(hidden, batch, dtype, beside)
        yield from (one, one._replace(directions=2))
        if not beside:
            yield one._replace(layers=2)


def needed(layer: Layer, device: Device = H200) -> list[Specialisation]:
    """The kernels of a forward and a backward pass of a layer on a device."""
    stored = "float32" if layer.dtype == "tf32" else layer.dtype
    choices = {direction: _chosen(direction, layer, device) for direction in (planner.FORWARD, planner.BACKWARD)}
    found = [_of_pass(direction, choice, layer, stored) for direction, choice in choices.items()]
    if layer.beside and not choices[planner.BACKWARD].kernel:
        found.append(Specialisation("lstm_variant_initial_gradient", stored, (False,)))
    found.append(Specialisation("column_sum", stored))
    if stored in SWITCH_OF_DTYPE:  # sums are rounded at the end; those of peepholes are over float32
        found.append(Specialisation("narrow", stored))
        found += [Specialisation("column_sum", "float32")] if layer.beside else []
    if layer.beside in (LAYER_NORM, BOTH) and any(choice.kernel for choice in choices.values()):
        options = layer.beside == BOTH
        found += [Specialisation(f"lstm_layer_norm_{name}", stored) for name in _AROUND_LAYER_NORM]
        found += [Specialisation("lstm_layer_norm_slope_sums", stored, (options,))]
        found += [Specialisation("lstm_draw_options", "float32")] if options else []
    return found


_AROUND_LAYER_NORM = ("inputs_forward", "inputs_backward", "gain_gradient")  # of one file, compiled once


def _of_pass(direction: str, choice: Choice, layer: Layer, stored: str) -> Specialisation:
    if choice.kernel:
        options = layer.beside in (OPTIONS, BOTH)
        on = {"OPTIONS": options, "BIDIRECTIONAL": choice.directions > 1, "LAYERS": choice.layers > 1}
        on |= dict.fromkeys(catalogue.BESIDE_OPTIONS, options)
        features = tuple(on[switch] for switch in KERNELS[choice.kernel][1])
        return Specialisation(choice.kernel, choice.arithmetic or stored, features, choice.tiles)
    if layer.beside:
        normed = layer.beside in (LAYER_NORM, BOTH)
        return Specialisation(f"lstm_variant_cell_{direction}", stored, (normed, False))
    loop = {planner.FORWARD: (True, False, True), planner.BACKWARD: (True, False)}  # a bias, and a gradient of y
    return Specialisation(f"lstm_{direction}_step", stored, loop[direction])


def _chosen(direction: str, layer: Layer, device: Device) -> Choice:
    size = layer.batch, layer.hidden
    one = planner.choose(direction, *size, layer.dtype, device, "", layer.beside)
    several: Choice | None = None
    if layer.directions > 1 and one.kernel:
        options = layer.beside == OPTIONS
        several = both_directions.side_by_side(direction, one, *size, device, options=options)[0]
    if layer.layers > 1 and one.kernel:
        several = stacked_layers.side_by_side(direction, one, layer.layers, STEPS, *size, device)[0]
    return several or one


def nvrtc_milliseconds(specialisation: Specialisation, architecture: int, clock: Callable[[], float]) -> float:
    """Of reading its source and making machine code of it, as CuPy does. Needs no GPU."""
    import cupy  # noqa: F401 - it finds NVRTC
    from cupy_backends.cuda.libs import nvrtc

    begin = clock()
    program = nvrtc.createProgram(specialisation.source, specialisation.file, (), ())
    options = (f"--gpu-architecture=sm_{architecture}", "-ftz=true", *specialisation.options)
    nvrtc.compileProgram(program, options)
    nvrtc.getCUBIN(program)
    nvrtc.destroyProgram(program)
    return (clock() - begin) * 1e3


def worst(layers: Iterable[Layer], architecture: int = 90) -> tuple[Layer, dict[str, float]]:
    """Of these layers the one whose first call takes NVRTC the most of a processor's time; and kernel -> milliseconds
    of that, the shortest of three."""
    costs: dict[str, float] = {}  # of sources: several kernels of one file are compiled together

    def cost(specialisation: Specialisation) -> float:
        return nvrtc_milliseconds(specialisation, architecture, time.process_time)

    def total(layer: Layer) -> float:
        by_source = {each.source: each for each in needed(layer)}
        costs.update({source: cost(each) for source, each in by_source.items() if source not in costs})
        return sum(costs[source] for source in by_source)

    found = max(layers, key=total)
    kernels = {each.source: each for each in needed(found)}.values()
    return found, {name_of(each): min(cost(each) for _ in range(3)) for each in kernels}


def name_of(specialisation: Specialisation) -> str:
    switches = zip(KERNELS[specialisation.entry][1], specialisation.features, strict=True)
    on = [name for name, is_on in switches if is_on]
    return " ".join(map(str, (specialisation.entry, *filter(None, (specialisation.tiles, *on)))))
