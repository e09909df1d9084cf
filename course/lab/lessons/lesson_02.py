"""The checks of lesson 02."""

import numpy as np

from lab.exercises import answers, exercise, look, ok
from lab.kinds import Array, Text
from lab.sentence import WORDS

CANDIDATES = np.array([0.96, -0.5, 0.7, -0.9])  # as in the lesson
State = Text("c", "h")

# ---- who sees which ----


@exercise("02.who-sees")
def who_sees(forget_gate_reads: State, candidate_reads: State, belt_keeps_some_of: State, layer_above_reads: State):
    """Which of the two states each part reads."""
    if forget_gate_reads == "h":
        yield ok("The forget gate reads the old h.")
    else:
        yield look("forget_gate_reads: in the first experiment c was changed. Did f notice at black?")
    if candidate_reads == "h":
        yield ok("The candidate reads the old h.")
    else:
        yield look("candidate_reads: find g in the picture. Which lane do its arrows come from?")
    if belt_keeps_some_of == "c":
        yield ok("The belt keeps some of the old c.")
    else:
        yield look("belt_keeps_some_of: in c' = f · c + i · g, what is the forget gate multiplied with?")
    if layer_above_reads == "h":
        yield ok("A layer above reads the new h, and nothing else.")
    else:
        yield look(
            "layer_above_reads: gpulstm's y is all that a layer above gets. Which of the two states is y made of?"
        )


@who_sees.right
def as_drawn():
    return answers("h", "h", "c", "h")


@who_sees.wrong("gates read the memory", says="Did f notice at black?")
def gates_read_c():
    return answers("c", "h", "c", "h")


@who_sees.wrong("the candidate reads the memory", says="Which lane do its arrows come from?")
def candidate_reads_c():
    return answers("h", "c", "c", "h")


@who_sees.wrong("all is h", says="what is the forget gate multiplied with")
def all_h():
    return answers("h", "h", "h", "h")


@who_sees.wrong("the memory is the output", says="Which of the two states is y made of?")
def output_is_c():
    return answers("h", "h", "c", "c")


@who_sees.wrong("other words", says="should be one of 'c', 'h'")
def other_words():
    return answers("hidden", "h", "c", "h")


# ---- keep it, and hide it ----


def belt(i, f, o):
    c, cs, hs = 0.0, [], []
    for t, candidate in enumerate(CANDIDATES):
        c = f[t] * c + i[t] * candidate
        cs.append(c)
        hs.append(o[t] * np.tanh(c))
    return np.array(cs), np.array(hs)


def on_the_belt(i, f, cs):
    """Whether c stays, and at which word it first does not."""
    wrong = ~np.isclose(cs, CANDIDATES[0])
    if not wrong.any():
        return ok("c is 0.96 after every word: John stays on the belt.")
    t = int(np.argmax(wrong))
    shown = f"After {WORDS[t]}, c is {cs[t]:.2f} and should be 0.96."
    if t == 0:
        return look(f"{shown} The belt was empty: which gate lets John's candidate onto it?")
    if i[t] != 0 and f[t] != 1:
        return look(
            f"{shown} Part of John was dropped (f is {f[t]:.2g}), and something else was written (i is {i[t]:.2g})."
        )
    if i[t] != 0:
        return look(f"{shown} The candidate of {WORDS[t]} was written on top. Which gate should be shut?")
    return look(f"{shown} Only the share f = {f[t]:.2g} of the belt was kept.")


@exercise("02.keep-and-hide")
def keep_and_hide(i: Array(4), f: Array(4), o: Array(4)):
    """Gates, word by word, with which c stays and h vanishes."""
    outside = [name for name, gate in [("i", i), ("f", f), ("o", o)] if not np.all((gate >= 0) & (gate <= 1))]
    if outside:
        yield look(f"{' and '.join(outside)}: a gate is a number from 0 to 1 at each word.")
        return
    cs, hs = belt(i, f, o)
    yield on_the_belt(i, f, cs)
    if not np.allclose(hs, 0, atol=1e-8):
        t = int(np.argmax(np.abs(hs) > 1e-8))
        yield look(f"At {WORDS[t]}, h is {hs[t]:.2f}: something is shown. Which gate decides that?")
    elif np.all(o == 0):
        yield ok("h is zero at every word: nothing is shown.")
    else:
        yield look(
            "h is zero, but only because nothing is on the belt. Keep John there, and hide him with the output gate."
        )


@keep_and_hide.right
def write_keep_hide():
    return answers(np.array([1.0, 0, 0, 0]), np.ones(4), np.zeros(4))


@keep_and_hide.right
def nothing_to_forget_at_first():
    return answers([1, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0])


@keep_and_hide.wrong("as it stands", says="Part of John was dropped")
def as_it_stands():
    return answers(np.ones(4), np.full(4, 0.5), np.ones(4))


@keep_and_hide.wrong("writes all words", says="written on top")
def writes_all():
    return answers(np.ones(4), np.ones(4), np.zeros(4))


@keep_and_hide.wrong("never writes", says="which gate lets John's candidate onto it")
def never_writes():
    return answers(np.zeros(4), np.ones(4), np.zeros(4))


@keep_and_hide.wrong("forgets", says="Only the share f = 0 of the belt")
def forgets():
    return answers(np.array([1.0, 0, 0, 0]), np.zeros(4), np.zeros(4))


@keep_and_hide.wrong("1 means forget", says="Only the share f = 0.1")
def almost_forgets():
    return answers(np.array([1.0, 0, 0, 0]), np.full(4, 0.1), np.zeros(4))


@keep_and_hide.wrong("shows John", says="something is shown")
def shows():
    return answers(np.array([1.0, 0, 0, 0]), np.ones(4), np.array([1.0, 0, 0, 0]))


@keep_and_hide.wrong("hides by having nothing", says="only because nothing is on the belt")
def empty_belt():
    return answers(np.zeros(4), np.zeros(4), np.ones(4))


@keep_and_hide.wrong("negative gate", says="a gate is a number from 0 to 1")
def negative():
    return answers(np.array([1.0, 0, 0, 0]), np.ones(4), np.full(4, -1.0))


@keep_and_hide.wrong("one number for all words", says="should have the shape (4,)")
def one_number():
    return answers(0.0, np.ones(4), np.zeros(4))
