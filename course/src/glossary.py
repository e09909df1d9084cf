# %% [markdown]
# # Glossary
#
# The words of this course, in a few sentences each. Letters in the formulas: $x$ is the input of a step, $h$ the hidden
# state and $c$ the cell state before it, $h'$ and $c'$ both after it, $[h, x]$ the two vectors one after the other, $W$
# weights, $b$ a bias; a dot multiplies element by element.

# %% [markdown]
# ## A
#
# ### ablation
#
# Taking one part away and measuring what gets worse. It shows what the part was good for.
#
# ### adam
#
# An optimiser that gives each parameter a step size of its own, from running means of its gradients and of their
# squares.
#
# ### alignment
#
# Which inputs a decoder looked at when it made each output; drawn as a heat map of attention weights.
#
# ### atomic operation
#
# A read, change and write of one memory place that no other thread can interrupt. Correct, but threads wait for each
# other, and the order of a floating-point sum, and so its last bits, may change from run to run.
#
# ### attention
#
# A weighted mean over all encoder states, whose weights say where to look. The weights come out of a softmax over
# scores, so they sum to one.
#
# ### autoregression
#
# A forecast by a weighted sum of the last values. AR(9) uses the last nine. It is the linear rule that a network should
# be compared with.

# %% [markdown]
# ## B
#
# ### backward pass
#
# From the gradient of the output to the gradients of all that went in: parameters, inputs, initial states. It runs
# through the formulas in reverse order, by the chain rule.
#
# ### bandwidth
#
# How many bytes memory delivers in a second. Most kernels of an LSTM wait for bytes, not for arithmetic.
#
# ### barrier
#
# A line in a kernel that no thread passes before all threads of the block have reached it: `__syncthreads()`. Without
# it one thread reads what another has not written yet.
#
# ### batch
#
# Several sequences that are computed at once. Arrays are (time, batch, features).
#
# ### beam search
#
# Decoding that keeps the best few beginnings instead of one, and so finds sequences that greedy decoding misses.
#
# ### bias
#
# A number that is added to a weighted sum; it says what a gate does while its inputs are zero.
#
# ### bidirectional
#
# Two LSTMs over the same sequence, one from each end; their outputs are put side by side. It needs the whole sequence
# before it can say anything.
#
# ### blank
#
# CTC's symbol for "no letter here". It also keeps double letters apart.
#
# ### block
#
# A group of threads that runs on one multiprocessor, has shared memory in common and can wait at a barrier.
#
# ### bptt
#
# Backpropagation through time: the backward pass of an unrolled network, from the last step to the first. Each step
# adds its share to the gradients of the same weights.

# %% [markdown]
# ## C
#
# ### candidate
#
# What might be written into the cell state: $g = \tanh(W_g [h, x] + b_g)$, between −1 and 1. It says *what*; the input
# gate says *how much*.
#
# ### cell
#
# One step of an LSTM: it takes the input, the hidden state and the cell state, and gives the next two states.
#
# ### cell state
#
# The memory $c$, which runs along the sequence: $c' = f \cdot c + i \cdot g$. Only the cell itself sees it. Multiplied
# and added to, never squashed on its way, it can keep something for long.
#
# ### character model
#
# A network that guesses the next letter of a text, letter by letter.
#
# ### chrono initialisation
#
# Forget and input biases drawn so that the memory's half-lives spread up to the longest time that matters.
#
# ### clipping
#
# Scaling a gradient down when its norm is too large, so that one bad step cannot undo the others.
#
# ### coalescing
#
# Neighbouring threads read neighbouring places, so that the memory answers a whole warp with few sectors. It is the
# largest single factor in a simple kernel's speed.
#
# ### coupled gates
#
# An LSTM whose input gate is one minus its forget gate: what is forgotten makes room for what is new.
#
# ### ctc
#
# Connectionist temporal classification: a loss for labels without known times. It sums over all ways to stretch the
# labels over the frames, with blanks in between.
#
# ### cupy
#
# NumPy's functions on a GPU, and a way to run kernels of one's own: `cupy.RawKernel`.

# %% [markdown]
# ## D
#
# ### dropout
#
# Setting some values to zero at random during training and scaling the others up, so that no part relies on a single
# other one. Between layers; on the recurrent way it is called recurrent dropout.

# %% [markdown]
# ## E
#
# ### element-wise
#
# Number by number: each is combined with the one in the same place alone, as NumPy's `*` and `+` do. In an LSTM that is
# everything after the weighted sums.
#
# ### embedding
#
# A table with one vector per word or letter, learnt like any other weight.
#
# ### encoder-decoder
#
# Two networks: one reads a sequence, the other writes another. What passes between them is a state, or with attention
# all states.
#
# ### entropy
#
# How undecided a distribution is. It is zero when one outcome is certain, and largest when all are equally likely.
#
# ### epoch
#
# Once through all training data.
#
# ### exploding gradient
#
# A gradient that grows at every step back, until it is useless. Clipping contains it.

# %% [markdown]
# ## F
#
# ### finite differences
#
# A slope measured by two function values close to each other: $(f(x + \varepsilon) - f(x - \varepsilon)) /
# 2\varepsilon$.
#
# ### forget bias
#
# The bias of the forget gate. Large, it opens the gate from the beginning, so that memory and gradient live long.
#
# ### forget gate
#
# How much of the cell state stays: $f = \sigma(W_f [h, x] + b_f)$, between 0, erase, and 1, keep. A better name would
# be "keep gate".
#
# ### formant
#
# A range of frequencies that the hollow of the mouth lets through best. Two of them are enough to tell most vowels
# apart.
#
# ### forward pass
#
# From inputs to outputs. What the backward pass will need is kept on the way.
#
# ### fused kernel
#
# Several steps of a computation in one kernel, so that what lies between them never goes to memory.

# %% [markdown]
# ## G
#
# ### gate
#
# A number between 0 and 1 for each unit, made by a sigmoid, by which something is multiplied: 0 shuts, 1 lets through.
# An LSTM has three: forget, input and output gate.
#
# ### gemm
#
# General matrix multiplication. One large one is much faster than many small ones.
#
# ### gradient
#
# For each parameter, how the loss changes when it changes a little.
#
# ### gradient check
#
# Comparing gradients from the backward pass with finite differences, in float64. It finds nearly every mistake.
#
# ### greedy decoding
#
# Always taking the most likely symbol next.
#
# ### grid
#
# All blocks of one kernel launch.
#
# ### grid barrier
#
# A barrier for all blocks. It works only if all of them run at the same time.
#
# ### guard
#
# The `if (i < n)` of a kernel: there are often more threads than elements, and the rest must do nothing.

# %% [markdown]
# ## H
#
# ### half-life
#
# After how many steps half of something is left. A memory that keeps the share $f$ each step has the half-life $\ln 0.5
# / \ln f$.
#
# ### held-out data
#
# Data that had no part in training or in any choice, kept for the judgement.
#
# ### hidden size
#
# The number of units of an LSTM; both of its states have that many numbers.
#
# ### hidden state
#
# The output $h' = o \cdot \tanh(c')$, which the next step, the next layer and the rest of the network see. What the
# output gate shows of the cell state.

# %% [markdown]
# ## I
#
# ### initial state
#
# The states before the first step, zeros unless something is known. They have gradients, too.
#
# ### input gate
#
# How much of the candidate is written into the cell state: $i = \sigma(W_i [h, x] + b_i)$, between 0 and 1. It says
# *how much*; the candidate says *what*.

# %% [markdown]
# ## K
#
# ### kernel
#
# A function that a GPU runs once for each of very many threads.
#
# ### kernel launch
#
# Starting a kernel. It costs some microseconds, whatever the kernel does; an LSTM with a launch for each step pays that
# at each step.

# %% [markdown]
# ## L
#
# ### layer
#
# One of several LSTMs stacked on each other; each reads the hidden states of the one below.
#
# ### layer normalisation
#
# Bringing the values of one layer at one step to mean 0 and spread 1, then scaling and shifting them by learnt numbers.
#
# ### leakage
#
# Knowledge of the held-out data that slips into training or preparation. The result looks better than it is.
#
# ### learning rate
#
# The size of an optimiser's step.
#
# ### linear layer
#
# A weighted sum of its inputs and a bias, for each output.
#
# ### logit
#
# A score before the softmax, or before the sigmoid. Any number.
#
# ### loss
#
# One number that says how wrong the outputs are. Training makes it smaller.
#
# ### lstm
#
# Long short-term memory: a recurrent network with a cell state that gates guard. By Sepp Hochreiter and Jürgen
# Schmidhuber, 1997; the forget gate came in 2000, by Gers, Schmidhuber and Cummins.

# %% [markdown]
# ## M
#
# ### masking
#
# Leaving out what does not count, such as the padding after a sequence's end, so that results do not depend on it.
#
# ### memory sector
#
# 32 bytes, the smallest piece that a GPU's memory hands over. A warp's request costs as many sectors as it touches.
#
# ### multiprocessor
#
# One of the parts of a GPU on which blocks run; an NVIDIA H200 has 132. Registers and shared memory are its own.

# %% [markdown]
# ## O
#
# ### optimiser
#
# The rule by which gradients change parameters.
#
# ### output gate
#
# How much of the memory is shown: $o = \sigma(W_o [h, x] + b_o)$ in $h' = o \cdot \tanh(c')$. Shut, it hides the memory
# without erasing it.
#
# ### overfitting
#
# Learning the accidents of the training data by heart. The training loss falls on, the loss on held-out data rises.
#
# ### overflow
#
# A number too large for its type. `exp(1000)` is infinite.

# %% [markdown]
# ## P
#
# ### padding
#
# Filling short sequences up to the length of the longest, so that they fit into one array.
#
# ### parameter
#
# A number that training changes. An LSTM with $I$ inputs and $H$ units has $4H(I + H + 1)$.
#
# ### path
#
# In [CTC](#ctc), one symbol for each frame, a letter or the [blank](#blank). Repeats merged, then blanks dropped, it is
# read as a text.
#
# ### peephole
#
# A weight by which a gate also sees the cell state.
#
# ### persistence
#
# The forecast that the next value is like the last. Whatever does not beat it has learnt nothing useful.
#
# ### persistent kernel
#
# One launch for all time steps. The recurrent weights are read once and stay on the chip.
#
# ### preactivation
#
# The weighted sum that goes into a sigmoid or tanh.

# %% [markdown]
# ## R
#
# ### race
#
# Two threads use the same memory place, one of them writes, and nothing says who is first. The result is chance.
#
# ### recurrent dropout
#
# Dropout inside the recurrence, with one mask for the whole sequence, so that memory is not worn away step by step.
#
# ### recurrent network
#
# A network that reads a sequence step by step and hands a state on to itself.
#
# ### reduction
#
# Many numbers into one, such as a sum. On a GPU in a tree: half the threads add, then half of those.
#
# ### register
#
# Where a thread keeps what stands in its variables: on the chip, at once at hand, and gone when the kernel ends.
#
# ### roofline
#
# A chart of the speed that a kernel can reach at most: limited by bandwidth if it does little with each byte, by
# arithmetic if it does much.

# %% [markdown]
# ## S
#
# ### saturation
#
# Where sigmoid and tanh are flat. The slope there is nearly zero, and so is the gradient that comes through.
#
# ### seed
#
# The number from which a random generator starts. The same seed gives the same numbers.
#
# ### sequence
#
# Values in order: words, letters, years, frames of sound.
#
# ### shared memory
#
# Fast memory of a block, some hundred kilobytes on a multiprocessor, that all its threads can read and write.
#
# ### shuffle
#
# How the threads of a warp read each other's registers: each gives a number, and gets that of another one.
#
# ### sigmoid
#
# $\sigma(x) = 1 / (1 + e^{-x})$: any number into one between 0 and 1. It makes gates.
#
# ### simulator
#
# In this course: `lab.simulator`, which runs a CUDA kernel in Python, thread by thread, and watches what each of them
# does.
#
# ### slope
#
# The derivative: how much a function changes when its input changes a little.
#
# ### softmax
#
# Scores into shares that are positive and sum to one: $e^{s_k} / \sum_j e^{s_j}$.
#
# ### spectrogram
#
# How loud each frequency is, frame by frame; drawn with time to the right and frequency upwards.
#
# ### state dict
#
# A dictionary from names to parameters; what PyTorch saves and gpulstm can load.

# %% [markdown]
# ## T
#
# ### tanh
#
# The hyperbolic tangent: any number into one between −1 and 1. It makes candidates, and bounds what the memory shows.
#
# ### teacher forcing
#
# In training, the decoder gets the right previous symbol, and not its own guess.
#
# ### temperature
#
# A number by which logits are divided before the softmax. Low is cautious, high is wild.
#
# ### tensor core
#
# The part of a GPU's multiprocessor that multiplies two small matrices in one instruction of a warp. It is for numbers of
# 16 bits and for float32 with fewer digits, TF32.
#
# ### thread
#
# One of the many runs of a kernel. Its index says which element is its own.
#
# ### time step
#
# One position of a sequence, and the work of the cell on it.
#
# ### top-k
#
# Sampling among the k most likely symbols alone.
#
# ### truncated bptt
#
# BPTT over a window: the state is carried into the next window, the gradient is cut there.

# %% [markdown]
# ## U
#
# ### unit
#
# One place of an LSTM's state: one number of $c$, one of $h$, and the row of weights of each of its gates.
#
# ### unrolling
#
# Drawing, or computing, a recurrent network as one cell per time step, side by side, all with the same weights.

# %% [markdown]
# ## V
#
# ### validation
#
# Data that is not trained on and decides about settings, such as when to stop. The final judgement needs other data.
#
# ### vanishing gradient
#
# A gradient that shrinks at every step back, so that nothing is learnt about what happened long ago. The LSTM's forget
# gate decides how fast.

# %% [markdown]
# ## W
#
# ### warp
#
# 32 threads that go together through a kernel. Memory is read for a whole warp at once.
#
# ### weight
#
# A number by which an input is multiplied. Learnt.
#
# ### window
#
# A piece of a long sequence on which a network is trained at once.

# %% [markdown]
# ## Z
#
# ### zoneout
#
# Leaving some units as they were in the last step, at random, during training.
