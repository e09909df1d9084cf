"""gl.fit: trains a model on sequences."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import initialisers
from . import saved
from .adam import Adam
from .batches import Batch, Batches, Stream, with_one_input
from .calls import Compared, Trained
from .history import FIELDS, History
from .run import Plan, Run

EVALUATE_EVERY = 100  # steps, where there are no epochs


def fit(
    model: Any,
    loss: Callable,
    train: Any,
    *,
    optimiser: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int = 32,
    validation: Any = None,
    schedule: Callable[[int], float] | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    evaluate_every: int | None = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    resume: Any = None,
    metrics: Mapping[str, Callable] | None = None,
    rng: Any = None,
    progress: bool = True,
    batch_first: bool = False,
) -> History:
    """Trains ``model`` on ``train``, with a progress bar; returns the `History` of losses.

    ::

        model = gl.nn.Sequential(gl.LSTM(3, 64), gl.nn.Linear(64, 1))
        history = gl.fit(model, gl.nn.mean_squared_error, (inputs, targets), epochs=20, validation=(more, of_them))
        history.plot()

    Ctrl-C ends training after the step at hand, a second Ctrl-C at once: no error, what was learnt stays, and the
    history says ``interrupted``. With ``validation`` the model is left with the parameters of the best evaluation.

    Parameters
    ----------
    model : has ``params``, ``out, cache = forward(x)`` and ``dx, grads = backward(cache, dout)``; its forward is given
        ``lengths`` and ``rng`` where its signature has them. For validation it is called, ``out = model(x)``.
    loss : ``(loss, dprediction) = loss(prediction, target)``, given ``lengths`` and ``target_lengths`` where its
        signature has them. The loss has no axes.
    train : ``(inputs, targets)``, for which see `gpulstm.training.Batches`; or a function that makes each step's
        `gpulstm.training.Batch` from a ``numpy.random.Generator``, ``train(rng)``, with that step's own generator.
    optimiser : Adam(1e-3) if None.
    epochs, steps : how long, in all; one of the two. A function as ``train`` has epochs of ``steps_per_epoch`` steps.
    batch_size : sequences in a step.
    validation : like ``train``, or a Batch; a function is called once. Averaged over time steps where the targets have
        them, else over sequences.
    schedule : the learning rate of each step, ``schedule(steps done)``.
    clip_norm : the largest norm of all gradients together, see `gpulstm.training.clip_by_global_norm`.
    patience : training ends after this many evaluations in a row that brought no smaller validation loss.
    evaluate_every : steps between two evaluations, each a record of the history; an epoch if None, or 100 steps where
        there are no epochs. The last step is always evaluated.
    checkpoint : the file to save to, see `gpulstm.training.load_checkpoint`: every ``checkpoint_every`` steps, or if
        None at each evaluation, and at the end.
    resume : a checkpoint to go on from, which may be the same file. The result is the same to the bit as that of a
        run that was never stopped, if everything else is given as it was; ``rng`` may be left out.
    metrics : name -> function like the loss that returns one number; evaluated on ``validation``.
    rng : a seed, or a generator to draw one from. It and the number of the step determine all that is random.
    progress : whether to show the bar.
    batch_first : whether the model's x, and targets with time steps, are (batch, time, ...).

    The data may be NumPy whatever the model is: each batch is copied to the parameters' library and device, and so are
    its targets; its lengths stay on the host. Dtypes are not changed. Losses stay on the device, and are looked at
    when the bar moves, at evaluations and checkpoints, and every 256 steps.

    Raises FloatingPointError, naming the step, when it then sees a loss that is NaN or infinite; the model is left as
    it is by then, and no checkpoint is written. Raises TypeError or ValueError where an argument is not as above, and
    FileNotFoundError for a checkpoint to resume that does not exist.
    """
    trained, compared = Trained(model), Compared("loss", loss)
    content = None if resume is None else _found(resume)
    if rng is None and content is not None and isinstance(content.position.get("seed"), int):
        rng = content.position["seed"]
    seed = initialisers.seed(rng)
    source = _source(train, batch_size, seed, compared, batch_first)
    per_epoch = _steps_per_epoch(source, steps_per_epoch)
    validated = _validation(validation, batch_size, seed, compared, batch_first, trained)
    for data in (source, validated):
        _refuse_unseen_padding(data, trained, compared)
    plan = Plan(
        model=trained,
        loss=compared,
        source=source,
        optimiser=_optimiser(optimiser, schedule, saving=checkpoint is not None or resume is not None),
        seed=seed,
        steps=_total(epochs, steps, per_epoch),
        steps_per_epoch=per_epoch,
        evaluate_every=_count("evaluate_every", evaluate_every) or per_epoch or EVALUATE_EVERY,
        batch_first=bool(batch_first),
        validation=validated,
        metrics=_metrics(metrics, validated),
        schedule=_callable_or_none("schedule", schedule),
        clip_norm=clip_norm,
        patience=_patience(patience, validated),
        checkpoint=None if checkpoint is None else saved.checked_target(checkpoint),
        checkpoint_every=_checkpoint_every(checkpoint_every, checkpoint),
        progress=bool(progress),
    )
    run = Run(plan)
    if content is not None:
        run.take_up(resume, content)
    return run.go()


def _found(resume: Any) -> saved.Checkpoint:
    try:
        return saved.load_checkpoint(resume)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"resume must be a checkpoint, and there is no file {resume}; a first run is started without resume, and "
            f"with checkpoint={str(resume)!r} to write one"
        ) from error


def _source(train: Any, batch_size: int, seed: int, loss: Compared, batch_first: bool) -> Batches | Stream:
    if callable(train):
        return Stream(train, seed)
    return _batches("train", train, batch_size, seed, loss, batch_first)


def _batches(name: str, data: Any, batch_size: int, seed: int, loss: Compared, batch_first: bool) -> Batches:
    if not isinstance(data, (tuple, list)) or isinstance(data, Batch) or len(data) != 2:
        raise TypeError(
            f"{name} must be a pair (inputs, targets), or a function of rng that makes a gl.training.Batch, "
            f"got {type(data).__name__}{f' of {len(data)}' if isinstance(data, (tuple, list)) else ''}"
        )
    # A loss that asks for the targets' lengths has targets with lengths of their own, even if they look like steps.
    inputs, targets = data
    first = next(iter(targets), None) if isinstance(targets, Iterable) else None
    labels = "target_lengths" in loss.keywords and getattr(first, "ndim", 0) > 0
    return Batches(
        inputs,
        targets,
        batch_size,
        rng=seed,
        batch_first=batch_first,
        targets_are="labels" if labels else None,
        name=f"{name} ",
    )


def _validation(
    validation: Any, batch_size: int, seed: int, loss: Compared, batch_first: bool, model: Trained
) -> Batches | Batch | None:
    if validation is None:
        return None
    model.require_inference()
    if isinstance(validation, Batch):
        return with_one_input(validation)
    if callable(validation):
        return Stream(validation, seed).at(0, "validation")
    return _batches("validation", validation, batch_size, seed, loss, batch_first)


def _refuse_unseen_padding(data: Any, model: Trained, loss: Compared) -> None:
    """Raises ValueError where padding would be taken for data."""
    if not isinstance(data, Batches) or not data.padded:
        return
    if data.targets_are == "sequences" and "lengths" not in model.forward_keywords:
        raise ValueError(
            "model.forward must have an argument lengths for sequences of different lengths with one target each: "
            "otherwise the padding at their ends would count"
        )
    if data.targets_are != "sequences" and "lengths" not in loss.keywords:
        raise ValueError(
            "loss must have an argument lengths for sequences of different lengths: otherwise the padding at their "
            "ends would count"
        )


def _steps_per_epoch(source: Batches | Stream, asked: int | None) -> int | None:
    count = _count("steps_per_epoch", asked)
    if isinstance(source, Stream):
        return count
    if count is not None:
        raise ValueError("steps_per_epoch must be None for (inputs, targets): an epoch is once all of them")
    return len(source)


def _total(epochs: int | None, steps: int | None, per_epoch: int | None) -> int:
    if (epochs is None) == (steps is None):
        raise ValueError(f"one of epochs and steps must be given, got epochs={epochs} and steps={steps}")
    if steps is not None:
        return initialisers.require_size("steps", steps)
    if per_epoch is None:
        raise ValueError("epochs must come with steps_per_epoch where train is a function; or give steps instead")
    return initialisers.require_size("epochs", epochs) * per_epoch


def _count(name: str, value: int | None) -> int | None:
    return None if value is None else initialisers.require_size(name, value)


def _patience(patience: int | None, validation: Any) -> int | None:
    if patience is not None and validation is None:
        raise ValueError("patience must come with validation: it waits for a smaller validation loss")
    return _count("patience", patience)


def _checkpoint_every(every: int | None, checkpoint: Any) -> int | None:
    if every is not None and checkpoint is None:
        raise ValueError("checkpoint_every must come with checkpoint, the file to write")
    return _count("checkpoint_every", every)


def _callable_or_none(name: str, function: Any) -> Any:
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be a function of the step, got {type(function).__name__}")
    return function


def _optimiser(optimiser: Any, schedule: Any, *, saving: bool) -> Any:
    optimiser = Adam() if optimiser is None else optimiser
    for method in ("step", *(("state_dict", "load_state_dict") if saving else ())):
        if not callable(getattr(optimiser, method, None)):
            raise TypeError(
                f"optimiser must have a method {method}, which {type(optimiser).__name__} has not; "
                f"gpulstm.training.Adam(0.001) is one that has"
            )
    if schedule is not None and not hasattr(optimiser, "learning_rate"):
        raise TypeError(f"optimiser must have a learning_rate for a schedule, which {type(optimiser).__name__} has not")
    return optimiser


def _metrics(metrics: Mapping[str, Callable] | None, validation: Any) -> dict[str, Compared]:
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics must be a dict of functions by name, got {type(metrics).__name__}")
    if validation is None:
        raise ValueError("metrics must come with validation, the data that they are evaluated on")
    for name in metrics:
        if name in FIELDS:
            raise ValueError(f"metrics must not be called {name!r}: the history has a column of that name")
    return {name: Compared(f"metrics[{name!r}]", function) for name, function in metrics.items()}
