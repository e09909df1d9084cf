# %% [markdown]
# # 19 · Translation: encoder, decoder, attention
#
# English says *black coffee*, French says *café noir*: coffee black. To translate, it is not enough to replace word
# by word. In this lesson one LSTM reads an English sentence, a second one writes it in French, and between them stands
# a small piece of machinery that has changed the field: **attention**, the looking back.
#
# **Afterwards you can**
# - connect an encoder and a decoder by a state, and let the decoder look back at all words;
# - write the masked softmax, the heart of attention, so that padding gets nothing;
# - read an alignment map, and say what it shows and what it does not;
# - judge a perfect score by what the task was.

# %% tags=["start"]
from lab import check, figures, start

xp = start()  # numpy, or cupy with a GPU; this small network is quick in numpy

# %%
import numpy as np
from lab.lesson_19_drawings import reader_and_writer

import gpulstm as gl

# %% [markdown]
# ## The picture

# %%
figures.show(
    reader_and_writer(),
    alt="""On the left the encoder: four LSTM boxes read John, likes, black, coffee. Its
    last state h, c goes to the decoder on the right: five LSTM boxes, which are fed start,
    John, aime, le, café and write John, aime, le, café, noir. Above the encoder lies a box
    attention: where to look. Dotted arrows lead into it from all four encoder boxes, the
    one of black is thickest. A dashed arrow, the question, goes to it from the last decoder
    box, and another, the answer, from it to the last written word.""",
)

# %% [markdown]
# The **encoder** reads. The **decoder** begins with the encoder's last state and writes; at each step it is fed the
# word that it has written last. With the state alone, everything about the sentence would have to fit into a few numbers.
# So at each step the decoder also **asks**: its hidden state, the *question*, is compared with the encoder's hidden state at every English
# word, the word's *key*. The better the two fit, the larger a weight that word gets. The answer is the weighted mean of the words' vectors.
#
# ## Predict first
#
# *John likes black coffee* becomes *John aime le café noir*. Draw a table with the four English words across and the five French
# ones down, and mark in each row the word that the decoder will look at most.
#
# Four rows are easy. And **le**? English has no word for it there. Which word would *you* have to look at, to know whether it
# is *le* or *la*? Decide on one.
#
# ## A small grammar
#
# Sentences that people have translated are absent from this course, because of their licences. So we write a grammar. It is a
# toy: 25 English words, one tense. But three things in it are real. The adjective stands *behind* the noun, except *good* and *bad*.
# Adjective and article follow the *gender* of the noun (0: le café noir, 1: la soupe noire). And the article follows the
# *verb*, too: one likes *le café*, and drinks *du café*.

# %%
SUBJECTS = {"John": "John", "Mary": "Marie", "Paul": "Paul"}
SUBJECTS |= {"the cat": "le chat", "the dog": "le chien", "the woman": "la femme"}
VERBS = {  # and the two articles that follow
    "likes": ("aime", "le", "la"),
    "prefers": ("préfère", "le", "la"),
    "drinks": ("boit", "du", "de la"),
    "buys": ("achète", "du", "de la"),
}
NOUNS = {"coffee": ("café", 0), "tea": ("thé", 0), "milk": ("lait", 0), "wine": ("vin", 0)}
NOUNS |= {"soup": ("soupe", 1), "beer": ("bière", 1), "cream": ("crème", 1)}
NOUNS |= {"lemonade": ("limonade", 1)}
ADJECTIVES = {"": ("", ""), "black": ("noir", "noire"), "white": ("blanc", "blanche")}
ADJECTIVES |= {"hot": ("chaud", "chaude"), "cold": ("froid", "froide")}
ADJECTIVES |= {"good": ("bon", "bonne"), "bad": ("mauvais", "mauvaise")}
BEFORE_THE_NOUN = ("good", "bad")


def in_french(subject, verb, adjective, noun):
    french_noun, gender = NOUNS[noun]
    french_verb, *articles = VERBS[verb]
    thing = [french_noun, ADJECTIVES[adjective][gender]]
    if adjective in BEFORE_THE_NOUN:
        thing.reverse()
    return f"{SUBJECTS[subject]} {french_verb} {articles[gender]} {' '.join(thing)}".split()


pairs = [
    (f"{s} {v} {a} {n}".split(), in_french(s, v, a, n))
    for s in SUBJECTS
    for v in VERBS
    for a in ADJECTIVES
    for n in NOUNS
]
for place in (8, 300, 1100):
    print(" ".join(pairs[place][0]), "→", " ".join(pairs[place][1]))
print(len(pairs), "pairs of sentences")

# %% [markdown]
# **Held out** is our sentence, and with it *every* sentence that has *black coffee* in it. The network will have seen black
# things, and coffee, but never the two together. Beside these, 200 sentences drawn at random.

# %%
rng = np.random.default_rng(0)
shuffled = [pairs[k] for k in rng.permutation(len(pairs))]
black_coffee = [pair for pair in shuffled if "black coffee" in " ".join(pair[0])]
others = [pair for pair in shuffled if "black coffee" not in " ".join(pair[0])]
held_out, learning = black_coffee + others[:200], others[200:]
print(f"{len(learning)} to learn from, {len(held_out)} held out,", end=" ")
print(f"{len(black_coffee)} of them with black coffee")

# %% [markdown]
# ## Words into numbers
#
# Sentences have different lengths, so the arrays are filled up: with 0, which is the pad in English, and the end in French.

# %%
ENGLISH = ["(pad)", *sorted({word for english, _ in pairs for word in english})]
FRENCH = ["(end)", "(start)", *sorted({word for _, french in pairs for word in french})]
print(len(ENGLISH) - 1, "English words,", len(FRENCH) - 2, "French ones")


def columns(sentences, vocabulary):
    """Numbers (time, sentences), filled up with 0, and the sentences' lengths."""
    lengths = np.array([len(sentence) for sentence in sentences])
    numbers = np.zeros((lengths.max(), len(sentences)), dtype=int)
    for column, sentence in zip(numbers.T, sentences, strict=True):
        column[: len(sentence)] = [vocabulary.index(word) for word in sentence]
    return numbers, lengths


source, source_lengths = columns([english for english, _ in learning], ENGLISH)
target, target_lengths = columns([[*french, "(end)"] for _, french in learning], FRENCH)
START = FRENCH.index("(start)")
previous = np.concatenate([np.full((1, len(learning)), START), target[:-1]])  # a step later
print("source", source.shape, " previous", previous.shape, " target", target.shape)

# %% [markdown]
# `previous` is what the decoder is fed: the right word before, and not its own guess. That is called
# [teacher forcing](glossary.ipynb#teacher-forcing), and it is for training only.
#
# ## Your turn: the masked softmax
#
# Attention has **scores**, one number for each pair of a French and an English word: how well the question fits. It needs
# **weights**: positive, and summing to one for each French word. That is a [softmax](glossary.ipynb#softmax). But some of the
# English words are pads. They must get exactly zero, whatever their scores are.
#
# `scores` is (French words, sentences, English words), `lengths` (sentences,). The weights have the shape of the scores. To look
# at: the first sentence has three words, the second one two and a pad.


# %% tags=["exercise"]
def weights(scores, lengths):
    powers = np.exp(scores)  # ← your turn: where do the lengths come in?
    return powers / powers.sum(axis=-1, keepdims=True)


print(weights(np.array([[[2.0, 1.0, 0.0], [2.0, 1.0, 3.0]]]), np.array([3, 2])).round(2))

# %%
check("19.masked-softmax", weights)

# %% [markdown] tags=["hint"]
# Which score would give a power of zero? Put that score in the place of the pads *before* the softmax. `np.arange(scores.shape[-1]) <
# lengths[:, None]` is (sentences, English words), True where there is a word; with `np.where` it fits the scores' shape by itself.

# %% [markdown] tags=["hint"]
# The score is minus infinity: `-np.inf`. And so that `exp` does not overflow, take away the largest score of each row first; a
# softmax does not notice that. The largest *after* masking: otherwise a pad may be it.


# %% tags=["solution"]
def weights(scores, lengths):
    is_word = np.arange(scores.shape[-1]) < lengths[:, None]
    scores = np.where(is_word, scores, -np.inf)
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


print(weights(np.array([[[2.0, 1.0, 0.0], [2.0, 1.0, 3.0]]]), np.array([3, 2])).round(2))

# %% [markdown]
# gpulstm has it inside of its attentions, with its gradient; on a GPU it is one kernel. `DotAttention` scores by the plain
# product of question and key:

# %%
question = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])  # (2 French words, 1 sentence, 2 features)
keys = np.array([[[2.0, 0.0]], [[0.0, 2.0]], [[9.0, 9.0]]])  # 3 English words, the last a pad
answer, shares = gl.nn.DotAttention()(question, keys, lengths=np.array([2]))
print("weights", shares[:, 0].round(2).tolist())
print("answers", answer[:, 0].round(2).tolist())

# %% [markdown]
# The pad has the highest score of all, and gets nothing.
#
# ## The network
#
# Six parts. The scores are made by `GeneralAttention`, $q^T W k$, whose $W$ learns what fits what. What comes back as the answer
# are the *vectors of the words*, not the encoder's hidden states: so what the decoder takes from a place can only be that very
# word. (Most translators take the hidden states.)

# %%
SIZE, HIDDEN = 16, 24


def new_network(seed):
    rng, kind = np.random.default_rng(seed), {"dtype": "float64"}
    return {
        "english": gl.nn.Embedding(len(ENGLISH), SIZE, rng=rng, **kind),
        "french": gl.nn.Embedding(len(FRENCH), SIZE, rng=rng, **kind),
        "encoder": gl.LSTM(SIZE, HIDDEN, init="glorot", rng=rng, **kind),
        "decoder": gl.LSTM(SIZE, HIDDEN, init="glorot", rng=rng, **kind),
        "attention": gl.nn.GeneralAttention(HIDDEN, HIDDEN, rng=rng, **kind),
        "head": gl.nn.Linear(HIDDEN + SIZE, len(FRENCH), rng=rng, **kind),
    }


def forward(on, source, lengths, previous):
    """The logits of each French word, and what backward needs."""
    kept = {}
    words, kept["english"] = on["english"].forward(source)
    keys, state, kept["encoder"] = on["encoder"].forward(words, lengths=lengths)
    before, kept["french"] = on["french"].forward(previous)
    question, _, kept["decoder"] = on["decoder"].forward(before, state)  # begins where it ended
    answer, _, kept["attention"] = on["attention"].forward(
        question, keys, words, lengths=lengths
    )
    both = np.concatenate([question, answer], axis=2)
    logits, kept["head"] = on["head"].forward(both)
    return logits, kept


# %% [markdown]
# And backwards, from the last line of `forward` to its first. Where a thing was used twice, its two gradients are added:
# `question` went into the head and into the attention, `words` into the encoder and into the answer.
#
# The step size is no constant here: `warmup_cosine` lets it rise for the first twentieth of the training, and then fall along a
# cosine to zero.


# %%
def backward(on, kept, dlogits):
    grads = {}
    dboth, grads["head"] = on["head"].backward(kept["head"], dlogits)
    dquestion, danswer = dboth[..., :HIDDEN], dboth[..., HIDDEN:]
    dasked, dkeys, dlooked, grads["attention"] = on["attention"].backward(
        kept["attention"], danswer
    )
    dbefore, grads["decoder"], dstate = on["decoder"].backward(
        kept["decoder"], dquestion + dasked
    )
    dwords, grads["encoder"], _ = on["encoder"].backward(kept["encoder"], dkeys, dstate)
    _, grads["french"] = on["french"].backward(kept["french"], dbefore)
    _, grads["english"] = on["english"].backward(kept["english"], dwords + dlooked)
    return grads


def train(seed, steps=300, rate=0.015):
    rng, on = np.random.default_rng(seed), new_network(seed)
    params = {name: layer.params for name, layer in on.items()}
    adam = gl.training.Adam(rate)
    falling = gl.training.schedules.warmup_cosine(rate, steps // 20, steps)
    losses = []
    for step in range(steps):
        some = rng.choice(len(learning), 32, replace=False)
        logits, kept = forward(on, source[:, some], source_lengths[some], previous[:, some])
        loss, dlogits = gl.nn.cross_entropy(
            logits, target[:, some], lengths=target_lengths[some]
        )
        grads = backward(on, kept, dlogits)
        gl.training.clip_by_global_norm(grads, 1.0)
        adam.learning_rate = falling(step)
        adam.step(params, grads)
        losses.append(float(loss))
    return on, losses


network, losses = train(seed=0)
print(f"loss at first {losses[0]:.1f}, at last below 0.02: {losses[-1] < 0.02}")

# %% [markdown]
# ## Writing
#
# To translate, the decoder is fed its own words, one step at a time, always the likeliest:
# [greedy decoding](glossary.ipynb#greedy-decoding). The English sentence is read once.


# %%
def translate(on, sentences):
    """French sentences, and where was looked for each of their words."""
    numbers, lengths = columns(sentences, ENGLISH)
    words = on["english"](numbers)
    keys, state = on["encoder"](words, lengths=lengths)
    word, written, looked = np.full(len(sentences), START), [], []
    for _ in range(9):
        question, state = on["decoder"](on["french"](word[None]), state)
        answer, shares = on["attention"](question, keys, words, lengths=lengths)
        logits = on["head"](np.concatenate([question, answer], axis=2))
        word = logits[0].argmax(axis=-1)  # (sentences,)
        written.append([FRENCH[k] for k in word])
        looked.append(shares[0])  # (sentences, English words)
    french = [
        list(one[: one.index("(end)")] if "(end)" in one else one)
        for one in zip(*written, strict=True)
    ]
    return french, np.array(looked)


ours = "John likes black coffee".split()
french, looked = translate(network, [ours])
print(" ".join(french[0]))

# %% [markdown]
# A sentence that it has never seen, with a pair of words that it has never seen together. And all that was held out?

# %%
written, _ = translate(network, [english for english, _ in held_out])
right = sum(one == wanted for one, (_, wanted) in zip(written, held_out, strict=True))
print(f"held out: {right} of {len(held_out)} without a mistake")

dictionary = {**SUBJECTS, "the": "le", "cat": "chat", "dog": "chien", "woman": "femme"}
dictionary |= {word: french[0] for word, french in {**VERBS, **NOUNS, **ADJECTIVES}.items()}
word_by_word = [[dictionary[word] for word in english] for english, _ in held_out]
right = sum(one == wanted for one, (_, wanted) in zip(word_by_word, held_out, strict=True))
print(f"word by word, from a dictionary: {right}, such as", end=" ")
print(" ".join(dictionary[word] for word in ours))

# %% [markdown]
# (The dictionary is a weak rival: *le* and *du* stand for no English word, so it never writes one, and cannot get any sentence right.)
#
# **A perfect score on a toy grammar.** That is what it is. The grammar above, some thirty lines, makes every one of these
# sentences without a mistake as well. What the score shows: the network has found the rules from examples, well enough to
# apply them to new combinations. What it does not show: that it knows French. One word outside of its 25, and it has no
# number for it.
#
# ## Where it looked

# %%
rows = [*french[0], "(end)"]
values = looked[: len(rows), 0]
axes = figures.gate_map(values, ours, rows, title="Alignment")
figures.show(
    axes.figure,
    alt=f"""A heat map, one row for each French word, one column for each English one; each
    row sums to one. {figures.say_map(values, ours, rows)} From café to noir the dark
    squares go back from coffee to black: the two cross.""",
)

# %% [markdown]
# This is the [alignment](glossary.ipynb#alignment). *café* looks at coffee, *noir* looks back at black: the two squares cross, as
# the words do. And **le** looks at **coffee**: it must know the noun's gender before the noun is written. Nobody has told it so.
#
# ## Is that an explanation?
#
# It is tempting to say so. Train the same network from other random numbers, and look at *le* again:

# %%
for seed in (0, 19):
    on = network if seed == 0 else train(seed)[0]
    (one,), looked = translate(on, [ours])
    most = [ours[k] for k in looked[: len(one), 0].argmax(axis=1)]
    print(f"seed {seed:2}:", ", ".join(f"{f} ← {e}" for f, e in zip(one, most, strict=True)))

# %% [markdown]
# The same French sentence, and the same places for all words but one. The second network looks at *likes*, which tells it *le* and
# not *du*. The gender it must have from elsewhere: from the state, in which the encoder hands over the whole sentence anyway. An
# alignment shows where a network looked. It does not show all that it knows, nor why.
#
# ## Three questions
#
# Answer each in your own words before you unfold it.

# %% [markdown] tags=["question"]
# Why does every row of the weights sum to one, and not every column?
#
# Each French word makes one answer, a weighted mean, and the weights of a mean sum to one. An English word may be looked at by
# several French ones, as coffee is, or by none.

# %% [markdown] tags=["question"]
# In training, the decoder is fed the right word before; in writing, its own. What can go wrong that the training loss does not show?
#
# One wrong word. After it the decoder stands in a place where it has never been in training, and may stumble on. The loss knows
# only the next word after a *right* beginning. So judge by whole sentences, as above.

# %% [markdown] tags=["question"]
# Could the decoder do without attention, with the encoder's last state alone?
#
# It learns, but worse, even in this toy. We took the answer away, and trained from three seeds: of the 224 sentences 54 to 88 were right,
# and none with black coffee (*John aime le café froid*, say). After three times as many steps 200 to 219 were right, of the 24 with
# black coffee 0, 8 and 19. The state, twice 24 numbers, has room for four or five words. But all of them are mixed in it, and a new mixture
# is hard to take apart; attention fetches each word by itself. And with long sentences there is no longer room enough.

# %% [markdown]
# ## In short
#
# - The [encoder-decoder](glossary.ipynb#encoder-decoder): one LSTM reads, another begins with its state and writes.
# - [Attention](glossary.ipynb#attention): scores, a softmax, a weighted mean. It fetches one word by itself, where the state holds all
#   of them mixed. Pads get the weight zero, before the softmax and not after it.
# - An [alignment](glossary.ipynb#alignment) shows where was looked, not why.
# - All held-out sentences right, on a toy grammar. Say both halves of that sentence.
#
# ## What next
#
# Two adjectives at once are not in the grammar. Predict, and try: `translate(network, ["John likes good black coffee".split()])`.
# Or hold out *every* sentence with black in it: which French words can the network then not know?
#
# Then go on to [lesson 20](20_honest_forecasts.ipynb), where nothing is a toy any more.
