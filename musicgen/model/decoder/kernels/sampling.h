// Guidance, temperature, top-p or top-k, and the draw: as in engine/sampling.py and engine/philox.py.
#pragma once

#include <algorithm>
#include <cfloat>
#include <functional>
#include <vector>

#include "thread_pool.h"
#include "vectors.h"

namespace {

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

struct SamplingParams {         // of one clip: everything but the logits that its next codes follow from
    int32_t cond, other, null;  // rows of the logits; all the same: no guidance
    float scale, beta, temperature, top_p;
    int32_t top_k, window;
    int64_t seed;
};

// The least logit that top-p (else top-k) keeps.
float least_kept_logit(const float* logits, int size, const SamplingParams& c, std::vector<float>& sorted) {
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

int32_t draw(const float* logits, int size, const SamplingParams& c, int step, int codebook,
             std::vector<float>& sorted) {
    int best = 0;
    if (c.temperature <= 0) {
        for (int i = 1; i < size; i++)
            if (logits[i] > logits[best]) best = i;
        return best;
    }
    float least = least_kept_logit(logits, size, c, sorted);
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

// next[clip, codebook] where it is -1: drawn from logits [rows, codebooks, size]; `size` where they are not finite (see
// engine/sampling.py): a sort of such numbers is undefined. A chunk owns one element of `next`.
void sample(const float* logits, const SamplingParams* choices, int clips, const int32_t* steps, int codebooks,
            int size, int32_t* next, int threads) {
    thread_pool().parallel_for(clips * codebooks, useful_threads(threads, (int64_t)clips * codebooks * size * 4),
                               [&](int64_t i) {
                                   if (next[i] >= 0) return;
                                   static thread_local std::vector<float> mixed, sorted;
                                   mixed.resize(size);
                                   int clip = i / codebooks, codebook = i % codebooks;
                                   const SamplingParams& c = choices[clip];
                                   const float* cond = logits + ((int64_t)c.cond * codebooks + codebook) * size;
                                   const float* other = logits + ((int64_t)c.other * codebooks + codebook) * size;
                                   const float* null = logits + ((int64_t)c.null * codebooks + codebook) * size;
                                   bool finite = true;
                                   for (int v = 0; v < size; v++) {
                                       float x = cond[v];
                                       if (c.other != c.cond) x = other[v] + (x - other[v]) * c.beta;
                                       if (c.null != c.cond) x = null[v] + (x - null[v]) * c.scale;
                                       finite &= std::fabs(x) <= FLT_MAX;
                                       mixed[v] = c.temperature > 0 ? x / c.temperature : x;
                                   }
                                   next[i] = finite ? draw(mixed.data(), size, c, steps[clip], codebook, sorted) : size;
                               });
}

}  // namespace
