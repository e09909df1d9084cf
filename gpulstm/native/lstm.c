// All time steps of one LSTM layer in one direction on a CPU, forward and backward, for one type of number: `lanes.h`
// says which. float32.c and float64.c are this file, once for each.
#include "backward.h"
#include "dropout.h"
#include "forward.h"

void NAME(lstm_forward)(const Forward* p) { forward(p); }
void NAME(lstm_backward)(const Backward* p) { backward(p); }
void NAME(lstm_drop)(const Dropout* p) { drop(p); }

// Numbers of gates that are in use at a time without `keep`.
long NAME(lstm_gates)(long steps, long batch, long hidden) {
    return stretch_of(steps, batch, hidden) * batch * 4 * hidden;
}

// Numbers of scratch memory.
long NAME(lstm_forward_scratch)(long batch, long inputs, long hidden) { return forward_room(batch, inputs, hidden); }
long NAME(lstm_backward_scratch)(long batch, long inputs, long hidden, int threads) {
    return backward_room(batch, inputs, hidden, threads);
}

// The same on top of either, with layer norm.
long NAME(lstm_norm_scratch)(long batch, long hidden, int threads) { return norm_room(batch, hidden, threads); }

typedef struct {
    const real *a, *b;            // op(a) (rows, depth) and op(b) (depth, columns): one of each one's steps is 1
    real* out;                    // (rows, columns)
    real* scratch;                // `lstm_product_scratch` numbers
    long rows, columns, depth;
    long a_by_row, a_by_column, b_by_row, b_by_column, out_by_row;
    int add, threads;             // out += with `add`
} Product;

long NAME(lstm_product_scratch)(long columns, int threads) { return panels_size(columns) + threads * (long)ROWS_SIZE; }

// A product of matrices by the same threads. OpenBLAS' own ones spin for a while after each of theirs, on the same cores.
void NAME(lstm_product)(const Product* p) {
    const Matrix a = {p->a, p->a_by_row, p->a_by_column}, b = {p->b, p->b_by_row, p->b_by_column};
    real* all_rows = p->scratch + panels_size(p->columns);
    Team team = {1, 0, 0};
#pragma omp parallel num_threads(p->threads)
    {
        const int id = omp_get_thread_num();
#pragma omp single
        team.size = omp_get_num_threads();
        multiply(&team, id, p->rows, p->columns, p->depth, a, b, p->out, p->out_by_row, p->add, 0, p->scratch,
                 all_rows + id * (long)ROWS_SIZE);
    }
}
