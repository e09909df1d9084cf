"""A training run: its state, its loop, and how it is saved and taken up again."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import draws, losses, progress, saved
from .batches import Batch, Batches, Stream, kind_of, size_of
from .calls import Compared, Trained, named
from .clipping import clip_by_global_norm
from .history import History
from .interrupts import Interrupts
from .losses import Losses


@dataclass(frozen=True)
class Plan:
    """What a run does, all checked."""

    model: Trained
    loss: Compared
    source: Batches | Stream
    optimiser: Any
    seed: int
    steps: int
    steps_per_epoch: int | None
    evaluate_every: int
    batch_first: bool
    validation: Batches | Batch | None
    metrics: Mapping[str, Compared]
    schedule: Callable[[int], float] | None
    clip_norm: float | None
    patience: int | None
    checkpoint: Path | None
    checkpoint_every: int | None
    progress: bool

    def batch(self, step: int) -> Batch:
        """The batch of the step after ``step`` others."""
        if isinstance(self.source, Stream):
            return self.source.at(step)
        epoch, number = divmod(step, len(self.source))
        return self.source.batch(self.source.order(epoch)[number])

    def validation_batches(self) -> Iterator[Any]:
        return self.validation.in_order() if isinstance(self.validation, Batches) else iter([self.validation])


class Run:
    """The state: the step, the losses since the last evaluation, the history, and the best parameters."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.step = self.evaluated = 0  # steps done, and when last evaluated
        self.kept: int | None = None  # the step of the checkpoint that this run wrote last
        self.losses = Losses(0)
        self.history = History(seed=plan.seed)
        self.best: Any = None  # the best parameters so far
        self.tokens, self.tokens_before = 0, 0  # time steps that counted, of this run and until the last record
        self.training_seconds = 0.0  # since the last record, without evaluations and checkpoints
        self.seconds, self.started = 0.0, time.perf_counter()  # of earlier runs; of this one
        self.interrupts = Interrupts()
        self.bar = progress.Silent()

    def go(self) -> History:
        """Trains to the end, or until it is interrupted."""
        plan = self.plan
        with ExitStack() as stack:
            if plan.progress:
                self.bar = progress.Bar(plan.steps, self.step)
                stack.callback(self.bar.close)
            stack.enter_context(self.interrupts)
            try:
                self._train()
            except KeyboardInterrupt:
                self.history.interrupted = True
            with self.interrupts.held():
                self._finish()
        try:
            self.interrupts.check()
        except KeyboardInterrupt:  # it came too late to change anything, and whoever asks shall know
            self.history.interrupted = True
        return self.history

    def _train(self) -> None:
        plan = self.plan
        while True:
            # First of all, because a run that is taken up again may have been left here.
            if self._evaluation_is_due():
                self._evaluate()
            if plan.checkpoint and self._checkpoint_is_due():
                with self.interrupts.held():
                    self.save()
            self.history.stopped_early = self._patience_is_over()
            if self.history.stopped_early or self.step >= plan.steps:
                return
            self.interrupts.check()
            began = time.perf_counter()
            self._train_step()
            self.training_seconds += time.perf_counter() - began
            if self.bar.due():
                with self.interrupts.held():
                    self._show()

    def _train_step(self) -> None:
        """One step; interrupted, it is none at all."""
        plan, step = self.plan, self.step
        batch = plan.model.placed(plan.batch(step))
        rng = draws.generator(plan.seed, "masks", step) if plan.model.random else None
        rate = None if plan.schedule is None else plan.schedule(step)
        out, cache = plan.model.forward(batch, rng)
        loss, dout = plan.loss(out, batch, _kind(plan.source, batch))
        losses.require_scalar("the loss", loss)
        _, grads = plan.model.model.backward(cache, dout)
        if plan.clip_norm is not None:
            clip_by_global_norm(grads, plan.clip_norm)
        with self.interrupts.held():
            if rate is not None:
                plan.optimiser.learning_rate = rate
            plan.optimiser.step(plan.model.params, grads)
            self.step += 1
            self.tokens += size_of(batch, plan.batch_first)[1]
            self.losses.add(loss)

    def _evaluation_is_due(self) -> bool:
        at_its_turn = self.step % self.plan.evaluate_every == 0 or self.step == self.plan.steps
        return self.step > self.evaluated and at_its_turn

    def _checkpoint_is_due(self) -> bool:
        if self.step in (0, self.kept):
            return False
        every = self.plan.checkpoint_every
        return self.step == self.evaluated if every is None else self.step % every == 0

    def _patience_is_over(self) -> bool:
        patience = self.plan.patience
        if patience is None or self.step != self.evaluated:
            return False
        return self.history.evaluations_since_best >= patience

    def _evaluate(self) -> None:
        """Adds a record to the history, and keeps the parameters if they are the best so far."""
        with self.interrupts.held():
            began = time.perf_counter()
            self.losses.fetch()
            self.training_seconds += time.perf_counter() - began
        found = self._validated() if self.plan.validation is not None else {"validation_loss": None}
        with self.interrupts.held():
            self.history.records.append(self._record(found))
            if self.history.best_step == self.step:
                self._keep_as_best()
            self.evaluated = self.step
            self.losses.forget()
            self.tokens_before, self.training_seconds = self.tokens, 0.0

    def _validated(self) -> dict[str, float]:
        """The loss and the metrics, averaged over time steps where targets have them, else over sequences."""
        plan = self.plan
        measures: dict[str, Callable] = {"validation_loss": lambda *given: plan.loss(*given)[0]}
        measures |= plan.metrics
        values: dict[str, list[Any]] = {name: [] for name in measures}
        weights = []
        for batch in plan.validation_batches():
            self.interrupts.check()
            sequences, steps, _ = size_of(batch, plan.batch_first)
            kind = _kind(plan.validation, batch)
            weights.append(steps if kind == "steps" else sequences)
            batch = plan.model.placed(batch)
            out = plan.model.predict(batch)
            for name, measure in measures.items():
                value = measure(out, batch, kind)
                losses.require_scalar(f"the metric {name}" if name in plan.metrics else "the loss", value)
                values[name].append(value)
        return {
            name: sum(w * value for w, value in zip(weights, losses.on_host(found), strict=True)) / sum(weights)
            for name, found in values.items()
        }

    def _record(self, found: dict[str, Any]) -> dict[str, Any]:
        per_epoch, took = self.plan.steps_per_epoch, self.training_seconds
        measured = dict(found)
        return {
            "step": self.step,
            "epoch": self.step / per_epoch if per_epoch else None,
            "loss": self.losses.mean,
            "validation_loss": measured.pop("validation_loss"),
            "learning_rate": self._learning_rate(),
            "seconds": self.seconds + time.perf_counter() - self.started,
            "tokens_per_second": (self.tokens - self.tokens_before) / took if took else None,
            **measured,
        }

    def _learning_rate(self) -> float | None:
        rate = getattr(self.plan.optimiser, "learning_rate", None)
        return None if rate is None else float(rate)

    def _keep_as_best(self) -> None:
        params = self.plan.model.params
        if self.best is None:
            self.best = saved.tree_copied(params)
        else:
            saved.put(self.best, params)

    def _show(self) -> None:
        self.losses.fetch()
        last = self.history.records[-1]["validation_loss"] if self.history else None
        facts = {"loss": self.losses.recent, "validation": last, "lr": self._learning_rate()}
        self.bar.show(self.step, self.tokens, **facts)

    def _finish(self) -> None:
        """The last checkpoint, which holds where training is; then the best parameters, for whoever uses the model."""
        self.losses.fetch()
        try:
            if self.plan.checkpoint and self.kept != self.step:
                self.save()
        finally:  # on a full disk too
            if self.best is not None:
                saved.put(self.plan.model.params, self.best)
        if self.losses.count:  # interrupted between two evaluations: said, but not in the checkpoint
            self.history.records.append(self._record({"validation_loss": None} | dict.fromkeys(self.plan.metrics)))
        self._show()

    def save(self) -> None:
        """Writes the checkpoint. Raises FloatingPointError, and writes none, where a loss was NaN or infinite."""
        plan = self.plan
        assert plan.checkpoint is not None
        self.losses.fetch()
        position = {
            **identity(plan),
            "step": self.step,
            "evaluated": self.evaluated,
            "loss_total": self.losses.total,
            "loss_count": self.losses.count,
            "seconds": self.seconds + time.perf_counter() - self.started,
            "tokens": self.tokens - self.tokens_before,
            "training_seconds": self.training_seconds,
        }
        state, records = plan.optimiser.state_dict(), self.history.records
        content = saved.Checkpoint(plan.model.params, state, self.best, position, records)
        saved.save_checkpoint(plan.checkpoint, content)
        self.kept = self.step

    def take_up(self, path: Any, content: saved.Checkpoint) -> None:
        """Goes to where a checkpoint was written, or raises ValueError that lists all that does not fit."""
        problems = saved.mismatches(self.plan.model.params, content.params)
        for name, value in identity(self.plan).items():
            found = content.position.get(name)
            if value != found:
                problems.append(f"{name} is {value!r} here and {found!r} in the checkpoint")
        if problems:
            raise ValueError(f"resume must be a checkpoint of the same training; in {path}: " + "; ".join(problems))
        params, position, like = self.plan.model.params, content.position, self.plan.model.like
        load = self.plan.optimiser.load_state_dict
        load(saved.tree_beside(content.optimiser, like), **dict.fromkeys(named(load, ["params"]), params))
        saved.put(params, content.params)
        self.best = None if content.best is None else saved.tree_beside(content.best, like)
        self.history = History(content.records, seed=self.plan.seed)
        self.step = position["step"]
        self.evaluated = position["evaluated"]
        self.losses = Losses(self.step, position["loss_total"], position["loss_count"])
        self.seconds, self.started = position["seconds"], time.perf_counter()
        self.tokens, self.training_seconds = position["tokens"], position["training_seconds"]


def _kind(source: Any, batch: Batch) -> str:
    """What the targets are; a batch that a function made is asked itself."""
    return source.targets_are if isinstance(source, Batches) else kind_of(batch)


def identity(plan: Plan) -> dict[str, Any]:
    """What must be the same when a run is taken up again: otherwise its position means something else."""
    source = plan.source if isinstance(plan.source, Batches) else None
    rate = getattr(plan.optimiser, "learning_rate", None)
    return {
        "seed": plan.seed,
        "optimiser": type(plan.optimiser).__name__,
        "learning_rate": rate if plan.schedule is None else None,
        "sequences": len(source.lengths) if source else None,
        "batch_size": source.batch_size if source else None,
        "steps_per_epoch": plan.steps_per_epoch,
        "validation": plan.validation is not None,
        "metrics": sorted(plan.metrics),
    }
