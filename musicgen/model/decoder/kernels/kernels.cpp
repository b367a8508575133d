// The decoder step's arithmetic on a CPU, as C functions (see ../cpu_ops.py).
//
// One rule holds everywhere: an output element is computed by one thread, in an order that depends on its own row's
// data alone. So a row's bits do not depend on its neighbours, on its place, on how many rows run, or on the number of
// threads, and the engine's promise (same request, same codes) needs no fixed shapes.

#include "attention.h"
#include "linear.h"
#include "norm.h"
#include "recurrence.h"
#include "sampling.h"

namespace {

// Runs a kernel for a caller in C: 0, or 1 if there was no memory. No exception may leave a C function.
template <typename Kernel>
int run(const Kernel& kernel) {
    try {
        kernel();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

extern "C" {
int lanes() { return LANES; }
int tile_rows() { return ROWS; }
void shuffle_chunks(uint64_t seed) { thread_pool().shuffle(seed); }  // for tests: see thread_pool.h
int64_t helped_loops() { return thread_pool().helped_loops(); }
const char* build_name() {
#if defined(MUSICGEN_PORTABLE)
    return "portable";
#else
    return "native";
#endif
}
const char* instruction_set() {
#if defined(__AVX512BF16__)
    return "avx512_bf16";
#elif defined(__AVX512F__)
    return "avx512";
#elif defined(__AVX__)
    return "avx2";
#else
    return "portable";
#endif
}
int pack_fp32(const float* w, int columns, int depth, float* packed, int threads) {
    return run([&] { pack_weights(w, columns, depth, packed, threads); });
}
int pack_bf16(const float* w, int columns, int depth, bf16* packed, int threads) {
    return run([&] { pack_weights(w, columns, depth, packed, threads); });
}
int linear_fp32(const float* x, int64_t x_stride, int rows, int depth, const float* w, int columns, float* y,
                void* packed, int activate, int threads) {
    return run([&] {
        linear(x, x_stride, rows, depth, w, columns, (const float*)nullptr, y, (Pair<float>*)packed, activate, threads);
    });
}
int linear_bf16(const float* x, int64_t x_stride, int rows, int depth, const bf16* w, int columns, float* y,
                void* packed, int activate, int threads) {
    return run([&] {
        linear(x, x_stride, rows, depth, w, columns, (const float*)nullptr, y, (Pair<bf16>*)packed, activate, threads);
    });
}
int convolve_fp32(const float* x, int64_t x_stride, int64_t rows, int depth, const float* w, int columns,
                  const float* bias, float* y, void* packed) {
    return run([&] { convolve(x, x_stride, rows, depth, w, columns, bias, y, (Pair<float>*)packed); });
}
int convolve_rows() { return ROWS * GROUP; }
int recur_fp32(int sequences, const int32_t* lengths, const float* const* gates, const float* w, int hidden, float* h,
               float* c, float* const* out) {
    return run([&] { recur(sequences, lengths, gates, w, hidden, h, c, out); });
}
#define CACHE(name, C)                                                                                                 \
    int append_##name(const float* k, const float* v, int64_t stride, int tokens, const int32_t* rows,                 \
                      const int32_t* lengths, C* keys, C* values, int heads, int dim, int capacity, int threads) {     \
        return run([&] { append(k, v, stride, tokens, rows, lengths, keys, values, heads, dim, capacity, threads); }); \
    }                                                                                                                  \
    int append_and_attend_##name(const float* q, const float* k, const float* v, int64_t stride, int tokens,           \
                                 const int32_t* rows, const int32_t* lengths, C* keys, C* values, int heads, int dim,  \
                                 int capacity, float* out, int threads) {                                              \
        return run([&] {                                                                                               \
            append_and_attend(q, k, v, stride, tokens, rows, lengths, keys, values, heads, dim, capacity, out,         \
                              threads);                                                                                \
        });                                                                                                            \
    }                                                                                                                  \
    int attention_##name(const float* q, int64_t stride, int tokens, const int32_t* rows, const int32_t* lengths,      \
                         C* keys, C* values, int heads, int dim, int capacity, float* out, int threads) {              \
        return run([&] {                                                                                               \
            attention(q, (const float*)nullptr, (const float*)nullptr, stride, tokens, rows, lengths, keys, values,    \
                      heads, dim, capacity, out, threads);                                                             \
        });                                                                                                            \
    }
CACHE(fp32, float)
CACHE(bf16, bf16)
int norm_fp32(float* x, const float* delta, int added, const float* weight, const float* bias, int rows, int width,
              float* y, int threads) {
    return run([&] { norm(x, delta, added, weight, bias, rows, width, y, threads); });
}
int sample_fp32(const float* logits, const void* choices, int clips, const int32_t* steps, int codebooks, int size,
                int32_t* next, int threads) {
    return run([&] { sample(logits, (const SamplingParams*)choices, clips, steps, codebooks, size, next, threads); });
}
}
