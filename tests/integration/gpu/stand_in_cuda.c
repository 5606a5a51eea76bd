/* A stand-in for libcuda.so.1 and libcudart.so.13, as far as TVM's CUDA runtime and tuner.gpu.streams use them: device
   memory is host memory, every call succeeds, a launch does nothing. What is loaded as machine code, captured and
   launched is noted on stderr. STAND_IN_MEMORY: bytes of the device, STAND_IN_GREEN=0: no green contexts,
   STAND_IN_CAPTURE=0: no stream can be captured, STAND_IN_HANG=1: nothing that is waited for ever ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOTHING(name) int name(void) { return 0; }

/* Not static: of the two libraries the first one's count. */
size_t stand_in_used, stand_in_handles = 16;
int stand_in_capturing, stand_in_launches;

static int off(const char *name) { const char *said = getenv(name); return said && *said == '0'; }
static void *handle(void) { return (void *)++stand_in_handles; }
static int waited(void) { while (getenv("STAND_IN_HANG")) sleep(1); return 0; }

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = (size_t)24 << 30; return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
const char *cudaGetErrorString(int error) { return error == 2 ? "out of memory" : "stand-in"; }
const char *cudaGetErrorName(int error) { return error == 2 ? "cudaErrorMemoryAllocation" : "stand-in"; }

int cudaMalloc(void **pointer, size_t size) {
  const char *most = getenv("STAND_IN_MEMORY");
  stand_in_used += size;
  if (most && stand_in_used > strtoull(most, 0, 10)) return 2;
  *pointer = calloc(1, size ? size : 1);
  return 0;
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 75: *value = 8; break;  /* compute capability, major */
    case 76: *value = 6; break;  /* and minor */
    case 16: *value = 82; break; /* SMs */
    default: *value = 1024;
  }
  return 0;
}

int cudaStreamCreate(void **stream) { *stream = handle(); return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = handle(); return 0; }
int cudaEventCreate(void **event) { *event = handle(); return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = handle(); return 0; }
int cudaEventRecord(void *event, void *stream) { fprintf(stderr, "record %zu on %zu\n", (size_t)event, (size_t)stream); return 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) {
  fprintf(stderr, "%zu waits for %zu\n", (size_t)stream, (size_t)event);
  return 0;
}
int cudaStreamSynchronize(void *stream) { return waited(); }

int cudaStreamBeginCapture(void *stream, int mode) {
  if (off("STAND_IN_CAPTURE")) return 900;
  stand_in_capturing = 1;
  stand_in_launches = 0;
  return 0;
}
int cudaStreamEndCapture(void *stream, void **graph) {
  fprintf(stderr, "captured %d launches\n", stand_in_launches);
  stand_in_capturing = 0;
  *graph = handle();
  return 0;
}
int cudaGraphInstantiate(void **ready, void *graph, unsigned long long flags) { *ready = handle(); return 0; }
int cudaGraphLaunch(void *graph, void *stream) { fprintf(stderr, "graph launched\n"); return 0; }
int cuLaunchKernelEx(const void *config, void *function, void **parameters, void **extra) {
  stand_in_launches += stand_in_capturing;
  return 0;
}

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return cudaDeviceGetAttribute(value, attribute, device); }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA GeForce RTX 3090", length); return 0; }
int cuModuleLoadData(void **module, const void *code) {
  fprintf(stderr, "loaded %.14s\n", (const char *)code);
  *module = (void *)1;
  return 0;
}

/* Green contexts: a resource is 144 bytes, its number of SMs stands at 96. */
#define SMS(resource) (*(unsigned *)((char *)(resource) + 96))
int cuDeviceGetDevResource(int device, void *resource, int kind) {
  if (off("STAND_IN_GREEN")) return 801;
  SMS(resource) = 82;
  return 0;
}
int cuDevSmResourceSplitByCount(void *part, unsigned *groups, const void *whole, void *rest, unsigned flags, unsigned least) {
  unsigned given = (least + 1) / 2 * 2; /* pairs of SMs */
  if (given > SMS(whole)) { *groups = 0; return 0; }
  SMS(part) = given;
  SMS(rest) = SMS(whole) - given;
  fprintf(stderr, "set %u SMs apart\n", given);
  return 0;
}
int cuDevResourceGenerateDesc(void **description, void *resources, unsigned count) { *description = handle(); return 0; }
int cuGreenCtxCreate(void **context, void *description, int device, unsigned flags) { *context = handle(); return 0; }
int cuGreenCtxStreamCreate(void **stream, void *context, unsigned flags, int priority) { *stream = handle(); return 0; }

NOTHING(cuFuncSetAttribute) NOTHING(cuGetErrorName) NOTHING(cuGetErrorString)
NOTHING(cuModuleGetFunction) NOTHING(cuModuleUnload) NOTHING(cuTensorMapEncodeTiled)
NOTHING(cudaEventDestroy) NOTHING(cudaEventElapsedTime) NOTHING(cudaEventSynchronize)
NOTHING(cudaFreeHost) NOTHING(cudaGetDeviceProperties) NOTHING(cudaGetLastError) NOTHING(cudaGraphDestroy)
NOTHING(cudaGraphExecDestroy) NOTHING(cudaMallocHost)
NOTHING(cudaMemcpyPeerAsync) NOTHING(cudaPeekAtLastError) NOTHING(cudaSetDevice)
NOTHING(cudaStreamDestroy)
