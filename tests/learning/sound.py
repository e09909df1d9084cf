"""Synthetic speech: words made of tones, spoken at different speeds, pitches and loudnesses, with silences and noise.

What is heard is a waveform; what is to be written are the numbers of its words, in order, without times.
"""

import numpy as np

RATE = 8000  # samples a second
HOP, WINDOW = 256, 512
BANDS = 16
NOISE = 0.1, 0.6  # its standard deviation, different in each utterance; a tone of ordinary loudness has one of 0.8
TONES = {"a": 500.0, "b": 800.0, "c": 1250.0, "d": 1900.0}  # Hz
WORDS = ("ab", "ba", "abc", "cba", "acb", "bd", "db", "dca")  # the first one is label 1, as 0 is the blank


def tone(frequency, samples, rng):
    """A sine with an overtone of half its height, which begins and ends softly."""
    phase = 2 * np.pi * (frequency / RATE * np.arange(samples) + rng.random())
    edge = np.minimum(1, np.minimum(np.arange(samples), np.arange(samples)[::-1]) / 40)
    return edge * (np.sin(phase) + 0.5 * np.sin(2 * phase))


def silence(rng):
    return np.zeros(rng.integers(400, 1200))  # 50 to 150 milliseconds


def spoken(words, rng, noise=NOISE):
    """The waveform of a list of words: one speaker's pitch and loudness, each tone with a length of its own."""
    pitch, loudness = rng.uniform(0.92, 1.08), rng.uniform(0.5, 1.5)
    pieces = [silence(rng)]
    for word in words:
        pieces += [tone(TONES[letter] * pitch, rng.integers(320, 800), rng) for letter in word]  # 40 to 100 ms
        pieces.append(silence(rng))
    wave = loudness * np.concatenate(pieces)
    return wave + rng.uniform(*noise) * rng.normal(size=wave.shape)


def spectrogram(wave):
    """(frames, BANDS) float32: the logarithm of the power in bands of equal width up to half the rate."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)[:, 1:]) ** 2  # without the constant: WINDOW / 2 of them
    bands = power.reshape(len(frames), BANDS, -1).mean(axis=2)
    return (np.log(bands) - 4).astype(np.float32)


def utterances(number, rng, noise=NOISE):
    """Spectrograms (frames_i, BANDS) and labels (words_i,) of utterances of two to six words."""
    heard, labels = [], []
    for _ in range(number):
        chosen = rng.integers(0, len(WORDS), rng.integers(2, 7))
        heard.append(spectrogram(spoken([WORDS[k] for k in chosen], rng, noise)))
        labels.append((chosen + 1).astype(np.int32))
    return heard, labels


def distance(one, other):
    """The least number of insertions, deletions and replacements that make one labelling the other (Levenshtein)."""
    before = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]
