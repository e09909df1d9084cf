"""What the checks of a lesson are written with. An example is in course/README.md.

@exercise("03.sigmoid")
def sigmoid_and_slope(sigmoid: Function(), slope: Function()):
    yield must(same("sigmoid(0)", sigmoid(np.zeros(1)), [0.5]))
    ...

@sigmoid_and_slope.right
def stable(): return answers(gl.ops.sigmoid, lambda x: ...)

@sigmoid_and_slope.wrong("overflows at -1000", says="overflow")
def plain(): return answers(lambda x: 1 / (1 + np.exp(-x)), ...)
"""

import inspect
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from lab.kinds import Anything, Called, Finding, Stop, described, look, numbers, ok


@dataclass(frozen=True)
class Answers:
    positional: tuple = ()
    named: dict = field(default_factory=dict)


def answers(*positional, **named) -> Answers:
    """What a learner hands to `check` after the name of the exercise."""
    return Answers(positional, named)


class Exercise:
    """One exercise: the function that looks at its answers, right answers, and wrong ones that it must refuse.

    ``rights`` are factories of `Answers`; ``wrongs`` maps the name of a mistake to its factory and to the words
    that the check must say about it.
    """

    def __init__(self, name: str, body: Callable):
        self.name, self.body, self.__doc__ = name, body, body.__doc__
        self.signature = inspect.signature(body, eval_str=True)
        self.rights: list[Callable[[], Answers]] = []
        self.wrongs: dict[str, tuple[Callable[[], Answers], str]] = {}

    def right(self, factory: Callable) -> Callable:
        """Decorates a function without arguments that returns right answers."""
        self.rights.append(factory)
        return factory

    def wrong(self, mistake: str, *, says: str) -> Callable:
        """Decorates a function without arguments that returns wrong answers; ``says`` is part of the refusal."""

        def register(factory: Callable) -> Callable:
            if mistake in self.wrongs:
                raise ValueError(f"{self.name} has two wrong examples called {mistake!r}")
            self.wrongs[mistake] = factory, says
            return factory

        return register

    def examine(self, given: Answers) -> list[Finding]:
        """Never raises, whatever the answers are."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                read, findings = self.read(given)
                if not findings:
                    findings = self.look_at(read)
            except Exception as error:
                findings = [look(f"This answer could not be read: {type(error).__name__}: {one_line(error)}")]
        return findings or [look("The check found nothing to look at.")]

    def read(self, given: Answers) -> tuple[dict, list[Finding]]:
        """The answers by name, as the kinds asked for, and what is wrong with those that are not of their kind."""
        try:
            bound = self.signature.bind(*given.positional, **given.named)
        except TypeError:
            names = ", ".join(self.signature.parameters)
            return {}, [look(f'Call it as check("{self.name}", {names}).')]
        read, findings = {}, []
        for name, value in bound.arguments.items():
            annotation = self.signature.parameters[name].annotation
            kind = annotation if isinstance(annotation, Anything) else Anything()
            try:
                read[name] = kind.read(name, value)
            except Stop as stop:
                findings.append(stop.finding)
        return read, findings

    def look_at(self, read: dict) -> list[Finding]:
        findings = []
        try:
            for finding in self.body(**read) or ():
                findings.append(finding)
        except Stop as stop:
            findings.append(stop.finding)
        except Exception as error:
            findings.append(look(f"Something here is not what it should be: {type(error).__name__}: {one_line(error)}"))
        for value in read.values():
            if isinstance(value, Called):
                findings += value.findings
        return findings


def exercise(name: str) -> Callable[[Callable], Exercise]:
    """Makes the exercise ``name``, "NN.word", of a generator function that yields `ok` and `look` findings. Its
    parameters are the answers; their annotations are kinds: `Array`, `Number`, `Function`, `Text`, `Instance`."""
    return lambda body: Exercise(name, body)


def must(finding: Finding) -> Finding:
    """The finding itself if it is an `ok`; a `look` ends the check, because what follows would make no sense."""
    if not finding.right:
        raise Stop(finding)
    return finding


def close(found, wanted, rtol: float = 1e-6, atol: float = 1e-8) -> bool:
    """Whether two arrays agree in shape and value. Never raises: what is no array of numbers agrees with nothing."""
    found, wanted = numbers(found), numbers(wanted)
    if found is None or wanted is None or found.shape != wanted.shape:
        return False
    return bool(np.allclose(found, wanted, rtol=rtol, atol=atol, equal_nan=True))


def same(what: str, found, wanted, hint: str = "", *, rtol: float = 1e-6, atol: float = 1e-8) -> Finding:
    """One finding: ``found`` has the shape and the values of ``wanted``, or where it differs, and the hint."""
    hint = f" {hint}" if hint else ""
    if found is None or found is ...:
        return look(f"{what} is {found}: nothing was returned or filled in.{hint}")
    values, wanted = numbers(found), np.asarray(numbers(wanted))
    if values is None:
        return look(f"{what} should be numbers, and is {described(found)}.{hint}")
    if values.shape != wanted.shape:
        return look(f"{what} should have the shape {wanted.shape}, and has {values.shape}.{hint}")
    wrong = ~np.isclose(values, wanted, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return ok(f"{what} is right.")
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    where = f" at {list(place)}" if place else ""
    values_there = f"is {values[place]:.4g} and should be {wanted[place]:.4g}"
    return look(f"{what}{where} {values_there}.{hint}")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def texts(findings: Iterable[Finding]) -> str:
    return "\n".join(finding.text for finding in findings)
