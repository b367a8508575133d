// y = x W^T with packed weights: panels of COLUMNS columns, so that memory is read once and in order.
#pragma once

#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include "crew.h"
#include "vectors.h"

namespace {

// y[rows, COLUMNS] (+)= a[depth, ROWS]^T b[depth, COLUMNS]; every element is one chain over depth. Meanwhile `step` bytes
// at a time are fetched from `ahead`: a share of the weights that come next, so that memory works while the products do.
template <int R>
void tile(const float* a, const float* b, int depth, float* y, int64_t stride, bool first, const char* ahead, int step) {
    Vec acc[R][2];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < 2; c++) acc[r][c] = first ? Vec{} : load(y + r * stride + c * LANES);
    for (int k = 0; k < depth; k++, a += ROWS, b += COLUMNS, ahead += step) {
        __builtin_prefetch(ahead);
        Vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            acc[r][0] += a[r] * b0;
            acc[r][1] += a[r] * b1;
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < 2; c++) store(y + r * stride + c * LANES, acc[r][c]);
}

// The same with bf16 weights, two of them (k, k + 1) side by side in each 32-bit lane.
template <int R>
void tile(const float* a, const bf16* b, int depth, float* y, int64_t stride, bool first, const char* ahead, int step) {
    Vec acc[R][2];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < 2; c++) acc[r][c] = first ? Vec{} : load(y + r * stride + c * LANES);
    for (int k = 0; k < depth; k += 2, a += 2 * ROWS, b += 2 * COLUMNS, ahead += step) {
        __builtin_prefetch(ahead);
#if defined(__AVX512BF16__)
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + COLUMNS);
        const int32_t* pair = (const int32_t*)a;  // packed by pack(): ROWS pairs, then unused space
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32(pair[r]);
            acc[r][0] = (Vec)_mm512_dpbf16_ps((__m512)acc[r][0], x, b0);
            acc[r][1] = (Vec)_mm512_dpbf16_ps((__m512)acc[r][1], x, b1);
        }
#else
        VecBits p0 = *(const VecBits*)b, p1 = *(const VecBits*)(b + COLUMNS);
        Vec b0 = (Vec)(p0 << 16), b1 = (Vec)(p1 << 16);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            acc[r][0] += a[r] * b0;
            acc[r][1] += a[r] * b1;
        }
        b0 = (Vec)(p0 & 0xffff0000u), b1 = (Vec)(p1 & 0xffff0000u);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            acc[r][0] += a[ROWS + r] * b0;
            acc[r][1] += a[ROWS + r] * b1;
        }
#endif
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < 2; c++) store(y + r * stride + c * LANES, acc[r][c]);
}

template <typename W, int R = ROWS>
void tile_of(int rows, const float* a, const W* b, int depth, float* y, int64_t stride, bool first, const char* ahead,
             int step) {
    if constexpr (R > 0) {
        if (rows == R) tile<R>(a, b, depth, y, stride, first, ahead, step);
        else tile_of<W, R - 1>(rows, a, b, depth, y, stride, first, ahead, step);
    }
}

// Rows [first, first + ROWS) of x [rows, depth] as packed [depth, ROWS], through the GELU if asked.
template <typename W>
void pack(const float* x, int64_t stride, int first, int rows, int depth, bool activate, float* packed) {
    int live = rows - first < ROWS ? rows - first : ROWS;
    for (int k = 0; k < depth; k += LANES) {
        int width = depth - k < LANES ? depth - k : LANES;
        for (int r = 0; r < live; r++) {
            float lane[LANES] = {};
            std::memcpy(lane, x + (first + r) * stride + k, width * sizeof(float));
            if (activate) store(lane, gelu(load(lane)));
#if defined(__AVX512BF16__)
            if constexpr (sizeof(W) == 2) {
                for (int i = 0; i < width; i++) put((bf16*)(packed + ((k + i) / 2 * 2) * ROWS + r) + (k + i) % 2, lane[i]);
                continue;
            }
#endif
            for (int i = 0; i < width; i++) packed[(k + i) * ROWS + r] = lane[i];
        }
    }
}

template <typename W>
void linear(const float* x, int64_t x_stride, int rows, int depth, const W* weights, int columns, float* y, float* packed,
            bool activate, int threads) {
    int blocks = (rows + ROWS - 1) / ROWS, panels = (columns + COLUMNS - 1) / COLUMNS;
    bool ragged = columns % COLUMNS;  // then the last panel's product goes through a buffer of its own
    std::vector<float> last(ragged ? (size_t)rows * COLUMNS : 0);
    crew().share(blocks, useful(threads, (int64_t)rows * depth * (activate ? 8 : 1)), [&](int64_t i) {
        pack<W>(x, x_stride, i * ROWS, rows, depth, activate, packed + i * ROWS * depth);
    });
    constexpr int TOGETHER = 4;  // panels: what is fetched ahead of one is wanted by the next
    crew().share((panels + TOGETHER - 1) / TOGETHER, useful(threads, (int64_t)rows * depth * columns / 8), [&](int64_t chunk) {
        for (int j = chunk * TOGETHER; j < panels && j < (chunk + 1) * TOGETHER; j++) {
            bool buffered = ragged && j == panels - 1;
            float* out = buffered ? last.data() : y + j * COLUMNS;
            int64_t stride = buffered ? COLUMNS : columns;
            for (int k = 0; k < depth; k += DEPTH) {
                int deep = depth - k < DEPTH ? depth - k : DEPTH;
                const W* b = weights + (int64_t)j * COLUMNS * depth + (int64_t)k * COLUMNS;
                const char* next = (const char*)(b + (int64_t)deep * COLUMNS);
                int step = 4 * COLUMNS / blocks;  // bytes; a tile's loop goes over 4 * COLUMNS bytes at a time, whatever W
                for (int i = 0; i < blocks; i++) {
                    int live = rows - i * ROWS < ROWS ? rows - i * ROWS : ROWS;
                    tile_of<W>(live, packed + (int64_t)i * ROWS * depth + (int64_t)k * ROWS, b, deep,
                               out + i * ROWS * stride, stride, k == 0, next + (int64_t)i * step * (deep / (4 / (int)sizeof(W))), step);
                }
            }
            if (buffered)
                for (int r = 0; r < rows; r++)
                    std::memcpy(y + (int64_t)r * columns + j * COLUMNS, out + r * stride, columns % COLUMNS * sizeof(float));
        }
    });
}

template <typename W>
void pack_weights(const float* w, int columns, int depth, W* packed, int threads) {
    int pair = sizeof(W) == 2 ? 2 : 1;  // bf16 weights lie in pairs over depth
    crew().share(columns, threads, [&](int64_t n) {
        for (int k = 0; k < depth; k++) {
            int64_t at = ((n / COLUMNS) * depth + k / pair * pair) * COLUMNS + n % COLUMNS * pair + k % pair;
            put(packed + at, w[n * depth + k]);
        }
    });
}

}  // namespace
