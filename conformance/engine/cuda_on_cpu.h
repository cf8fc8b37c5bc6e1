// The parts of CUDA C++ that gpu.cu uses, as C++ for one core of a CPU. The threads of a block run one after another,
// from the first to the last or backwards. If they wait for each other (`meets`), each thread has its own stack and
// yields to the next one at a barrier.
// on_cpu.py compiles this header, gpu.cu and one LAUNCHER per kernel into a library.
#include <setjmp.h>
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

struct Shape { unsigned grid_x, grid_y, block_x, block_y, backwards; };

static unsigned nth(const Shape& shape, unsigned i, unsigned n) { return shape.backwards ? n - 1 - i : i; }

static const std::size_t STACK = 64 * 1024;
static bool meeting = false;  // threads of this launch may wait for each other

// The point at which a thread continues. Switches use setjmp and longjmp, because swapcontext makes two system calls
// for signal masks. Under the address sanitizer they use swapcontext, because it follows no other switch of stacks.
struct Place {
  ucontext_t context;
  jmp_buf jump;
  bool begun;
};
static Place home;
static std::vector<Place> threads;
static std::vector<std::vector<char>> stacks;
static std::vector<bool> ended;
static unsigned current;
static void (*body)(void*);
static void* given;

static void go_on(Place& from, Place& to) {
#ifdef __SANITIZE_ADDRESS__
  swapcontext(&from.context, &to.context);
#else
  if (_setjmp(from.jump)) return;
  if (to.begun) _longjmp(to.jump, 1);
  to.begun = true;
  setcontext(&to.context);
#endif
}

static void start() {
  body(given);
  ended[current] = true;
  go_on(threads[current], home);
}

// Runs every thread of a block up to its next barrier, until all have ended. A barrier that only some threads reach is
// undefined behaviour on a GPU; here it ends the program.
static void run_block(const Shape& shape) {
  unsigned n = shape.block_x * shape.block_y;
  threads.resize(n);
  stacks.resize(n);
  ended.assign(n, false);
  home.begun = true;
  for (unsigned i = 0; i < n; ++i) {
    ucontext_t& context = threads[i].context;
    stacks[i].resize(STACK);
    getcontext(&context);
    context.uc_stack.ss_sp = stacks[i].data();
    context.uc_stack.ss_size = STACK;
    context.uc_link = nullptr;
    makecontext(&context, start, 0);
    threads[i].begun = false;
  }
  for (unsigned left = n; left;) {
    unsigned before = left;
    for (unsigned i = 0; i < n; ++i) {
      current = nth(shape, i, n);
      if (ended[current]) continue;
      threadIdx = Index{current % shape.block_x, current / shape.block_x};
      go_on(home, threads[current]);
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
      blockIdx = Index{nth(shape, x, shape.grid_x), nth(shape, y, shape.grid_y)};
      if (meets) {
        run_block(shape);
        continue;
      }
      for (unsigned j = 0; j < shape.block_y; ++j) {
        for (unsigned i = 0; i < shape.block_x; ++i) {
          threadIdx = Index{nth(shape, i, shape.block_x), nth(shape, j, shape.block_y)};
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
  on_cpu::go_on(on_cpu::threads[on_cpu::current], on_cpu::home);
  threadIdx = own;
}

// Defines the launcher of one kernel. Its argument types come from the table, and the compiler checks them.
#define LAUNCHER(NAME, MEETS, ...)                                                                                  \
  extern "C" void launch_##NAME(const on_cpu::Shape* shape, void** arguments) {                                     \
    void (*kernel)(__VA_ARGS__) = NAME;                                                                             \
    on_cpu::launch(kernel, *shape, MEETS, arguments, on_cpu::Counted<__VA_ARGS__>());                               \
  }
namespace on_cpu {
template <typename... A>
using Counted = std::index_sequence_for<A...>;
}
