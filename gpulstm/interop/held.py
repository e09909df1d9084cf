"""What a format can hold of an LSTM. Whatever it cannot is refused by name, never dropped in silence."""

from collections.abc import Collection
from typing import Any

TRAINING_ALONE = ("dropout", "recurrent_dropout", "recurrent_dropout_on", "weight_drop", "checkpoint_every")
"""Options without any effect on inference: leaving them out changes no output."""


def refuse_what_is_not_held(
    lstm: Any,
    where: str,
    holds: Collection[str],
    ignore: Collection[str] = (),
    reasons: dict[str, str] | None = None,
    instead: str = "",
) -> None:
    """Raises ValueError that names every option of ``lstm`` that differs from its default and that is not in ``holds``.

    ``where`` is the format in a message, such as "a Keras layer"; ``reasons`` says more about single options,
    ``instead`` what would hold them all.
    ``ignore`` names options to leave out all the same, which only those in `TRAINING_ALONE` can be.
    """
    check_ignored(ignore, TRAINING_ALONE)
    lost = {name: value for name, value in lstm.changed_options().items() if name not in holds and name not in ignore}
    if not lost:
        return
    problems = [
        f"{name}={value!r}" + (f" ({reasons[name]})" if reasons and name in reasons else "")
        for name, value in lost.items()
    ]
    droppable = tuple(name for name in lost if name in TRAINING_ALONE)
    hint = f"; ignore={droppable!r} leaves out what acts in training alone" if droppable else ""
    raise ValueError(f"{where} cannot hold {', '.join(problems)}{'; ' + instead if instead else ''}{hint}")


def check_ignored(ignore: Collection[str], allowed: Collection[str]) -> None:
    """Raises TypeError or ValueError unless ``ignore`` is a collection of the names that may be left out."""
    if isinstance(ignore, str) or not isinstance(ignore, Collection):
        raise TypeError(f"ignore must be a tuple of option names, got {ignore!r}")
    wrong = [name for name in ignore if name not in allowed]
    if wrong:
        raise ValueError(
            f"ignore may name {', '.join(allowed)}, got {', '.join(map(repr, wrong))}, which would change the numbers"
        )
