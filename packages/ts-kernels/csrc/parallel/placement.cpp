#include "parallel/placement.h"

#if defined(__linux__)
#include <pthread.h>
#endif

namespace ts {

#if defined(__linux__)

void Placement::leave_mine(std::vector<std::thread>& workers) {
  const int processor = sched_getcpu();
  if (processor >= 0 && processor < CPU_SETSIZE && processor != taken_ && !workers.empty() && !set_by_others_)
    take(processor, workers);
}

void Placement::take(int processor, std::vector<std::thread>& workers) {
  if (taken_ < 0) {
    if (pthread_getaffinity_np(workers.front().native_handle(), sizeof all_, &all_) != 0) return;
    left_ = all_;
  }
  for (std::thread& worker : workers) {
    cpu_set_t now;
    pthread_getaffinity_np(worker.native_handle(), sizeof now, &now);
    if (!CPU_EQUAL(&now, &left_)) set_by_others_ = true;
  }
  if (set_by_others_) return;
  taken_ = processor, left_ = all_;
  CPU_CLR(processor, &left_);
  if (CPU_COUNT(&left_) < static_cast<int>(workers.size())) left_ = all_;
  for (std::thread& worker : workers) pthread_setaffinity_np(worker.native_handle(), sizeof left_, &left_);
}

#else

void Placement::leave_mine(std::vector<std::thread>&) {}

#endif

}  // namespace ts
