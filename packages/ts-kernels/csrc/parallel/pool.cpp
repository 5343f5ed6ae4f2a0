#include "parallel/pool.h"

#include <chrono>

#include "common/buffer.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ts {
namespace {

constexpr u64 kInside = 0xffff;
constexpr u64 kOpen = 1u << 16;
constexpr u64 kNumber = 1u << 17;
constexpr i64 kWorthSharing = 150'000;  // multiply-adds: about 5 us on one AVX-512 core

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

using Clock = std::chrono::steady_clock;

bool is_new(u64 state, u64 seen) { return (state & kOpen) && state / kNumber != seen; }

}  // namespace

Pool::Pool(int threads, int spin_us) : spin_us_(spin_us) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

Pool::~Pool() {
  {
    std::lock_guard lock(sleep_mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void Pool::drain(const Loop& loop) {
  for (i64 task; (task = next_.fetch_add(1, std::memory_order_relaxed)) < loop.tasks;) loop.body(loop.context, task);
}

void Pool::run(const Loop& loop, i64 flops) {
  std::unique_lock lock(owner_, std::defer_lock);
  if (workers_.empty() || loop.tasks < 2 || flops < kWorthSharing || !lock.try_lock()) {
    for (i64 task = 0; task < loop.tasks; ++task) loop.body(loop.context, task);
    return;
  }
  loop_ = loop;
  next_.store(0, std::memory_order_relaxed);
  state_.fetch_add(kNumber + kOpen, std::memory_order_seq_cst);
  if (asleep_.load(std::memory_order_seq_cst) > 0) {
    placement_.leave_mine(workers_);
    std::lock_guard sleep_lock(sleep_mutex_);
    wake_.notify_all();
  }
  drain(loop);
  u64 state = state_.fetch_sub(kOpen, std::memory_order_acq_rel) - kOpen;
  for (int polls = 0; state & kInside; ++polls) {
    polls < 4000 ? pause() : std::this_thread::yield();
    state = state_.load(std::memory_order_acquire);
  }
}

// Joins a loop that this worker has not seen; false once it has polled for as long as it may.
bool Pool::poll_for_loop(u64& seen) {
  const auto give_up = Clock::now() + std::chrono::microseconds(spin_us_.load(std::memory_order_relaxed));
  for (int polls = 1; !stop_.load(std::memory_order_relaxed); ++polls) {
    u64 state = state_.load(std::memory_order_acquire);
    if (!is_new(state, seen)) {
      pause();
      if (polls % 16 == 0 && Clock::now() > give_up) return false;
    } else if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
      seen = state / kNumber;
      return true;
    }
  }
  return false;
}

void Pool::sleep_until_loop(u64 seen) {
  std::unique_lock lock(sleep_mutex_);
  asleep_.fetch_add(1, std::memory_order_seq_cst);
  wake_.wait(lock, [&] { return stop_.load() || is_new(state_.load(std::memory_order_seq_cst), seen); });
  asleep_.fetch_sub(1);
}

void Pool::work() {
  for (u64 seen = 0; !stop_.load();) {
    if (!poll_for_loop(seen)) {
      sleep_until_loop(seen);
      continue;
    }
    drain(loop_);
    state_.fetch_sub(1, std::memory_order_release);
  }
}

void run_loop(Pool& pool, const Loop& loop, i64 flops) { pool.run(loop, flops); }
int threads_of(const Pool& pool) { return pool.threads(); }

void* scratch(Slot slot, i64 bytes) {
  thread_local Buffer blocks[static_cast<int>(Slot::count)];
  Buffer& block = blocks[static_cast<int>(slot)];
  if (static_cast<i64>(block.bytes()) < bytes) block = Buffer(static_cast<std::size_t>(bytes + bytes / 2 + 256));
  return block.as<void>();
}

}  // namespace ts
