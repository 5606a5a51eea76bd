/* A stand-in for libcuda.so.1 and libcudart.so.13, as far as TVM's CUDA runtime uses them: device memory is host memory,
   every call succeeds, a launch does nothing. What is loaded as machine code is noted on stderr. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOTHING(name) int name(void) { return 0; }

int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaMalloc(void **pointer, size_t size) { *pointer = malloc(size ? size : 1); return 0; }
int cudaFree(void *pointer) { free(pointer); return 0; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = *total = (size_t)24 << 30; return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { memcpy(to, from, size); return 0; }
const char *cudaGetErrorString(int error) { return "stand-in"; }
const char *cudaGetErrorName(int error) { return "stand-in"; }

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
  switch (attribute) {
    case 75: *value = 8; break;  /* compute capability, major */
    case 76: *value = 6; break;  /* and minor */
    case 16: *value = 82; break; /* SMs */
    default: *value = 1024;
  }
  return 0;
}

int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA GeForce RTX 3090", length); return 0; }

int cuModuleLoadData(void **module, const void *code) {
  fprintf(stderr, "loaded %.14s\n", (const char *)code);
  *module = (void *)1;
  return 0;
}

NOTHING(cuFuncSetAttribute) NOTHING(cuGetErrorName) NOTHING(cuGetErrorString) NOTHING(cuLaunchKernelEx)
NOTHING(cuModuleGetFunction) NOTHING(cuModuleUnload) NOTHING(cuTensorMapEncodeTiled) NOTHING(cudaEventCreate)
NOTHING(cudaEventDestroy) NOTHING(cudaEventElapsedTime) NOTHING(cudaEventRecord) NOTHING(cudaEventSynchronize)
NOTHING(cudaFreeHost) NOTHING(cudaGetDeviceProperties) NOTHING(cudaGetLastError) NOTHING(cudaGraphDestroy)
NOTHING(cudaGraphExecDestroy) NOTHING(cudaGraphInstantiate) NOTHING(cudaGraphLaunch) NOTHING(cudaMallocHost)
NOTHING(cudaMemcpyPeerAsync) NOTHING(cudaPeekAtLastError) NOTHING(cudaSetDevice) NOTHING(cudaStreamBeginCapture)
NOTHING(cudaStreamCreate) NOTHING(cudaStreamCreateWithFlags) NOTHING(cudaStreamDestroy) NOTHING(cudaStreamEndCapture)
NOTHING(cudaStreamSynchronize) NOTHING(cudaStreamWaitEvent)
