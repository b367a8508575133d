// Vectors: GCC's portable vector types, LANES wide as the instruction set that -march=native finds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;  // 32 registers: 12 x 2 accumulators
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6;  // 16 registers: 6 x 2 accumulators
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int UNIT = 2 * LANES;     // numbers that multiply a pair, see below
constexpr int COLUMNS = 2 * LANES;  // of a packed panel of weights
constexpr int DEPTH = 256;          // of a block of the reduction: half of the first cache for the panel
constexpr int LINE = 64;            // bytes

typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t VecInt __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t VecBits __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t bf16;

inline Vec splat(float x) { return x - Vec{}; }
inline Vec load(const float* p) { return *(const Vec*)p; }
inline void store(float* p, Vec v) { *(Vec*)p = v; }
inline Vec select(VecInt mask, Vec a, Vec b) { return (Vec)((mask & (VecInt)a) | (~mask & (VecInt)b)); }
// a b + c, rounded once where the processor can. Said here, since the compiler is told not to fuse of its own
// (build.py): when it does depends on its version and on the processor that it tunes for.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}
// Asks for the lines of so many bytes, which are wanted soon.
inline void fetch(const void* from, int64_t bytes) {
    for (int64_t at = 0; at < bytes; at += LINE) __builtin_prefetch((const char*)from + at);
}
inline float sum(Vec v) {
    float s = 0;
    for (int i = 0; i < LANES; i++) s += v[i];
    return s;
}

// To bf16, in the low half: to the nearest, ties to even. Of numbers or of vectors.
template <typename Bits>
inline Bits to_nearest(Bits u) {
    return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}
inline VecBits rounded(Vec x) { return to_nearest((VecBits)x); }

inline void put(float* p, float x) { *p = x; }
inline void put(bf16* p, float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    *p = (bf16)to_nearest(u);
}

// Products go by pairs: of two neighbours in the sum, since that is what the processor multiplies at once in bf16. What
// is read from memory (weights, keys, values) lies in units: LANES first factors and LANES second ones. In bf16 they
// alternate.
template <typename W>
constexpr int within(int second, int lane) {
    return sizeof(W) == 2 ? 2 * lane + second : second * LANES + lane;
}

template <typename W>
struct Pair {
    float first, second;
};

template <typename W>
inline void to_pairs(Vec x, Pair<W>* pairs) {
    std::memcpy(pairs, &x, sizeof(Vec));
}

// What a pair's first number multiplies (SECOND = 0), or its second one.
template <int SECOND>
inline Vec half(const float* unit) {
    return load(unit + SECOND * LANES);
}
template <int SECOND>
inline Vec half(const bf16* unit) {
    VecBits both = *(const VecBits*)unit;
    return (Vec)(SECOND ? both & 0xffff0000u : both << 16);
}

// sum += pair.first * unit's first + pair.second * unit's second, in every lane.
template <typename W>
inline Vec add_product(Vec sum, Pair<W> x, const W* unit) {
    sum = multiply_add(splat(x.first), half<0>(unit), sum);
    return multiply_add(splat(x.second), half<1>(unit), sum);
}

// sum += a b, as multiply_add. In the loop over a tile GCC 12 finds registers for all sums only if it can neither read
// the factors from memory again nor choose where the sum goes.
inline void accumulate(Vec& sum, Vec a, Vec b) {
#if defined(__FMA__)
    Vec total = sum;
    asm("vfmadd231ps %2, %1, %0" : "+v"(total) : "v"(a), "v"(b));
    sum = total;
#else
    sum = multiply_add(a, b, sum);
#endif
}

// add_product for R pairs with two units each.
template <int R, typename W>
inline void add_products(Vec (&sums)[R][2], const Pair<W>* x, const W* units) {
    Vec left = half<0>(units), right = half<0>(units + UNIT);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
        accumulate(sums[r][0], splat(x[r].first), left);
        accumulate(sums[r][1], splat(x[r].first), right);
    }
    left = half<1>(units), right = half<1>(units + UNIT);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
        accumulate(sums[r][0], splat(x[r].second), left);
        accumulate(sums[r][1], splat(x[r].second), right);
    }
}

#if defined(__AVX512BF16__)
template <>
struct Pair<bf16> {
    int32_t bits;
};  // rounded to bf16, the first one below

template <>
inline void to_pairs(Vec x, Pair<bf16>* pairs) {
    _mm256_storeu_si256((__m256i*)pairs, (__m256i)_mm512_cvtneps_pbh((__m512)x));
}

template <>
inline Vec add_product(Vec sum, Pair<bf16> x, const bf16* unit) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x.bits), (__m512bh)_mm512_loadu_si512(unit));
}

template <int R>
inline void add_products(Vec (&sums)[R][2], const Pair<bf16>* x, const bf16* units) {
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 2; i++) sums[r][i] = add_product(sums[r][i], x[r], units + i * UNIT);
}
#endif

// c[0] x^(N - 1) + ... + c[N - 1].
template <int N>
inline Vec polynomial(const float (&c)[N], Vec x) {
    Vec p = splat(c[0]);
    for (int i = 1; i < N; i++) p = multiply_add(p, x, splat(c[i]));
    return p;
}

// e^x for x <= 0 (and a little above); 2^n * polynomial, relative error about 1e-7. Below -87 it is zero.
inline Vec exp_(Vec x) {
    static constexpr float c[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                  4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    VecInt live = x > splat(-87.0f);
    x = select(live, x, splat(-87.0f));
    VecInt n = __builtin_convertvector(multiply_add(x, splat(1.44269504088896341f), splat(-0.5f)),
                                       VecInt);  // x <= 0: truncation rounds to nearest
    Vec f = __builtin_convertvector(n, Vec);
    Vec r = multiply_add(f, splat(2.12194440e-4f), multiply_add(f, splat(-0.693359375f), x));
    Vec p = multiply_add(polynomial(c, r) * r, r, r) + 1.0f;
    Vec power = (Vec)((n + 127) << 23);
    return select(live, p * power, Vec{});
}

// x * Phi(x), the exact (erf) GELU. erf by a rational minimax approximation on [-4, 4], error about 1e-7.
inline Vec gelu(Vec x) {
    static constexpr float over[] = {-2.72614225801306e-10f, 2.77068142495902e-08f,  -2.10102402082508e-06f,
                                     -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                                     -1.60960333262415e-02f};
    static constexpr float under[] = {-1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                                      -7.37332916720468e-03f, -1.42647390514189e-02f};
    Vec z = x * 0.70710678118654752f;
    z = select(z > splat(4.0f), splat(4.0f), z);
    z = select(z < splat(-4.0f), splat(-4.0f), z);
    Vec s = z * z;
    return x * 0.5f * (1.0f + z * polynomial(over, s) / polynomial(under, s));
}

}  // namespace
