"""A model of layers, one behind another."""

import inspect
import re
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from .. import initialisers, state_dict
from ..arrays import Array
from ..parameters import State, listing
from .flat_parameters import FlatParameters, params_of, split_name

States = tuple[Any, ...]
"""One state for each recurrent layer, in order; None is a state of zeros."""


@dataclass
class Cache:
    """What one `Sequential.forward` hands to its `backward`."""

    state: States  # the final states, one `State` for each recurrent layer
    layers: tuple[Any, ...]  # the layers' own caches
    dstate: States | None = None  # after `backward`, the gradients of the initial states


class Sequential:
    """Layers one behind another: each one's output is the next one's input.

    ::

        model = Sequential(Embedding(1000, 64), LSTM(64, 128), Linear(128, 1000))
        out, cache = model.forward(x, lengths=lengths)
        loss, dout = loss_function(out, target)
        dx, grads = model.backward(cache, dout)
        optimiser.step(model.params, grads)

    A layer is anything with ``__call__(x)``, ``out, cache = forward(x)``, ``dx, grads = backward(cache, dout)`` and,
    unless it has none, a dict of ``params``. Whether it takes ``lengths`` and ``rng`` is read off its signatures once.
    A layer whose ``forward`` takes ``state`` is recurrent: its forward gives (out, state, cache), its backward
    (dx, grads, dstate), its call (out, state), as `gpulstm.LSTM`. A Sequential may be a layer of another.

    ``params`` is a flat mapping ``"0.weight"``, ``"1.weight_ih_l0"``, ... that looks into the layers' own.
    """

    def __init__(self, *layers: Any) -> None:
        if not layers:
            raise ValueError("Sequential must have at least one layer, got none")
        if len(layers) == 1 and isinstance(layers[0], (list, tuple)):
            raise TypeError("Sequential takes its layers one by one, got a list; write Sequential(*layers)")
        self._steps = tuple(_Step.of(number, layer) for number, layer in enumerate(layers))
        self._refuse_shared_parameters()

    @property
    def params(self) -> MutableMapping[str, Array]:
        """All layers' parameters, live: see `FlatParameters`."""
        return FlatParameters(tuple(self))

    def __call__(self, x: Array, *, lengths: Any = None) -> Array:
        """Inference: the output. Keeps nothing."""
        return self.stream(x, lengths=lengths)[0]

    def stream(self, x: Array, state: States | None = None, *, lengths: Any = None) -> tuple[Array, States]:
        """Inference piece by piece: the output and the recurrent layers' final states, to be given to the next call.

        ``state`` is a tuple with one state for each recurrent layer, or None for zeros.
        """
        final: States = ()
        for step, given in self._with_states(state):
            with step.named():
                x, after = step.call(x, given, lengths)
            final += after
        return x, final

    def forward(
        self, x: Array, state: States | None = None, *, lengths: Any = None, rng: Any = None
    ) -> tuple[Array, Cache]:
        """Training: the output, and a cache for one `backward`; ``cache.state`` has the final states.

        Parameters
        ----------
        x : what the first layer takes.
        state : one state for each recurrent layer, or None for zeros.
        lengths : (batch,) integers, for the layers that take them.
        rng : seed or numpy Generator of the random masks. Each layer gets a seed of its own that follows from it and
            from the layer's place; None draws fresh ones.
        """
        final: States = ()
        caches = []
        for (step, given), seed in zip(self._with_states(state), self._seeds(rng), strict=True):
            with step.named():
                x, after, cache = step.forward(x, given, lengths, seed)
            final += after
            caches.append(cache)
        return x, Cache(final, tuple(caches))

    def backward(
        self, cache: Cache, dout: Array, dstate: States | None = None
    ) -> tuple[Array | None, dict[str, Array]]:
        """dout, the gradient of the output -> dx, and the gradients under the names of ``params``.

        dx is None where the first layer's input has no gradient, such as an embedding's. ``dstate`` are the gradients
        of the final states, one for each recurrent layer, or None. Those of the initial states are in ``cache.dstate``
        afterwards: given to the backward pass of the window of time before, they make the gradient whole; dropped, it
        is truncated backpropagation through time.
        """
        if not isinstance(cache, Cache) or len(cache.layers) != len(self):
            raise TypeError(f"cache must be that of out, cache = forward(x) of this model, got {type(cache).__name__}")
        found: list[dict[str, Array]] = []
        initial: States = ()
        gradient: Array | None = dout
        for (step, given), layer_cache in reversed(
            list(zip(self._with_states(dstate, "dstate"), cache.layers, strict=True))
        ):
            with step.named():
                if gradient is None:
                    raise TypeError(f"layer {step.number + 1} behind it gives no gradient of its input")
                gradient, grads, before = step.backward(layer_cache, gradient, given)
            found.append(grads)
            initial = before + initial
        cache.dstate = initial
        return gradient, {name: value for grads in reversed(found) for name, value in grads.items()}

    def load_state_dict(self, mapping: Mapping[str, Any]) -> None:
        """Copies parameters from a mapping under the names of ``params``; an LSTM's may be PyTorch's, with two biases.

        Values may be arrays of any library; they are brought to their layer's library, device and dtype. Raises one
        ValueError that lists everything missing, unexpected or mis-shaped; in that case nothing has been changed.
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(
                f"mapping must be a dict of arrays such as module.state_dict(), got {type(mapping).__name__}"
                f"{state_dict.of_file(mapping)}"
            )
        parts: list[dict[str, Any]] = [{} for _ in self._steps]
        problems = []
        for name, value in mapping.items():
            number, key = split_name(name)
            if 0 <= number < len(parts):
                parts[number][key] = value
            else:
                problems.append(f"unexpected {name}")
        before = [dict(params_of(step.layer)) for step in self._steps]
        try:
            problems += [problem for step, part in zip(self._steps, parts, strict=True) for problem in step.load(part)]
            if problems:
                raise ValueError(f"the state dict does not fit this model: {listing(problems)}")
        except (TypeError, ValueError):
            for step, params in zip(self._steps, before, strict=True):
                params_of(step.layer).update(params)
            raise

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> Any:
        """A layer by its number, or with a slice a model of some of the same layers."""
        layers = tuple(self)
        return Sequential(*layers[index]) if isinstance(index, slice) else layers[index]

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Any]:
        return (step.layer for step in self._steps)

    def __repr__(self) -> str:
        lines = (f"  ({step.number}): {_shown(step.layer)}" for step in self._steps)
        return "Sequential(\n" + "\n".join(line.replace("\n", "\n  ") for line in lines) + "\n)"

    @property
    def state_count(self) -> int:
        """How many recurrent layers there are, those inside of models among the layers counted too."""
        return sum(step.states for step in self._steps)

    def _with_states(self, state: States | None, name: str = "state") -> list[tuple["_Step", States]]:
        """Each layer with the states, or their gradients, that are its own."""
        count = self.state_count
        if state is None:
            state = (None,) * count
        if isinstance(state, State) or not isinstance(state, (tuple, list)):
            hint = f"; write ({name},)" if isinstance(state, State) else ""
            raise TypeError(
                f"{name} must be a tuple of a state for each recurrent layer, got {type(state).__name__}{hint}"
            )
        if len(state) != count:
            raise ValueError(f"{name} must have one state for each of {count} recurrent layers, got {len(state)}")
        found, first = [], 0
        for step in self._steps:
            found.append((step, tuple(state[first : first + step.states])))
            first += step.states
        return found

    def _seeds(self, rng: Any) -> list[int | None]:
        """A seed for each layer that takes one."""
        if rng is None or not any("rng" in step.takes for step in self._steps):
            initialisers.seed_for(False, rng)
            return [None] * len(self)
        base = initialisers.seed(rng)
        return [_derived(base, step.number) if "rng" in step.takes else None for step in self._steps]

    def _refuse_shared_parameters(self) -> None:
        owner: dict[int, str] = {}
        for step in self._steps:
            for layer in _with_parameters(step.layer):
                if id(layer) in owner:
                    raise ValueError(
                        f"{step.name} must have parameters of its own, got those of {owner[id(layer)]}: an optimiser "
                        f"would change them twice"
                    )
                owner[id(layer)] = step.name


@dataclass(frozen=True)
class _Step:
    """A layer with what its signatures say."""

    number: int
    layer: Any
    states: int  # how many of the model's states are the layer's
    nested: bool
    takes: frozenset[str]  # of lengths, rng and state, what forward takes
    call_takes: frozenset[str]

    @classmethod
    def of(cls, number: int, layer: Any) -> "_Step":
        missing = [
            method for method in ("__call__", "forward", "backward") if not callable(getattr(layer, method, None))
        ]
        if missing or isinstance(layer, type):
            got = f"the class {layer.__name__}; call it to make one" if isinstance(layer, type) else f"{layer!r}"
            why = f" with {', '.join(missing)}" if missing else ""
            raise TypeError(f"layer {number} must be a layer{why}, got {got}")
        nested = isinstance(layer, Sequential)
        takes, call_takes = _optional(layer.forward), _optional(layer.__call__)
        states = layer.state_count if nested else int("state" in takes)
        return cls(number, layer, states, nested, takes, call_takes)

    @property
    def name(self) -> str:
        return f"layer {self.number} ({type(self.layer).__name__})"

    @contextmanager
    def named(self) -> Iterator[None]:
        """An error from inside says which layer it is about, and stays the error that it is."""
        try:
            yield
        except (TypeError, ValueError) as error:
            if type(error) in (TypeError, ValueError) and len(error.args) == 1:
                error.args = (f"{self.name}: {error.args[0]}",)
            else:  # a library's own class, whose text may be made of more than one argument
                error.add_note(f"in {self.name}")
            raise

    def call(self, x: Array, states: States, lengths: Any) -> tuple[Array, States]:
        options = {"lengths": lengths} if "lengths" in self.call_takes else {}
        if self.nested:
            return self.layer.stream(x, states, **options)
        if not self.states:
            return self.layer(x, **options), ()
        out, after = self.layer(x, state=states[0], **options)
        return out, (after,)

    def forward(self, x: Array, states: States, lengths: Any, seed: int | None) -> tuple[Array, States, Any]:
        options = {"lengths": lengths, "rng": seed}
        options = {name: value for name, value in options.items() if name in self.takes}
        if self.nested:
            out, cache = self.layer.forward(x, states, **options)
            return out, cache.state, cache
        if not self.states:
            out, cache = self.layer.forward(x, **options)
            return out, (), cache
        out, after, cache = self.layer.forward(x, state=states[0], **options)
        return out, (after,), cache

    def backward(self, cache: Any, dout: Array, dstates: States) -> tuple[Array | None, dict[str, Array], States]:
        """dx, the gradients under the model's names, in the order of its parameters, and the initial states'."""
        if self.nested:
            dx, grads = self.layer.backward(cache, dout, dstates)
            initial = cache.dstate
        elif self.states:
            dx, grads, dstate = self.layer.backward(cache, dout, *(given for given in dstates if given is not None))
            initial = (dstate,)
        else:
            dx, grads = self.layer.backward(cache, dout)
            initial = ()
        params = params_of(self.layer)
        if grads.keys() != params.keys():
            raise ValueError(f"backward must give gradients of {list(params)}, got {list(grads)}")
        return dx, {f"{self.number}.{name}": grads[name] for name in params}, initial

    def load(self, mapping: Mapping[str, Any]) -> list[str]:
        """What is wrong with this layer's part of a state dict; where nothing is, the layer has it."""
        try:
            if hasattr(self.layer, "load_state_dict"):
                self.layer.load_state_dict(mapping)
            else:
                params_of(self.layer).update(state_dict.load_by_name(mapping, params_of(self.layer)))
        except ValueError as error:
            return [f"{self.name}: {re.sub(r'^the state dict does not fit[^:]*: ', '', str(error))}"]
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from error
        return []


def _optional(function: Any) -> frozenset[str]:
    """Which of the arguments that not every layer has are in a signature."""
    return frozenset(inspect.signature(function).parameters) & {"lengths", "rng", "state"}


def _with_parameters(layer: Any) -> Iterator[Any]:
    """The layer, or those inside of a model, that have parameters."""
    if isinstance(layer, Sequential):
        for inner in layer:
            yield from _with_parameters(inner)
    elif params_of(layer):
        yield layer


def _derived(seed: int, number: int) -> int:
    """A seed for one layer: another one for each number, and the same on every machine."""
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1, np.uint64)[0])


def _shown(layer: Any) -> str:
    """A layer's own repr, or its class and its parameters' shapes."""
    if type(layer).__repr__ is not object.__repr__:
        return repr(layer)
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in params_of(layer).items())
    return f"{type(layer).__name__}({shapes})"
