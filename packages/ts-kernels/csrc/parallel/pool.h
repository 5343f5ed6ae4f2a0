// The thread pool of the kernels.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "parallel/loop.h"
#include "parallel/placement.h"

namespace ts {

// Workers poll for `spin_us` microseconds after a loop and then sleep. The calling thread takes part, and takes every
// task itself if no worker shows up: a worker that the operating system has not scheduled yet delays nothing.
class Pool {
 public:
  Pool(int threads, int spin_us);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }
  void set_spin(int microseconds) { spin_us_.store(microseconds, std::memory_order_relaxed); }

  // `flops` is an estimate of the whole loop's multiply-adds; a loop too small to pay for a hand-over (about 2 us
  // between two polling threads here) runs on the calling thread. So does one that another thread's loop gets in the
  // way of.
  void run(const Loop& loop, i64 flops);

 private:
  void work();
  bool poll_for_loop(u64& seen);
  void sleep_until_loop(u64 seen);
  void drain(const Loop& loop);

  std::vector<std::thread> workers_;
  Placement placement_;  // owner_'s
  std::mutex owner_;     // held by the thread whose loop runs
  // What a late worker reads must not be torn: the fields are written while no worker is inside (see `state_`).
  Loop loop_{};
  alignas(64) std::atomic<i64> next_{0};
  // Bits 0..15 workers inside, bit 16 open, bits 17.. the loop's number.
  alignas(64) std::atomic<u64> state_{0};
  alignas(64) std::atomic<int> asleep_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> spin_us_;
  std::mutex sleep_mutex_;
  std::condition_variable wake_;
};

}  // namespace ts
