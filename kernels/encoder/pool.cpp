#include "pool.hpp"

namespace mpft::encoder {

Pool::Pool(int members) : members_(members) {
  try {
    for (int member = 1; member < members; ++member) threads_.emplace_back([=] { work(member); });
  } catch (...) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      members_ = static_cast<int>(threads_.size()) + 1;
    }
    end();
    throw;
  }
}

Pool::~Pool() { end(); }

void Pool::run(Task task, void* context) {
  task_ = task;
  context_ = context;
  wait();
  task(context, 0);
  wait();
}

void Pool::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  const std::uint64_t round = round_;
  if (++arrived_ == members_) {
    arrived_ = 0;
    ++round_;
    lock.unlock();
    condition_.notify_all();
    return;
  }
  condition_.wait(lock, [&] { return round_ != round; });
}

void Pool::work(int member) {
  while (true) {
    wait();
    if (task_ == nullptr) return;
    task_(context_, member);
    wait();
  }
}

// Ends the threads, none of which is in a task.
void Pool::end() {
  task_ = nullptr;
  wait();
  for (std::thread& thread : threads_) thread.join();
}

}  // namespace mpft::encoder
