// Layer norm, with the residual sum that comes before it.
#pragma once

#include "thread_pool.h"
#include "vectors.h"

namespace {

// x += delta for the first `added` rows; y = layer norm of x (eps 1e-5). A chunk owns a row of x and of y.
void norm(float* x, const float* delta, int added, const float* weight, const float* bias, int rows, int width,
          float* y, int threads) {
    thread_pool().parallel_for(rows, useful_threads(threads, (int64_t)rows * width * 4), [&](int64_t r) {
        float *xr = x + r * width, *yr = y + r * width;
        if (r < added)
            for (int i = 0; i < width; i++) xr[i] += delta[r * width + i];
        constexpr int LANE_SETS = 4 * LANES;  // partial sums, each over every LANE_SETS-th element
        float part[LANE_SETS] = {}, parts[LANE_SETS] = {};
        double mean = 0, square = 0;
        int whole = width / LANE_SETS * LANE_SETS;
        for (int i = 0; i < whole; i += LANE_SETS)
            for (int j = 0; j < LANE_SETS; j++) part[j] += xr[i + j];
        for (int i = whole; i < width; i++) part[i - whole] += xr[i];
        for (float p : part) mean += p;
        float middle = (float)(mean / width);
        for (int i = 0; i < whole; i += LANE_SETS)
            for (int j = 0; j < LANE_SETS; j++) parts[j] += (xr[i + j] - middle) * (xr[i + j] - middle);
        for (int i = whole; i < width; i++) parts[i - whole] += (xr[i] - middle) * (xr[i] - middle);
        for (float p : parts) square += p;
        float scale = (float)(1.0 / std::sqrt(square / width + 1e-5));
        for (int i = 0; i < width; i++) yr[i] = (xr[i] - middle) * scale * weight[i] + bias[i];
    });
}

}  // namespace
