/* Tensors in files: count, then for each tensor type, rank, bytes, dims, data. Include after the model's header, with MODEL its name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PASTE(a, b) a##_##b
#define EXPAND(a, b) PASTE(a, b)
#define CALL(f) EXPAND(MODEL, f)
#define MOST 64
#define HEAD (3 + SARDONYX_MAX_RANK)

/* The number of tensors read, each at the start of a cache line, in memory that is kept to the end; -1 where the file cannot be read. */
static int read_tensors(const char *path, sardonyx_tensor *t) {
    FILE *file = fopen(path, "rb");
    int64_t head[HEAD], count = 0;
    if (!file || fread(&count, 8, 1, file) != 1 || count > MOST) return -1;
    for (int k = 0; k < count; k++) {
        if (fread(head, 8, HEAD, file) != HEAD) return -1;
        t[k].type = (int32_t)head[0], t[k].rank = (int32_t)head[1], t[k].bytes = (size_t)head[2];
        memcpy(t[k].dims, head + 3, sizeof(t[k].dims));
        char *memory = malloc(t[k].bytes + 64);
        if (!memory) return -1;
        t[k].data = memory + (64 - (uintptr_t)memory % 64);
        if (t[k].bytes && fread(t[k].data, 1, t[k].bytes, file) != t[k].bytes) return -1;
    }
    fclose(file);
    return (int)count;
}

/* Writes outputs of the model; not 0 where the file cannot be written. */
static int write_tensors(const char *path, const sardonyx_tensor *t, int64_t count) {
    FILE *file = fopen(path, "wb");
    if (!file) return 1;
    fwrite(&count, 8, 1, file);
    for (int k = 0; k < count; k++) {
        int64_t head[HEAD] = {t[k].type, t[k].rank, t[k].type ? CALL(output)(k)->item_size : 0};
        for (int d = 0; d < t[k].rank; d++) head[2] *= t[k].dims[d];
        memcpy(head + 3, t[k].dims, 8 * (size_t)t[k].rank);
        fwrite(head, 8, HEAD, file);
        fwrite(t[k].data, 1, (size_t)head[2], file);
    }
    return fclose(file);
}
