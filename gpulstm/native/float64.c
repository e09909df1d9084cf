#define FLOAT64
#include "lstm.c"
