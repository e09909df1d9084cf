"""The drawings of lesson 26: who calls what how, and in which order the gates lie. And the stranger's file."""

import numpy as np

from lab import figures

HIDDEN = 2
STRANGER_SIZES = (3, 4)  # inputs and hidden units of the stranger's LSTM


def columns():
    """Three columns of names, with arrows for what becomes what."""
    sheet = figures.Diagram(10, 4.0)
    for x, title in [(1.6, "PyTorch"), (5.0, "gpulstm"), (8.4, "Keras")]:
        sheet.text(x, 3.75, title, size=12)
    rows = [3.2, 2.3, 1.4, 0.5]
    pytorch = ["weight_ih_l0  (8, 3)", "weight_hh_l0  (8, 2)", "bias_ih_l0  (8,)", "bias_hh_l0  (8,)"]
    for name, y in zip(pytorch, rows, strict=True):
        sheet.box(f"torch {y}", 1.6, y, name, width=2.6)
    ours = ["weight_ih_l0  (8, 3)", "weight_hh_l0  (8, 2)", "bias_l0  (8,)"]
    keras = ["kernel  (3, 8)", "recurrent_kernel  (2, 8)", "bias  (8,)"]
    places = [rows[0], rows[1], (rows[2] + rows[3]) / 2]
    for name, other, y in zip(ours, keras, places, strict=True):
        sheet.box(f"ours {y}", 5.0, y, name, width=2.6, shade=1)
        sheet.box(f"keras {y}", 8.4, y, other, width=2.6)
    for y in places[:2]:
        sheet.arrow(f"torch {y}", f"ours {y}", "as it is")
        sheet.arrow(f"keras {y}", f"ours {y}", "transposed", line="--")
    for y in rows[2:]:
        sheet.arrow(f"torch {y}", f"ours {places[2]}")
    sheet.text(3.3, places[2], "added", size=9, background=True)
    sheet.arrow(f"keras {places[2]}", f"ours {places[2]}", "as it is")
    return sheet.figure


ORDERS = {
    "PyTorch": ("i", "f", "g", "o"),
    "gpulstm": ("i", "f", "g", "o"),
    "Keras": ("i", "f", "c", "o"),
    "ONNX": ("i", "o", "f", "c"),
}
SHADES = {"i": 0, "f": 1, "g": 2, "c": 2, "o": 3}


def orders():
    """In which order the four blocks of rows lie, for each of four frameworks."""
    sheet = figures.Diagram(8, 2.6)
    for row, (name, letters) in enumerate(ORDERS.items()):
        y = 2.25 - 0.6 * row
        sheet.text(0.8, y, name, size=11)
        for column, letter in enumerate(letters):
            place = f"{name} {column}"
            sheet.box(place, 2.4 + 1.5 * column, y, letter, width=1.5, height=0.46, shade=SHADES[letter], round_=False)
    return sheet.figure


def stranger(seed: int = 26, sizes=STRANGER_SIZES, dtype="float32") -> dict[str, np.ndarray]:
    """What the stranger's file holds: an LSTM under foreign names with the gates in the order i, o, f, c, and one
    example, input and output, as its own program computed it."""
    inputs, hidden = sizes
    rng = np.random.default_rng(seed)
    found = {
        "W": rng.normal(size=(4 * hidden, inputs)),
        "R": rng.normal(size=(4 * hidden, hidden)) / np.sqrt(hidden),
        "B": rng.normal(size=8 * hidden),
        "example_x": rng.normal(size=(6, 2, inputs)),  # (time, batch, inputs)
    }
    found["example_y"] = strangers_output(found)
    return {name: value.astype(dtype) for name, value in found.items()}


def strangers_output(file) -> np.ndarray:
    """(time, batch, hidden), by the stranger's own formulas: blocks i, o, f, c, two biases one after the other."""
    hidden = file["R"].shape[1]
    of_input, of_hidden = file["B"][: 4 * hidden], file["B"][4 * hidden :]
    h = c = np.zeros((file["example_x"].shape[1], hidden))
    outputs = []
    for x in file["example_x"]:
        a = x @ file["W"].T + of_input + h @ file["R"].T + of_hidden
        i, o, f, new = np.split(a, 4, axis=1)
        i, o, f = (0.5 * np.tanh(0.5 * gate) + 0.5 for gate in (i, o, f))
        c = f * c + i * np.tanh(new)
        h = o * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)
