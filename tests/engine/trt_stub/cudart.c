/* What Polygraphy calls of the CUDA runtime, with the host's memory in place of a GPU's. */
#include <stdlib.h>
#include <string.h>

int cudaMalloc(void **pointer, size_t n_bytes) {
    *pointer = malloc(n_bytes ? n_bytes : 1);
    return *pointer ? 0 : 2;
}

int cudaFree(void *pointer) {
    free(pointer);
    return 0;
}

int cudaMemcpy(void *to, const void *from, size_t n_bytes, int kind) {
    memcpy(to, from, n_bytes);
    return 0;
}

int cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, int kind, void *stream) {
    memcpy(to, from, n_bytes);
    return 0;
}

int cudaStreamCreate(void **stream) {
    *stream = malloc(1);
    return 0;
}

int cudaStreamSynchronize(void *stream) { return 0; }

int cudaStreamDestroy(void *stream) {
    free(stream);
    return 0;
}
