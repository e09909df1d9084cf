# %% [markdown]
# # 23 · Sentiment: what "not" does
#
# *The coffee is very good.* *The coffee is not very good.* One small word, and the verdict turns round; but only two words later.
# What does an LSTM do with the *not* in the meantime? You train one, watch its memory word by word, and then operate on it.
#
# **Afterwards you can**
# - show in which state a *not* is kept, from where to where;
# - read a batch of sentences of different lengths so that no result depends on the padding;
# - tell what a test with known words can prove, and what it cannot.

# %% tags=["start"]
from lab import check, figures, start

xp = start("vaderSentiment")  # numpy, or cupy with a GPU; this small network is quick in numpy

# %%
from importlib.resources import files

import numpy as np
from lab.lesson_23_drawings import along, padded_batch

import gpulstm as gl

# %% [markdown]
# ## The picture
#
# Sentences have different lengths, an array has one. So short sentences are filled up with zeros,
# [padding](glossary.ipynb#padding). Each has its own last word, and there its verdict must be read:

# %%
shown = [
    "the coffee is not very good".split(),
    "the soup was awful".split(),
    "the film is good but very sad".split(),
]
figures.show(
    padded_batch(shown),
    alt="""Three sentences, one in each row, one word in each box, in columns t = 0 to 6.
    The first has six words, the second four, the third seven. The last word of each row,
    good, awful and sad, is dark: they stand in different columns. The boxes behind it, one
    in the first row and three in the second, hold a 0 and are hatched: padding.""",
)

# %% [markdown]
# Hatched is padding, dark is where to read. An LSTM that reads on through the hatched boxes changes its states there: zeros
# go in, but the biases are no zeros, and the gates go on working on what is in the states.
#
# ## Predict first
#
# The network will give its opinion *so far* after each word: above zero is praise, below is blame. In *the coffee is not very
# good*, at the word **not**:
#
# - A. Does the opinion change?
# - B. Does the cell state change?
#
# And then an operation. One network has read *the coffee is not*, another *the coffee is*. We take the states out of the
# first and put them into the second, and let it read on: *very good*.
#
# - C. Will it praise or blame?
#
# ## The words
#
# VADER is a list of some 7500 English words that ten people each have rated, from −4, the worst, to 4, the best. It is free (MIT
# licence), and we read nothing but its list. Of these words we take forty adjectives.

# %%
lexicon = (files("vaderSentiment") / "vader_lexicon.txt").read_text(encoding="utf-8")
rating = {line.split("\t")[0]: float(line.split("\t")[1]) for line in lexicon.splitlines()}

PRAISE = """good great nice excellent wonderful lovely pleasant perfect beautiful fresh strong
    warm fine delightful friendly impressive charming amazing fantastic enjoyable""".split()
BLAME = """bad terrible awful boring ugly weak bitter nasty disgusting poor sad dreadful
    disappointing unpleasant lousy miserable stupid dull rotten tragic""".split()
print(", ".join(f"{word} {rating[word]}" for word in ["good", "great", "fine", "bad", "dull"]))

# %% [markdown]
# ## The sentences
#
# They are made here, by a rule, and this is a toy. The rule's two numbers are VADER's own: *very* pushes a rating by 0.293 farther
# from zero, *not* multiplies it by −0.74. Two halves with a *but* between them are added up.
#
# | | |
# |---|---|
# | good | 1.9 |
# | very good | 1.9 + 0.293 = 2.19 |
# | not good | −0.74 · 1.9 = −1.41 |
# | not very good | −0.74 · 2.193 = −1.62 |
#
# (Here you may disagree: to many people *not very good* sounds milder than *not good*. To VADER's rule it is worse. The network
# will learn the opinion of its teacher.)


# %%
def half(words, rng):
    """Some words, and by how much each of them moves the opinion."""
    word, has_not, has_very = words[rng.integers(len(words))], rng.integers(2), rng.integers(2)
    tone = rating[word] + 0.293 * has_very * np.sign(rating[word])
    tone = tone * -0.74 if has_not else tone
    said = ["not"] * has_not + ["very"] * has_very
    return [*said, word], [0.0] * len(said) + [tone]


def sentence(words, rng):
    """A sentence, and the opinion so far at each of its words."""
    said = ["the", rng.choice(["coffee", "soup", "film"]), rng.choice(["is", "was"])]
    moves = [0.0, 0.0, 0.0]
    for number in range(1 + rng.integers(2)):
        more, tones = half(words, rng)
        but = ["but"] * (number > 0)
        said, moves = said + but + more, moves + [0.0] * len(but) + tones
    return " ".join(said), np.cumsum(moves)


text, opinion = sentence(PRAISE + BLAME, np.random.default_rng(3))
for word, so_far in zip(text.split(), opinion, strict=True):
    print(f"{word:12} {so_far:5.2f}")

# %% [markdown]
# **Held out:** every sentence in which *not very good* occurs. In training the network meets *not good*, *very good* and *not very
# bad*, but never these three in a row. Beside them, 300 others that are not in the training either.


# %%
def collect(number, words, rng, wanted):
    found = {}
    while len(found) < number:
        text, opinion = sentence(words, rng)
        if wanted(text):
            found[text] = opinion
    return found


rng, known = np.random.default_rng(1), PRAISE + BLAME
learning = collect(2000, known, rng, lambda text: "not very good" not in text)
tests = {
    "not very good": collect(100, known, rng, lambda text: "not very good" in text),
    "other new ones": collect(300, known, rng, lambda text: text not in learning),
}
WORDS = sorted({*known, *"the coffee soup film is was not very but superb horrible".split()})
number_of = {word: number for number, word in enumerate(WORDS)}


def numbers(text):
    return np.array([number_of[word] for word in text.split()])


print(len(learning), "to learn from,", len(WORDS), "words")

# %% [markdown]
# ## The network
#
# Each word becomes 8 learnt numbers, an [embedding](glossary.ipynb#embedding); an LSTM of 16 units reads them; a
# linear layer makes the opinion of each hidden state. `gl.fit` puts the sentences into batches, pads them and hands the lengths
# on to the LSTM and to the loss, so that no padding is ever counted.

# %%
draw, kind = np.random.default_rng(1), {"dtype": "float64"}
embedding = gl.nn.Embedding(len(WORDS), 8, rng=draw, **kind)
lstm = gl.LSTM(8, 16, init="glorot", rng=draw, **kind)
linear = gl.nn.Linear(16, 1, rng=draw, **kind)
model = gl.nn.Sequential(embedding, lstm, linear)

history = gl.fit(
    model,
    gl.nn.mean_squared_error,
    ([numbers(text) for text in learning], [one[:, None] for one in learning.values()]),
    epochs=8,
    optimiser=gl.training.Adam(0.02),
    schedule=gl.training.schedules.warmup_cosine(0.02, 25, 504),  # 504 batches in all
    clip_norm=1.0,
    rng=1,
    progress=False,
)


# %% [markdown]
# Now the judgement, beside a simple rule: add up the ratings, whatever stands around them.


# %%
def opinions(text):
    """After each word of a sentence."""
    return model(numbers(text)[:, None])[:, 0, 0]


def adding_up(text):
    return sum(rating[word] for word in text.split() if word in known)


for name, test in tests.items():
    truth = np.array([opinion[-1] for opinion in test.values()])
    for who, judge in [("LSTM", lambda text: opinions(text)[-1]), ("adding up", adding_up)]:
        found = np.array([judge(text) for text in test])
        miss, side = np.abs(found - truth).mean(), np.mean((found > 0) == (truth > 0))
        print(f"{name:15} {who:10} misses by {miss:.1f} on average,", end=" ")
        print(f"{'nearly always' if side > 0.9 else 'often not'} on the right side of zero")

# %% [markdown]
# The LSTM has learnt the rule, for combinations that it has never met. Adding up ratings cannot: it does not hear the *not*. (And
# the rule itself, five lines of Python, makes no mistake at all. Remember that this is a toy.)
#
# ## What "not" does

# %%
text = "the coffee is not very good but fresh"


def states(text):
    """The state after each word."""
    found, state = [], None
    for word in numbers(text):
        _, state = lstm(embedding(np.array([[word]])), state)
        found.append(state)
    return found


memory = np.array([state.c[0, 0] for state in states(text)])  # (8 words, 16 units)
jump = np.abs(memory[3] - memory[2])  # from "is" to "not"
units = np.argsort(-jump)[:5]

so_far, words = opinions(text), text.split()
figures.show(
    along(words, so_far, memory[:, units], units),
    alt=f"""Two drawings over the words of: {text}. Above, the opinion so far. It stays at
    zero up to and including not and very, falls at good, and rises again at fresh. Below, a
    heat map of the cell state of five units, those that change most at not. At not all five
    jump to the other side of zero, and they stay there at very. Two of them leave that
    place at good, the other three at but.""",
)
calm = np.abs(so_far[:5]).max() < 0.15
print("the opinion stays near zero before good:", calm, "- at good it is", f"{so_far[5]:.1f}")

# %% [markdown]
# **A. The opinion does not change at *not*.** There is nothing to praise or blame yet.
#
# **B. The cell state changes a lot.** All five units turn round at *not*, and wait. At *very* they still wait. At *good* they meet
# what they have waited for, and the opinion falls to −1.6. Two of them let go at once, the other three at *but*, and so *fresh*
# counts as praise: the opinion rises to −0.3, the sum of both halves.
#
# That is what a memory is for. The word works *later*, so something must keep it *without showing it*: the
# [cell state](glossary.ipynb#cell-state) does.
#
# ## The operation
#
# Now C. Both networks read the same two words, *very good*. All that differs is the state in which they begin.

# %%
with_not, without = states("the coffee is not")[-1], states("the coffee is")[-1]


def goes_on(state, text="very good"):
    y, _ = lstm(embedding(numbers(text)[:, None]), state)
    return linear(y)[-1, 0, 0]


print(f"its own states:            {goes_on(without):5.1f}")
print(f"both states of 'not':      {goes_on(with_not):5.1f}")
print(f"only the cell state c:     {goes_on(gl.State(without.h, with_not.c)):5.1f}")
print(f"only the hidden state h:   {goes_on(gl.State(with_not.h, without.c)):5.1f}")

# %% [markdown]
# **C. It blames.** With the states of the other, it behaves as if it had read the *not* itself: all that an LSTM knows of the past is
# in its two states. And of the two it is the **cell state** that keeps the *not*: alone it turns praise into blame, while the
# hidden state alone changes little.
#
# Was that luck? With five other draws of the network, c alone took away all praise each time (the opinion was between −0.9 and
# −0.1), and h alone never did (between 0.8 and 2.3). So most of it is in c, and how much exactly is chance.
#
# ## Known words only
#
# *superb* and *horrible* are in VADER, and the network has a vector for each, but no training sentence had them in it:

# %%
for word in ("great", "superb", "bad", "horrible"):
    judged = opinions(f"the coffee is {word}")[-1]
    print(f"the coffee is {word:8}  VADER {rating[word]:4.1f}, LSTM {judged:4.1f}")

# %% [markdown]
# For the two new words it says whatever the random vectors happen to give. So its good score above is a score on
# **known words in new combinations**. How it deals with the words of real people, it does not say. For that one needs far more
# text, and vectors of words that were learnt from it.
#
# ## Your turn: a batch, read right
#
# Write the function that reads sentences of different lengths at once: it gets an LSTM and a list of arrays, each (words,
# features), and returns the [hidden state](glossary.ipynb#hidden-state) of each sentence at its last word, (sentences,
# hidden). Whatever the other sentences in the batch are, the result for a sentence must be the same as if it were alone.


# %% tags=["exercise"]
def read_batch(lstm, sentences):
    lengths = np.array([len(sentence) for sentence in sentences])
    x = np.zeros((lengths.max(), len(sentences), sentences[0].shape[1]))
    for n, sentence in enumerate(sentences):
        x[: len(sentence), n] = sentence  # behind it, zeros: the padding
    y, state = lstm(x)
    return y[-1]  # ← your turn


# %%
check("23.read-batch", read_batch)

# %% [markdown] tags=["hint"]
# `y[-1]` is the last *column* of the picture. Where in `y` is the last word of sentence n? An LSTM that reads forwards
# does not know yet, at that place, what comes behind it.

# %% [markdown] tags=["hint"]
# Two ways. Pick from y: `y[lengths - 1, np.arange(len(lengths))]` takes one place for each sentence. Or tell the LSTM:
# `lstm(x, lengths=lengths)`; then each final state is that at the sentence's own last word, and `state.h` is (1, sentences, hidden).


# %% tags=["solution"]
def read_batch(lstm, sentences):
    lengths = np.array([len(sentence) for sentence in sentences])
    x = np.zeros((lengths.max(), len(sentences), sentences[0].shape[1]))
    for n, sentence in enumerate(sentences):
        x[: len(sentence), n] = sentence  # behind it, zeros: the padding
    y, state = lstm(x, lengths=lengths)
    return state.h[0]


# %% [markdown]
# With our network, the sentence about the soup in the picture's batch: read in the right place, and at the end of its padding.

# %%
lengths = np.array([len(one) for one in shown])
batch = np.zeros((lengths.max(), len(shown)), dtype=int)  # 0 is a word here, too: a trap
for n, one in enumerate(shown):
    batch[: len(one), n] = numbers(" ".join(one))

alone = opinions("the soup was awful")[-1]
masked = model(batch, lengths=lengths)[lengths[1] - 1, 1, 0]
ignored = model(batch)[-1, 1, 0]
print(f"word number 0 is {WORDS[0]!r}")
print(f"alone {alone:.1f}, in the batch with lengths {masked:.1f}, without {ignored:.1f}")

# %% [markdown]
# Here the padding is even a word, and a friendly one: without the lengths, the network reads *the soup was awful amazing amazing
# amazing*. With the lengths, it does not matter what stands behind the end. That is [masking](glossary.ipynb#masking), and a good
# test of it: fill the padding with nonsense, and see that nothing changes.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# The opinion is made of the hidden state. The hidden state changes at *not*, too. How can the opinion stay at zero?
#
# The linear layer is a weighted sum of 16 numbers. Some rise, some fall, and training has chosen the weights such that at *not* they
# cancel. The next step of the LSTM has weights of its own, and sees the difference.

# %% [markdown] tags=["question"]
# A loss is the mean over all places of a batch, padding included. What is wrong, if the network never sees the padding?
#
# The mean counts places where there is nothing to learn. A batch with much padding gets a smaller loss and a smaller gradient, so the
# result depends on which sentences happen to stand together. Divide by the number of real words.

# %% [markdown] tags=["question"]
# "97 percent of held-out sentences right." Which two questions do you ask about the held-out sentences?
#
# Who wrote them: a rule, as here, or people? And were their *words* new, or only their combinations?

# %% [markdown]
# ## In short
#
# - *not* is stored, not said: the [cell state](glossary.ipynb#cell-state) changes at once, the output when the adjective comes.
# - All that an LSTM knows of the past is in its two states. Who exchanges them exchanges its past.
# - Pad, and then [mask](glossary.ipynb#masking): read each sentence at its own end, count only real words in the loss.
# - Tested on known words, with sentences made by a rule. Whoever shows the score says that, too.
#
# ## What next
#
# Put a second *not* into a sentence: *the coffee is not not good*. The rule has no such sentence. Predict with `opinions(...)`: does the
# second one turn the first one round?
#
# Then go on to [lesson 24](24_speech.ipynb): from sounds to letters.
