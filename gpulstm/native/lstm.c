// All time steps of one LSTM layer in one direction on a CPU, forward and backward, for one type of number: `lanes.h`
// says which. float32.c and float64.c are this file, once for each.
#include "backward.h"
#include "forward.h"

void NAME(lstm_forward)(const Forward* p) { forward(p); }
void NAME(lstm_backward)(const Backward* p) { backward(p); }
void NAME(lstm_drop)(const Dropout* p) { drop(p); }

// Numbers of scratch memory.
long NAME(lstm_forward_scratch)(long batch, long inputs, long hidden) { return forward_room(batch, inputs, hidden); }
long NAME(lstm_backward_scratch)(long inputs, long hidden, int threads) {
    return backward_room(inputs, hidden, threads);
}
