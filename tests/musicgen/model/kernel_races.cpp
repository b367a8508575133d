// Each kernel with the given number of threads, for ThreadSanitizer: see test_kernel_threads.py.
//
// Prints for each run its name, how often another thread than the caller helped, and how often at least it should have.
// Exits with 1 if a result differs from that of one thread.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "kernels.cpp"

namespace {

std::vector<float> numbers(size_t count) {
    std::vector<float> x(count);
    uint32_t state = 12345;
    for (float& value : x) {
        state = state * 1664525u + 1013904223u;
        value = (float)(state >> 8) / (1 << 24) - 0.5f;
    }
    return x;
}

bool equal = true;

// `run` gives the bytes of its result for a number of threads. With and without shuffled chunks.
void compare(const std::string& name, int threads, int least, const std::function<std::vector<char>(int)>& run) {
    shuffle_chunks(0);
    std::vector<char> expected = run(1);
    for (uint64_t seed : {0, 1, 2, 3}) {
        shuffle_chunks(seed);
        int64_t before = helped_loops();
        if (run(threads) != expected) {
            equal = false;
            std::printf("%s DIFFERS with %d threads and seed %d\n", name.c_str(), threads, (int)seed);
        }
        if (seed == 3) std::printf("%s %d %d\n", name.c_str(), (int)(helped_loops() - before), least);
    }
    shuffle_chunks(0);
}

template <typename T>
void add(std::vector<char>& bytes, const std::vector<T>& x) {
    bytes.insert(bytes.end(), (const char*)x.data(), (const char*)(x.data() + x.size()));
}

template <typename C>
void of_type(const std::string& type, int threads) {
    int others = threads - 1;
    // One row and many tokens, then many rows and one token; heads of whole vectors, and ragged ones.
    for (int dim : {64, 20})
        for (int tokens : {901, 900}) {
            int heads = 8, capacity = 1024, padded = (dim + LANES - 1) / LANES * LANES,
                cache_rows = tokens == 901 ? 1 : tokens;
            if (cache_rows > 1) capacity = 32;
            std::vector<float> kv = numbers((size_t)tokens * 2 * heads * dim);
            std::vector<int32_t> rows(tokens), lengths(tokens);
            for (int i = 0; i < tokens; i++)
                rows[i] = cache_rows > 1 ? i : 0, lengths[i] = cache_rows > 1 ? 1 + i % 31 : i + 1;
            std::string shape = std::to_string(dim) + (cache_rows > 1 ? "-steps" : "-prefill");
            compare("append-" + type + "-" + shape, threads, others, [&](int threads) {
                std::vector<C> keys((size_t)cache_rows * heads * capacity * dim),
                    values((size_t)cache_rows * heads * capacity * padded);
                append(kv.data(), kv.data() + heads * dim, 2 * heads * dim, tokens, rows.data(), lengths.data(),
                       keys.data(), values.data(), heads, dim, capacity, threads);
                std::vector<char> bytes;
                add(bytes, keys), add(bytes, values);
                return bytes;
            });
            std::vector<C> keys((size_t)cache_rows * heads * capacity * dim),
                values((size_t)cache_rows * heads * capacity * padded);
            append(kv.data(), kv.data() + heads * dim, 2 * heads * dim, tokens, rows.data(), lengths.data(),
                   keys.data(), values.data(), heads, dim, capacity, 1);
            if (cache_rows > 1) {
                compare("append-and-attend-" + type + "-" + shape, threads, others, [&](int threads) {
                    std::vector<C> keys((size_t)cache_rows * heads * capacity * dim),
                        values((size_t)cache_rows * heads * capacity * padded);
                    std::vector<float> out((size_t)tokens * heads * dim);
                    append_and_attend(kv.data(), kv.data(), kv.data() + heads * dim, 2 * heads * dim, tokens,
                                      rows.data(), lengths.data(), keys.data(), values.data(), heads, dim, capacity,
                                      out.data(), threads);
                    std::vector<char> bytes;
                    add(bytes, out), add(bytes, keys), add(bytes, values);
                    return bytes;
                });
                continue;
            }
            int queries = 150;  // the last ones
            compare("attention-" + type + "-" + shape, threads, others, [&](int threads) {
                std::vector<float> out((size_t)queries * heads * dim);
                attention(kv.data(), (const float*)nullptr, (const float*)nullptr, 2 * heads * dim, queries,
                          rows.data(), lengths.data() + tokens - queries, keys.data(), values.data(), heads, dim,
                          capacity, out.data(), threads);
                std::vector<char> bytes;
                add(bytes, out);
                return bytes;
            });
        }
    int rows = 200, depth = 260;
    for (int columns : {1024, 1030}) {
        std::vector<float> w = numbers((size_t)columns * depth), x = numbers((size_t)rows * depth);
        size_t room = (size_t)(columns + COLUMNS) * depth;
        compare("pack-" + type + "-" + std::to_string(columns), threads, others, [&](int threads) {
            std::vector<C> packed(room);
            pack_weights(w.data(), columns, depth, packed.data(), threads);
            std::vector<char> bytes;
            add(bytes, packed);
            return bytes;
        });
        std::vector<C> packed(room);
        pack_weights(w.data(), columns, depth, packed.data(), 1);
        for (int activate : {0, 1}) {
            int both =
                rows * depth * (activate ? 8 : 2) >= threads * 100000 ? 2 : 1;  // loops with work for all threads
            compare("linear-" + type + "-" + std::to_string(columns) + (activate ? "-gelu" : ""), threads,
                    both * others, [&](int threads) {
                        std::vector<float> y((size_t)rows * columns), scratch((size_t)(rows + ROWS) * depth);
                        linear(x.data(), depth, rows, depth, packed.data(), columns, (const float*)nullptr, y.data(),
                               (Pair<C>*)scratch.data(), activate, threads);
                        std::vector<char> bytes;
                        add(bytes, y);
                        return bytes;
                    });
        }
    }
}

}  // namespace

int main(int, char** arguments) {
    int threads = std::atoi(arguments[1]), others = threads - 1;
    of_type<float>("fp32", threads);
    of_type<bf16>("bf16", threads);

    int rows = 210, width = 1000;
    std::vector<float> given = numbers((size_t)rows * width), delta = numbers((size_t)rows * width), ones(width, 1),
                       zeros(width);
    compare("norm", threads, others, [&](int threads) {
        std::vector<float> x = given, y(x.size());
        norm(x.data(), delta.data(), rows - 30, ones.data(), zeros.data(), rows, width, y.data(), threads);
        std::vector<char> bytes;
        add(bytes, x), add(bytes, y);
        return bytes;
    });

    int clips = 32, codebooks = 4, size = 2048;
    std::vector<float> logits = numbers((size_t)2 * clips * codebooks * size);
    std::vector<SamplingParams> choices(clips);
    std::vector<int32_t> steps(clips, 3);
    for (int i = 0; i < clips; i++)
        choices[i] = {i, i, clips + i, 3, 1, (float)(i % 3), i % 5 ? 0 : 0.9f, i % 2 * 250, 0, i};
    compare("sample", threads, others, [&](int threads) {
        std::vector<int32_t> next(clips * codebooks, -1);
        sample(logits.data(), choices.data(), clips, steps.data(), codebooks, size, next.data(), threads);
        std::vector<char> bytes;
        add(bytes, next);
        return bytes;
    });

    // Two callers at once: one has the threads, the other goes alone.
    auto call = [&] {
        for (int i = 0; i < 20; i++) {
            std::vector<float> x = given, y(x.size());
            norm(x.data(), delta.data(), rows, ones.data(), zeros.data(), rows, width, y.data(), threads);
        }
    };
    std::thread first(call), second(call);
    first.join(), second.join();
    return equal ? 0 : 1;
}
