/* Runs a model library on tensors from a file and writes its outputs to another, both as: count, then for each type, rank, dims, bytes, data.
 *
 * Compiled with -DMODEL=NAME -DHEADER="NAME.h"; arguments: inputs, outputs, threads, number of runs. */
#include HEADER

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PASTE(a, b) a##_##b
#define EXPAND(a, b) PASTE(a, b)
#define CALL(f) EXPAND(MODEL, f)
#define MOST 64

static int read_tensors(const char *path, sardonyx_tensor *t) {
    FILE *file = fopen(path, "rb");
    int64_t head[3 + SARDONYX_MAX_RANK], count = 0;
    if (!file || fread(&count, 8, 1, file) != 1 || count > MOST) return -1;
    for (int k = 0; k < count; k++) {
        if (fread(head, 8, 3 + SARDONYX_MAX_RANK, file) != 3 + SARDONYX_MAX_RANK) return -1;
        t[k].type = (int32_t)head[0], t[k].rank = (int32_t)head[1], t[k].bytes = (size_t)head[2];
        memcpy(t[k].dims, head + 3, sizeof(t[k].dims));
        t[k].data = malloc(t[k].bytes ? t[k].bytes : 1);
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
        int64_t head[3 + SARDONYX_MAX_RANK] = {t[k].type, t[k].rank, (int64_t)t[k].bytes};
        memcpy(head + 3, t[k].dims, sizeof(t[k].dims));
        fwrite(head, 8, 3 + SARDONYX_MAX_RANK, file);
        fwrite(t[k].data, 1, t[k].bytes, file);
    }
    return fclose(file);
}

int main(int argc, char **argv) {
    sardonyx_tensor inputs[MOST] = {{0}}, outputs[MOST] = {{0}};
    sardonyx_options options = {0};
    MODEL *model;
    if (argc != 5) return 2;
    options.threads = atoi(argv[3]);
    int count = read_tensors(argv[1], inputs), wanted = CALL(output_count)();
    if (count < 0 || wanted > MOST) return 3;
    if (CALL(open)(&options, &model)) {
        fprintf(stderr, "%s\n", CALL(error)(NULL));
        return 4;
    }
    for (int k = 0; k < atoi(argv[4]); k++)
        if (CALL(run)(model, inputs, count, outputs, wanted)) {
            fprintf(stderr, "%s\n", CALL(error)(model));
            return 5;
        }
    int failed = write_tensors(argv[2], outputs, wanted);
    CALL(close)(model);
    for (int k = 0; k < count; k++) free(inputs[k].data);
    return failed;
}
