/* Types that the headers of all Sardonyx model libraries share. */
#ifndef SARDONYX_TYPES_H
#define SARDONYX_TYPES_H

#include <stddef.h>
#include <stdint.h>

#define SARDONYX_MAX_RANK 8

/* What functions return. The text behind a failure is given by NAME_error. */
enum sardonyx_status {
    SARDONYX_OK = 0,
    SARDONYX_INVALID_ARGUMENT = 1, /* a null pointer, a wrong count, type or rank */
    SARDONYX_WRONG_SHAPE = 2,      /* a size that the model does not allow */
    SARDONYX_SHORT_BUFFER = 3,     /* a buffer or workspace with less bytes than needed */
    SARDONYX_NO_MEMORY = 4,
    SARDONYX_BAD_WEIGHTS = 5,      /* weights that are missing or belong to another model */
    SARDONYX_CONTROL_FLOW = 6,     /* inputs that do not fit the model's loops and branches */
    SARDONYX_BUSY = 7,             /* the instance is running in another thread */
    SARDONYX_WRONG_MACHINE = 8     /* the processor or the system does not give what the library was compiled for */
};

/* Element types, by the numbers of ONNX's TensorProto.DataType. bool is one byte, types of less than 8 bits take one byte an element, complex numbers are pairs. */
enum sardonyx_type {
    SARDONYX_FLOAT = 1, SARDONYX_UINT8 = 2, SARDONYX_INT8 = 3, SARDONYX_UINT16 = 4, SARDONYX_INT16 = 5, SARDONYX_INT32 = 6, SARDONYX_INT64 = 7,
    SARDONYX_BOOL = 9, SARDONYX_FLOAT16 = 10, SARDONYX_DOUBLE = 11, SARDONYX_UINT32 = 12, SARDONYX_UINT64 = 13, SARDONYX_COMPLEX64 = 14,
    SARDONYX_COMPLEX128 = 15, SARDONYX_BFLOAT16 = 16, SARDONYX_FLOAT8E4M3FN = 17, SARDONYX_FLOAT8E4M3FNUZ = 18, SARDONYX_FLOAT8E5M2 = 19,
    SARDONYX_FLOAT8E5M2FNUZ = 20, SARDONYX_UINT4 = 21, SARDONYX_INT4 = 22, SARDONYX_FLOAT4E2M1 = 23, SARDONYX_FLOAT8E8M0 = 24,
    SARDONYX_UINT2 = 25, SARDONYX_INT2 = 26
};

/* An input or output of a model. */
typedef struct sardonyx_port {
    const char *name;
    int32_t type;      /* enum sardonyx_type */
    int32_t item_size; /* bytes of an element */
    int32_t rank;
    int64_t dims[SARDONYX_MAX_RANK];         /* -1: any size */
    const char *dim_names[SARDONYX_MAX_RANK]; /* name of a symbolic size, else NULL */
} sardonyx_port;

/* Elements in row-major order, aligned to their own size. */
typedef struct sardonyx_tensor {
    void *data;
    size_t bytes; /* of the buffer at data */
    int32_t type;
    int32_t rank;
    int64_t dims[SARDONYX_MAX_RANK];
} sardonyx_tensor;

/* All zero, or a null pointer to it, means the defaults. */
typedef struct sardonyx_options {
    int32_t threads;          /* 0 or 1: the calling thread alone; more need an OpenMP runtime, which is looked for when a model is opened */
    int32_t reserved;
    const char *weights_path; /* of a library whose weights lie beside it; NULL: the file's name as it was compiled, in the current folder */
    const void *weights;      /* the same as an address, aligned to 64 bytes; kept, not copied */
    size_t weights_bytes;
} sardonyx_options;

#ifdef __cplusplus
#include <initializer_list>

/* A tensor over elements that stay the caller's. */
template <class T> inline sardonyx_tensor sardonyx_view(const T *data, sardonyx_type type, std::initializer_list<int64_t> dims) {
    sardonyx_tensor t = {};
    size_t bytes = sizeof(T);
    t.data = const_cast<T *>(data);
    t.type = type;
    for (int64_t n : dims) {
        if (t.rank < SARDONYX_MAX_RANK) t.dims[t.rank] = n;
        t.rank++;
        bytes *= n > 0 ? static_cast<size_t>(n) : 0;
    }
    t.bytes = bytes;
    return t;
}
#endif

#endif
