// Vectors: GCC's portable vector types, LANES wide as the instruction set that -march=native finds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512BF16__)
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

// sum += pair.first * unit's first + pair.second * unit's second, in every lane.
inline Vec add_product(Vec sum, Pair<float> x, const float* unit) {
    sum += x.first * load(unit);
    return sum + x.second * load(unit + LANES);
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

inline Vec add_product(Vec sum, Pair<bf16> x, const bf16* unit) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(x.bits), (__m512bh)_mm512_loadu_si512(unit));
}
#else
inline Vec add_product(Vec sum, Pair<bf16> x, const bf16* unit) {
    VecBits both = *(const VecBits*)unit;
    sum += x.first * (Vec)(both << 16);
    return sum + x.second * (Vec)(both & 0xffff0000u);
}
#endif

// e^x for x <= 0 (and a little above); 2^n * polynomial, relative error about 1e-7. Below -87 it is zero.
inline Vec exp_(Vec x) {
    VecInt live = x > splat(-87.0f);
    x = select(live, x, splat(-87.0f));
    VecInt n =
        __builtin_convertvector(x * 1.44269504088896341f - 0.5f, VecInt);  // x <= 0: truncation rounds to nearest
    Vec f = __builtin_convertvector(n, Vec);
    Vec r = x - f * 0.693359375f - f * -2.12194440e-4f;
    Vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Vec power = (Vec)((n + 127) << 23);
    return select(live, p * power, Vec{});
}

// x * Phi(x), the exact (erf) GELU. erf by a rational minimax approximation on [-4, 4], error about 1e-7.
inline Vec gelu(Vec x) {
    Vec z = x * 0.70710678118654752f;
    z = select(z > splat(4.0f), splat(4.0f), z);
    z = select(z < splat(-4.0f), splat(-4.0f), z);
    Vec s = z * z;
    Vec p = splat(-2.72614225801306e-10f);
    p = p * s + 2.77068142495902e-08f;
    p = p * s - 2.10102402082508e-06f;
    p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f;
    p = p * s - 2.95459980854025e-03f;
    p = p * s - 1.60960333262415e-02f;
    Vec q = splat(-1.45660718464996e-05f);
    q = q * s - 2.13374055278905e-04f;
    q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f;
    q = q * s - 1.42647390514189e-02f;
    return x * 0.5f * (1.0f + z * p / q);
}

}  // namespace
