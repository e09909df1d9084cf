#include "lstm.c"

int lstm_threads(void) { return omp_get_max_threads() < MOST_THREADS ? omp_get_max_threads() : MOST_THREADS; }
