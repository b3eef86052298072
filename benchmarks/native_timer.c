/* Times a model library on tensors from a file, on demand: each number of runs that comes in is done, then their nanoseconds go out, elapsed and of the processor, a line a run. "0" writes the outputs and ends.
 *
 * Compiled with -DMODEL=NAME -DHEADER="NAME.h"; arguments: inputs, outputs, threads. Both files are: count, then for each tensor type, rank, bytes, dims, data. */
#include HEADER

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PASTE(a, b) a##_##b
#define EXPAND(a, b) PASTE(a, b)
#define CALL(f) EXPAND(MODEL, f)
#define MOST 64
#define HEAD (3 + SARDONYX_MAX_RANK)

static int read_tensors(const char *path, sardonyx_tensor *t) {
    FILE *file = fopen(path, "rb");
    int64_t head[HEAD], count = 0;
    if (!file || fread(&count, 8, 1, file) != 1 || count > MOST) return -1;
    for (int k = 0; k < count; k++) {
        if (fread(head, 8, HEAD, file) != HEAD) return -1;
        t[k].type = (int32_t)head[0], t[k].rank = (int32_t)head[1], t[k].bytes = (size_t)head[2];
        memcpy(t[k].dims, head + 3, sizeof(t[k].dims));
        t[k].data = aligned_alloc(64, (t[k].bytes + 64) / 64 * 64);
        if (!t[k].data || (t[k].bytes && fread(t[k].data, 1, t[k].bytes, file) != t[k].bytes)) return -1;
    }
    fclose(file);
    return (int)count;
}

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

static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv) {
    sardonyx_tensor inputs[MOST] = {{0}}, outputs[MOST] = {{0}};
    sardonyx_options options = {0};
    MODEL *model;
    long runs;
    if (argc != 4) return 2;
    options.threads = atoi(argv[3]);
    int count = read_tensors(argv[1], inputs), wanted = CALL(output_count)();
    if (count < 0 || wanted > MOST) return 3;
    if (CALL(open)(&options, &model)) {
        fprintf(stderr, "%s\n", CALL(error)(NULL));
        return 4;
    }
    while (scanf("%ld", &runs) == 1 && runs > 0) {
        for (long k = 0; k < runs; k++) {
            int64_t used = now_ns(CLOCK_PROCESS_CPUTIME_ID), start = now_ns(CLOCK_MONOTONIC);
            if (CALL(run)(model, inputs, count, outputs, wanted)) {
                fprintf(stderr, "%s\n", CALL(error)(model));
                return 5;
            }
            int64_t elapsed = now_ns(CLOCK_MONOTONIC) - start;
            printf("%lld %lld\n", (long long)elapsed, (long long)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - used));
        }
        fflush(stdout);
    }
    int failed = write_tensors(argv[2], outputs, wanted);
    CALL(close)(model);
    return failed;
}
