"""Finds, compiles and launches the CUDA kernels of ``kernels/``. Importing it touches no CUDA."""
