# %% [markdown]
# # 24 · From sound to letters
#
# Somebody says *mouse*. That is a good half second of sound, cut into some forty frames, and five letters. Which frame belongs to which letter?
# Nobody wrote that down, and for real recordings nobody wants to. Today a network learns to write down what it hears, and it
# has to find out the *when* on its own.
#
# **Afterwards you can**
# - make a spectrogram with NumPy, and tell vowels apart in it;
# - compute the probability that CTC gives to a text, and say why the likeliest path need not be the likeliest text;
# - write the rule that turns a path into a text;
# - judge a recogniser by its letter errors, and say what a perfect score on a toy is worth.
#
# One thing first: **this is no real speech.** Recordings under a free licence are not to be had inside a package. So each letter here is a
# sound that we make ourselves: a toy, but one that is made like the real thing.

# %% tags=["start"]
from lab import check, figures, slider, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import numpy as np
from IPython.display import Audio, display
from lab import backend, lesson_24_drawings
from lab.lesson_24_sound import HOP, LETTERS, RATE, WINDOW, WORDS, letter_errors, speak

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
wave, places = speak("mouse", np.random.default_rng(8))
figures.show(*lesson_24_drawings.picture(wave, "mouse", places))

# %% tags=["nbval-ignore-output"]
display(Audio(wave, rate=RATE))  # it buzzes: a machine's voice

# %% [markdown]
# The wave above says little to the eye. Below it is the **spectrogram**: how loud each frequency is, at each moment. *m* is a low hum.
# *s* is a hiss, loudest at the top. And each vowel has two dark places of its own, its **formants**, which the hollow of the
# mouth makes: the first low and the second high for *e*, both low for *u*.
#
# The dotted lines are for you alone. The network gets the frames and the word `mouse`, and no lines.
#
# ## Predict first
#
# In each frame the network says one letter, or `_`, the [blank](glossary.ipynb#blank): "nothing new". What it said in all frames is a **path**. To
# read it, merge what repeats, then drop the blanks.
#
# 1. Which text is the path `ss_ee_e`?
# 2. Two frames. In both, the blank has the probability 0.6, and *a* has 0.4. So the likeliest path is `__`, nothing. Which **text** is
#    likeliest: the empty one, or *a*?
#
# ## How the sounds are made
#
# Your vocal cords give a pitch and its overtones, and your mouth lets those through best that lie near its two formants. So does
# this vowel:

# %%
formants_of_a = 750, 1200  # Hz
seconds = np.arange(800) / RATE  # a tenth of a second
overtones = 120 * np.arange(1, 33)  # Hz: a pitch of 120, twice that, three times that, ...
first, second = (1 / (1 + ((overtones - formant) / 90) ** 2) for formant in formants_of_a)
vowel_a = np.sin(2 * np.pi * overtones * seconds[:, None]) @ (first + 0.6 * second)
loudest = overtones[np.argsort(first + second)[-2:]]
print("formants of a:", formants_of_a, " loudest overtones:", sorted(loudest.tolist()))

# %% [markdown]
# *s* is random noise without its low part, and *m* little more than the pitch. `speak`, in
# [a file of its own](lab/lesson_24_sound.py), strings them together, each time with another pitch, speed, loudness, size of the mouth and some noise.
# Between two equal letters it makes a short pause.
#
# ## The spectrogram
#
# A frame is 256 samples long, 32 milliseconds, and a new one begins every 128 samples. A window lets each frame begin and end
# softly, `np.fft.rfft` says how much there is of each frequency, and neighbouring frequencies are put together in bands.

# %%
BANDS = 16 if xp is np else 128  # a GPU may have all frequencies


def spectrogram(wave):
    """(frames, BANDS): the logarithm of the power in each band."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    spectrum = np.fft.rfft(frames * np.hanning(WINDOW), axis=1)[:, 1:]  # without the constant
    power = np.abs(spectrum) ** 2
    bands = power.reshape(len(frames), BANDS, -1).mean(axis=2)
    return (0.3 * np.log(bands + 0.01)).astype(np.float32)


frames = spectrogram(wave)
print(f"{len(wave)} samples become {len(frames)} frames; to be written: 5 letters")

# %% [markdown]
# ## From paths to texts
#
# First the path of your prediction, `ss_ee_e`, read by the library:

# %%
names = "_es"  # the blank is class 0
path = [names.index(character) for character in "ss_ee_e"]
certain = np.eye(3)[path][:, None]  # (time, batch, classes): in each frame this class has all
(labels_read,) = gl.nn.ctc_greedy(certain)
print("".join(names[label] for label in labels_read))

# %% [markdown]
# *see*: the `_` between `ee` and `e` makes two letters of them, for what is not side by side is not merged.
#
# Now the two frames. There are four paths. Along a path the probabilities are multiplied. But several paths
# are read as the same text, so a text has the **sum** of its paths:

# %%
p = np.array([[0.6, 0.4], [0.6, 0.4]])  # (frames, classes): the blank is class 0, a is class 1
for path, text in [((0, 0), ""), ((0, 1), "a"), ((1, 0), "a"), ((1, 1), "a")]:
    spelt = "".join("_a"[k] for k in path)
    print(f'{spelt} has {p[0, path[0]] * p[1, path[1]]:.2f} and is read as "{text}"')

# %% [markdown]
# The empty text has 0.36, and *a* has 0.24 + 0.24 + 0.16 = **0.64**. So the likeliest path belongs to the less likely text.
#
# Is that a rare accident? Move the blank's probability, and watch which path and which text are the tallest. From where to where do the two
# disagree?

# %%
slider(lesson_24_drawings.two_frames, blank=(0.3, 0.9, 0.01, 0.6))

# %% [markdown]
# From 0.5 to 0.71, so it is no accident at all. Above 0.5 the path `__` is the likeliest. But it is the empty text's only path, and has the *square* of
# the blank's probability. That is above one half from $\sqrt{0.5} = 0.71$ on.
#
# This sum is all there is to [CTC](glossary.ipynb#ctc). Its loss is $-\ln$ of it: training makes the right text likelier, no matter along which
# paths. So nobody must say when each letter was. With 40 frames there are more paths than anybody can list, but
# a recursion over the frames, as `gl.nn.ctc` has it, adds them all up in no time, and gives the gradient, too.

# %%
logits = np.log(p)[:, None]  # (time, batch, classes); logarithms of probabilities are logits
loss, _ = gl.nn.ctc(logits, np.array([[1]]))  # the right text is "a", class 1
print(f"gl.nn.ctc: the text a has {np.exp(-loss):.2f}")

names = "_a"
(greedy,) = gl.nn.ctc_greedy(logits)
((best,),) = gl.nn.ctc_beam(logits)  # one sequence, and of it the one best text
print(f'along the likeliest path: "{"".join(names[k] for k in greedy)}"')
print(f'the likeliest text:       "{"".join(names[k] for k in best.labels)}"')

# %% [markdown]
# To read the likeliest path is called [greedy decoding](glossary.ipynb#greedy-decoding). `ctc_beam` is a
# [beam search](glossary.ipynb#beam-search): it follows several beginnings at once, adds up the paths of each, and so finds the *a*.
#
# ## Your turn, first: two other frames
#
# Now *a* has 0.3 in both frames, and the blank 0.7. What is the probability of the text *a*?

# %% tags=["exercise"]
p_a = 0.3 * 0.3  # ← your turn: this is the path aa

# %%
check("24.two-frames", p_a)

# %% [markdown] tags=["hint"]
# Look at the table above: three of the four paths are read as *a*.

# %% [markdown] tags=["hint"]
# The paths are `_a`, `a_` and `aa`. The first has 0.7 · 0.3.

# %% tags=["solution"]
p_a = 0.7 * 0.3 + 0.3 * 0.7 + 0.3 * 0.3

# %% [markdown]
# ## Your turn: collapse
#
# Write the rule itself. `collapse` gets a path as a string, one character for each frame, `_` is the blank. It returns the text. Repeats in a row are
# one letter, and blanks are dropped. But a blank *between* two equal letters keeps them apart: `e_e` is *ee*.


# %% tags=["exercise"]
def collapse(path):
    text = path.replace("_", "")  # ← your turn: the blanks are gone, but repeats are not merged
    return text


# %%
check("24.collapse", collapse)

# %% [markdown] tags=["hint"]
# In which order? If the blanks go first, `e_e` and `ee` are the same, and no double letter survives.

# %% [markdown] tags=["hint"]
# Walk through the path and remember the character of the frame *before*, blank or not. Write a letter down if it is no blank and
# differs from that.


# %% tags=["solution"]
def collapse(path):
    text, before = "", "_"
    for character in path:
        if character != before and character != "_":
            text += character
        before = character
    return text


# %% [markdown]
# ## Words to learn from, words to be judged by
#
# There are seven sounds. The network learns from 800 strings of random letters, such as `uam` or `siooe`, spoken once each. It is
# judged by twenty words, *museum* and *issue* among them, that are **not** among these strings.

# %%
rng = np.random.default_rng(0)
strings = []
while len(strings) < 800:
    string = "".join(rng.choice(list(LETTERS), rng.integers(2, 7)))
    if string not in WORDS:
        strings.append(string)

heard = [spectrogram(speak(string, rng)[0]) for string in strings]
labels = [np.array([1 + LETTERS.index(letter) for letter in string]) for string in strings]
print("first string:", strings[0], " labels", labels[0], " frames", heard[0].shape)

# %% [markdown]
# The network is an LSTM that reads the frames in both directions, and a linear layer with one logit for each letter and one for
# the blank.

# %%
HIDDEN = 32
model = gl.nn.Sequential(
    gl.LSTM(BANDS, HIDDEN, bidirectional=True, init="glorot", xp=xp, rng=rng),
    gl.nn.Linear(2 * HIDDEN, 1 + len(LETTERS), xp=xp, rng=rng),
)
history = gl.fit(
    model,
    gl.nn.ctc,
    (heard, labels),
    steps=500,
    batch_size=16,
    optimiser=gl.training.Adam(),
    schedule=gl.training.schedules.warmup_cosine(0.01, 25, 500),
    clip_norm=1.0,
    rng=0,
    progress=False,
)
fallen = history["loss"][-1] < history["loss"][0] / 10
print("The loss has fallen to less than a tenth:", fallen)

# %% [markdown]
# ## What it writes


# %%
def listen(waves):
    """The logits of a batch of waves, and the number of frames of each."""
    heard = [spectrogram(wave) for wave in waves]
    lengths = np.array([len(frames) for frames in heard])
    x = np.zeros((lengths.max(), len(waves), BANDS), np.float32)
    for n, frames in enumerate(heard):
        x[: lengths[n], n] = frames
    return model(xp.asarray(x), lengths=lengths), lengths


def write(waves):
    logits, lengths = listen(waves)
    written = gl.nn.ctc_greedy(logits, lengths=lengths)
    return ["".join(LETTERS[label - 1] for label in one) for one in written]


def errors(said, written):
    """Letters missing, too many or wrong, as a share of all letters that were said."""
    return sum(map(letter_errors, written, said)) / sum(map(len, said))


# %% tags=["nbval-ignore-output"]
exam = np.random.default_rng(1)
said = [word for word in WORDS for _ in range(5)]  # each by five voices
written = write([speak(word, exam)[0] for word in said])
right = sum(a == b for a, b in zip(said, written, strict=True))
print(
    f"{right} of {len(said)} words without a mistake, letter errors {errors(said, written):.1%}"
)
for word, text in list(zip(said, written, strict=True))[::5]:
    print(f"{word:8} {text}")

# %%
print("Letter errors below 3 in 100:", errors(said, written) < 0.03)

# %% [markdown]
# It writes words that it had never heard, and nobody told it when a letter was. That is a **perfect or nearly perfect score on a toy task**,
# no more: seven sounds, each always made by the same recipe, clean pauses between double letters, a voice that exists only in thirty lines of
# Python. English spells one sound in many ways, and its sounds run into each other.
#
# ## When does it say what?
#
# The network had to find the *when* on its own. Has it? Here is *mouse* again, and below it what is said in each frame.

# %%
logits, lengths = listen([wave])
logits = backend.to_numpy(logits)[:, 0]  # (frames, classes)
p = np.exp(logits - logits.max(axis=1, keepdims=True))
p /= p.sum(axis=1, keepdims=True)  # (frames, classes)
figure = lesson_24_drawings.said_by_frame(wave, "mouse", places, p, "_" + LETTERS)
figures.show(
    figure,
    alt="""Above, the spectrogram of mouse with its letters and dotted lines between them.
    Below, on the same time, a row for the blank and one for each of the seven letters; dark
    is likely. The dark places step through the rows m, o, u, s and e in this order, each
    while the letter is heard. Before the first and after the last letter the blank's row is
    dark.""",
)
print("read along the likeliest path:", write([wave])[0])

# %% [markdown]
# Each letter is said while it sounds. For the sum over paths it does not matter in how many frames: some are said for as long as
# they last, others once, followed by blanks. Only the order counts.
#
# ## And in noise?
#
# While learning, it never heard noise of a standard deviation above 0.1. Now 0.3:

# %%
loud = [speak(word, exam, noise=0.3)[0] for word in said]
share = errors(said, write(loud))
print("Letter errors in noise it has never heard, more than half:", share > 0.5)

# %% [markdown]
# **Useless.** You would still understand a friend through that noise. A score holds for the kind of data that it was measured on.
# For another kind, measure again, or learn from that kind, too.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# A text has the letters *see*. How many frames are needed at least?
#
# Four. Three letters, and a blank between the two *e*, for `see` would be read as *se*: `se_e`.

# %% [markdown] tags=["question"]
# Why does the blank exist? Could silence not simply be a letter of its own?
#
# Silence is a sound, and a blank is not: it says "nothing new", also in the middle of a vowel. It keeps double letters apart, and lets the
# network write a letter in one frame and then wait.

# %% [markdown] tags=["question"]
# The LSTM reads in both directions. What does that cost?
#
# It must hear the end before it can write the beginning, so it cannot write along while somebody speaks.

# %% [markdown]
# ## In short
#
# - A spectrogram says how loud each frequency is in each frame. Vowels differ in their two formants.
# - [CTC](glossary.ipynb#ctc) adds up all paths that are read as the right text. So it needs no times, only the order.
# - A path is read by merging repeats first and dropping each [blank](glossary.ipynb#blank) then.
# - [Greedy decoding](glossary.ipynb#greedy-decoding) reads the likeliest path; a [beam search](glossary.ipynb#beam-search) looks for the
#   likeliest text. They can differ.
# - A perfect score on a toy is one on a toy. It did not even hold for the same toy in more noise.
#
# ## What next
#
# Let `speak` have noise up to 0.4: in the cell of the 800 strings write `speak(string, rng, noise=rng.uniform(0.01, 0.4))`. Predict
# first: what becomes of the errors in noise, and what of those without?
#
# Then go on to [lesson 25](25_ablation.ipynb): which of the gates could an LSTM do without?
