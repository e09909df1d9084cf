"""check(): right answers pass, known mistakes are refused in specific words, and nothing makes it raise.

The first part feeds the checks of every lesson; the second tests what the checks are made of.
"""

import importlib
import re

import numpy as np
import pytest

from tests.course_files import COURSE, ROOT, load

# First course_files, which puts `lab` on the path.
import lab.exercises as made_of  # isort: skip
from lab import checking, kinds, lessons, progress  # isort: skip
from lab.exercises import Answers, answers, close, exercise, must, ok, same  # isort: skip
from lab.kinds import Array, Function, Instance, Number, Text  # isort: skip

MODULES = sorted((COURSE / "lab" / "lessons").glob("lesson_[0-9][0-9].py"))


def example_exercises():
    """Those of the authors' page."""
    namespace = {}
    exec(example("checks"), namespace)
    return [thing for thing in namespace.values() if isinstance(thing, made_of.Exercise)]


def example(name):
    text = (COURSE / "README.md").read_text(encoding="utf-8")
    return re.search(rf"<!-- example: {name} -->\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]


def all_exercises():
    found = example_exercises()
    for path in MODULES:
        found += checking.exercises(importlib.import_module(f"lab.lessons.{path.stem}")).values()
    return found


EXERCISES = all_exercises()
every_exercise = pytest.mark.parametrize("one", EXERCISES, ids=lambda one: one.name)


@pytest.fixture(autouse=True)
def own_progress(monkeypatch, tmp_path):
    monkeypatch.setenv("GPULSTM_COURSE_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


# ---- the checks of the lessons ----


@pytest.mark.parametrize("lesson", lessons.all_lessons(), ids=lambda lesson: lesson.number)
def test_a_lesson_asks_for_exactly_the_checks_that_it_has(lesson):
    known = checking.exercises(importlib.import_module(f"lab.lessons.lesson_{lesson.number}"))
    assert set(known) == set(lesson.checks)
    assert all(name.startswith(f"{lesson.number}.") for name in known)


@every_exercise
def test_right_answers_solve_an_exercise(one):
    assert one.rights, "no right example"
    for factory in one.rights:
        findings = one.examine(factory())
        assert checking.solved(findings), findings


@every_exercise
def test_known_mistakes_are_refused_in_words_of_their_own(one):
    assert len(one.wrongs) >= 2, "at least two mistakes that learners make"
    for mistake, (factory, says) in one.wrongs.items():
        findings = one.examine(factory())
        refusals = made_of.texts(finding for finding in findings if not finding.right)
        assert not checking.solved(findings), f"{mistake!r} was accepted"
        assert says in refusals, f"{mistake!r} was answered with: {refusals}"


def broken():
    raise ZeroDivisionError("on purpose")


HOSTILE = {
    "None": None,
    "an ellipsis": ...,
    "an odd number": 0.123456789e-3,
    "not a number": float("nan"),
    "a text": "a text that nobody asked for",
    "an empty text": "",
    "an empty list": [],
    "a dict": {},
    "an object": object(),
    "an odd shape": np.zeros((7, 1, 7)),
    "an empty array": np.array([]),
    "texts": np.array(["a", "b"]),
    "a class": int,
    "returns None": lambda *a, **k: None,
    "returns an ellipsis": lambda *a, **k: ...,
    "returns a text": lambda *a, **k: "text",
    "returns an odd shape": lambda *a, **k: np.zeros((7, 1, 7)),
    "returns an object": lambda *a, **k: object(),
    "raises": lambda *a, **k: broken(),
    "takes nothing": lambda: 1.0,
}


@every_exercise
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_is_no_answer_is_refused_and_nothing_is_raised(one, hostile):
    right = one.rights[0]()
    names = list(one.signature.bind(*right.positional, **right.named).arguments)
    for name in names:
        bound = one.signature.bind(*right.positional, **right.named)
        bound.arguments[name] = HOSTILE[hostile]
        findings = one.examine(Answers((), dict(bound.arguments)))
        assert not checking.solved(findings), f"{name} = {hostile} was accepted"
        assert all(finding.text and "\n" not in finding.text for finding in findings)


@every_exercise
def test_a_check_says_the_same_each_time(one):
    for factory in [*one.rights, *(factory for factory, _ in one.wrongs.values())]:
        findings = one.examine(factory())
        assert one.examine(factory()) == findings
        assert " object at 0x" not in made_of.texts(findings)


@every_exercise
def test_too_few_and_too_many_answers_are_answered_with_how_to_call_it(one):
    for given in [Answers(), Answers((1,) * 20), Answers((), {"nobody": 1})]:
        (finding,) = one.examine(given)
        assert f'check("{one.name}", ' in finding.text and not finding.right


# ---- what checks are made of ----


@exercise("97.all")
def everything(
    array: Array(2, None), number: Number(), function: Function(), text: Text("a", "b"), cell: Instance(set)
):
    yield ok(f"{array.shape} {number} {text} {len(cell)}")
    yield must(same("f(x)", function(np.arange(3.0)), [0.0, 2.0, 4.0], "Twice."))


def said(array=((1, 2), (3, 4)), number=1, function=lambda x: 2 * x, text="a", cell=frozenset):
    given = answers(array, number, function, text, set() if cell is frozenset else cell)
    return made_of.texts(finding for finding in everything.examine(given) if not finding.right)


def writes(x):
    x *= 2
    return x


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, ""),
        ({"array": None}, "array is still empty"),
        ({"array": ...}, "array is still empty"),
        ({"array": [1, 2]}, "array should have the shape (2, any), and has (2,)"),
        ({"array": [[1, 2], [3]]}, "array should be an array of numbers, and is a list of 2"),
        ({"array": np.zeros}, "is a function. Was it called?"),
        ({"number": True}, "number should be a number, and is True"),
        ({"number": [1, 2]}, "should be one number, and is an array of shape (2,)"),
        ({"number": "1"}, "should be a number, and is the text '1'"),
        ({"function": 3.0}, "function should be a function, and is 3"),
        ({"function": lambda x: broken()}, "function(an array of shape (3,)) raised ZeroDivisionError: on purpose."),
        ({"function": lambda x: None}, "f(x) is None: nothing was returned or filled in. Twice."),
        ({"function": lambda x: x}, "f(x) at [1] is 1 and should be 2. Twice."),
        ({"function": lambda x: x[:2]}, "f(x) should have the shape (3,), and has (2,). Twice."),
        ({"function": writes}, "function writes into its input"),
        ({"function": lambda x: exit()}, "raised SystemExit"),
        ({"text": " "}, "text is still empty"),
        ({"text": "c"}, "text should be one of 'a', 'b', and is 'c'"),
        ({"cell": []}, "cell should be of the kind set, and is a list of 0"),
    ],
)
def test_each_kind_says_what_it_is_missing(given, says):
    assert says in said(**given)
    assert bool(says) == bool(said(**given))


def test_all_answers_that_are_not_of_their_kind_are_named_at_once():
    assert said(array=None, text=3).count("\n") == 1


def test_a_function_gets_copies_and_its_warnings_are_kept():
    x = {"a": [np.ones(2)]}
    called = Function().read("f", lambda x: writes(x["a"][0]))
    assert called(x).tolist() == [2, 2] and x["a"][0].tolist() == [1, 1]
    assert len(called.findings) == 1
    called = Function(may_write=True).read("f", writes)
    called(np.ones(2))
    assert called.findings == [] and called.warnings == []
    called = Function().read("f", np.exp)
    called(np.array([1000.0]))
    assert "overflow" in called.warnings[0]


def test_a_mistake_in_the_check_itself_is_said_and_not_raised():
    @exercise("97.broken")
    def asks_too_much(number: Number()):
        yield ok("so far so good")
        number.nothing()

    first, last = asks_too_much.examine(answers(1))
    assert first.right and not last.right and "AttributeError" in last.text
    silent = exercise("97.silent")(lambda number: None)
    assert made_of.texts(silent.examine(answers(1))) == "The check found nothing to look at."


def test_close_compares_shapes_and_never_raises():
    assert close([1, 2], np.array([1.0, 2.0 + 1e-9])) and close(np.nan, np.nan)
    assert not close([1, 1], 1) and not close("a", "a") and not close(None, 1) and not close(object(), [object()])


def test_one_mistake_has_one_name():
    one = exercise("97.x")(lambda number: None)
    one.wrong("a", says="")(int)
    with pytest.raises(ValueError, match="two wrong examples called 'a'"):
        one.wrong("a", says="")(int)


def test_values_are_described_without_addresses():
    assert kinds.described(object()) == "of the kind object"
    assert kinds.described(lambda: 1) == "a function"
    assert kinds.described(1 / 3) == "0.3333"


# ---- check(): what is printed and written down ----


def test_check_prints_its_findings_and_the_verdict_and_records_it(capsys):
    right = checking.find("00.persistence")[0].rights[0]()
    assert checking.check("00.persistence", None) is None
    out = capsys.readouterr().out
    assert out.startswith("✗ forecast is still empty") and out.splitlines()[-1].startswith("Not yet: ")
    assert progress.read() == {"00.persistence": "tried"}
    checking.check("00.persistence", forecast=right.positional[0])
    out = capsys.readouterr().out
    assert out.startswith("✓ ") and out.endswith("\nSolved.\n")
    assert progress.read() == {"00.persistence": "solved"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("00.persistance", "There is no exercise '00.persistance'. Lesson 00 has 00.persistence."),
        ("96.x", "The checks of lesson 96 could not be loaded: ModuleNotFoundError"),
        ("sigmoid", "The first argument is the name of an exercise"),
        (None, "The first argument is the name of an exercise"),
        ("../x", "The first argument is the name of an exercise"),
    ],
)
def test_an_unknown_name_is_answered_and_not_recorded(name, says, capsys):
    checking.check(name, 1)
    assert says in capsys.readouterr().out
    assert progress.read() == {}


def test_what_cannot_be_written_down_is_said(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GPULSTM_COURSE_PROGRESS", str(tmp_path / "nowhere" / "progress.json"))
    checking.check("00.persistence", None)
    assert "Your progress could not be written down" in capsys.readouterr().out


# ---- the authors' example ----


def test_the_authors_example_is_a_lesson_in_both_forms(tmp_path, capsys, monkeypatch):
    build = load("course_build", COURSE / "build.py")
    source = tmp_path / "98_decay.py"
    source.write_text(example("lesson"), encoding="utf-8")
    monkeypatch.setenv("GPULSTM_COURSE_STATIC", "1")
    monkeypatch.chdir(COURSE)
    (one,) = example_exercises()
    monkeypatch.setattr(checking, "find", lambda name: (one if name == one.name else None, ""))
    monkeypatch.setattr("IPython.display.display", lambda picture: None)
    for solved, end in [(False, "Not yet"), (True, "Solved.")]:
        namespace = {}
        for cell in build.unexecuted(source, solved).cells:
            if cell.cell_type == "code" and "start" not in cell.metadata.get("tags", []):
                exec(cell.source, namespace)
            elif cell.cell_type == "code":
                exec("from lab import check, figures, slider", namespace)
        assert capsys.readouterr().out.splitlines()[-1].startswith(end)
    assert lessons.read(source) == lessons.Lesson("98", "98_decay.ipynb", "Forgetting by halves", ("98.half-life",))
    assert (ROOT / "course" / "README.md").is_file()
