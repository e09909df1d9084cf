"""The LSTM with a projection as the plain LSTM of what is projected.

A step hands on h[t] = W_hr m[t], where m = o * tanh(c) (`gpulstm.variants`), and all that the next one does with it is
W_hh h[t]. So with one product beforehand

    W' = W_hh W_hr                       (4*hidden, hidden)

the recurrence is that of a plain layer whose hidden state is m and whose weight is W', and every engine and schedule
for plain layers runs it. What is left are products over all steps at once. Forward:

    y[t] = W_hr m[t]                     a[first] += W_hh h_0, with zeros instead of an m before it

and backward, with da the gradient of the pre-activations and W_hh^T da[t+1] W_hr part of the recurrence:

    dm[t] = W_hr^T dy[t] + W'^T da[t+1]  dW' = sum da[t] m[t-1]^T
    dW_hh = dW' W_hr^T + da[first] h_0^T
    dW_hr = W_hh^T dW' + sum dy[t] m[t]^T
    dh_0  = W_hh^T da[first]

where dy[last] has the final state's gradient beside it. With `lengths` each sequence has its own first and last step.

Rounding: W_hh (W_hr m) and (W_hh W_hr) m are the same product of three factors, whichever pair comes first. To first
order in the rounding u each is off by at most (proj + hidden) u |W_hh| |W_hr| |m|, and since roundings are of both
signs usually by the root of that number of terms.

What acts on h between two steps cannot be folded: `obstacle` names it.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from ..masks import Draws
from ..options import Options
from ..parameters import Weights
from . import Lane, windows

HIDDEN_MASK, ZONE, NORM = "recurrent_dropout of h", "zoneout of h", "layer_norm"


def obstacle(of_step: Options, *, layer_norm: bool) -> str:
    """What keeps a projection from being folded into weight_hh, in words; empty if nothing does."""
    found = [NORM] if layer_norm else []
    if of_step.recurrent_dropout and of_step.recurrent_dropout_on == "hidden":
        found.append(HIDDEN_MASK)
    if of_step.zoneout[0]:
        found.append(ZONE)
    return " and ".join(found)


class End(NamedTuple):
    """The step of each sequence at which it begins, or ends, within a stretch of time."""

    rows: Any  # of (steps * batch): a slice, or an array of one number for each sequence
    inside: Any  # (batch,) whether that step is within the stretch; None if all of them are


class Ends(NamedTuple):
    """Where sequences begin and end within a stretch of time, in a direction's own order. None: none of them does."""

    first: End | None
    last: End | None


@dataclass
class Folded:
    """One direction of one layer in one call: its weights, and what goes on from one stretch of time to the next.

    The states between stretches are m and its gradient, which stay here; h and dh, the engine's arguments, have the
    caller's until a sequence comes to its end. Parts of the batch, if it is cut, go by their address.
    """

    recurrent: Any  # W_hh (4*hidden, proj) with the mask of weight drop
    plain: Weights  # with W' (4*hidden, hidden), and without a projection
    m: dict[Any, Any] = field(default_factory=dict)  # part -> (batch, hidden) after the stretches so far
    begun: dict[int, Any] = field(default_factory=dict)  # first time of a stretch -> the same before it, None for zeros
    dm: Any = None  # (batch, hidden) wide, before the stretches that the backward pass has come through
    first: Any = None  # da (batch, 4*hidden) of each sequence's first step and h_0, collected from the stretches
    from_zeros: dict[Any, bool] = field(default_factory=dict)  # part -> whether its initial h is zero: `FoldedOnCpu`


class Saved(NamedTuple):
    """What the backward pass needs."""

    run: Any  # of the plain engine
    m: Any  # (time, batch, hidden), zero where a sequence is over
    h_first: Any  # (batch, proj) what the first step's product read; zero where that is not in this stretch
    first: End | None


@dataclass
class Gradient:
    """What the weights' gradient has come to."""

    folded: Folded
    projection: Any  # W_hr
    plain: Any  # the plain engine's
    d_projection: Any  # (proj, hidden) wide: sum of dy m^T


class FoldedEngine:
    """An engine (see `gpulstm.engines`) over a plain one, for one call of ``steps`` time steps.

    `gpulstm.engines.folded_on_cpu` and `folded_on_gpu` have what depends on the library.
    """

    forward_from = None  # `forward` begins with what h and c hold
    forward_both = inference_both = backward_both = None  # one direction after the other

    def __init__(self, engine: Any, draws: Draws, steps: int) -> None:
        self.engine, self.draws, self.steps = engine, draws, steps
        self._of_stream: dict[int, Folded] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)  # all that knows neither weights nor h

    def takes_one_step(self, x, batch: int) -> bool:
        return False

    @staticmethod
    def part(states, index: int):
        return states[index]  # (batch, features), since h is a factor of products here

    def forward(self, x, weights: Weights, h, c, y, lane: Lane, lengths) -> Saved:
        folded, offset = self._folded(weights, lane), lane.first_time
        if offset in folded.begun:  # `checkpoints` comes here once more
            before = folded.begun[offset]
            m = self.engine.zeros(c.shape, x) if before is None else before.copy()
        else:
            folded.begun[offset] = folded.m[None].copy() if None in folded.m else None
            m = self._begin(folded, None, h, c)
        ends = self._ends(x, lane, offset, lengths)
        h_first = self._h_first(h, ends)
        given, plain, more = self._started(folded, None, x, h_first, ends)
        all_m = self._room((*x.shape[:2], c.shape[1]), x)
        run = self.engine.forward(given, plain, m, c, all_m, _of_m(lane, c), lengths, **more)
        self._put_out(all_m, weights.projection, y, h, lane, lengths, ends)
        return Saved(run, all_m, h_first, ends.first)

    def inference(self, x, weights: Weights, h, c, y, lane: Lane, gates, lengths, first_time: int) -> None:
        folded, part = self._folded(weights, lane), self._part(h)
        m = self._begin(folded, part, h, c)
        left = None if lengths is None else lengths - first_time
        ends = self._ends(x, lane, first_time, left)
        given, plain, more = self._started(folded, part, x, self._h_first(h, ends), ends)
        all_m = self.engine.empty((*x.shape[:2], c.shape[1]), x)
        self.engine.inference(given, plain, m, c, all_m, _of_m(lane, c), gates, lengths, first_time, **more)
        self._put_out(all_m, weights.projection, y, h, lane, left, ends)

    def start_gradient(self, x, weights: Weights, lane: Lane) -> Gradient:
        folded, projection = self._folded(weights, lane), cast(Any, weights.projection)
        plain = self.engine.start_gradient(x, folded.plain, lane._replace(width=projection.shape[1]))
        return Gradient(folded, projection, plain, self.engine.wide_zeros(projection.shape, x))

    def backward(
        self,
        saved: Saved,
        x,
        weights: Weights,
        dy,
        dh,
        dc,
        dx,
        add_to_dx: bool,
        lane: Lane,
        lengths,
        gradient: Gradient,
    ) -> None:
        run, all_m, h_first, first = saved
        folded, projection = gradient.folded, weights.projection
        if folded.dm is None:
            of_h = self.engine.rounded(dh, x)  # in 16 bits as the caller gave it
            folded.dm = self.engine.wide_zeros(dc.shape, x)
            self._multiply(of_h, projection, folded.dm)
            of_last = of_h if lengths is None else self._inside(of_h, End(None, lengths + lane.first_time > 0))
            self._multiply(of_last, folded.m[None], gradient.d_projection, transpose_a=True, accumulate=True)
        dm = None
        if dy is not None:
            dy = dy if lengths is None else self.engine.without_padding(dy, lengths)  # its NaN times a zero in m is NaN
            dm = self._room(all_m.shape, x)
            for stretch in windows(len(x), self.engine.window(x.shape[1]), lane.reverse):
                self._multiply(self._columns(dy[stretch], lane), projection, dm[stretch])
                self._multiply(
                    self._columns(dy[stretch], lane),
                    all_m[stretch],
                    gradient.d_projection,
                    transpose_a=True,
                    accumulate=True,
                )
        plain = folded.plain
        self.engine.backward(run, x, plain, dm, folded.dm, dc, dx, add_to_dx, _of_m(lane, dc), lengths, gradient.plain)
        if first is not None:
            da = self._inside(self._at(run.gates, first), first)
            of_first = self.engine.wide_zeros(dh.shape, x)
            self._multiply(da, folded.recurrent, of_first)
            self._assign_inside(dh, of_first, first)
            if folded.first is None:
                folded.first = da, h_first
            else:
                for all_of_them, found in zip(folded.first, (da, h_first), strict=True):
                    self._assign_inside(all_of_them, found, first)
        self._give_back(all_m, dm)

    def finish_gradient(self, gradient: Gradient, lane: Lane) -> Weights:
        folded, d_projection = gradient.folded, gradient.d_projection
        found = self.engine.finish_gradient(gradient.plain, lane._replace(width=gradient.projection.shape[1]))
        recurrent, projection = self._wide(folded.recurrent), self._wide(gradient.projection)
        d_recurrent = self.engine.wide_zeros(folded.recurrent.shape, folded.recurrent)
        self._multiply(*folded.first, d_recurrent, transpose_a=True)
        self._multiply_exactly(found.recurrent, projection, d_recurrent, transpose_b=True, accumulate=True)
        self._multiply_exactly(recurrent, found.recurrent, d_projection, transpose_a=True, accumulate=True)
        return found._replace(recurrent=self._dropped(d_recurrent, lane), projection=d_projection)

    def _folded(self, weights: Weights, lane: Lane) -> Folded:
        """The same for all stretches of a call, and for its backward pass."""
        found = self._of_stream.get(lane.stream)
        if found is None:
            projection: Any = weights.projection
            recurrent = self._dropped(weights.recurrent, lane)
            product = self.engine.empty((recurrent.shape[0], projection.shape[1]), recurrent)
            self._multiply_exactly(recurrent, projection, product)
            found = Folded(recurrent, weights._replace(recurrent=product, projection=None))
            self._of_stream[lane.stream] = found
        return found

    def _begin(self, folded: Folded, part: Any, h, c) -> Any:
        """m before the next stretch, which the plain engine makes that after it: zeros before the first one, for h_0
        gets in by itself."""
        if part not in folded.m:
            folded.m[part] = self.engine.zeros(c.shape, h)
        return folded.m[part]

    def _ends(self, x, lane: Lane, offset: int, left) -> Ends:
        """``left`` (batch,) time steps of each sequence from x[0] on, or None; x[0] has the time ``offset``."""
        steps, batch, _ = x.shape
        start = None
        if offset == 0:
            start = End(slice(0, batch), None if left is None else left > 0)
        end = None
        if left is not None:
            end = self._own_ends(left, steps)
        elif 0 < self.steps - offset <= steps:
            row = (self.steps - offset - 1) * batch
            end = End(slice(row, row + batch), None)
        return Ends(end, start) if lane.reverse else Ends(start, end)

    def _h_first(self, h, ends: Ends) -> Any:
        """The initial states of sequences that begin in this stretch, a copy, zero for others; None if none can."""
        return None if ends.first is None else self._inside(h, ends.first)

    def _put_out(self, all_m, projection, y, h, lane: Lane, left, ends: Ends) -> None:
        """y's columns of this direction, and h of the sequences that end."""
        for stretch in windows(len(y), self.engine.window(y.shape[1]), lane.reverse):
            self._project(all_m[stretch], projection, y[stretch], lane, None if left is None else left - stretch.start)
        if ends.last is not None:
            self._assign_inside(h, self._at(y, ends.last)[:, lane.columns], ends.last)


def _of_m(lane: Lane, c) -> Lane:
    """The same direction of the plain layer, whose output is m alone."""
    return lane._replace(first=0, width=c.shape[1])
