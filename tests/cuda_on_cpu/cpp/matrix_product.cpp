// Products of small matrices by the 32 lanes of a warp: D (16 x 8) += A (16 x K) B (K x 8).
//
// Lane 4 * g + t has, in words from which the hardware takes one TF32 (K = 8) or a pair of half precision (K = 16):
//     A    words 0 to 3: (row g, column t), (row g + 8, column t), (row g, column t + 4), (row g + 8, column t + 4)
//     B    words 0, 1: (row t, column g), (row t + 4, column g)
//     D    numbers 0 to 3: (row g, columns 2t, 2t + 1), (row g + 8, columns 2t, 2t + 1)
// A pair counts as one column of A or one row of B here; its lower half comes first. All products are exact; their sum
// and D are added in double and rounded to float once, which is closer than the hardware promises.
#include "block.hpp"

namespace host_cuda {

namespace {

double from_tf32(unsigned word) { return from_bits<float>(word & 0xffffe000u); }

double from_bf16(unsigned half) { return from_bits<float>(half << 16); }

double from_f16(unsigned half) {
    const float scaled = from_bits<float>((half & 0x7fffu) << 13) * 0x1p112f;  // moves the bias from 15 to 127
    const bool finite = (half & 0x7c00u) != 0x7c00u;
    const float size = finite ? scaled : from_bits<float>(0x7f800000u | (half & 0x3ffu) << 13);
    return half & 0x8000u ? -size : size;
}

// The one number of a word, or both of it.
template <WarpOp OP>
void unpack(unsigned word, double* numbers) {
    if (OP == WarpOp::product_tf32) {
        numbers[0] = from_tf32(word);
        return;
    }
    for (int half = 0; half < 2; ++half) {
        const unsigned bits = word >> 16 * half & 0xffffu;
        numbers[half] = OP == WarpOp::product_f16 ? from_f16(bits) : from_bf16(bits);
    }
}

template <WarpOp OP>
void multiply_as(const Fragments (&lanes)[32]) {
    constexpr int each = OP == WarpOp::product_tf32 ? 1 : 2, depth = 8 * each;
    double a[16][depth], b[8][depth];
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int word = 0; word < 4; ++word) {
            unpack<OP>(lanes[lane].a[word], &a[g + word % 2 * 8][(t + word / 2 * 4) * each]);
        }
        for (int word = 0; word < 2; ++word) unpack<OP>(lanes[lane].b[word], &b[g][(t + word * 4) * each]);
    }
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const double* row = a[lane / 4 + i / 2 * 8];
            const double* column = b[lane % 4 * 2 + i % 2];
            double sum = 0;
            for (int k = 0; k < depth; ++k) sum += row[k] * column[k];
            lanes[lane].d[i] = static_cast<float>(sum + static_cast<double>(lanes[lane].d[i]));
        }
    }
}

}  // namespace

void multiply_fragments(WarpOp op, const Fragments (&lanes)[32]) {
    if (op == WarpOp::product_tf32) return multiply_as<WarpOp::product_tf32>(lanes);
    if (op == WarpOp::product_f16) return multiply_as<WarpOp::product_f16>(lanes);
    multiply_as<WarpOp::product_bf16>(lanes);
}

}  // namespace host_cuda
