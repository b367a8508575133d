// Vectors: GCC's portable vector types, LANES wide as the instruction set that -march=native finds.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;  // 32 registers: 12 x 2 accumulators
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 6;    // 16 registers: 6 x 2 accumulators
#else
constexpr int LANES = 4, ROWS = 4;
#endif
constexpr int COLUMNS = 2 * LANES;    // of a packed panel of weights
constexpr int DEPTH = 256;            // of a block of the reduction: half of the first cache for the panel

typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t VecInt __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t VecBits __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t VecHalf __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint16_t bf16;

inline Vec splat(float x) { return x - Vec{}; }
inline Vec load(const float* p) { return *(const Vec*)p; }
inline void store(float* p, Vec v) { *(Vec*)p = v; }
inline Vec load(const bf16* p) { return (Vec)(__builtin_convertvector(*(const VecHalf*)p, VecBits) << 16); }
inline Vec select(VecInt mask, Vec a, Vec b) { return (Vec)((mask & (VecInt)a) | (~mask & (VecInt)b)); }
inline float sum(Vec v) { float s = 0; for (int i = 0; i < LANES; i++) s += v[i]; return s; }

inline void put(float* p, float x) { *p = x; }
inline void put(bf16* p, float x) {  // round to nearest, ties to even
    uint32_t u; std::memcpy(&u, &x, 4);
    *p = (bf16)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// e^x for x <= 0 (and a little above); 2^n * polynomial, relative error about 1e-7. Below -87 it is zero.
inline Vec exp_(Vec x) {
    VecInt live = x > splat(-87.0f);
    x = select(live, x, splat(-87.0f));
    VecInt n = __builtin_convertvector(x * 1.44269504088896341f - 0.5f, VecInt);  // x <= 0: truncation rounds to nearest
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
