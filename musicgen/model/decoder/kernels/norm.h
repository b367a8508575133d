// Layer norm, with the residual sum that comes before it.
#pragma once

#include "thread_pool.h"
#include "vectors.h"

namespace {

constexpr int SETS = 4, STRIDE = SETS * LANES;  // partial sums, each over every STRIDE-th element

inline double sum_in_order(const float (&parts)[STRIDE]) {
    double sum = 0;
    for (float part : parts) sum += part;
    return sum;
}

// x += delta if there is one; y = layer norm of x (eps 1e-5). All of one row.
inline void norm_row(float* x, const float* delta, const float* weight, const float* bias, int width, float* y) {
    int whole = width / STRIDE * STRIDE;
    Vec sums[SETS] = {}, squares[SETS] = {};
    float parts[STRIDE];
    if (delta) {
        for (int i = 0; i < whole; i += LANES) store(x + i, load(x + i) + load(delta + i));
        for (int i = whole; i < width; i++) x[i] += delta[i];
    }
    for (int i = 0; i < whole; i += STRIDE)
#pragma GCC unroll 4
        for (int j = 0; j < SETS; j++) sums[j] += load(x + i + j * LANES);
    for (int j = 0; j < SETS; j++) store(parts + j * LANES, sums[j]);
    for (int i = whole; i < width; i++) parts[i - whole] += x[i];
    float middle = (float)(sum_in_order(parts) / width);
    for (int i = 0; i < whole; i += STRIDE)
#pragma GCC unroll 4
        for (int j = 0; j < SETS; j++) {
            Vec apart = load(x + i + j * LANES) - middle;
            squares[j] = multiply_add(apart, apart, squares[j]);
        }
    for (int j = 0; j < SETS; j++) store(parts + j * LANES, squares[j]);
    for (int i = whole; i < width; i++) parts[i - whole] += (x[i] - middle) * (x[i] - middle);
    float scale = (float)(1.0 / std::sqrt(sum_in_order(parts) / width + 1e-5));
    for (int i = 0; i < whole; i += LANES)
        store(y + i, multiply_add((load(x + i) - middle) * scale, load(weight + i), load(bias + i)));
    for (int i = whole; i < width; i++) y[i] = (x[i] - middle) * scale * weight[i] + bias[i];
}

// The same for many rows; `delta` is of the first `added`. A chunk owns a run of rows of x and of y, and asks for the
// next row's lines while it works on one: they lie in another page, where the processor does not look ahead.
void norm(float* x, const float* delta, int added, const float* weight, const float* bias, int rows, int width,
          float* y, int threads) {
    int hired = useful_threads(threads, (int64_t)rows * width * 4), run = rows / (8 * hired) + 1;
    thread_pool().parallel_for((rows + run - 1) / run, hired, [&](int64_t chunk) {
        int end = std::min<int64_t>(rows, (chunk + 1) * run);
        for (int r = chunk * run; r < end; r++) {
            int64_t at = (int64_t)r * width, bytes = width * sizeof(float);
            if (r + 1 < end) fetch(x + at + width, bytes);
            if (r + 1 < std::min(end, added)) fetch(delta + at + width, bytes);
            norm_row(x + at, r < added ? delta + at : nullptr, weight, bias, width, y + at);
        }
    });
}

}  // namespace
