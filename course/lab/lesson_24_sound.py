"""Synthetic speech for lesson 24: each letter is a sound, made of overtones and hiss. Nobody has ever said it.

It is a toy: real speech was not to be had under a free licence within a package.
"""

import numpy as np

RATE = 8000  # samples a second
WINDOW, HOP = 256, 128  # samples of a frame, and from one frame to the next: 32 and 16 milliseconds
LETTERS = "aeioums"
FORMANTS = {"a": (750, 1200), "e": (480, 1900), "i": (300, 2300), "o": (450, 850), "u": (320, 650)}  # Hz
NOISE = 0.01, 0.1  # its standard deviation, another one in each utterance
WORDS = (
    "sea see same some mouse museum miss mass moose amuse issue aim mess moss assume sum seam mime use oasis".split()
)


def vowel(letter, samples, pitch, throat):
    """Overtones of the pitch, loud near the letter's two formants; ``throat`` moves these up or down."""
    frequencies = pitch * np.arange(1, int(3900 / pitch) + 1)
    first, second = (1 / (1 + ((frequencies - throat * formant) / 90) ** 2) for formant in FORMANTS[letter])
    loudness = first + 0.6 * second + 0.003
    seconds = np.arange(samples) / RATE
    return np.sin(2 * np.pi * frequencies * seconds[:, None]) @ loudness


def sound(letter, samples, pitch, throat, rng):
    if letter == "s":  # noise without its low part
        wave = 0.25 * np.diff(rng.normal(size=samples + 2), n=2)
    elif letter == "m":  # a low hum
        phase = 2 * np.pi * pitch * np.arange(samples) / RATE
        wave = 0.8 * np.sin(phase) + 0.1 * np.sin(2 * phase)
    else:
        wave = vowel(letter, samples, pitch, throat)
    edge = np.minimum(np.arange(samples), np.arange(samples)[::-1]) / 60
    return wave * np.minimum(1, edge)


def speak(word, rng, noise=None):
    """The wave of a word, and for the picture where its letters are, pairs of samples. Each time another voice and
    speed. Between two equal letters there is a short pause: else nobody could hear that there are two."""
    pitch, throat, loudness = rng.uniform(90, 220), rng.uniform(0.9, 1.1), rng.uniform(0.5, 1.5)
    pieces, places, now = [np.zeros(rng.integers(300, 800))], [], 0
    for before, letter in zip(" " + word, word, strict=False):
        if letter == before:
            pieces.append(np.zeros(rng.integers(250, 400)))
        now = sum(map(len, pieces))
        pieces.append(sound(letter, rng.integers(500, 1000), pitch, throat, rng))
        places.append((now, now + len(pieces[-1])))
    pieces.append(np.zeros(rng.integers(300, 800)))
    wave = loudness * np.concatenate(pieces)
    spread = rng.uniform(*NOISE) if noise is None else noise
    return wave + spread * rng.normal(size=len(wave)), places


def letter_errors(written, said):
    """The least number of letters to insert, drop or replace (Levenshtein)."""
    before = list(range(len(said) + 1))
    for i, a in enumerate(written, 1):
        row = [i]
        for j, b in enumerate(said, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
        before = row
    return before[-1]
