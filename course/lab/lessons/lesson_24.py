"""The checks of lesson 24."""

from itertools import groupby

import numpy as np

import gpulstm as gl
from lab.exercises import answers, close, exercise, look, must, ok
from lab.kinds import Function, Number, described

BLANK = "_"

# ---- two frames ----


@exercise("24.two-frames")
def probability(p_a: Number()):
    """The probability of the text "a" in two frames, of 0.7 for the blank and 0.3 for a in each."""
    known = [
        (0.09, "That is the path aa alone. Which other paths are read as a?"),
        (0.21, "That is one path. There are two with one a and one blank, and a third."),
        (0.42, "Two of the three paths are in it. In the third both frames say a."),
        (0.49, "That is the empty text: both frames say blank."),
        (0.3, "In one frame a has 0.3. Here are two frames: multiply along each path, then add up."),
        (0.6, "0.3 + 0.3 adds up frames. Along a path multiply; add up over paths."),
        (0.64, "That is for 0.4, as in the table. Here a has 0.3."),
    ]
    for value, words in known:
        if close(p_a, value, rtol=0, atol=1e-6):
            yield look(words)
            return
    if not close(p_a, 0.51, rtol=0, atol=5e-4):
        yield look("Not yet. List the paths that are read as a, multiply along each, and add them up.")
        return
    yield ok('Three paths together: "a" has 0.51, and the empty text 0.49.')


@probability.right
def three_paths():
    return answers(0.3 * 0.7 + 0.7 * 0.3 + 0.3 * 0.3)


@probability.right
def all_but_the_empty_one():
    return answers(1 - 0.7**2)


@probability.wrong("both frames alone", says="path aa alone")
def both():
    return answers(0.3 * 0.3)


@probability.wrong("one path", says="one path")
def one():
    return answers(0.3 * 0.7)


@probability.wrong("without aa", says="In the third")
def without_double():
    return answers(2 * 0.3 * 0.7)


@probability.wrong("the empty text", says="empty text")
def nothing():
    return answers(0.7**2)


@probability.wrong("one frame", says="two frames")
def one_frame():
    return answers(0.3)


@probability.wrong("added", says="adds up frames")
def added():
    return answers(0.6)


@probability.wrong("the table's", says="as in the table")
def the_table():
    return answers(0.64)


@probability.wrong("in per cent", says="List the paths")
def percent():
    return answers(51)


# ---- collapse ----

FIRST = (("ss_e", "se"), ("a_mm_aa", "ama"))
DOUBLES = (("s_ee_e", "see"), ("m_o__oo_s_ee", "moose"))
EDGES = (("_______", ""), ("", ""), ("a", "a"), ("__i_s_u", "isu"), ("ama", "ama"), ("aa_a__aa", "aaa"))


def reference(path):
    return "".join(letter for letter, _ in groupby(path) if letter != BLANK)


def blanks_first(path):
    return "".join(letter for letter, _ in groupby(path.replace(BLANK, "")))


def only_merged(path):
    return "".join(letter for letter, _ in groupby(path))


def only_dropped(path):
    return path.replace(BLANK, "")


def each_once(path):
    return "".join(dict.fromkeys(path.replace(BLANK, "")))


def letters_that_last(path):
    """A mistake: a letter is written when it is the same as the one before."""
    return "".join(b for a, b in zip(path, path[1:], strict=False) if a == b != BLANK)


MISTAKES = (
    (only_merged, "The blanks are still there."),
    (only_dropped, "Frames that say the same letter in a row are one letter."),
    (blanks_first, "The double letter is gone. Merge first, and drop the blanks after that."),
    (each_once, "Each letter comes only once now, wherever it stood. Only neighbours are merged."),
    (letters_that_last, "A letter counts when it begins, not when it goes on."),
)


@exercise("24.collapse")
def collapsing(collapse: Function()):
    """A path of letters and blanks becomes a text; the same as gl.nn.ctc_greedy says."""
    for cases, praise in ((FIRST, "Repeats and blanks"), (DOUBLES, "Double letters"), (EDGES, "Odd cases")):
        for path, text in cases:
            found = collapse(path)
            if isinstance(found, list | tuple):
                yield look(f'collapse("{path}") is a {type(found).__name__}. "".join(...) makes a text of letters.')
                return
            if not isinstance(found, str):
                yield look(f'collapse("{path}") should be a text, and is {described(found)}.')
                return
            if found != text:
                words = next((words for wrong, words in MISTAKES if wrong(path) == found), "")
                yield look(f'collapse("{path}") is "{found}" and should be "{text}". {words}'.strip())
                return
        yield ok(f"{praise}: right.")
    yield must(as_the_library(collapse))


def as_the_library(collapse):
    """On a hundred random paths."""
    rng, names = np.random.default_rng(0), BLANK + "aesm"
    paths = rng.integers(0, len(names), (8, 100))  # (time, batch)
    greedy = gl.nn.ctc_greedy(np.eye(len(names))[paths])
    for n, labels in enumerate(greedy):
        path, text = "".join(names[k] for k in paths[:, n]), "".join(names[k] for k in labels)
        found = collapse(path)
        if found != text:
            return look(f'collapse("{path}") is {described(found)} and should be "{text}".')
    return ok("A hundred random paths: the same as gl.nn.ctc_greedy.")


@collapsing.right
def as_in_the_solution():
    return answers(reference)


@collapsing.right
def with_a_loop():
    def collapse(path):
        text, before = "", BLANK
        for letter in path:
            if letter != before and letter != BLANK:
                text += letter
            before = letter
        return text

    return answers(collapse)


@collapsing.wrong("as it stands", says="row are one letter")
def as_it_stands():
    return answers(only_dropped)


@collapsing.wrong("blanks first", says="The double letter is gone")
def wrong_order():
    return answers(blanks_first)


@collapsing.wrong("blanks kept", says="blanks are still there")
def merged_only():
    return answers(only_merged)


@collapsing.wrong("each letter once", says="Only neighbours are merged")
def once():
    return answers(each_once)


@collapsing.wrong("compares with the text so far", says="The double letter is gone")
def against_the_text():
    def collapse(path):
        text = ""
        for letter in path:
            if letter != BLANK and not text.endswith(letter):
                text += letter
        return text

    return answers(collapse)


@collapsing.wrong("letters that go on", says="when it begins")
def going_on():
    return answers(letters_that_last)


@collapsing.wrong("a list", says='"".join')
def a_list():
    return answers(lambda path: list(reference(path)))


@collapsing.wrong("an empty path raises", says="raised IndexError")
def empty_raises():
    def collapse(path):
        text = path[0].replace(BLANK, "")
        for before, letter in zip(path, path[1:], strict=False):
            text += letter if letter != before and letter != BLANK else ""
        return text

    return answers(collapse)


@collapsing.wrong("nothing returned", says="is None")
def nothing_returned():
    return answers(lambda path: None)
