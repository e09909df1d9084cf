"""New tokens from a model that predicts the next one: sampling, greedy choice and beam search.

A model here is anything with ``out, state = model.stream(x, state)``: x (time, batch) integer tokens, out (time,
batch, vocabulary) logits of each next token, and a state that carries on where x ended, None at the beginning. So a
token costs one step of the model, however long the text before it is. The state is a tuple, list or dict of arrays,
nested in any way, each with the batch on its second axis, such as `gpulstm.State`.

The model gets its tokens as int32 arrays of the library that its ``params`` live in. Choosing is done on the host in
float64: one row of logits per sequence is fetched for each token, and what comes back are NumPy integers or Python's.
"""

import math
from collections.abc import Iterator, Mapping, MutableMapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from . import arrays, initialisers
from .arrays import Array
from .nn.decoding import highest, log_softmax, on_host
from .training.nested import leaves


class Continuation(NamedTuple):
    """Tokens that follow a prompt, and the logarithm of their probability after it."""

    tokens: list[int]
    log_probability: float


def generate(
    model: Any,
    prompt: Any,
    steps: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    rng: Any = None,
    stop: int | None = None,
) -> np.ndarray:
    """Continues each prompt by ``steps`` tokens, each drawn from the model's prediction after those before it.

    ::

        p = softmax(logits / temperature), of the top_k largest logits alone

    model : has ``out, state = stream(x, state)``, as `gpulstm.nn.Sequential` has: x (time, batch) int32 tokens, out
        (time, batch, vocabulary) logits of each next token, state None at the beginning; see `gpulstm.generation`
    prompt : (time, batch) integers, or (time,) for one, at least one step: a list, NumPy's or the model's library's
    steps : tokens to add
    temperature : 1 draws from the model's own distribution, less makes it narrower; 0 takes the largest logit
    top_k : how many tokens to draw from, the likeliest ones; None is all
    rng : seed or `numpy.random.Generator`. Each step takes one number per sequence from it, so the same logits give
        the same tokens in every library
    stop : a token that ends its sequence; what follows it is filled with it, and the model is not asked once all ended

    Among equal logits the lowest token comes first, for a temperature of 0 and for ``top_k``.

    Returns NumPy integers (batch, steps); (1, steps) for one prompt.

    Raises TypeError or ValueError for arguments that are not as above, for a model whose output is not, and for logits
    without a softmax, such as NaN.
    """
    steps = initialisers.require_size("steps", steps)
    temperature = _checked_temperature(temperature)
    top_k = None if top_k is None else initialisers.require_size("top_k", top_k)
    stop = _checked_stop(stop)
    draw = initialisers.generator(rng)
    run = _Run(model, prompt)
    tokens = np.full((run.batch, steps), 0 if stop is None else stop, np.int64)
    running = np.ones(run.batch, bool)
    logits = run.logits
    for step in range(steps):
        uniform = draw.random(run.batch) if temperature else None
        chosen = _chosen(logits, temperature, top_k, uniform)
        tokens[running, step] = chosen[running]
        if stop is not None:
            running &= chosen != stop
            if not running.any():
                break
        if step + 1 < steps:
            logits = run.next(tokens[:, step])
    return tokens


def beam_search(
    model: Any,
    prompt: Any,
    steps: int,
    *,
    width: int = 5,
    stop: int | None = None,
    length_penalty: float = 0.0,
    top: int = 1,
) -> list[Continuation]:
    """The likeliest continuations of one prompt, by up to ``steps`` tokens.

    At each step the ``width`` likeliest continuations are kept, over all tokens that could follow those kept before;
    one that has come to ``stop`` is set aside. They are ranked at the end by ::

        log p(tokens) / len(tokens)^length_penalty

    model : has ``stream``, as for `generate`. Its state is rearranged to follow the continuations that are kept
    prompt : (time,) or (time, 1) integers, at least one step: a list, NumPy's or the model's library's
    steps : tokens to add at most
    width : continuations that are kept, and so the largest batch that the model sees
    stop : a token that ends a continuation, and is part of it; None is none
    length_penalty : 0 ranks by probability, which favours short ones; 1 by the mean over tokens
    top : continuations to return, at most ``width``

    Returns up to ``top`` pairs (tokens, log_probability), the best first. Where ``width`` is enough for all
    continuations, these are the best of all. Raises TypeError or ValueError as `generate` does.

    Sutskever, Vinyals and Le, Sequence to sequence learning with neural networks, NeurIPS 2014; the penalty is that of
    Wu et al., Google's neural machine translation system, 2016, without its constant.
    """
    steps = initialisers.require_size("steps", steps)
    width, top = initialisers.require_size("width", width), initialisers.require_size("top", top)
    if top > width:
        raise ValueError(f"top must be at most width {width}, got {top}: no more than width continuations are followed")
    stop, penalty = _checked_stop(stop), _checked_penalty(length_penalty)
    run = _Run(model, prompt)
    if run.batch != 1:
        raise ValueError(f"prompt must be one sequence, (time,) or (time, 1), got a batch of {run.batch}")

    followed, ended = [Continuation([], 0.0)], []
    logits = run.logits
    for step in range(steps):
        totals = np.array([[each.log_probability] for each in followed]) + _log_probabilities(logits)
        parents, tokens = np.divmod(highest(totals.ravel(), width), totals.shape[1])
        longer = [
            Continuation([*followed[parent].tokens, int(token)], float(totals[parent, token]))
            for parent, token in zip(parents, tokens, strict=True)
        ]
        goes_on = tokens != stop if stop is not None else np.ones(len(tokens), bool)
        ended += [each for each, on in zip(longer, goes_on, strict=True) if not on]
        followed = [each for each, on in zip(longer, goes_on, strict=True) if on]
        if step + 1 == steps:
            break
        if not followed or _none_can_enter(followed[0], ended, top, (step + 2, steps), penalty):
            followed = []
            break
        run.reorder(parents[goes_on])
        logits = run.next(tokens[goes_on])
    return sorted(ended + followed, key=lambda each: _score(each, penalty), reverse=True)[:top]


class _Run:
    """A model on its way: its state after all tokens so far, and the logits of what comes next."""

    def __init__(self, model: Any, prompt: Any) -> None:
        if not callable(getattr(model, "stream", None)):
            raise TypeError(
                f"model must have a method stream(x, state), got {type(model).__name__}; gpulstm.nn.Sequential has one"
            )
        self.model, self.state = model, None
        x = _placed(prompt, model)
        self.like, self.batch = x, x.shape[1]
        self.logits = self._stream(x)

    def next(self, tokens: np.ndarray) -> np.ndarray:
        """(batch,) tokens -> (batch, vocabulary) logits on the host, by one step of the model."""
        self.batch = len(tokens)
        return self._stream(arrays.beside(tokens[None, :].astype(np.int32), self.like))

    def reorder(self, sequences: np.ndarray) -> None:
        """Goes on with these of the batch's sequences, each any number of times."""
        self.state = _selected(self.state, sequences, self.batch)

    def _stream(self, x: Array) -> np.ndarray:
        out, self.state = self.model.stream(x, self.state)
        arrays.require_array("model.stream's output", out)
        arrays.require_floating("model.stream's output", out)
        if out.ndim != 3 or tuple(out.shape[:2]) != tuple(x.shape) or out.shape[2] == 0:
            raise ValueError(
                f"model.stream's output must have shape (time, batch, vocabulary) = {(*x.shape, 'any')}, got "
                f"{tuple(out.shape)}; does the model begin with an embedding and take time first?"
            )
        logits = on_host(out[-1, ...]).astype(np.float64)
        wrong = np.flatnonzero(np.isnan(logits).any(axis=1))
        if wrong.size:
            raise ValueError(f"model.stream's output must be numbers, got NaN for sequence {wrong[0]}")
        return logits


def _placed(prompt: Any, model: Any) -> Array:
    """The prompt as (time, batch) integers of the model's library."""
    values = prompt
    if not arrays.is_array(prompt):
        try:
            values = np.asarray(prompt)
        except ValueError as error:  # ragged
            raise TypeError(
                "prompt must be integers (time, batch) or (time,), got sequences of unequal length"
            ) from error
    if not arrays.dtype_name(values).startswith(("int", "uint")):
        raise TypeError(f"prompt must be integers, one token for each step, got {arrays.describe(values)}")
    if values.ndim not in (1, 2) or values.shape[0] == 0:
        raise ValueError(
            f"prompt must have shape (time, batch) or (time,) with at least one step, got {tuple(values.shape)}"
        )
    if values.ndim == 1:
        values = values[:, None]
    like = next(_parameters(model), values)
    if arrays.is_numpy(values):
        return arrays.beside(values.astype(np.int32), like)
    if arrays.library(values) != arrays.library(like) or arrays.device(values) != arrays.device(like):
        raise TypeError(
            f"prompt must be integers on the host or beside the model's parameters, {arrays.describe(like)}, got "
            f"{arrays.describe(values)}"
        )
    return values


def _parameters(model: Any) -> Iterator[Array]:
    params = getattr(model, "params", None)
    if isinstance(params, MutableMapping):
        for _, holder, key in leaves("params", params):
            yield holder[key]


def _selected(state: Any, sequences: np.ndarray, batch: int) -> Any:
    """A state with these sequences of its batch."""
    if state is None:
        return None
    if isinstance(state, Mapping):
        return {key: _selected(value, sequences, batch) for key, value in state.items()}
    if isinstance(state, (tuple, list)):
        parts = [_selected(value, sequences, batch) for value in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    arrays.require_array("a part of model.stream's state", state)
    if state.ndim < 2 or state.shape[1] != batch:
        raise ValueError(
            f"a part of model.stream's state must have the batch of {batch} on its second axis, got shape "
            f"{tuple(state.shape)}"
        )
    with arrays.on_device_of(state):
        return arrays.namespace(state).take(state, arrays.beside(sequences, state), axis=1)


def _chosen(logits: np.ndarray, temperature: float, top_k: int | None, uniform: np.ndarray | None) -> np.ndarray:
    """(batch,) tokens from (batch, vocabulary) logits: where the distribution function reaches ``uniform`` (batch,)."""
    if uniform is None:
        return logits.argmax(axis=1)
    if top_k is not None and top_k < logits.shape[1]:
        kept = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
        narrowed = np.full_like(logits, -np.inf)
        np.put_along_axis(narrowed, kept, np.take_along_axis(logits, kept, axis=1), axis=1)
        logits = narrowed
    with np.errstate(over="ignore", invalid="ignore"):  # the largest becomes 0, so the others may overflow
        shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
    up_to = np.cumsum(np.exp(_log_probabilities(shifted)), axis=1)
    # The first token whose sum is beyond the number. It scales with the whole, which is 1 only up to rounding.
    return (up_to <= uniform[:, None] * up_to[:, -1:]).sum(axis=1)


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    log_p = log_softmax(logits)
    wrong = np.flatnonzero(np.isnan(log_p).any(axis=1))
    if wrong.size:
        raise ValueError(f"model.stream's output must have a softmax, got infinite logits for sequence {wrong[0]}")
    return log_p


def _score(continuation: Continuation, penalty: float) -> float:
    return continuation.log_probability / len(continuation.tokens) ** penalty


def _none_can_enter(
    best: Continuation, ended: list[Continuation], top: int, lengths: tuple[int, int], penalty: float
) -> bool:
    """Whether ``top`` have ended with scores that none of these lengths can beat: log-probabilities only fall."""
    if len(ended) < top:
        return False
    bound = max(best.log_probability / length**penalty for length in lengths)
    return sorted((_score(each, penalty) for each in ended), reverse=True)[top - 1] >= bound


def _checked_temperature(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"temperature must be a number, got {value!r}")
    if not 0 <= float(value) < math.inf:
        raise ValueError(f"temperature must be finite and not negative, got {value}; 0 takes the largest logit")
    return float(value)


def _checked_penalty(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"length_penalty must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"length_penalty must be finite, got {value}")
    return float(value)


def _checked_stop(value: Any) -> int | None:
    return None if value is None else initialisers.require_size("stop", value, at_least=0)
