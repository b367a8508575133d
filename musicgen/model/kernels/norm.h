// Layer norm, with the residual sum that comes before it.
#pragma once


#include "vectors.h"

namespace {

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

}  // namespace
