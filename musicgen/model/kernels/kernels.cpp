// The decoder step's arithmetic on a CPU: matrix products, attention, normalisation.
//
// One rule holds everywhere: an output element is computed by one thread, in an order that depends on its own row's
// data alone. So a row's bits do not depend on its neighbours, on its place, on how many rows run, or on the number of
// threads, and the engine's promise (same request, same codes) needs no fixed shapes.
//
// Vectors are GCC's portable vector types; LANES follows the instruction set that -march=native finds.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

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

// Threads worth waking for this many elementary operations: meeting again costs microseconds, or a time slice on a busy machine.
inline int crew(int threads, int64_t work) {
    int64_t useful = work / 100000 + 1;
    return useful < threads ? (int)useful : threads;
}

// ---------------------------------------------------------------- matrix product

// y[rows, COLUMNS] (+)= a[depth, ROWS]^T b[depth, COLUMNS]; every element is one chain over depth.
template <int R>
void tile(const float* a, const float* b, int depth, float* y, int64_t stride, bool first) {
    Vec acc[R][2];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < 2; c++) acc[r][c] = first ? Vec{} : load(y + r * stride + c * LANES);
    for (int k = 0; k < depth; k++, a += ROWS, b += COLUMNS) {
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
void tile(const float* a, const bf16* b, int depth, float* y, int64_t stride, bool first) {
    Vec acc[R][2];
    for (int r = 0; r < R; r++)
        for (int c = 0; c < 2; c++) acc[r][c] = first ? Vec{} : load(y + r * stride + c * LANES);
    for (int k = 0; k < depth; k += 2, a += 2 * ROWS, b += 2 * COLUMNS) {
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
void tile_of(int rows, const float* a, const W* b, int depth, float* y, int64_t stride, bool first) {
    if constexpr (R > 0) {
        if (rows == R) tile<R>(a, b, depth, y, stride, first);
        else tile_of<W, R - 1>(rows, a, b, depth, y, stride, first);
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
    threads = crew(threads, (int64_t)rows * depth * columns / 8);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int i = 0; i < blocks; i++) pack<W>(x, x_stride, i * ROWS, rows, depth, activate, packed + (int64_t)i * ROWS * depth);
#pragma omp for schedule(dynamic, 4)
        for (int j = 0; j < panels; j++) {
            bool buffered = ragged && j == panels - 1;
            float* out = buffered ? last.data() : y + j * COLUMNS;
            int64_t stride = buffered ? COLUMNS : columns;
            for (int k = 0; k < depth; k += DEPTH) {
                int deep = depth - k < DEPTH ? depth - k : DEPTH;
                const W* b = weights + (int64_t)j * COLUMNS * depth + (int64_t)k * COLUMNS;
                for (int i = 0; i < blocks; i++) {
                    int live = rows - i * ROWS < ROWS ? rows - i * ROWS : ROWS;
                    tile_of<W>(live, packed + (int64_t)i * ROWS * depth + (int64_t)k * ROWS, b, deep,
                               out + i * ROWS * stride, stride, k == 0);
                }
            }
            if (buffered)
                for (int r = 0; r < rows; r++)
                    std::memcpy(y + (int64_t)r * columns + j * COLUMNS, out + r * stride, columns % COLUMNS * sizeof(float));
        }
    }
}

// ---------------------------------------------------------------- attention

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
    float top = scores[0];
    for (int t = 1; t < length; t++) top = scores[t] > top ? scores[t] : top;
    Vec total = {};
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
    threads = crew(threads, (int64_t)tokens * heads * dim * 4);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < tokens * heads; i++) {
        int token = i / heads, head = i % heads;
        write(k + token * stride + head * dim, v + token * stride + head * dim, lengths[token] - 1, dim, padded,
              place(keys, rows[token], head, heads, capacity, dim), place(values, rows[token], head, heads, capacity, padded));
    }
}

// Token i attends to the first lengths[i] positions of cache row rows[i]; the cost follows the lengths, not the capacity.
template <typename C>
void attention(const float* q, int64_t stride, int tokens, const int32_t* rows, const int32_t* lengths, const C* keys, const C* values,
               int heads, int dim, int capacity, float* out, int threads) {
    int padded = (dim + LANES - 1) / LANES * LANES;
    int64_t work = 0;
    for (int i = 0; i < tokens; i++) work += (int64_t)lengths[i] * heads * dim / 2;
    threads = crew(threads, work);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> scores(capacity);
#pragma omp for schedule(dynamic, 4)
        for (int i = 0; i < tokens * heads; i++) {
            int token = i / heads, head = i % heads;
            attend(q + token * stride + head * dim, place(keys, rows[token], head, heads, capacity, dim),
                   place(values, rows[token], head, heads, capacity, padded), lengths[token], dim, padded, scores.data(),
                   out + ((int64_t)token * heads + head) * dim);
        }
    }
}

// ---------------------------------------------------------------- normalisation

// x += delta for the first `added` rows; y = layer norm of x (eps 1e-5).
void norm(float* x, const float* delta, int added, const float* weight, const float* bias, int rows, int width, float* y, int threads) {
    threads = crew(threads, (int64_t)rows * width);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int r = 0; r < rows; r++) {
        float *xr = x + (int64_t)r * width, *yr = y + (int64_t)r * width;
        if (r < added)
            for (int i = 0; i < width; i++) xr[i] += delta[(int64_t)r * width + i];
        float part[4 * LANES] = {}, parts[4 * LANES] = {};
        double mean = 0, square = 0;
        for (int i = 0; i < width; i += 4 * LANES)
            for (int j = 0; j < 4 * LANES && i + j < width; j++) part[j] += xr[i + j];
        for (int j = 0; j < 4 * LANES; j++) mean += part[j];
        float middle = (float)(mean / width);
        for (int i = 0; i < width; i += 4 * LANES)
            for (int j = 0; j < 4 * LANES && i + j < width; j++) parts[j] += (xr[i + j] - middle) * (xr[i + j] - middle);
        for (int j = 0; j < 4 * LANES; j++) square += parts[j];
        float scale = (float)(1.0 / std::sqrt(square / width + 1e-5));
        for (int i = 0; i < width; i++) yr[i] = (xr[i] - middle) * scale * weight[i] + bias[i];
    }
}

// ---------------------------------------------------------------- sampling

// Philox4x32-10 (Salmon et al. 2011): four random words from a 128-bit counter and a 64-bit key.
inline void philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key, uint32_t out[4]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b, c3 = (uint32_t)a, c0 = n0, c2 = n2;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

struct Choice {  // of one clip: everything but the logits that its next codes follow from
    int32_t cond, other, null;  // rows of the logits; all the same: no guidance
    float scale, beta, temperature, top_p;
    int32_t top_k, window;
    int64_t seed;
};

// The least logit that top-p (else top-k) keeps.
float threshold(const float* logits, int size, const Choice& c, std::vector<float>& sorted) {
    if (c.top_p <= 0 && (c.top_k <= 0 || c.top_k >= size)) return -INFINITY;
    sorted.assign(logits, logits + size);
    if (c.top_p <= 0) {
        std::nth_element(sorted.begin(), sorted.begin() + (c.top_k - 1), sorted.end(), std::greater<float>());
        return sorted[c.top_k - 1];
    }
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    double total = 0, before = 0;
    for (float x : sorted) total += std::exp((double)x - sorted[0]);
    int last = 0;  // kept while the probability of everything likelier is below top_p
    for (int i = 0; i < size && before < c.top_p * total; i++) {
        last = i;
        before += std::exp((double)sorted[i] - sorted[0]);
    }
    return sorted[last];
}

int32_t draw(const float* logits, int size, const Choice& c, int step, int codebook, std::vector<float>& sorted) {
    int best = 0;
    if (c.temperature <= 0) {
        for (int i = 1; i < size; i++)
            if (logits[i] > logits[best]) best = i;
        return best;
    }
    float least = threshold(logits, size, c, sorted);
    double top = -INFINITY;
    for (int group = 0; group < size; group += 4) {
        uint32_t words[4];
        bool drawn = false;
        for (int i = group; i < size && i < group + 4; i++) {
            if (!(logits[i] >= least)) continue;
            if (!drawn) philox(group / 4, codebook, step, c.window, (uint64_t)c.seed, words), drawn = true;
            double uniform = (words[i - group] + 0.5) * 0x1p-32;
            double perturbed = (double)logits[i] - std::log(-std::log(uniform));  // Gumbel-max
            if (perturbed > top) top = perturbed, best = i;
        }
    }
    return best;
}

// next[clip, codebook] where it is -1: drawn from logits [rows, codebooks, size].
void sample(const float* logits, const Choice* choices, int clips, const int32_t* steps, int codebooks, int size, int32_t* next,
            int threads) {
    threads = crew(threads, (int64_t)clips * codebooks * size * 4);
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> mixed(size), sorted(size);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < clips * codebooks; i++) {
            if (next[i] >= 0) continue;
            int clip = i / codebooks, codebook = i % codebooks;
            const Choice& c = choices[clip];
            const float* cond = logits + ((int64_t)c.cond * codebooks + codebook) * size;
            const float* other = logits + ((int64_t)c.other * codebooks + codebook) * size;
            const float* null = logits + ((int64_t)c.null * codebooks + codebook) * size;
            for (int v = 0; v < size; v++) {
                float x = cond[v];
                if (c.other != c.cond) x = other[v] + (x - other[v]) * c.beta;
                if (c.null != c.cond) x = null[v] + (x - null[v]) * c.scale;
                mixed[v] = c.temperature > 0 ? x / c.temperature : x;
            }
            next[i] = draw(mixed.data(), size, c, steps[clip], codebook, sorted);
        }
    }
}

// ---------------------------------------------------------------- packing of weights (once, at start)

template <typename W>
void pack_weights(const float* w, int columns, int depth, W* packed, int threads) {
    int pair = sizeof(W) == 2 ? 2 : 1;  // bf16 weights lie in pairs over depth
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int n = 0; n < columns; n++)
        for (int k = 0; k < depth; k++) {
            int64_t at = ((int64_t)(n / COLUMNS) * depth + k / pair * pair) * COLUMNS + n % COLUMNS * pair + k % pair;
            put(packed + at, w[(int64_t)n * depth + k]);
        }
}

}  // namespace

extern "C" {
int lanes() { return LANES; }
int tile_rows() { return ROWS; }
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
void pack_fp32(const float* w, int columns, int depth, float* packed, int threads) { pack_weights(w, columns, depth, packed, threads); }
void pack_bf16(const float* w, int columns, int depth, bf16* packed, int threads) { pack_weights(w, columns, depth, packed, threads); }
void linear_fp32(const float* x, int64_t x_stride, int rows, int depth, const float* w, int columns, float* y, float* packed, int activate,
                 int threads) {
    linear(x, x_stride, rows, depth, w, columns, y, packed, activate, threads);
}
void linear_bf16(const float* x, int64_t x_stride, int rows, int depth, const bf16* w, int columns, float* y, float* packed, int activate,
                 int threads) {
    linear(x, x_stride, rows, depth, w, columns, y, packed, activate, threads);
}
#define CACHE(name, C)                                                                                                                   \
    void append_##name(const float* k, const float* v, int64_t stride, int tokens, const int32_t* rows, const int32_t* lengths, C* keys, \
                       C* values, int heads, int dim, int capacity, int threads) {                                                       \
        append(k, v, stride, tokens, rows, lengths, keys, values, heads, dim, capacity, threads);                                        \
    }                                                                                                                                    \
    void attention_##name(const float* q, int64_t stride, int tokens, const int32_t* rows, const int32_t* lengths, const C* keys,        \
                          const C* values, int heads, int dim, int capacity, float* out, int threads) {                                  \
        attention(q, stride, tokens, rows, lengths, keys, values, heads, dim, capacity, out, threads);                                   \
    }
CACHE(fp32, float)
CACHE(bf16, bf16)
void norm_fp32(float* x, const float* delta, int added, const float* weight, const float* bias, int rows, int width, float* y,
               int threads) {
    norm(x, delta, added, weight, bias, rows, width, y, threads);
}
void sample_fp32(const float* logits, const void* choices, int clips, const int32_t* steps, int codebooks, int size, int32_t* next,
                 int threads) {
    sample(logits, (const Choice*)choices, clips, steps, codebooks, size, next, threads);
}
}
