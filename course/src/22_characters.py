# %% [markdown]
# # 22 · A character model
#
# Guess the next letter: *th* ... Most likely an *e*. You did not look that up; you have read a lot. Today an LSTM reads half a
# million characters, once, and does nothing else than guess the next one. Then you let it write.
#
# **Afterwards you can**
# - train a character model, and judge it in bits against simple counting;
# - choose how boldly it writes, with a temperature and with top-k, and measure the effect as an entropy;
# - find out what one cell keeps track of, and check that you did not fool yourself.

# %% tags=["start"]
from lab import check, figures, slider, start

xp = start()  # numpy, or cupy with a GPU: the cells are the same for both

# %%
import pydoc_data.topics

import matplotlib.pyplot as plt
import numpy as np
from lab import backend, lesson_22_drawings

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
figures.show(*lesson_22_drawings.task("while"))

# %% [markdown]
# The question is a letter, and the answer is the next letter of the same text. So any text is an exercise book with its solutions,
# and nobody must label anything. What the [character model](glossary.ipynb#character-model) gives is not one letter, but a
# probability for each.
#
# ## Predict first
#
# 1. There are about a hundred different characters, and so 6 to 7 yes-or-no questions, *bits*, to find out one of them. If you know
#    the letter before, about 3 are left. How many will be left to an LSTM that has read the text once?
# 2. When it is trained, we let it write, and each time it must take the **likeliest** character. Will it write (a) the
#    best English that it can, (b) the same few words in a circle, (c) noise?
#
# ## The text
#
# Each Python brings along the help on its language, `help("while")` for example. It is English, with some code in
# it, and free to use. Your Python's version may have a slightly different one than ours. The topics are in order of the
# alphabet; the last 40 000 characters are [held out](glossary.ipynb#held-out-data).

# %%
topics = pydoc_data.topics.topics
text = "\n\n".join(topics[name] for name in sorted(topics))
alphabet = sorted(set(text))  # the characters that there are
number_of = {character: number for number, character in enumerate(alphabet)}


def encode(some_text):
    return np.array([number_of[character] for character in some_text], np.int32)


def decode(numbers):
    return "".join(alphabet[number] for number in numbers)


numbers = encode(text)  # (time,)
train, held_out = numbers[:-40_000], numbers[-40_000:]

# %% tags=["nbval-ignore-output"]
print(f"{len(text) / 1e6:.2f} million characters, {len(alphabet)} different ones")
print(decode(encode("Letters become numbers and letters again.")))

# %% [markdown]
# For training the text is cut into pieces of 50 characters, as in lesson 11. A piece's targets are its own characters moved
# by one:


# %%
def pieces(numbers, length=50):
    count = (len(numbers) - 1) // length
    x = numbers[: count * length].reshape(count, length)
    target = numbers[1 : count * length + 1].reshape(count, length)
    return x, target


x, target = pieces(encode("The while statement is used for repeated execution."))
print("x      ", decode(x[0]))
print("target ", decode(target[0]))

# %% [markdown]
# ## What simple counting achieves
#
# The loss is the [entropy](glossary.ipynb#entropy)'s sister: $-\log_2$ of the probability that the model gave to the character
# that really came. On average these are the questions that are left. Somebody who knows nothing gives each character the same.
# Somebody who has counted how often each letter follows each other one knows more:

# %%
size = len(alphabet)
how_often = np.bincount(train[:-1] * size + train[1:], minlength=size**2)
pairs = how_often.reshape(size, size) + 0.02  # a pair that never came is not impossible
p_after = pairs / pairs.sum(axis=1, keepdims=True)

bits = {"nothing known": np.log2(size)}
exam = held_out[10_000:]  # the first part is for looking on while training
bits["pairs counted"] = -np.log2(p_after[exam[:-1], exam[1:]]).mean()
for name, value in bits.items():
    print(f"{name}: {value:.0f} bits")

# %% [markdown]
# ## The model
#
# An [embedding](glossary.ipynb#embedding) gives each character a vector, the LSTM reads them, and a linear layer makes a
# [logit](glossary.ipynb#logit) for each character that might be next. `gl.fit` trains it, once through the text. That takes
# some seconds. With a GPU the LSTM has 512 units instead of 96; where these come to something else, it is said below.

# %%
HIDDEN = 96 if xp is np else 512
rng = np.random.default_rng(0)
model = gl.nn.Sequential(
    gl.nn.Embedding(size, 24, xp=xp, rng=rng),
    gl.LSTM(24, HIDDEN, init="glorot", xp=xp, rng=rng),
    gl.nn.Linear(HIDDEN, size, xp=xp, rng=rng),
)
steps = len(pieces(train)[0]) // 16 // 12 * 12  # 16 pieces each; twelve looks on the way
history = gl.fit(
    model,
    gl.nn.cross_entropy,
    pieces(train),
    steps=steps,
    batch_size=16,
    optimiser=gl.training.Adam(),
    schedule=gl.training.schedules.warmup_cosine(0.01, steps // 10, steps),
    clip_norm=1.0,
    validation=pieces(held_out[:10_000]),
    evaluate_every=steps // 12,
    rng=0,
    progress=False,
)

# %%
in_bits = 1 / np.log(2)  # the library's loss has natural logarithms
read = np.array(history["step"]) * 16 * 50 / 1000
figure, axes = plt.subplots(figsize=(7, 3.4))
axes.plot(read, np.array(history["loss"]) * in_bits, label="while training")
axes.plot(read, np.array(history["validation_loss"]) * in_bits, label="held-out text")
axes.axhline(bits["pairs counted"], color="0.3", linewidth=1, linestyle=":")
axes.text(read[-1], bits["pairs counted"] + 0.08, "pairs counted", ha="right")
axes.set(xlabel="thousands of characters read", ylabel="bits a character", ylim=(0, 6))
axes.legend(loc="lower left")
end = "two and a half" if HIDDEN == 96 else "two"
figures.show(
    figure,
    alt=f"""The loss in bits a character over the number of characters read, from 0 to some 400
    thousand, for the training text and the held-out one. Both curves fall steeply at first.
    They cross the dotted line of the counted pairs, which lies at about 3 bits, within the
    first half, and end at about {end} bits, close to each other.""",
)

# %% [markdown]
# Why does the held-out text lie *below* the other one with 96 units? Nothing leaked: these topics happen to be easier to guess. (With 512
# the curves meet.) So compare two models on the same text, and draw no conclusion from one model on two texts.
#
# For the judgement it reads the rest of the held-out text, which had no say in anything. It does so in one go and never loses
# its memory:

# %% tags=["nbval-ignore-output"]
logits = backend.to_numpy(model(xp.asarray(exam[:-1, None])))  # (time, 1, characters)
loss, _ = gl.nn.cross_entropy(logits, exam[1:, None])
bits["LSTM"] = float(loss) * in_bits
for name, value in bits.items():
    print(f"{name:14} {value:.2f} bits, so one character in {2**value:.0f}")

# %%
gained = bits["pairs counted"] - bits["LSTM"]
print(
    "The LSTM needs fewer than the pairs:", "half a bit or more" if gained > 0.5 else "hardly"
)

# %% [markdown]
# About **two and a half** bits, where counted pairs leave more than 3. As if there were not a hundred characters to choose from, but five or six.
# (With 512 units it is less than two, as if there were four.) The
# whole advantage over the pairs is memory: the LSTM knows what came before the last letter.
#
# ## Let it write
#
# `gl.generate` reads a prompt, draws a character, reads that, draws the next. First without any chance, which is
# a temperature of 0: always the likeliest.

# %% tags=["nbval-ignore-output"]
prompt = encode("The ")
(likeliest,) = gl.generate(model, prompt, 300, temperature=0)
print("The " + decode(likeliest))

# %%
written = decode(likeliest)
stretches = [written[k : k + 20] for k in range(len(written) - 20)]
repeated = 1 - len(set(stretches)) / len(stretches)
print("More than half of it had stood there before:", repeated > 0.5)

# %% [markdown]
# **In a circle.** Each single choice was the best one, and together they are useless. After a few words the state is nearly what
# it was a few words ago, and so the same follows again. Who writes must dare something.
#
# ## Temperature and top-k
#
# So the next character is *drawn*. How boldly, two knobs say:
#
# - The [temperature](glossary.ipynb#temperature) $T$ divides all logits before the softmax. $T < 1$ makes large differences larger, and
#   the likely still likelier. $T > 1$ evens them out.
# - [Top-k](glossary.ipynb#top-k) allows the $k$ likeliest characters alone. The others get the probability 0.
#
# Here are eight logits, made up. Turn both knobs, and watch the number of bits in the title:

# %%
slider(lesson_22_drawings.choices, temperature=(0.2, 3.0, 0.1, 1.0), top_k=(1, 8, 1, 8))

# %% [markdown]
# This number is the **entropy** of the choice, $-\sum_k p_k \log_2 p_k$: how many questions are open before the draw. A coin
# has 1 bit. It is 0 if all is certain.

# %% tags=["nbval-ignore-output"]
draw, from_pairs = np.random.default_rng(0), list(prompt)
for _ in range(240):  # each character drawn from those that were counted after the last one
    from_pairs.append(draw.choice(size, p=p_after[from_pairs[-1]]))
print(f"---- counted pairs, no LSTM ----\n{decode(from_pairs)}\n")

for temperature in [0.5, 1.0, 1.5]:
    (drawn,) = gl.generate(model, prompt, 240, temperature=temperature, rng=0)
    print(f"---- temperature {temperature} ----\nThe {decode(drawn)}\n")
(drawn,) = gl.generate(model, prompt, 240, temperature=1.0, top_k=5, rng=0)
print(f"---- temperature 1, the 5 likeliest ----\nThe {decode(drawn)}")

# %% [markdown]
# Two letters in a row are fine in the counted pairs, and hardly any word is. The LSTM at 0.5 writes many words that exist. At 1 they look as if they
# did. At 1.5 it falls apart. None of it means anything: half a million
# characters and a few seconds are enough for how English words are built, not for more.
#
# ## Your turn, first: the entropy
#
# Write it, in bits, for probabilities `p`. Some may be 0: they add nothing.


# %% tags=["exercise"]
def entropy(p):
    return ...  # ← your turn


# %%
check("22.entropy", entropy)

# %% [markdown] tags=["hint"]
# `np.log2`, a product, a sum, and a minus in front. That much passes the coin.

# %% [markdown] tags=["hint"]
# `0 * np.log2(0)` is not a number in NumPy. `p[p > 0]` leaves the zeros out.


# %% tags=["solution"]
def entropy(p):
    p = p[p > 0]
    return -np.sum(p * np.log2(p))


# %% [markdown]
# ## Your turn: both knobs
#
# Write the function that makes the probabilities to draw from. It gets `logits` `(characters,)`, a temperature above 0, and `top_k`, from 1 to
# the number of characters. It returns an array of the same shape that adds up to 1. You may take it that no two logits are
# equal.
#
# The check looks at the values and at the entropy, and compares with what `gl.generate` draws.


# %% tags=["exercise"]
def distribution(logits, temperature, top_k):
    a = logits  # ← your turn: temperature and top_k
    e = np.exp(a - a.max())
    return e / e.sum()


# %%
check("22.sampling", distribution)

# %% [markdown] tags=["hint"]
# The temperature is one division, in the marked line. For top-k find the smallest logit that may stay: `np.sort` begins with the
# smallest, so it stands at `[-top_k]`.

# %% [markdown] tags=["hint"]
# What is out must have the probability 0 after `exp`. `exp` of minus infinity is 0: `np.where(a >= smallest, a, -np.inf)`. The
# softmax below then adds up to 1 by itself.


# %% tags=["solution"]
def distribution(logits, temperature, top_k):
    a = logits / temperature
    smallest = np.sort(a)[-top_k]
    a = np.where(a >= smallest, a, -np.inf)
    e = np.exp(a - a.max())
    return e / e.sum()


# %% [markdown]
# ## What does a cell remember?
#
# The model has one number of memory for each unit, and nobody told it what to keep there. Can you find out? We ask three
# questions to which the text knows the answers: how many letters of the word have been read, how far we are in the line, and
# whether we are between quotation marks.


# %%
def answers_in(some_text):
    """For each character: letters of its word so far, place in its line, in quotes or not."""
    word, place, quoted, rows = 0, 0, False, []
    for character in some_text:
        word = word + 1 if character.isalnum() else 0
        place = 0 if character == "\n" else place + 1
        quoted = quoted != (character == '"')
        rows.append((word, place, quoted))
    return np.array(rows, dtype=float)  # (time, 3)


def memory(numbers):
    """The cell state after each character, (time, hidden)."""
    state, kept = None, []
    for number in numbers:
        _, state = model.stream(xp.asarray([[number]], np.int32), state)
        kept.append(backend.to_numpy(state[0].c[0, 0]))
    return np.array(kept)


print(answers_in('a "bc"\nd')[:, 0], "letters of the word, for each character")

# %% [markdown]
# Now comes a trap. There are many cells, and if you look at all of them for the one that fits best, *some* cell will always
# look good by chance. Two precautions: we **search in one passage and judge in another** that had no part in the search. And we
# also ask five questions that no text can answer: five coins, tossed anew every 200 characters.


# %%
def coins(length, rng):
    tosses = rng.integers(0, 2, (length // 200 + 1, 5))
    return np.repeat(tosses, 200, axis=0)[:length]  # (time, 5)


def likeness(cells, wanted):
    """The correlation of each cell with each answer, (hidden, answers): 1 or -1 is perfect."""
    cells, wanted = cells - cells.mean(axis=0), wanted - wanted.mean(axis=0)
    lengths = np.sqrt(np.outer((cells**2).sum(axis=0), (wanted**2).sum(axis=0)))
    return cells.T @ wanted / (lengths + 1e-12)


# %%
search = decode(held_out[:4000])
judge = topics["while"] + "\n\n" + topics["with"]  # the end of the alphabet: held out as well
cells, tables, rng = {}, {}, np.random.default_rng(0)
for passage in (search, judge):
    cells[passage] = memory(encode(passage))
    wanted = np.column_stack([answers_in(passage), coins(len(passage), rng)])
    tables[passage] = likeness(cells[passage], wanted)  # (hidden, 8)

best = np.abs(tables[search]).argmax(axis=0)  # one cell for each question
there, here = (tables[passage][best, range(8)] for passage in (search, judge))
here = here * np.sign(there)

# %% tags=["nbval-ignore-output"]
questions = ["letters of the word", "place in the line", "in quotes"]
questions += [f"coin {n}" for n in range(1, 6)]
print("                     best cell   where searched   elsewhere")
for k, question in enumerate(questions):
    print(f"{question:20} {best[k]:9} {abs(there[k]):16.2f} {here[k]:11.2f}")

# %%
print("A cell follows the letters of the word, elsewhere too:", here[0] > 0.4)
print("Coins, on average: found where searched:", np.abs(there[3:]).mean() > 0.15, end=", ")
print("found elsewhere:", here[3:].mean() > 0.15)

# %% [markdown]
# Your numbers may differ a little from ours. Look at the coins first. Where we searched, a cell was found for each of them, with a
# correlation of up to 0.4, and with 512 units, which are more to choose from, up to 0.5. Elsewhere some shrink, some change their sign, one even grows, and on average nothing is left: **there was
# nothing**. Searching alone would have
# fooled you.
#
# The letters of the word are another matter: some 0.6 in both passages. The place in the line holds, too. The quotation marks
# are a weak find with 96 units, hard to tell from a coin; with 512 a cell follows them in both passages.
#
# Here is the cell that counts letters, on the text of `help("while")`. The darker, the higher:

# %%
lines = topics["while"].split("\n")[:13]
values = np.sign(there[0]) * cells[judge][: len("\n".join(lines)) + 1, best[0]]
figure = lesson_22_drawings.coloured(lines, values, "One cell state, on text it has not seen")
figures.show(
    figure,
    alt="""The first lines of Python's help on the while statement, each character on a grey
    background; dark is a high value of one cell. In most of the long words the background is
    light at the first letters and darker towards the end. With the next word it begins
    anew.""",
)

# %% [markdown]
# Within a long word the memory climbs, and with the next word it begins anew: gates at work. What is it good for? We can only guess: the
# more letters of a word there are, the nearer is its end.
#
# It is *one* of many cells, and the one that we looked for. Most of the others follow nothing that we have a name for. In much larger
# models cells have been found that follow quotation marks over hundreds of characters
# ([Karpathy, Johnson and Fei-Fei 2015](https://arxiv.org/abs/1506.02078)).
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# A model leaves 3 bits a character. Between how many equally likely characters is it undecided?
#
# Between 8, for $2^3 = 8$. One bit less is half as many.

# %% [markdown] tags=["question"]
# A temperature of 0.01, or `top_k=1`: what is the difference?
#
# Almost none. Both take the likeliest character, practically always; the entropy is next to 0. (If two logits are very close, a
# temperature of 0.01 still draws between them.)

# %% [markdown] tags=["question"]
# Among 500 cells, one has a correlation of 0.4 with the position in the line. Have you found a line counter?
#
# You do not know yet. It is the best of 500, and the best of many looks good by chance. Judge it on text that had no part in
# the search.

# %% [markdown]
# ## In short
#
# - A [character model](glossary.ipynb#character-model) guesses the next character; any text is its own solution. It is judged in bits, on
#   held-out text, against counted pairs.
# - Always taking the likeliest, [greedy decoding](glossary.ipynb#greedy-decoding), goes in circles.
# - A low [temperature](glossary.ipynb#temperature) and a small $k$ in [top-k](glossary.ipynb#top-k) lower the
#   [entropy](glossary.ipynb#entropy) of each draw; top-k never allows more than $\log_2 k$ bits.
# - One [cell state](glossary.ipynb#cell-state) may follow something that we can name. Search in one text, judge in another.
#
# ## What next
#
# Predict, then try: `gl.generate(model, encode("The "), 240, temperature=2.0, top_k=3, rng=0)`, hot, but with three
# choices only. Better than temperature 1 with all of them, or worse?
#
# Then go on to [lesson 23](23_sentiment.ipynb): a network that reads words, and must not overlook a *not*.
