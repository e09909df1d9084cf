"""check(): says what is right and what to look at, never raises, and writes the progress down."""

import importlib
import re
from types import ModuleType

from lab import progress
from lab.exercises import Answers, Exercise, Finding, look


def check(name: str, /, *answers, **named_answers) -> None:
    """Looks at the answers to an exercise, ``check("03.sigmoid", sigmoid, slope)``, and prints what it found."""
    findings = examine(name, Answers(answers, named_answers))
    for finding in findings:
        print("✓" if finding.right else "✗", finding.text)
    if solved(findings):
        print("Solved.")
    else:
        print("Not yet: look at the line marked ✗, change your cell, and run it and this one again.")
    trouble = progress.record(name, solved(findings)) if find(name)[0] else ""
    if trouble:
        print(trouble)


def examine(name: str, answers: Answers) -> list[Finding]:
    """What `check` prints, as findings."""
    exercise, trouble = find(name)
    return exercise.examine(answers) if exercise else [look(trouble)]


def solved(findings: list[Finding]) -> bool:
    return bool(findings) and all(finding.right for finding in findings)


def find(name) -> tuple[Exercise | None, str]:
    """The exercise of that name, or None and what to say instead."""
    form = re.fullmatch(r"(\d\d)\.[\w-]+", name) if isinstance(name, str) else None
    if not form:
        return (
            None,
            f'The first argument is the name of an exercise, as in check("03.sigmoid", ...), and this is {name!r}.',
        )
    try:
        known = exercises(importlib.import_module(f"lab.lessons.lesson_{form[1]}"))
    except Exception as error:
        return None, f"The checks of lesson {form[1]} could not be loaded: {type(error).__name__}: {error}"
    if name not in known:
        return None, f"There is no exercise {name!r}. Lesson {form[1]} has {', '.join(known) or 'none'}."
    return known[name], ""


def exercises(module: ModuleType) -> dict[str, Exercise]:
    """The exercises that a lesson's module defines, by name."""
    return {thing.name: thing for thing in vars(module).values() if isinstance(thing, Exercise)}
