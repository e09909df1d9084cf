"""The running sentence, and the cell that the lessons trace through it.

Four words of three features, and an LSTM of hidden size 2, all written by hand: nothing here was trained. Unit 0,
"who", keeps John until the end and shows him when a feeling is named; unit 1, "dark", waits for black.
"""

import numpy as np

WORDS = ("John", "likes", "black", "coffee")
FEATURES = ("person", "feeling", "dark")
UNITS = ("who", "dark")
GATES = ("input gate", "forget gate", "candidate", "output gate")  # the order of the rows below

VECTORS = np.array(  # (4 words, 3 features): coffee is a bit of a feeling, and rather dark
    [
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
        [0.0, 0.5, 0.5],
    ]
)

PARAMS = {
    # (4*hidden, features): two rows for each gate, first unit "who", then unit "dark"
    "weight_ih": np.array(
        [
            [4.0, 0.0, 0.0],  # i who: a person opens it
            [0.0, 0.0, 4.0],  # i dark: what is dark opens it
            [0.0, 0.0, 0.0],  # f who
            [0.0, 0.0, 2.0],  # f dark
            [2.0, 0.0, 0.0],  # g who
            [0.0, -1.0, 2.0],  # g dark: a feeling brightens
            [0.0, 3.0, 0.0],  # o who: a feeling shows it
            [0.0, 0.0, 0.0],  # o dark
        ]
    ),
    # (4*hidden, hidden): what the hidden state of the step before adds
    "weight_hh": np.array(
        [
            [0.0, 0.0],
            [0.0, 0.0],
            [1.0, 0.0],  # f who: what was shown is kept even better
            [0.0, 0.0],
            [0.0, 0.0],
            [0.0, 1.0],  # g dark: dark goes with dark
            [0.0, 0.0],
            [2.0, 0.0],  # o dark: shown if somebody is there
        ]
    ),
    "bias": np.array([-2.0, -2.0, 3.0, -1.0, 0.0, 0.0, -1.0, 0.0]),  # (4*hidden,)
}

for _array in (VECTORS, *PARAMS.values()):
    _array.setflags(write=False)  # one lesson's experiment must not become another cell's surprise


def trace(vectors=VECTORS, params=PARAMS) -> dict[str, np.ndarray]:
    """What happens in the cell, word by word: i, f, g, o, c and h by name, each (words, hidden), from zero states."""
    hidden = params["weight_hh"].shape[1]
    h = c = np.zeros(hidden)
    steps = []
    for x in vectors:
        a = params["weight_ih"] @ x + params["weight_hh"] @ h + params["bias"]
        i, f, g, o = a.reshape(4, hidden)
        i, f, o = (0.5 * np.tanh(0.5 * gate) + 0.5 for gate in (i, f, o))
        g = np.tanh(g)
        c = f * c + i * g
        h = o * np.tanh(c)
        steps.append((i, f, g, o, c, h))
    return dict(zip("ifgoch", np.array(steps).swapaxes(0, 1), strict=True))
