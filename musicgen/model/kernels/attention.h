// Attention of single queries over a cache, and writing to the cache.
#pragma once

#include <vector>

#include "crew.h"
#include "vectors.h"

namespace {

// out[width] = sum over t of p[t] v[t, :], each element one chain over t.
template <int N, typename C>
void weigh(const float* p, const C* v, int length, int64_t stride, float scale, float* out) {
    Vec acc[N] = {};
    for (int t = 0; t < length; t++, v += stride)
#pragma GCC unroll 8
        for (int i = 0; i < N; i++) acc[i] += p[t] * load(v + i * LANES);
    for (int i = 0; i < N; i++) store(out + i * LANES, acc[i] * scale);
}

template <typename C, int N = 8>
void weigh_of(int n, const float* p, const C* v, int length, int64_t stride, float scale, float* out) {
    if constexpr (N > 0) {
        if (n == N) weigh<N>(p, v, length, stride, scale, out);
        else weigh_of<C, N - 1>(n, p, v, length, stride, scale, out);
    }
}

// scores[t] = q . k[t] for BLOCKS * LANES positions. Keys lie in blocks [dim][LANES], so that no lane is ever summed across.
template <int BLOCKS, typename C>
inline void score(const float* q, const C* k, int dim, float* scores) {
    Vec acc[BLOCKS] = {};
    for (int d = 0; d < dim; d++)
#pragma GCC unroll 8
        for (int b = 0; b < BLOCKS; b++) acc[b] += q[d] * load(k + ((int64_t)b * dim + d) * LANES);
    for (int b = 0; b < BLOCKS; b++) store(scores + b * LANES, acc[b]);
}

// One query against the first `length` positions of one head's cache.
template <typename C>
void attend(const float* q, const C* keys, const C* values, int length, int dim, int padded, float* scores, float* out) {
    float scaled[1024];
    float factor = 1.0f / std::sqrt((float)dim);
    for (int d = 0; d < dim; d++) scaled[d] = q[d] * factor;
    int blocks = (length + LANES - 1) / LANES, b = 0;
    for (; b + 4 <= blocks; b += 4) score<4>(scaled, keys + (int64_t)b * dim * LANES, dim, scores + b * LANES);
    for (; b < blocks; b++) score<1>(scaled, keys + (int64_t)b * dim * LANES, dim, scores + b * LANES);
    for (int t = length; t < blocks * LANES; t++) scores[t] = -INFINITY;
    Vec tops = load(scores), total = {};
    for (int i = 1; i < blocks; i++) tops = select(load(scores + i * LANES) > tops, load(scores + i * LANES), tops);
    float top = tops[0];
    for (int i = 1; i < LANES; i++) top = tops[i] > top ? tops[i] : top;
    for (int i = 0; i < blocks; i++) {
        Vec p = exp_(load(scores + i * LANES) - top);
        store(scores + i * LANES, p);
        total += p;
    }
    float share = 1.0f / sum(total), tail[8 * LANES];
    for (int d = 0; d < dim; d += 8 * LANES) {
        int n = (padded - d) / LANES < 8 ? (padded - d) / LANES : 8;
        weigh_of<C>(n, scores, values + d, length, padded, share, tail);
        std::memcpy(out + d, tail, (dim - d < n * LANES ? dim - d : n * LANES) * sizeof(float));
    }
}

template <typename C>
void write(const float* k, const float* v, int position, int dim, int padded, C* keys, C* values) {
    C* block = keys + (int64_t)(position / LANES) * dim * LANES + position % LANES;
    for (int d = 0; d < dim; d++) put(block + d * LANES, k[d]);
    for (int d = 0; d < dim; d++) put(values + (int64_t)position * padded + d, v[d]);
}

// Where row `row`, head `head` of a cache [rows, heads, capacity * width] begins.
template <typename C>
inline C* place(C* cache, int row, int head, int heads, int capacity, int width) {
    return cache + ((int64_t)row * heads + head) * capacity * width;
}

// Token i becomes position lengths[i] - 1 of cache row rows[i].
template <typename C>
void append(const float* k, const float* v, int64_t stride, int tokens, const int32_t* rows, const int32_t* lengths, C* keys, C* values,
            int heads, int dim, int capacity, int threads) {
    int padded = (dim + LANES - 1) / LANES * LANES;
    crew().share(tokens * heads, useful(threads, (int64_t)tokens * heads * dim * 4), [&](int64_t i) {
        int token = i / heads, head = i % heads;
        write(k + token * stride + head * dim, v + token * stride + head * dim, lengths[token] - 1, dim, padded,
              place(keys, rows[token], head, heads, capacity, dim), place(values, rows[token], head, heads, capacity, padded));
    });
}

// Token i attends to the first lengths[i] positions of cache row rows[i]; the cost follows the lengths, not the capacity.
template <typename C>
void attention(const float* q, int64_t stride, int tokens, const int32_t* rows, const int32_t* lengths, const C* keys, const C* values,
               int heads, int dim, int capacity, float* out, int threads) {
    int padded = (dim + LANES - 1) / LANES * LANES;
    int64_t work = 0;
    for (int i = 0; i < tokens; i++) work += (int64_t)lengths[i] * heads * dim / 2;
    crew().share(tokens * heads, useful(threads, work), [&](int64_t i) {
        static thread_local std::vector<float> scores;
        if ((int)scores.size() < capacity) scores.resize(capacity);
        int token = i / heads, head = i % heads;
        attend(q + token * stride + head * dim, place(keys, rows[token], head, heads, capacity, dim),
               place(values, rows[token], head, heads, capacity, padded), lengths[token], dim, padded, scores.data(),
               out + ((int64_t)token * heads + head) * dim);
    });
}

}  // namespace
