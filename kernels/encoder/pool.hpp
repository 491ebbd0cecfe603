// Threads that wait without spinning, and do one task together.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace mpft::encoder {

class Pool {
 public:
  using Task = void (*)(void* context, int member);

  // The caller is one of the members: a pool of one has no thread of its own.
  explicit Pool(int members);
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool();

  int members() const { return members_; }

  // Every member does the task once, the caller as member 0; returns when all have. Not for two
  // callers at once.
  void run(Task task, void* context);

  // Inside a task: returns when every member has come here.
  void wait();

 private:
  void work(int member);
  void end();

  int members_;
  std::vector<std::thread> threads_;
  Task task_ = nullptr;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::condition_variable condition_;
  int arrived_ = 0;
  std::uint64_t round_ = 0;
};

}  // namespace mpft::encoder
