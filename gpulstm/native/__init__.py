"""The LSTM for a CPU, compiled for the processor at hand: C, vectors as wide as its registers, and OpenMP's threads.

`lstm.c` has no Python in it, `library` compiles, finds and loads it, `gpulstm.engines.native_calls` calls it.

    python -m gpulstm.native

compiles it once, with the system's C compiler. From then on NumPy arrays go through it, but for layers with a
projection that is not folded into weight_hh. Without it, nothing is missing but time.
"""
