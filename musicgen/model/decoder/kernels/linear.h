// y = x W^T with packed weights: panels of COLUMNS columns, so that memory is read once and in order.
#pragma once

#include <vector>

#include "thread_pool.h"
#include "vectors.h"

namespace {

constexpr int FEW = ROWS / 2;  // rows, for which reading the weights takes longer than multiplying them

// y[rows, P * COLUMNS] = start[P * COLUMNS] (null: y itself) + the product of pairs a[depth / 2, ROWS] and P panels of
// units b[depth / 2, COLUMNS / LANES], `panel` numbers apart; every element is one chain over depth. Meanwhile `step`
// bytes at a time are fetched from `ahead`: a share of the weights that come next, so that memory works while the
// products do.
template <int R, int P, typename W>
void tile(const Pair<W>* a, const W* b, int64_t panel, int depth, float* y, int64_t stride, const float* start,
          const char* ahead, int step) {
    Vec acc[P][R][2];
    for (int p = 0; p < P; p++)
        for (int r = 0; r < R; r++)
            for (int c = 0; c < 2; c++) acc[p][r][c] = load((start ? start : y + r * stride) + p * COLUMNS + c * LANES);
    for (int k = 0; k < depth; k += 2, a += ROWS, b += 2 * UNIT, ahead += step) {
        for (int line = 0; line < step; line += LINE) __builtin_prefetch(ahead + line);
        for (int p = 0; p < P; p++) add_products<R>(acc[p], a, b + p * panel);
    }
    for (int p = 0; p < P; p++)
        for (int r = 0; r < R; r++)
            for (int c = 0; c < 2; c++) store(y + r * stride + p * COLUMNS + c * LANES, acc[p][r][c]);
}

template <typename W, int R = ROWS>
void tile_of(int rows, int panels, const Pair<W>* a, const W* b, int64_t panel, int depth, float* y, int64_t stride,
             const float* start, const char* ahead, int step) {
    if constexpr (R > 0) {
        if (rows != R) return tile_of<W, R - 1>(rows, panels, a, b, panel, depth, y, stride, start, ahead, step);
        if constexpr (R <= FEW)
            if (panels == 2) return tile<R, 2>(a, b, panel, depth, y, stride, start, ahead, step);
        tile<R, 1>(a, b, panel, depth, y, stride, start, ahead, step);
    }
}

// Rows [first, first + ROWS) of x [rows, depth] as pairs [depth / 2, ROWS], through the GELU if asked.
template <typename W>
void pack(const float* x, int64_t stride, int first, int rows, int depth, bool activate, Pair<W>* packed) {
    int live = rows - first < ROWS ? rows - first : ROWS;
    for (int r = 0; r < live; r++) {
        const float* row = x + (first + r) * stride;
        for (int k = 0; k < depth; k += LANES) {
            int width = depth - k < LANES ? depth - k : LANES;
            Vec lanes{};
            if (width == LANES)
                lanes = load(row + k);
            else
                std::memcpy(&lanes, row + k, width * sizeof(float));
            if (activate) lanes = gelu(lanes);
            Pair<W> pairs[LANES / 2];
            to_pairs(lanes, pairs);
            for (int i = 0; i < width / 2; i++) packed[(k / 2 + i) * ROWS + r] = pairs[i];
        }
    }
}

// `bias` has whole panels of columns; null is none.
template <typename W>
void linear(const float* x, int64_t x_stride, int rows, int depth, const W* weights, int columns, const float* bias,
            float* y, Pair<W>* packed, bool activate, int threads) {
    static const float none[2 * COLUMNS] = {};
    int blocks = (rows + ROWS - 1) / ROWS, panels = (columns + COLUMNS - 1) / COLUMNS;
    bool ragged = columns % COLUMNS;  // then the last panel's product goes through a buffer of its own
    std::vector<float> last(ragged ? (size_t)rows * COLUMNS : 0);
    // A chunk owns a block of ROWS rows of `packed`.
    thread_pool().parallel_for(
        blocks, useful_threads(threads, (int64_t)rows * depth * (activate ? 8 : 2)),
        [&](int64_t i) { pack<W>(x, x_stride, i * ROWS, rows, depth, activate, packed + i * ROWS * (depth / 2)); });
    // A chunk owns a run of panels: their columns of y, in every row. The last panel's owner alone uses `last`. What is
    // fetched ahead of one panel is wanted by the next, so runs are four panels long where all threads get two of them.
    // For few rows two panels are read at once: memory feeds a core faster by two streams.
    int hired = useful_threads(threads, (int64_t)rows * depth * columns / 8);
    int together = std::clamp(panels / (2 * hired), 1, 4);
    thread_pool().parallel_for((panels + together - 1) / together, hired, [&](int64_t chunk) {
        int64_t end = std::min<int64_t>(panels, (chunk + 1) * together);
        for (int64_t j = chunk * together, abreast = 1; j < end; j += abreast) {
            bool buffered = ragged && j == panels - 1;
            abreast = rows <= FEW && j + 1 < end - (ragged && end == panels) ? 2 : 1;
            float* out = buffered ? last.data() : y + j * COLUMNS;
            int64_t stride = buffered ? COLUMNS : columns;
            for (int k = 0; k < depth; k += DEPTH) {
                int deep = depth - k < DEPTH ? depth - k : DEPTH;
                const W* b = weights + (int64_t)j * COLUMNS * depth + (int64_t)k * COLUMNS;
                const char* next = (const char*)(b + (int64_t)deep * COLUMNS);
                int step = 2 * COLUMNS * (int)sizeof(W) / blocks;  // bytes: a share of what one pair takes to read
                for (int i = 0; i < blocks; i++) {
                    int live = rows - i * ROWS < ROWS ? rows - i * ROWS : ROWS;
                    tile_of<W>(live, abreast, packed + ((int64_t)i * depth + k) / 2 * ROWS, b, (int64_t)COLUMNS * depth,
                               deep, out + i * ROWS * stride, stride,
                               k      ? nullptr
                               : bias ? bias + j * COLUMNS
                                      : none,
                               next + (int64_t)i * step * (deep / 2), step);
                }
            }
            if (buffered)
                for (int r = 0; r < rows; r++)
                    std::memcpy(y + (int64_t)r * columns + j * COLUMNS, out + r * stride,
                                columns % COLUMNS * sizeof(float));
        }
    });
}

// The same for many rows, which may overlap (x_stride < depth: the taps of a convolution), alone: so many rows at a
// time as the second cache holds. `packed` has room for ROWS * GROUP of them.
constexpr int GROUP = 8;
template <typename W>
void convolve(const float* x, int64_t x_stride, int64_t rows, int depth, const W* weights, int columns,
              const float* bias, float* y, Pair<W>* packed) {
    for (int64_t i = 0; i < rows; i += ROWS * GROUP) {
        int some = rows - i < ROWS * GROUP ? (int)(rows - i) : ROWS * GROUP;
        linear(x + i * x_stride, x_stride, some, depth, weights, columns, bias, y + i * columns, packed, false, 1);
    }
}

// A chunk owns a panel of `packed`.
template <typename W>
void pack_weights(const float* w, int columns, int depth, W* packed, int threads) {
    thread_pool().parallel_for((columns + COLUMNS - 1) / COLUMNS, threads, [&](int64_t j) {
        W* panel = packed + j * COLUMNS * depth;
        int width = columns - j * COLUMNS < COLUMNS ? columns - j * COLUMNS : COLUMNS;
        for (int n = 0; n < width; n++) {
            const float* column = w + (j * COLUMNS + n) * depth;
            for (int k = 0; k < depth; k++)
                put(panel + n / LANES * UNIT + k / 2 * 2 * UNIT + within<W>(k % 2, n % LANES), column[k]);
        }
    });
}

}  // namespace
