// CUDA kernels on one core of a CPU: what gpu.cu uses of the language, as C++. A block's threads run one after another;
// where they wait for each other (`meets`), each has a stack of its own and gives way to the next at a barrier.
// on_cpu.py compiles this, gpu.cu and one LAUNCHER a kernel into a library.
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct Index { unsigned x, y; };
static Index threadIdx, blockIdx;

namespace on_cpu {

struct Shape { unsigned grid_x, grid_y, block_x, block_y; };

static const std::size_t STACK = 64 * 1024;
static bool meeting = false;  // threads of this launch may wait for each other
static ucontext_t home;
static std::vector<ucontext_t> threads;
static std::vector<std::vector<char>> stacks;
static std::vector<bool> ended;
static unsigned current;
static void (*body)(void*);
static void* given;

static void start() {
  body(given);
  ended[current] = true;
  swapcontext(&threads[current], &home);
}

// Runs every thread of a block up to its next barrier, until all have ended. A barrier that only some reach is a
// mistake that hardware answers with anything; here it ends the program.
static void run_block(const Shape& shape) {
  unsigned n = shape.block_x * shape.block_y;
  threads.resize(n);
  stacks.resize(n);
  ended.assign(n, false);
  for (unsigned i = 0; i < n; ++i) {
    stacks[i].resize(STACK);
    getcontext(&threads[i]);
    threads[i].uc_stack.ss_sp = stacks[i].data();
    threads[i].uc_stack.ss_size = STACK;
    threads[i].uc_link = nullptr;
    makecontext(&threads[i], start, 0);
  }
  for (unsigned left = n; left;) {
    unsigned before = left;
    for (current = 0; current < n; ++current) {
      if (ended[current]) continue;
      threadIdx = Index{current % shape.block_x, current / shape.block_x};
      swapcontext(&home, &threads[current]);
      left -= ended[current];
    }
    if (left && left != before) {
      std::fprintf(stderr, "a barrier was reached by %u threads of %u\n", left, n);
      std::abort();
    }
  }
}

template <typename... A, std::size_t... I>
void launch(void (*kernel)(A...), const Shape& shape, bool meets, void** arguments, std::index_sequence<I...>) {
  auto call = [&] { kernel(*static_cast<typename std::remove_const<A>::type*>(arguments[I])...); };
  body = [](void* what) { (*static_cast<decltype(call)*>(what))(); };
  given = &call;
  meeting = meets;
  for (unsigned y = 0; y < shape.grid_y; ++y) {
    for (unsigned x = 0; x < shape.grid_x; ++x) {
      blockIdx = Index{x, y};
      if (meets) {
        run_block(shape);
        continue;
      }
      for (unsigned j = 0; j < shape.block_y; ++j) {
        for (unsigned i = 0; i < shape.block_x; ++i) {
          threadIdx = Index{i, j};
          call();
        }
      }
    }
  }
  given = nullptr;
}

}  // namespace on_cpu

static void __syncthreads() {
  if (!on_cpu::meeting) {
    std::fprintf(stderr, "a kernel waits that the table does not say to\n");
    std::abort();
  }
  Index own = threadIdx;
  swapcontext(&on_cpu::threads[on_cpu::current], &on_cpu::home);
  threadIdx = own;
}

// One a kernel; the type of the argument is what the table says, and must be that of the kernel.
#define LAUNCHER(NAME, MEETS, ...)                                                                                  \
  extern "C" void launch_##NAME(const on_cpu::Shape* shape, void** arguments) {                                     \
    void (*kernel)(__VA_ARGS__) = NAME;                                                                             \
    on_cpu::launch(kernel, *shape, MEETS, arguments, on_cpu::Counted<__VA_ARGS__>());                               \
  }
namespace on_cpu {
template <typename... A>
using Counted = std::index_sequence_for<A...>;
}
