/* Enough of CUDA C++ to run a kernel's code on a CPU: a thread for each of a block's, the blocks one after the other.
   Tensor cores are played by the text of the PTX ISA, "Matrix Fragments for mma.m16n8k8": groupID = lane >> 2,
   threadID_in_group = lane % 4. */
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __restrict__
typedef unsigned char uchar;
typedef unsigned int uint;
struct dim { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
static int2 make_int2(int x, int y) { return {x, y}; }
static int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;

static thread_local dim threadIdx, blockIdx;
static dim blockDim;
alignas(64) static uchar shared_memory[1 << 17];
static std::unique_ptr<std::barrier<>> block_barrier;
static std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
struct Registers { float a[4], b[2]; };
static Registers registers[32][32]; /* [warp][lane] */

static unsigned thread_number() { return threadIdx.y * blockDim.x + threadIdx.x; }
static void __syncthreads() { block_barrier->arrive_and_wait(); }

static float fusetune_round_tf32(float x) {
  int exponent;
  double scaled = std::frexp((double)x, &exponent);
  return (float)std::ldexp(std::copysign(std::floor(std::fabs(scaled) * 2048 + 0.5), scaled), exponent - 11);
}

static void fusetune_mma_tf32(float *c, const float *a, const float *b) {
  unsigned warp = thread_number() / 32, lane = thread_number() % 32;
  std::memcpy(registers[warp][lane].a, a, sizeof registers[warp][lane].a);
  std::memcpy(registers[warp][lane].b, b, sizeof registers[warp][lane].b);
  warp_barriers[warp]->arrive_and_wait();
  double left[16][8], right[8][8];
  for (int l = 0; l < 32; ++l) {
    int group = l >> 2, thread = l % 4;
    const Registers &r = registers[warp][l];
    left[group][thread] = r.a[0], left[group + 8][thread] = r.a[1];
    left[group][thread + 4] = r.a[2], left[group + 8][thread + 4] = r.a[3];
    right[thread][group] = r.b[0], right[thread + 4][group] = r.b[1];
  }
  for (int k = 0; k < 4; ++k) {
    int row = (lane >> 2) + (k < 2 ? 0 : 8), column = 2 * (lane % 4) + k % 2;
    double sum = c[k];
    for (int depth = 0; depth < 8; ++depth) sum += left[row][depth] * right[depth][column];
    c[k] = (float)sum;
  }
  warp_barriers[warp]->arrive_and_wait();
}

template <class Kernel> static void launch(dim grid, dim block, Kernel kernel) {
  blockDim = block;
  unsigned count = block.x * block.y;
  for (unsigned number = 0; number < grid.x * grid.y; ++number) {
    std::fill(std::begin(shared_memory), std::end(shared_memory), 0xff); /* NaNs */
    block_barrier = std::make_unique<std::barrier<>>(count);
    warp_barriers.clear();
    for (unsigned warp = 0; warp < count / 32; ++warp) warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < count; ++t)
      threads.emplace_back([=] {
        threadIdx = {t % block.x, t / block.x, 0};
        blockIdx = {number % grid.x, number / grid.x, 0};
        kernel();
      });
    for (auto &thread : threads) thread.join();
  }
}
