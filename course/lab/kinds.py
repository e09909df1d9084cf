"""The kinds of answers, and how one is looked at before a check relies on it."""

import warnings
from dataclasses import dataclass

import numpy as np

from lab import backend


@dataclass(frozen=True)
class Finding:
    right: bool
    text: str


def ok(text: str) -> Finding:
    """Something that is right."""
    return Finding(True, text)


def look(text: str) -> Finding:
    """Something that is not right yet, and what to look at."""
    return Finding(False, text)


class Stop(Exception):
    """Ends a check with this finding."""

    def __init__(self, finding: Finding):
        super().__init__(finding.text)
        self.finding = finding


class Anything:
    """An answer of any kind that is not empty."""

    def read(self, name: str, value):
        if value is None or value is ...:
            raise Stop(look(f"{name} is still empty: your answer belongs where the mark ← stands."))
        return value


class Array(Anything):
    """Numbers of the given shape, in which None stands for any length; without a shape any that is not empty. The
    check gets a NumPy array of its own."""

    def __init__(self, *shape: int | None):
        self.shape = shape

    def read(self, name, value):
        value = super().read(name, value)
        array = numbers(value)
        if array is None:
            called = " Was it called?" if callable(value) else ""
            raise Stop(look(f"{name} should be an array of numbers, and is {described(value)}.{called}"))
        if self.shape:
            fits = len(self.shape) == array.ndim
            fits = fits and all(n in (None, m) for n, m in zip(self.shape, array.shape, strict=True))
            if not fits:
                shape = "(" + ", ".join("any" if n is None else str(n) for n in self.shape)
                shape += ",)" if len(self.shape) == 1 else ")"
                raise Stop(look(f"{name} should have the shape {shape}, and has {array.shape}."))
        elif array.size == 0:
            raise Stop(look(f"{name} is an empty array."))
        return array.copy()


class Number(Anything):
    """One number. The check gets a float."""

    def read(self, name, value):
        value = super().read(name, value)
        array = numbers(value)
        if array is None or isinstance(value, bool | np.bool_):
            called = " Was it called?" if callable(value) else ""
            raise Stop(look(f"{name} should be a number, and is {described(value)}.{called}"))
        if array.size != 1:
            raise Stop(look(f"{name} should be one number, and is an array of shape {array.shape}."))
        return float(array.reshape(()))


class Text(Anything):
    """A text, if need be one of some."""

    def __init__(self, *one_of: str):
        self.one_of = one_of

    def read(self, name, value):
        value = super().read(name, value)
        if not isinstance(value, str):
            raise Stop(look(f"{name} should be a text in quotes, and is {described(value)}."))
        if not value.strip():
            raise Stop(look(f"{name} is still empty: your answer belongs between the quotes."))
        if self.one_of and value not in self.one_of:
            allowed = ", ".join(repr(word) for word in self.one_of)
            raise Stop(look(f"{name} should be one of {allowed}, and is {value!r}."))
        return value


class Instance(Anything):
    """An object of a class."""

    def __init__(self, *classes: type):
        self.classes = classes

    def read(self, name, value):
        value = super().read(name, value)
        if not isinstance(value, self.classes):
            wanted = " or ".join(one.__name__ for one in self.classes)
            raise Stop(look(f"{name} should be of the kind {wanted}, and is {described(value)}."))
        return value


class Function(Anything):
    """A function. The check gets it as `Called`."""

    def __init__(self, *, may_write: bool = False):
        self.may_write = may_write

    def read(self, name, value):
        value = super().read(name, value)
        if not callable(value):
            raise Stop(look(f"{name} should be a function, and is {described(value)}."))
        return Called(name, value, self.may_write)


class Called:
    """A learner's function, to be called like the function itself, with three differences. It gets copies of its
    arguments, and writing into them becomes a finding. What it raises ends the check with a finding that says so.
    Its warnings are kept in ``warnings``, those of the last call."""

    def __init__(self, name: str, function, may_write: bool = False):
        self.name, self.function, self.may_write = name, function, may_write
        self.findings: list[Finding] = []
        self.warnings: list[str] = []

    def __call__(self, *arguments, **named):
        given, given_named = copied(arguments), copied(named)
        with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn", under="ignore"):
            warnings.simplefilter("always")
            try:
                result = self.function(*given, **given_named)
            except (Exception, SystemExit) as error:
                message = " ".join(str(error).split())[:200]
                text = f"{self.shown(arguments, named)} raised {type(error).__name__}: {message}"
                raise Stop(look(text.rstrip(": ") + ".")) from None
        self.warnings = [str(warning.message) for warning in caught]
        written = not (unchanged(arguments, given) and unchanged(named, given_named))
        if written and not self.may_write and not self.findings:
            self.findings.append(
                look(f"{self.name} writes into its input. Whoever calls it still needs that: compute into a new array.")
            )
        return result

    def shown(self, arguments, named) -> str:
        parts = [described(value) for value in arguments]
        parts += [f"{name}={described(value)}" for name, value in named.items()]
        return f"{self.name}({', '.join(parts)})"


def numbers(value) -> np.ndarray | None:
    """The value as a NumPy array of real numbers, or None if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a ragged list
            array = np.asarray(backend.to_numpy(value))
        kind = array.dtype.kind
    except Exception:
        return None
    if kind in "biuf":
        return array
    return array.astype("float32") if str(array.dtype) == "bfloat16" else None


def described(value) -> str:
    """A few words on a value, the same on every machine: no addresses, no long arrays."""
    if value is None or value is ...:
        return str(value)
    if isinstance(value, bool | int | float | np.number):
        return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
    if isinstance(value, str):
        return f"the text {value[:30]!r}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple | dict | set):
        return f"a {type(value).__name__} of {len(value)}"
    if inspect_is_function(value):
        return "a function"
    return f"of the kind {type(value).__name__}"


def inspect_is_function(value) -> bool:
    return callable(value) and not isinstance(value, type) and hasattr(value, "__name__")


def copied(value):
    """A copy of all arrays in tuples, lists and dicts; everything else as it is."""
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copied, value))
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    return value.copy() if hasattr(value, "dtype") and hasattr(value, "copy") else value


def unchanged(before, after) -> bool:
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(unchanged(before[key], after[key]) for key in before)
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(unchanged, before, after))
    if hasattr(before, "dtype"):
        old, new = backend.to_numpy(before), backend.to_numpy(after)
        return old.shape == new.shape and old.tobytes() == new.tobytes()
    return True
