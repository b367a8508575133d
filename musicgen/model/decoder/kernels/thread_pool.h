// A few threads that share loops. Not OpenMP: there every loop ends with a barrier that all threads must reach, and on
// a busy machine one that has lost its core holds up hundreds of loops a step. Here a loop is done when its chunks are
// done; a thread that comes late finds nothing left, and nobody waits for it.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <new>
#include <numeric>
#include <random>
#include <sched.h>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

class ThreadPool {
public:
    // body(chunk) for every chunk in [0, chunks), by the caller and at most `threads` - 1 others, in no promised order.
    //
    // Throws std::bad_alloc when all chunks are done, if one of them has thrown anything.
    //
    // So what one chunk writes, no other chunk may write or read. "Writes" includes words that are read, changed in
    // part and written back. Each loop says in a comment what one of its chunks owns.
    template <typename Body>
    void parallel_for(int64_t chunks, int threads, const Body& body) {
        std::vector<int64_t> shuffled;
        if (uint64_t seed = seed_) shuffled = permutation(chunks, seed);
        const int64_t* order = shuffled.empty() ? nullptr : shuffled.data();
        std::unique_lock<std::mutex> ownership(loop_owner_, std::defer_lock);
        if (threads < 2 || chunks < 2 || chunks > 0xfffff ||
            !ownership.try_lock()) {  // another caller has the threads: go alone
            for (int64_t i = 0; i < chunks; i++) body(order ? order[i] : i);
            return;
        }
        start_threads(threads - 1);
        run_ = [](const void* body, int64_t chunk) { (*(const Body*)body)(chunk); };
        body_ = &body;
        order_ = order;
        helpers_ = threads - 1;
        expected_ = (int)std::min<int64_t>(chunks, std::min(threads - 1, started_) + 1);
        arrived_ = 0;
        done_ = 0;
        failed_ = false;
        claim_ = ((claim_ >> 40) + 1) << 40 | (uint64_t)chunks << 20;  // publishes the loop
        if (asleep_ > 0) {
            {
                std::lock_guard<std::mutex> hold(sleep_);
            }
            wake_.notify_all();
        }
        run_chunks(false);
        for (int tries = 0; done_ < chunks; tries++) pause(tries);
        if (failed_) throw std::bad_alloc();  // all that the kernels throw
    }

    // For tests. With a seed other than 0, the chunks of every loop come in an order that is drawn from it, and no
    // thread begins its first chunk before as many threads as the loop has use for hold one.
    void shuffle(uint64_t seed) { seed_ = seed; }

    // For tests: how often a thread other than the caller has worked on a loop.
    int64_t helped_loops() const { return helped_loops_; }

private:
    typedef void (*Run)(const void*, int64_t);

    std::mutex loop_owner_, sleep_;
    std::condition_variable wake_;
    int started_ = 0;         // threads that were started; changed under loop_owner_
    bool exhausted_ = false;  // the system gives no more of them
    std::atomic<uint64_t> seed_{0};
    std::atomic<int64_t> helped_loops_{0};
    // The loop at hand. claim_ holds its number (24 bits), its chunks (20) and the next chunk to be claimed (20). The
    // rest is only believed by a thread whose claim succeeds: then the loop is not done, and its fields stand until it
    // is.
    std::atomic<uint64_t> claim_{0};
    std::atomic<Run> run_{nullptr};
    std::atomic<const void*> body_{nullptr};
    std::atomic<const int64_t*> order_{nullptr};  // null: as they are numbered
    std::atomic<int64_t> done_{0};
    std::atomic<int> helpers_{0}, asleep_{0}, expected_{0}, arrived_{0};
    std::atomic<bool> failed_{false};

    // As many threads as the system gives. Fewer than were asked for make a loop slower, and change nothing else.
    void start_threads(int threads) {
        while (started_ < threads && !exhausted_) {
            try {
                std::thread(&ThreadPool::run_worker, this, started_).detach();
                started_++;
            } catch (const std::system_error&) {
                exhausted_ = true;
            }
        }
    }

    void run_chunks(bool helper) {
        uint64_t claim = claim_, joined = UINT64_MAX;
        while (true) {
            Run run = run_;
            const void* body = body_;
            const int64_t* order = order_;
            int64_t chunk = claim & 0xfffff;
            if (chunk >= (int64_t)(claim >> 20 & 0xfffff)) {
                uint64_t now = claim_;
                if (now == claim) return;
                claim = now;
            } else if (claim_.compare_exchange_weak(claim, claim + 1)) {
                if (claim >> 40 != joined) {  // the first chunk of this loop
                    joined = claim >> 40;
                    if (helper) helped_loops_++;
                    if (order) wait_for_threads();
                }
                try {
                    run(body, order ? order[chunk] : chunk);
                } catch (...) {  // it may not leave this thread: the caller throws it
                    failed_ = true;
                }
                done_++;
                claim = claim_;
            }
        }
    }

    void run_worker(int number) {
        uint64_t seen = 0;
        for (int tries = 0;; tries++) {
            uint64_t loop = claim_ >> 40;
            if (loop != seen) {
                seen = loop;
                if (number < helpers_) run_chunks(true);
                tries = 0;
            } else if (tries < 20000) {
                pause(tries);
            } else {  // nothing for about a millisecond
                std::unique_lock<std::mutex> hold(sleep_);
                asleep_++;
                wake_.wait(hold, [&] { return claim_ >> 40 != seen; });
                asleep_--;
            }
        }
    }

    // For tests: wait until the threads that this loop has use for are there, or for ten seconds. The loop is not done
    // meanwhile, since the caller of this has a chunk of it.
    void wait_for_threads() {
        arrived_++;
        auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(10);
        while (arrived_ < expected_ && std::chrono::steady_clock::now() < limit) sched_yield();
    }

    static std::vector<int64_t> permutation(int64_t chunks, uint64_t seed) {
        std::vector<int64_t> order(chunks);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
        return order;
    }

    // Spin for some ten microseconds, then let others have the core between looks.
    static void pause(int tries) {
        if (tries > 500 && tries % 16 == 0) sched_yield();
#if defined(__x86_64__)
        else
            _mm_pause();
#endif
    }
};

// Never destroyed: its threads may outlive everything.
inline ThreadPool& thread_pool() {
    static ThreadPool* one = new ThreadPool;
    return *one;
}

// Threads worth waking for this many elementary operations.
inline int useful_threads(int threads, int64_t work) {
    int64_t most = work / 100000 + 1;
    return most < threads ? (int)most : threads;
}

}  // namespace
