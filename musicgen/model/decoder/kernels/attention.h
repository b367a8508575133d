// Attention of single queries over a cache, and writing to the cache.
//
// Of one row and head, keys lie in blocks of LANES positions, [dim / 2] units each, so that no lane is ever summed
// across; values in pairs of positions, [padded / LANES] units each, where `padded` is dim up to whole vectors.
#pragma once

#include <vector>

#include "thread_pool.h"
#include "vectors.h"

namespace {

// Heads that are read at once, some lines of each in turn: the processor fetches ahead by itself, and gets more from
// memory in several streams than in one. (Asking for lines ahead here was slower than not.)
constexpr int HEADS = 4;

// scores[g][t] = q[g] . k[g][t] for one block of G heads.
template <int G, typename C>
void score(const Pair<C>* q, int q_stride, const C* k, int64_t k_stride, int dim, float* scores, int64_t stride) {
    Vec acc[G] = {};
    for (int d = 0; d < dim; d += 2)
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) acc[g] = add_product(acc[g], q[g * q_stride + d / 2], k + g * k_stride + d * LANES);
    for (int g = 0; g < G; g++) store(scores + g * stride, acc[g]);
}

// Turns scores into pairs of e^(score - the largest), in their place, and returns their sum. There are whole blocks of
// them; those from `length` on count for nothing.
template <typename C>
float exponentiate(float* scores, int length) {
    int blocks = (length + LANES - 1) / LANES;
    for (int t = length; t < blocks * LANES; t++) scores[t] = -INFINITY;
    // The largest score, or NaN where there is one: exp_ takes NaN for nothing, which would hide it.
    Vec tops = load(scores), total = {};
    for (int i = 1; i < blocks; i++) {
        Vec more = load(scores + i * LANES);
        tops = select((more > tops) | (more != more), more, tops);
    }
    float top = tops[0];
    for (int i = 1; i < LANES; i++) top = tops[i] > top || tops[i] != tops[i] ? tops[i] : top;
    Pair<C>* p = (Pair<C>*)scores;  // a pair is no longer than its two numbers: written where they were read
    for (int i = 0; i < blocks; i++) {
        Vec e = exp_(load(scores + i * LANES) - top);
        total += e;
        to_pairs(e, p + i * LANES / 2);
    }
    return sum(total);
}

// sums[N * LANES] += p v, for one pair of positions.
template <int N, typename C>
inline void weigh(Pair<C> p, const C* v, float* sums) {
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) store(sums + i * LANES, add_product(load(sums + i * LANES), p, v + i * UNIT));
}

// The queries of G heads against the first `length` positions of the heads' keys and values; zeros if there are none.
// `scores` has room for `stride` numbers a head.
template <int G, typename C>
void attend(const float* q, const C* keys, int64_t key_stride, const C* values, int64_t value_stride, int length,
            int dim, int padded, float* scores, int64_t stride, float* out) {
    if (length <= 0) {
        std::memset(out, 0, G * dim * sizeof(float));
        return;
    }
    float scaled[1024], share[G], sums[G * 1024];
    Pair<C> queries[G * 512];
    float factor = 1.0f / std::sqrt((float)dim);
    for (int g = 0; g < G; g++) {
        for (int d = 0; d < padded; d++) scaled[d] = d < dim ? q[g * dim + d] * factor : 0;
        for (int d = 0; d < padded; d += LANES) to_pairs(load(scaled + d), queries + (g * padded + d) / 2);
    }
    for (int t = 0; t < length; t += LANES)
        score<G>(queries, padded / 2, keys + (int64_t)t * dim, key_stride, dim, scores + t, stride);
    for (int g = 0; g < G; g++) share[g] = 1.0f / exponentiate<C>(scores + g * stride, length);
    std::memset(sums, 0, G * padded * sizeof(float));
    for (int t = 0; t < length; t += 2)
        for (int g = 0; g < G; g++) {
            Pair<C> p = ((const Pair<C>*)(scores + g * stride))[t / 2];
            const C* v = values + g * value_stride + (int64_t)t * padded;
            int d = 0;
            for (; d + 8 * LANES <= padded; d += 8 * LANES) weigh<8>(p, v + 2 * d, sums + g * padded + d);
            for (; d < padded; d += LANES) weigh<1>(p, v + 2 * d, sums + g * padded + d);
        }
    for (int g = 0; g < G; g++)
        for (int d = 0; d < dim; d++) out[g * dim + d] = sums[g * padded + d] * share[g];
}

inline void put_key(float* unit, int lane, const float* k) { unit[lane] = k[0], unit[LANES + lane] = k[1]; }
inline void put_key(bf16* unit, int lane, const float* k) {
    put(unit + 2 * lane, k[0]), put(unit + 2 * lane + 1, k[1]);
}

// The first position of a pair clears the second: it is read with weight 0, and what an earlier request left there
// could be infinite.
inline void put_values(float* unit, int second, Vec v) {
    store(unit + second * LANES, v);
    if (!second) store(unit + LANES, Vec{});
}
inline void put_values(bf16* unit, int second, Vec v) {
    VecBits& both = *(VecBits*)unit;
    both = second ? (both & 0xffffu) | (rounded(v) << 16) : rounded(v);
}

template <typename C>
void write(const float* k, const float* v, int position, int dim, int padded, C* keys, C* values) {
    C* block = keys + (int64_t)(position / LANES) * dim * LANES;
    C* pair = values + (int64_t)(position / 2) * 2 * padded;
    for (int d = 0; d < dim; d += 2) put_key(block + d / 2 * UNIT, position % LANES, k + d);
    for (int d = 0; d < dim; d += LANES) {
        Vec lanes{};
        std::memcpy(&lanes, v + d, (dim - d < LANES ? dim - d : LANES) * sizeof(float));
        put_values(pair + d / LANES * UNIT, position % 2, lanes);
    }
}

// Where row `row`, head `head` of a cache [rows, heads, capacity * width] begins.
template <typename C>
inline C* place(C* cache, int row, int head, int heads, int capacity, int width) {
    return cache + ((int64_t)row * heads + head) * capacity * width;
}

// Token i becomes position lengths[i] - 1 of cache row rows[i]. The tokens of one row stand in ascending order of
// position.
//
// A chunk owns a run of heads, for all tokens: every (row, head) of the cache is written by one thread, in the order of
// the tokens. Chunks of tokens would be wrong. Two positions share a unit of values, where the first clears the second,
// and in bf16 they share words of 32 bits.
template <typename C>
void append(const float* k, const float* v, int64_t stride, int tokens, const int32_t* rows, const int32_t* lengths,
            C* keys, C* values, int heads, int dim, int capacity, int threads) {
    int padded = (dim + LANES - 1) / LANES * LANES;
    int hired = useful_threads(threads, (int64_t)tokens * heads * dim * 8);
    int run = hired > 1 ? (heads + 4 * hired - 1) / (4 * hired)
                        : heads;  // short runs: a thread that loses its core holds few
    thread_pool().parallel_for((heads + run - 1) / run, hired, [&](int64_t chunk) {
        int first = chunk * run, end = first + run < heads ? first + run : heads;
        for (int token = 0; token < tokens; token++) {
            int position = lengths[token] - 1;
            for (int head = first; head < end; head++) {
                // The lines of a block are far apart: ask for all of the next block's before the first is needed.
                int next = head + 1 < end ? token : token + 1, next_head = head + 1 < end ? head + 1 : first;
                if (next < tokens) {
                    int lane = (lengths[next] - 1) % LANES;
                    const C* block = place(keys, rows[next], next_head, heads, capacity, dim) +
                                     (int64_t)(lengths[next] - 1 - lane) * dim;
                    for (int d = 0; d < dim; d += 2) __builtin_prefetch(block + d / 2 * UNIT + within<C>(0, lane), 1);
                }
                write(k + token * stride + head * dim, v + token * stride + head * dim, position, dim, padded,
                      place(keys, rows[token], head, heads, capacity, dim),
                      place(values, rows[token], head, heads, capacity, padded));
            }
        }
    });
}

// Where a token's own key and value go: the block of keys and the pair of values of its last position.
template <typename C>
inline void fetch_last(const C* keys, const C* values, int length, int dim, int padded) {
    if (length <= 0) return;
    fetch(keys + (int64_t)((length - 1) / LANES) * LANES * dim, LANES * dim * sizeof(C));
    fetch(values + (int64_t)((length - 1) / 2) * 2 * padded, 2 * padded * sizeof(C));
}

// Token i attends to the first lengths[i] positions of cache row rows[i]; the cost follows the lengths, not the
// capacity. With k and v, its own key and value are written first.
//
// A chunk owns the outputs of a run of (token, HEADS heads): `dim` numbers of `out` for each head. How long the runs
// are depends on the number of threads, but each (token, head) is computed from its own row alone. Without k and v the
// cache is only read. With them no two tokens may be of one row, so that a (row, head) of the cache is its only token's
// chunk's own.
template <typename C>
void attention(const float* q, const float* k, const float* v, int64_t stride, int tokens, const int32_t* rows,
               const int32_t* lengths, C* keys, C* values, int heads, int dim, int capacity, float* out, int threads) {
    int padded = (dim + LANES - 1) / LANES * LANES;
    int64_t key_stride = (int64_t)capacity * dim, value_stride = (int64_t)capacity * padded;
    int64_t work = 0, groups = (heads + HEADS - 1) / HEADS, items = tokens * groups;
    for (int i = 0; i < tokens; i++) work += (int64_t)lengths[i] * heads * dim / 2;
    int64_t together = items / (8 * threads) + 1;  // one after the other by one thread, which can look ahead
    thread_pool().parallel_for((items + together - 1) / together, useful_threads(threads, work), [&](int64_t chunk) {
        static thread_local std::vector<float> scores;
        if ((int64_t)scores.size() < (int64_t)HEADS * capacity) scores.resize((int64_t)HEADS * capacity);
        for (int64_t i = chunk * together; i < items && i < (chunk + 1) * together; i++) {
            int token = i / groups, first = i % groups * HEADS, end = first + HEADS < heads ? first + HEADS : heads;
            int after = i + 1 < items ? i + 1 : i, next = after / groups, next_first = after % groups * HEADS;
            int64_t column = token * stride + first * dim;
            C* keys_here = place(keys, rows[token], first, heads, capacity, dim);
            C* values_here = place(values, rows[token], first, heads, capacity, padded);
            float* to = out + ((int64_t)token * heads + first) * dim;
            for (int g = 0; k && g < end - first; g++)
                write(k + column + g * dim, v + column + g * dim, lengths[token] - 1, dim, padded,
                      keys_here + g * key_stride, values_here + g * value_stride);
            for (int head = next_first; k && head < heads && head < next_first + HEADS; head++)
                fetch_last(place(keys, rows[next], head, heads, capacity, dim),
                           place(values, rows[next], head, heads, capacity, padded), lengths[next], dim, padded);
            if (end - first == HEADS)
                attend<HEADS>(q + column, keys_here, key_stride, values_here, value_stride, lengths[token], dim, padded,
                              scores.data(), capacity, to);
            else
                for (int g = 0; g < end - first; g++)
                    attend<1>(q + column + g * dim, keys_here + g * key_stride, key_stride,
                              values_here + g * value_stride, value_stride, lengths[token], dim, padded, scores.data(),
                              capacity, to + g * dim);
        }
    });
}

// Both in one go where each token is of a row of its own, as in a decode step: the last block of keys and pair of
// values, which are written in part and read at once, come from memory once.
template <typename C>
void append_and_attend(const float* q, const float* k, const float* v, int64_t stride, int tokens, const int32_t* rows,
                       const int32_t* lengths, C* keys, C* values, int heads, int dim, int capacity, float* out,
                       int threads) {
    bool apart = true;
    for (int i = 1; i < tokens; i++) apart = apart && rows[i] > rows[i - 1];
    if (!apart) append(k, v, stride, tokens, rows, lengths, keys, values, heads, dim, capacity, threads);
    attention(q, apart ? k : nullptr, v, stride, tokens, rows, lengths, keys, values, heads, dim, capacity, out,
              threads);
}

}  // namespace
