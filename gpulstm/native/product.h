// Products of matrices: tiles of ROWS x PANEL sums that stay in registers, over operands laid out for them.
#pragma once

#include "lanes.h"
#include "team.h"

#define DEPTH 384        // terms of a sum that are added up before it goes back to memory
#define BLOCK 48         // rows that are gone through at once; of a transposed operand, three lines of each column
#define AHEAD 32         // terms by which a panel is asked for early: the processor itself looks no further than a page
#define ASKING 4         // groups of rows that ask for the next panel, each for a line of every term
#define COLUMNS_AHEAD 8  // columns by which a transposed operand is, in which each column is on another page
#define TRANSPOSE 16     // columns that are turned at once, while their lines are in the cache

// A matrix in memory, at element (row, column) = data[row * by_row + column * by_column]. One of the two is 1.
typedef struct {
    const real* data;
    long by_row, by_column;
} Matrix;

INLINE void ask_for(const real* row) {
    for (int v = 0; v < 4; ++v) __builtin_prefetch(row + v * LANES);  // which may lie beyond the end
}

// What is asked for while a tile is worked out. With many groups of rows the panel is in the second cache from the
// first group on, and asking for it again only takes time: some of them ask for the next panel instead. Few groups
// ask for their own panel, a little ahead.
enum { NOTHING, OWN_PANEL, NEXT_PANEL };

typedef struct {
    int what;
    const real* next;  // this group's share of the next panel
} Early;

INLINE Early early_of(long group, long groups, const real* next_panel, long depth) {
    if (groups < ASKING) return (Early){OWN_PANEL, next_panel};
    return (Early){group < ASKING ? NEXT_PANEL : NOTHING, next_panel + group * depth * LANES};
}

// Numbers that the compiler is to know nothing about. Otherwise it makes a pointer of each sum of a row's address and
// an offset, 24 of them, has no registers for so many, and loads more of them than numbers.
#define HIDE(a, b, c) __asm__("" : "+r"(a), "+r"(b), "+r"(c));

#define COPY_SUMS(rows, to, from)                                                     \
    _Pragma("GCC unroll 8") for (int n = 0; n < rows; ++n) {                         \
        _Pragma("GCC unroll 4") for (int v = 0; v < 4; ++v) to[n][v] = from[n][v];   \
    }

// One term of each sum in `tile`.
#define ADD_TERM(at)                                                                       \
    {                                                                                      \
        if (what == OWN_PANEL) ask_for(panel + ((at) + AHEAD) * PANEL);                    \
        if (what == NEXT_PANEL) __builtin_prefetch(next + (at) * LANES, 0, 2);             \
        const vec w0 = load(panel + (at) * PANEL), w1 = load(panel + (at) * PANEL + LANES); \
        const vec w2 = load(panel + (at) * PANEL + 2 * LANES);                             \
        const vec w3 = load(panel + (at) * PANEL + 3 * LANES);                             \
        _Pragma("GCC unroll 8") for (int n = 0; n < rows; ++n) {                           \
            const real x = from[n][(k + (at)) * by_k];                                     \
            own[n][0] += w0 * x;                                                           \
            own[n][1] += w1 * x;                                                           \
            own[n][2] += w2 * x;                                                           \
            own[n][3] += w3 * x;                                                           \
        }                                                                                  \
    }

// sums[n][v] = sum over k of from[n][k * by_k] * panel[k][v]. The loops over n and v are unrolled away, and `by_k` and
// `what` are constants. Four terms follow each other without a look at the counter, which would take the sums' turns.
INLINE void tile(const int rows, const long by_k, const int what, const real* panel, const real* next, long depth,
                 const real* const from[], vec sums[][4]) {
    vec own[ROWS][4];  // no pointer to them, so that they are registers
#pragma GCC unroll 8
    for (int n = 0; n < rows; ++n) own[n][0] = own[n][1] = own[n][2] = own[n][3] = (vec){0};
    long k = 0;
    for (; k + 4 <= depth; k += 4, panel += 4 * PANEL, next += 4 * LANES) {
        ADD_TERM(0)
        ADD_TERM(1)
        ADD_TERM(2)
        ADD_TERM(3)
    }
    for (; k < depth; ++k, panel += PANEL) ADD_TERM(0)
    COPY_SUMS(rows, sums, own)
}

// The same of rows that lie anywhere: row n is `a` + index[n] * by_row.
INLINE void tile_of_rows(const int rows, const int what, const real* panel, const real* next, long depth, const real* a,
                         const int* index, long by_row, vec sums[][4]) {
    const real* from[ROWS];
#pragma GCC unroll 8
    for (int n = 0; n < rows; ++n) from[n] = a + index[n] * by_row;
    tile(rows, 1, what, panel, next, depth, from, sums);
}

// And of rows that `lay_out_rows` has laid out.
INLINE void tile_of_turned(const int rows, const int what, const real* panel, const real* next, long depth,
                           const real* a, vec sums[][4]) {
    const real* from[ROWS];
#pragma GCC unroll 8
    for (int n = 0; n < rows; ++n) from[n] = a + n;
    tile(rows, ROWS, what, panel, next, depth, from, sums);
}

// sums[n][g] = sum over k of a[n][g][k] * panel[k][g]: four products at once, of factors that lie `depth` apart. Row n
// is `a` + index[n] * by_row.
INLINE void tile_of_four(const int rows, const real* panel, long depth, const real* a, const int* index, long by_row,
                         vec sums[][4]) {
    vec own[ROWS][4];  // no pointer to them, so that they are registers
    const real* from[ROWS];
#pragma GCC unroll 8
    for (int n = 0; n < rows; ++n) {
        from[n] = a + index[n] * by_row;
        own[n][0] = own[n][1] = own[n][2] = own[n][3] = (vec){0};
    }
    long k0 = 0, k1 = depth, k2 = 2 * depth, k3 = 3 * depth;
    for (; k0 < depth; ++k0, ++k1, ++k2, ++k3, panel += PANEL) {
        HIDE(k1, k2, k3)
        ask_for(panel + AHEAD * PANEL);
        const vec w0 = load(panel), w1 = load(panel + LANES);
        const vec w2 = load(panel + 2 * LANES), w3 = load(panel + 3 * LANES);
#pragma GCC unroll 8
        for (int n = 0; n < rows; ++n) {
            const real* x = from[n];
            own[n][0] += w0 * x[k0];
            own[n][1] += w1 * x[k1];
            own[n][2] += w2 * x[k2];
            own[n][3] += w3 * x[k3];
        }
    }
    COPY_SUMS(rows, sums, own)
}

// Calls `what(rows, ...)` with `rows` as a constant, for which the compiler keeps the sums in registers.
#if ROWS == 6
#define WITH_ROWS(rows, what, ...)                       \
    switch (rows) {                                      \
        case 1: what(1, __VA_ARGS__); break;             \
        case 2: what(2, __VA_ARGS__); break;             \
        case 3: what(3, __VA_ARGS__); break;             \
        case 4: what(4, __VA_ARGS__); break;             \
        case 5: what(5, __VA_ARGS__); break;             \
        default: what(6, __VA_ARGS__); break;            \
    }
#elif ROWS == 3
#define WITH_ROWS(rows, what, ...)                       \
    switch (rows) {                                      \
        case 1: what(1, __VA_ARGS__); break;             \
        case 2: what(2, __VA_ARGS__); break;             \
        default: what(3, __VA_ARGS__); break;            \
    }
#else
#define WITH_ROWS(rows, what, ...)                       \
    switch (rows) {                                      \
        case 1: what(1, __VA_ARGS__); break;             \
        default: what(2, __VA_ARGS__); break;            \
    }
#endif

// Calls `call(rows, early.what, ...)` with both as constants.
#define WITH_EARLY(early, rows, call, ...)                    \
    if ((early).what == OWN_PANEL) {                          \
        WITH_ROWS(rows, call, OWN_PANEL, __VA_ARGS__)         \
    } else if ((early).what == NEXT_PANEL) {                  \
        WITH_ROWS(rows, call, NEXT_PANEL, __VA_ARGS__)        \
    } else {                                                  \
        WITH_ROWS(rows, call, NOTHING, __VA_ARGS__)           \
    }

// sums[n][v] = sum over k of a[index[n] * by_row + k] * panel[k][v]. Not part of who calls it: it is as fast, and
// compiled once.
NOINLINE void product_of_rows(int rows, const real* panel, long depth, const real* a, const int* index, long by_row,
                              Early early, vec sums[][4]) {
    WITH_EARLY(early, rows, tile_of_rows, panel, early.next, depth, a, index, by_row, sums)
}

NOINLINE void product_of_turned(int rows, const real* panel, long depth, const real* a, Early early, vec sums[][4]) {
    WITH_EARLY(early, rows, tile_of_turned, panel, early.next, depth, a, sums)
}

static const int in_turn[] = {0, 1, 2, 3, 4, 5};  // the index of rows that follow each other

// `count` things in as few groups of at most ROWS as there can be, alike in size: where group `index` begins.
static inline long groups_of(long count) { return (count + ROWS - 1) / ROWS; }
static inline long group_start(long count, long index) { return count * index / groups_of(count); }

// out[k * stride + j] = from[j * by_row + k] for j < rows, and 0 up to `width`.
static void transpose(real* out, long stride, long width, const real* from, long by_row, long rows, long depth) {
    for (long first = 0; first < depth; first += TRANSPOSE) {
        const long end = first + TRANSPOSE < depth ? first + TRANSPOSE : depth;
        for (long j = 0; j < rows; ++j) {
            for (long k = first; k < end; ++k) out[k * stride + j] = from[j * by_row + k];
        }
        for (long k = first; k < end; ++k) {
            for (long j = rows; j < width; ++j) out[k * stride + j] = 0;
        }
    }
}

// One panel of b: rows [k, k + depth), columns [column, column + PANEL), zero beyond `columns`.
static void lay_out_panel(real* out, Matrix b, long k, long depth, long column, long columns) {
    const long count = columns - column < PANEL ? columns - column : PANEL;
    if (b.by_row == 1) {
        transpose(out, PANEL, PANEL, b.data + column * b.by_column + k, b.by_column, count, depth);
        return;
    }
    for (long i = 0; i < depth; ++i) {
        memcpy(out + i * PANEL, b.data + (k + i) * b.by_row + column, count * sizeof(real));
        for (long j = count; j < PANEL; ++j) out[i * PANEL + j] = 0;
    }
}

// c = sums, or c + sums, of some rows and `count` columns.
INLINE void add_sums(const int rows, vec sums[][4], real* c, long c_by_row, int first, const long count) {
#pragma GCC unroll 8
    for (int n = 0; n < rows; ++n) {
        UNROLLED for (int v = 0; v < 4; ++v) {
            if (v * LANES >= count) break;
            const long lanes = count - v * LANES < LANES ? count - v * LANES : LANES;
            real* to = c + n * c_by_row + v * LANES;
            store_part(to, first ? sums[n][v] : load_part(to, lanes) + sums[n][v], lanes);
        }
    }
}

// The tile of ROWS rows and PANEL columns on c, or in it: most of a large product's, whose sums stay in registers.
INLINE void add_tile(const long by_k, const real* panel, long depth, const real* a, long by_row, real* c, long c_by_row,
                     int first) {
    const real* from[ROWS];
    vec sums[ROWS][4];
#pragma GCC unroll 8
    for (int n = 0; n < ROWS; ++n) from[n] = a + n * by_row;
    tile(ROWS, by_k, NOTHING, panel, panel, depth, from, sums);
    add_sums(ROWS, sums, c, c_by_row, first, PANEL);
}

NOINLINE void add_whole_tile(int turned, const real* panel, long depth, const real* a, long by_row, real* c,
                             long c_by_row, int first) {
    if (turned) {
        add_tile(ROWS, panel, depth, a, 1, c, c_by_row, first);
    } else {
        add_tile(1, panel, depth, a, by_row, c, c_by_row, first);
    }
}

// The rows of a transposed operand in groups of ROWS, term by term: out[group][k][row], and their sums on top of
// `sums`, if there.
static void lay_out_rows(real* out, const real* from, long by_column, long rows, long depth, real* sums) {
    real own[BLOCK] = {0};
    for (long k = 0; k < depth; ++k, from += by_column) {
        for (long row = 0; row < rows; row += 64 / REAL_BYTES) {
            __builtin_prefetch(from + COLUMNS_AHEAD * by_column + row);
        }
        for (long row = 0; row < rows; row += ROWS) {
            memcpy(out + row * depth + k * ROWS, from + row, (rows - row < ROWS ? rows - row : ROWS) * sizeof(real));
        }
        for (long row = 0; sums && row < rows; ++row) own[row] += from[row];
    }
    for (long row = 0; sums && row < rows; ++row) sums[row] += own[row];
}

// Numbers of the two buffers of `multiply`.
static long panels_size(long columns) { return (columns + PANEL - 1) / PANEL * PANEL * DEPTH; }
#define ROWS_SIZE (BLOCK * DEPTH)

// c (rows, columns) = a (rows, depth) b (depth, columns), or + c with `add`; called by all threads together. `panels`
// is shared, `own_rows` the thread's own. Each sum goes over k in an order that does not depend on who computes it. Of
// a transposed a, `row_sums` (rows,), if there, gets the sums of its rows on top, which are at hand here.
NOINLINE void multiply(Team* team, int id, long rows, long columns, long depth, Matrix a, Matrix b, real* c,
                       long c_by_row, int add, real* row_sums, real* panels, real* own_rows) {
    const long count = (columns + PANEL - 1) / PANEL;
    const long first_row = share(rows, id, team->size), end_row = share(rows, id + 1, team->size);
    for (long k = 0; k < depth; k += DEPTH) {
        const long here = depth - k < DEPTH ? depth - k : DEPTH;
        barrier(team);  // nobody reads the panels of before any more
        for (long p = share(count, id, team->size); p < share(count, id + 1, team->size); ++p) {
            lay_out_panel(panels + p * PANEL * DEPTH, b, k, here, p * PANEL, columns);
        }
        barrier(team);
        for (long row = first_row; row < end_row; row += BLOCK) {
            const long block = end_row - row < BLOCK ? end_row - row : BLOCK;
            const real* from = a.data + row * a.by_row + k * a.by_column;
            const int turned = a.by_column != 1;
            long by_group = ROWS * a.by_row;
            if (turned) {
                lay_out_rows(own_rows, from, a.by_column, block, here, row_sums ? row_sums + row : 0);
                from = own_rows;
                by_group = ROWS * here;
            }
            for (long p = 0; p < count; ++p) {
                const long there = columns - p * PANEL < PANEL ? columns - p * PANEL : PANEL;
                const real* panel = panels + p * PANEL * DEPTH;
                const long groups = (block + ROWS - 1) / ROWS;
                for (long group = 0; group < groups; ++group) {
                    const long some = block - group * ROWS < ROWS ? block - group * ROWS : ROWS;
                    Early early = early_of(group, groups, panel + PANEL * DEPTH, here);
                    if (row > first_row) early.what = NOTHING;  // all panels have been read once
                    const real* those = from + group * by_group;
                    real* to = c + (row + group * ROWS) * c_by_row + p * PANEL;
                    const int first = k == 0 && !add;
                    if (some == ROWS && there == PANEL && early.what == NOTHING) {
                        add_whole_tile(turned, panel, here, those, a.by_row, to, c_by_row, first);
                        continue;
                    }
                    vec sums[ROWS][4];
                    if (turned) {
                        product_of_turned(some, panel, here, those, early, sums);
                    } else {
                        product_of_rows(some, panel, here, those, in_turn, a.by_row, early, sums);
                    }
                    add_sums(some, sums, to, c_by_row, first, there);
                }
            }
        }
    }
    barrier(team);
}
