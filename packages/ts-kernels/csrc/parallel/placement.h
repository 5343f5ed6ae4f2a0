// Which processors the workers of a pool may run on.
#pragma once

#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ts {

// Keeps workers off the processor that the thread they work for is on. On a busy machine a worker is often woken on the
// processor of the thread that wakes it, and stays: the two take turns there, and a loop takes twice as long (Linux
// 6.18, two processors: one process in two). Elsewhere than on Linux this does nothing.
class Placement {
 public:
  // To be called by that thread, before it wakes the workers. Costs 20 ns unless the thread has moved. Workers whose
  // processors somebody else has set since keep those; so do all where there are not enough processors without that
  // one.
  void leave_mine(std::vector<std::thread>& workers);

#if defined(__linux__)
 private:
  void take(int processor, std::vector<std::thread>& workers);

  int taken_ = -1;
  bool set_by_others_ = false;
  cpu_set_t all_{}, left_{};  // the workers' processors at first, and those they have now
#endif
};

}  // namespace ts
