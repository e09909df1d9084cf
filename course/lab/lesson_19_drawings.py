"""The drawing of lesson 19: an encoder, a decoder, and attention between them."""

from lab import figures

ENGLISH = ("John", "likes", "black", "coffee")
FRENCH = ("John", "aime", "le", "café", "noir")


def reader_and_writer():
    """The decoder is about to write its last word, and looks back."""
    sheet = figures.Diagram(12.6, 4.5)
    for t, word in enumerate(ENGLISH):
        x = 0.8 + 1.2 * t
        sheet.box(f"word{t}", x, 0.5, word, round_=False)
        sheet.box(f"reader{t}", x, 1.5, "LSTM", shade=1)
        sheet.arrow(f"word{t}", f"reader{t}")
        if t:
            sheet.arrow(f"reader{t - 1}", f"reader{t}")
    for t, word in enumerate(FRENCH):
        x = 6.6 + 1.2 * t
        sheet.box(f"before{t}", x, 0.5, ("start", *FRENCH)[t], round_=False, edge=":")
        sheet.box(f"writer{t}", x, 1.5, "LSTM", shade=2)
        sheet.box(f"after{t}", x, 4.0, word, round_=False)
        sheet.arrow(f"before{t}", f"writer{t}")
        sheet.arrow(f"writer{t}", f"after{t}")
        if t:
            sheet.arrow(f"writer{t - 1}", f"writer{t}")
    sheet.arrow("reader3", "writer0", "state h, c")
    sheet.box("attention", 2.6, 2.9, "attention: where to look", width=3.4, hatch="")
    for t in range(len(ENGLISH)):
        x = 0.8 + 1.2 * t
        sheet.arrow(f"reader{t}", (1.3 + 0.85 * t, 2.65), line=":", width=2.2 if t == 2 else 1.0)
    sheet.arrow((11.25, 1.75), (4.3, 2.75), line="--", bend=0.06)
    sheet.arrow((4.3, 3.05), (11.36, 3.3), line="--")
    sheet.text(5.5, 2.45, "question", size=9, background=True)
    sheet.text(5.5, 3.1, "answer", size=9, background=True)
    sheet.text(2.6, 0.05, "the encoder reads", size=11)
    sheet.text(9.0, 0.05, "the decoder writes", size=11)
    return sheet.figure
