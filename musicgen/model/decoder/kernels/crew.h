// A few threads that share loops. Not OpenMP: there every loop ends with a barrier that all threads must reach, and on a
// busy machine one that has lost its core holds up hundreds of loops a step. Here a loop is done when its chunks are done;
// a thread that comes late finds nothing left, and nobody waits for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <sched.h>
#include <thread>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

class Crew {
public:
    // body(chunk) for every chunk in [0, chunks), by the caller and at most `threads` - 1 others, in no promised order.
    template <typename Body>
    void share(int64_t chunks, int threads, const Body& body) {
        std::unique_lock<std::mutex> turn(turn_, std::defer_lock);
        if (threads < 2 || chunks < 2 || chunks > 0xfffff || !turn.try_lock()) {  // another caller has the crew: go alone
            for (int64_t i = 0; i < chunks; i++) body(i);
            return;
        }
        while (hired_ < threads - 1) std::thread(&Crew::work, this, hired_++).detach();
        run_ = [](const void* body, int64_t chunk) { (*(const Body*)body)(chunk); };
        body_ = &body;
        helpers_ = threads - 1;
        done_ = 0;
        claim_ = ((claim_ >> 40) + 1) << 40 | (uint64_t)chunks << 20;  // publishes the loop
        if (asleep_ > 0) {
            { std::lock_guard<std::mutex> hold(sleep_); }
            wake_.notify_all();
        }
        take();
        for (int tries = 0; done_ < chunks; tries++) pause(tries);
    }

private:
    typedef void (*Run)(const void*, int64_t);

    std::mutex turn_, sleep_;
    std::condition_variable wake_;
    int hired_ = 0;
    // The loop at hand. claim_ holds its number (24 bits), its chunks (20) and the next chunk to be claimed (20). The rest
    // is only believed by a thread whose claim succeeds: then the loop is not done, and its fields stand until it is.
    std::atomic<uint64_t> claim_{0};
    std::atomic<Run> run_{nullptr};
    std::atomic<const void*> body_{nullptr};
    std::atomic<int64_t> done_{0};
    std::atomic<int> helpers_{0}, asleep_{0};

    void take() {
        uint64_t claim = claim_;
        while (true) {
            Run run = run_;
            const void* body = body_;
            int64_t chunk = claim & 0xfffff;
            if (chunk >= (int64_t)(claim >> 20 & 0xfffff)) {
                uint64_t now = claim_;
                if (now == claim) return;
                claim = now;
            } else if (claim_.compare_exchange_weak(claim, claim + 1)) {
                run(body, chunk);
                done_++;
                claim = claim_;
            }
        }
    }

    void work(int number) {
        uint64_t seen = 0;
        for (int tries = 0;; tries++) {
            uint64_t loop = claim_ >> 40;
            if (loop != seen) {
                seen = loop;
                if (number < helpers_) take();
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

    // Spin for some ten microseconds, then let others have the core between looks.
    static void pause(int tries) {
        if (tries > 500 && tries % 16 == 0) sched_yield();
#if defined(__x86_64__)
        else _mm_pause();
#endif
    }
};

// Never destroyed: its threads may outlive everything.
inline Crew& crew() {
    static Crew* one = new Crew;
    return *one;
}

// Threads worth waking for this many elementary operations.
inline int useful(int threads, int64_t work) {
    int64_t most = work / 100000 + 1;
    return most < threads ? (int)most : threads;
}

}  // namespace
