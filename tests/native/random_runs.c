/* Runs a model library on random shapes and values, good and bad, with every buffer against a page that nobody may touch.
 *
 * Compiled with -DMODEL=NAME -DHEADER="NAME.h"; arguments: number of runs, seed, smallest and largest size of a symbolic dimension, threads. Prints how many runs were right and how
 * many were refused as they should be. */
#include HEADER

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PASTE(a, b) a##_##b
#define EXPAND(a, b) PASTE(a, b)
#define CALL(f) EXPAND(MODEL, f)
#define MOST 8
#define FAIL(...) (fprintf(stderr, __VA_ARGS__), exit(1))

static uint64_t state;

static uint64_t draw(uint64_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return below ? (state >> 11) % below : 0;
}

/* ---------------------------------------------------------------------------------------------------------- guarded memory */
typedef struct guarded {
    char *pages, *data;
    size_t size, bytes;
} guarded;

/* Memory that ends where a page that cannot be touched begins, but for what `alignment` asks for. */
static guarded take(size_t bytes, size_t alignment) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (bytes + page) / page * page;
    guarded g = {mmap(NULL, inside + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), NULL, inside + page, bytes};
    if (g.pages == MAP_FAILED || mprotect(g.pages + inside, page, PROT_NONE)) FAIL("no memory\n");
    g.data = g.pages + (inside - bytes) / alignment * alignment;
    memset(g.pages, 0xA5, inside);
    return g;
}

/* Give it back; bytes around the buffer must be as they were. */
static void give(guarded *g) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (char *p = g->pages; p < g->data; p++)
        if (*p != (char)0xA5) FAIL("a byte in front of a buffer was written\n");
    for (char *p = g->data + g->bytes; p < g->pages + g->size - page; p++)
        if (*p != (char)0xA5) FAIL("a byte behind a buffer was written\n");
    munmap(g->pages, g->size);
}

/* ------------------------------------------------------------------------------------------------------------------ inputs */
static size_t size_of(const sardonyx_port *p, const int64_t *dims) {
    size_t bytes = (size_t)p->item_size;
    for (int d = 0; d < p->rank; d++) bytes *= (size_t)dims[d];
    return bytes;
}

static void fill(const sardonyx_port *p, char *data, size_t bytes) {
    for (size_t at = 0; at < bytes; at += (size_t)p->item_size) {
        float f = (float)draw(4001) / 1000 - 2;
        int64_t small = (int64_t)draw(4);
        uint8_t byte = (uint8_t)draw(p->type == SARDONYX_BOOL ? 2 : 256);
        memcpy(data + at, p->type == SARDONYX_FLOAT ? (void *)&f : p->item_size == 8 ? (void *)&small : (void *)&byte, (size_t)p->item_size);
    }
}

static void choose_sizes(sardonyx_tensor *inputs, int count, int64_t least, int64_t most) {
    const char *names[MOST * SARDONYX_MAX_RANK] = {0};
    int64_t sizes[MOST * SARDONYX_MAX_RANK];
    int known = 0;
    for (int k = 0; k < count; k++) {
        const sardonyx_port *p = CALL(input)(k);
        inputs[k].type = p->type, inputs[k].rank = p->rank;
        for (int d = 0; d < p->rank; d++) {
            int64_t size = p->dims[d] >= 0 ? p->dims[d] : least + (int64_t)draw((uint64_t)(most - least + 1));
            for (int n = 0; p->dims[d] < 0 && p->dim_names[d] && n < known; n++)
                if (!strcmp(names[n], p->dim_names[d])) size = sizes[n];
            if (p->dim_names[d]) names[known] = p->dim_names[d], sizes[known++] = size;
            inputs[k].dims[d] = size;
        }
    }
}

/* Spoil one thing; gives the status that must come of it, or -1 if there is nothing of the kind to spoil. */
static int spoil(int what, sardonyx_tensor *inputs, int count, int *given, int *wanted) {
    sardonyx_tensor *t = &inputs[draw((uint64_t)count)];
    int d = t->rank ? (int)draw((uint64_t)t->rank) : 0;
    switch (what) {
    case 0: t->type = t->type == SARDONYX_FLOAT ? SARDONYX_DOUBLE : SARDONYX_FLOAT; return SARDONYX_INVALID_ARGUMENT;
    case 1: t->rank += draw(2) ? 1 : -1; return SARDONYX_INVALID_ARGUMENT;
    case 2: *given += draw(2) ? 1 : -1; return SARDONYX_INVALID_ARGUMENT;
    case 3: *wanted -= 1; return SARDONYX_INVALID_ARGUMENT;
    case 4: if (!t->bytes) return -1; t->data = NULL; return SARDONYX_INVALID_ARGUMENT;
    case 5: if (!t->bytes) return -1; t->bytes -= 1 + draw(t->bytes); return SARDONYX_SHORT_BUFFER;
    case 6: if (!t->rank) return -1; t->dims[d] = -1 - (int64_t)draw(1 << 30); return SARDONYX_WRONG_SHAPE;
    case 7: if (!t->rank || !t->bytes) return -1; t->dims[d] = INT64_MAX - (int64_t)draw(9); return t->bytes / (size_t)t->dims[d] || t->rank ? -2 : -1;
    case 8:
        for (int k = 0; k < count; k++)
            for (d = 0; d < inputs[k].rank; d++)
                if (CALL(input)(k)->dims[d] > 1) {
                    inputs[k].dims[d]--;
                    return SARDONYX_WRONG_SHAPE;
                }
        return -1;
    default: return -1;
    }
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int runs = atoi(argv[1]), count = CALL(input_count)(), produced = CALL(output_count)(), right = 0, refused = 0;
    int64_t least = atoi(argv[3]), most = atoi(argv[4]);
    sardonyx_options options = {.threads = atoi(argv[5])};
    MODEL *model, *second;
    state = (uint64_t)atoi(argv[2]) * 2654435769u + 88172645463325252u;
    if (count > MOST || produced > MOST || CALL(open)(&options, &model) || CALL(open)(NULL, &second)) return 3;
    if (CALL(run)(NULL, NULL, 0, NULL, 0) != SARDONYX_INVALID_ARGUMENT || CALL(run)(model, NULL, count, NULL, produced) != SARDONYX_INVALID_ARGUMENT) FAIL("null pointers were taken\n");
    for (int r = 0; r < runs; r++) {
        sardonyx_tensor inputs[MOST + 1] = {{0}}, outputs[MOST + 1] = {{0}}, again[MOST + 1] = {{0}};
        guarded in[MOST], out[MOST], workspace = {0};
        int own[MOST] = {0}, given = count, wanted = produced, expected = SARDONYX_OK;
        choose_sizes(inputs, count, least, most);
        for (int k = 0; k < count; k++) {
            const sardonyx_port *p = CALL(input)(k);
            in[k] = take(size_of(p, inputs[k].dims), (size_t)p->item_size);
            fill(p, in[k].data, in[k].bytes);
            inputs[k].data = in[k].data, inputs[k].bytes = in[k].bytes;
        }
        if (CALL(prepare)(model, inputs, count)) FAIL("run %d: prepare: %s\n", r, CALL(error)(model));
        int caller = (int)draw(2);
        if (caller) {
            workspace = take(CALL(workspace_bytes)(model), 1);
            if (CALL(set_workspace)(model, workspace.data, workspace.bytes)) FAIL("no workspace\n");
        }
        for (int k = 0; k < produced; k++) {
            const sardonyx_port *p = CALL(output)(k);
            int64_t dims[SARDONYX_MAX_RANK];
            int known = !CALL(output_dims)(model, k, dims);
            for (int d = 0; d < p->rank; d++) known &= dims[d] >= 0;
            own[k] = !known || draw(2);
            if (own[k]) continue;
            out[k] = take(size_of(p, dims), (size_t)p->item_size);
            outputs[k].data = out[k].data, outputs[k].bytes = out[k].bytes;
        }
        if (draw(3) == 0) { /* something bad */
            int what = (int)draw(11), k = (int)draw((uint64_t)produced);
            if (what == 9 && !own[k] && out[k].bytes)
                outputs[k].bytes -= 1 + draw(out[k].bytes), expected = SARDONYX_SHORT_BUFFER;
            else if (what == 10 && caller && workspace.bytes)
                CALL(set_workspace)(model, workspace.data, workspace.bytes - 1 - draw(workspace.bytes)), expected = SARDONYX_SHORT_BUFFER;
            else
                expected = spoil(what, inputs, count, &given, &wanted);
            if (expected == -1) expected = SARDONYX_OK;
        }
        int status = CALL(run)(model, inputs, given, outputs, wanted);
        if (expected == -2 ? !status : status != expected) FAIL("run %d: status %d instead of %d: %s\n", r, status, expected, CALL(error)(model));
        if (status && !*CALL(error)(model)) FAIL("run %d: status %d without a text\n", r, status);
        if (!status) { /* another instance, in its own memory, gives the same */
            if (CALL(run)(second, inputs, count, again, produced)) FAIL("run %d: the second instance: %s\n", r, CALL(error)(second));
            for (int k = 0; k < produced; k++) {
                size_t bytes = size_of(CALL(output)(k), again[k].dims);
                if (memcmp(again[k].dims, outputs[k].dims, 8 * (size_t)again[k].rank) || (bytes && memcmp(again[k].data, outputs[k].data, bytes)))
                    FAIL("run %d: output %d of two instances differs\n", r, k);
            }
        }
        status ? refused++ : right++;
        CALL(set_workspace)(model, NULL, 0);
        if (caller) give(&workspace);
        for (int k = 0; k < count; k++) give(&in[k]);
        for (int k = 0; k < produced; k++)
            if (!own[k]) give(&out[k]);
    }
    CALL(close)(model);
    CALL(close)(second);
    printf("%d right, %d refused\n", right, refused);
    return 0;
}
