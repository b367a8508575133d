// A layer of an LSTM (Hochreiter and Schmidhuber 1997, with forget gates), over several sequences at once: its weights
// are read once per step of all of them. A sequence's bits do not depend on the others.
#pragma once

#include <vector>

#include "linear.h"

namespace {

inline Vec sigmoid(Vec x) {
    Vec e = exp_(select(x > Vec{}, -x, x));  // of -|x|: never too large
    return select(x > Vec{}, splat(1.0f), e) / (1.0f + e);
}

inline Vec tanh_(Vec x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// gates[i] is [lengths[i], 4 * hidden], the input's share of the gates (input, forget, cell, output: torch's order)
// with both biases; out[i] is [lengths[i], hidden]. Lengths fall. `hidden` is a multiple of LANES. State h and cell c
// [sequences, hidden] go on.
void recur(int sequences, const int32_t* lengths, const float* const* gates, const float* weights, int hidden, float* h,
           float* c, float* const* out) {
    std::vector<float> g((size_t)sequences * 4 * hidden), packed((size_t)(sequences + ROWS) * hidden);
    int active = sequences;
    for (int t = 0; t < lengths[0]; t++) {
        while (lengths[active - 1] <= t) active--;
        linear((const float*)h, hidden, active, hidden, weights, 4 * hidden, (const float*)nullptr, g.data(),
               (Pair<float>*)packed.data(), false, 1);
        for (int i = 0; i < active; i++) {
            const float *mine = g.data() + (int64_t)i * 4 * hidden, *given = gates[i] + (int64_t)t * 4 * hidden;
            for (int j = 0; j < hidden; j += LANES) {
                auto gate = [&](int which) {
                    return load(mine + which * hidden + j) + load(given + which * hidden + j);
                };
                Vec cell = multiply_add(sigmoid(gate(1)), load(c + i * hidden + j), sigmoid(gate(0)) * tanh_(gate(2)));
                Vec state = sigmoid(gate(3)) * tanh_(cell);
                store(c + i * hidden + j, cell);
                store(h + i * hidden + j, state);
                store(out[i] + (int64_t)t * hidden + j, state);
            }
        }
    }
}

}  // namespace
