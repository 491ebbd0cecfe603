// Runs the CPU kernel without Python.
//
//   driver check    every version against the scalar one, in many shapes and layouts, in buffers
//                   that end where an over-read is caught, counting allocations
//   driver threads  every version from four threads at once
//                   Both print what they did and exit with 1 at the first difference.
//   driver apply VERSION BATCH SIZE PATCH KEEP COUNT SEED
//                   images from stdin; patches, positions and scores to stdout
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <thread>
#include <vector>

#include "cpu.hpp"

namespace {
std::atomic<long> allocations{0};
}

void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {
namespace tp = mpft::texture;

// What stands at the ends of a frame's memory.
enum class Edge { heap, unreadable_after, unreadable_before };

// Bytes whose neighbours, after or before, are caught when read: by a sanitizer or by the kernel.
class Memory {
 public:
  Memory(std::size_t bytes, Edge edge) {
    if (edge == Edge::heap) {
      heap_ = std::make_unique<std::uint8_t[]>(bytes);
      data_ = heap_.get();
      return;
    }
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t room = (bytes + page - 1) / page * page;
    mapped_ = room + 2 * page;
    base_ = static_cast<std::uint8_t*>(
        mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + page, room, PROT_READ | PROT_WRITE) != 0) {
      std::perror("driver: mmap");
      std::exit(1);
    }
    data_ = base_ + page + (edge == Edge::unreadable_after ? room - bytes : 0);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (mapped_ > 0) munmap(base_, mapped_);
  }
  std::uint8_t* data() const { return data_; }

 private:
  std::unique_ptr<std::uint8_t[]> heap_;
  std::uint8_t* base_ = nullptr;
  std::uint8_t* data_ = nullptr;
  std::size_t mapped_ = 0;
};

// Outputs exactly as large as they must be.
struct Results {
  Results(std::int64_t batch, std::int64_t cells, const tp::Options& options)
      : patches(batch * options.count * tp::kChannels * options.patch * options.patch),
        positions(batch * options.count),
        scores(batch * cells) {}
  tp::Output output() { return {patches.data(), positions.data(), scores.data()}; }
  bool operator==(const Results& other) const {
    return patches == other.patches && positions == other.positions && scores == other.scores;
  }
  std::vector<std::uint8_t> patches;
  std::vector<std::int32_t> positions, scores;
};

void fill(std::uint8_t* bytes, std::size_t count, std::uint64_t seed) {
  // A quarter of the frames has few values, hence many tied scores.
  const int mask = seed % 4 == 0 ? 1 : 0xFF;
  for (std::size_t i = 0; i < count; ++i) {
    bytes[i] = static_cast<std::uint8_t>(tp::mix(seed * 0x10001 + i) & mask);
  }
}

[[noreturn]] void fail(const char* what, const tp::Version& version, const tp::Frames& frames,
                       const tp::Options& options) {
  std::printf("FAILED: %s: %s, size %ld, row stride %ld, patch %d, keep %d, K %ld\n", version.name,
              what, static_cast<long>(frames.size), static_cast<long>(frames.row_stride),
              options.patch, static_cast<int>(options.keep), static_cast<long>(options.count));
  std::exit(1);
}

const tp::Version& scalar() { return tp::versions().back(); }

void check_case(const tp::Frames& frames, const tp::Options& options) {
  const std::int64_t grid = frames.size / options.patch;
  Results expected(frames.batch, grid * grid, options);
  tp::run(scalar(), frames, options, expected.output());
  for (const tp::Version& version : tp::versions()) {
    if (version.why_not != nullptr) continue;
    Results found(frames.batch, grid * grid, options);
    const tp::Output output = found.output();
    const long before = allocations;
    tp::run(version, frames, options, output);
    if (allocations != before) fail("allocates", version, frames, options);
    if (!(found == expected)) fail("differs from scalar", version, frames, options);
  }
}

// Frames of `size` in memory that ends with their last pixel and begins with their first.
long check_layouts(std::int64_t size, const tp::Options& options, std::uint64_t seed) {
  const std::int64_t row = size * tp::kChannels, batch = 2;
  long cases = 0;
  for (const Edge edge : {Edge::heap, Edge::unreadable_after, Edge::unreadable_before}) {
    for (const std::int64_t gap : {0, 1, 5, 200}) {
      const std::int64_t stride = row + gap, image = (size - 1) * stride + row;
      const std::int64_t bytes = (batch - 1) * (image + gap) + image;
      const Memory memory(bytes, edge);
      fill(memory.data(), bytes, seed + cases);
      check_case({memory.data(), batch, size, image + gap, stride}, options);
      const std::uint8_t* last_row = memory.data() + (size - 1) * stride;
      check_case({last_row, batch, size, image + gap, -stride}, options);
      cases += 2;
    }
    const Memory one_row(row, edge);
    fill(one_row.data(), row, seed);
    check_case({one_row.data(), batch, size, 0, 0}, options);
    ++cases;
  }
  return cases;
}

int check() {
  std::printf("versions:");
  for (const tp::Version& version : tp::versions()) {
    if (version.why_not == nullptr) std::printf(" %s", version.name);
  }
  long cases = 0;
  for (int patch = tp::kMinPatch; patch <= tp::kMaxPatch; ++patch) {
    for (const std::int64_t grid : {1, 2, 5}) {
      const std::int64_t cells = grid * grid;
      const tp::Keep keep = static_cast<tp::Keep>((patch + grid) % 4);
      const std::int64_t some = 1 + static_cast<std::int64_t>(tp::mix(patch)) % cells;
      const std::int64_t count = keep == tp::Keep::all ? cells : (some + cells) % cells + 1;
      cases += check_layouts(grid * patch, {patch, keep, count, tp::mix(cells)}, patch + cells);
    }
  }
  std::printf("\n%ld cases: all equal, nothing allocated\n", cases);
  return 0;
}

int check_threads() {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      const std::int64_t size = 224, row = size * tp::kChannels;
      std::vector<std::uint8_t> image(size * row);
      fill(image.data(), image.size(), i);
      const tp::Frames frames{image.data(), 1, size, size * row, row};
      const tp::Options options{16, tp::Keep::random, 96, 7};
      Results expected(1, 196, options), found(1, 196, options);
      tp::run(scalar(), frames, options, expected.output());
      for (const tp::Version& version : tp::versions()) {
        for (int turn = 0; version.why_not == nullptr && turn < 20; ++turn) {
          tp::run(version, frames, options, found.output());
          if (!(found == expected)) fail("differs in a thread", version, frames, options);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("4 threads: all equal\n");
  return 0;
}

int apply(char** arguments) {
  const char* name = arguments[0];
  const std::int64_t batch = std::atoll(arguments[1]), size = std::atoll(arguments[2]);
  const tp::Options options{std::atoi(arguments[3]),
                            static_cast<tp::Keep>(std::atoi(arguments[4])),
                            std::atoll(arguments[5]), std::strtoull(arguments[6], nullptr, 10)};
  std::vector<std::uint8_t> images(batch * size * size * tp::kChannels);
  if (std::fread(images.data(), 1, images.size(), stdin) != images.size()) return 1;
  for (const tp::Version& version : tp::versions()) {
    if (version.name != std::string_view(name) || version.why_not != nullptr) continue;
    const std::int64_t row = size * tp::kChannels, grid = size / options.patch;
    Results results(batch, grid * grid, options);
    tp::run(version, {images.data(), batch, size, size * row, row}, options, results.output());
    std::fwrite(results.patches.data(), 1, results.patches.size(), stdout);
    std::fwrite(results.positions.data(), 4, results.positions.size(), stdout);
    std::fwrite(results.scores.data(), 4, results.scores.size(), stdout);
    return 0;
  }
  std::fprintf(stderr, "driver: no version %s here\n", name);
  return 1;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && std::string_view(arguments[1]) == "check") return check();
  if (count == 2 && std::string_view(arguments[1]) == "threads") return check_threads();
  if (count == 9 && std::string_view(arguments[1]) == "apply") return apply(arguments + 2);
  std::fprintf(stderr,
               "usage: driver check | driver threads | "
               "driver apply VERSION BATCH SIZE PATCH KEEP COUNT SEED\n");
  return 2;
}
