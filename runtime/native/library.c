/* What every Sardonyx model library consists of besides kernels and tables: instances, shapes, memory, and calls of the plan's driver.
 *
 * "tables.h" is generated for each model. SARDONYX_BARE leaves out everything that needs more than the compiler: allocation, threads, files.
 */
#ifdef _WIN32
#define SDX_API __declspec(dllexport)
#endif
#include "tables.h"

#include <string.h>
#ifndef SARDONYX_BARE
#include <stdio.h>
#include <stdlib.h>
#if SDX_HAS_THREADS
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#include <sched.h>
#endif
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif
#if SDX_WEIGHTS_BESIDE && !defined(_WIN32) && !defined(__wasm__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif
#endif

#define ALIGN 64
#define PAGE 65536          /* a multiple of every system's pages */
#define LARGE (4 << 20)     /* bytes that repay large pages */
#define PART_COUNT (1 + SDX_BODY_COUNT) /* the plan and its bodies */
#define PORT_COUNT (SDX_INPUT_COUNT + SDX_OUTPUT_COUNT)

typedef void (*kernel_function)(void **, const int64_t *, int64_t, int64_t, void *);
typedef void (*parallel_function)(void (*)(void *), void *, unsigned, unsigned);

typedef struct part {
    int64_t context[SDX_CONTEXT_WORDS];
    int64_t *numbers, *pointers, *given, *loop;
} part;

struct SDX_INSTANCE {
    int32_t threads, prepared;
    volatile char busy;
    part parts[PART_COUNT];
    int64_t kernels[SDX_KERNEL_COUNT + 1], bodies[SDX_BODY_COUNT + 1], state[SDX_STATE_WORDS];
    void *run_record[2], *team_record[2], *evaluate_record[2];
    int64_t *arguments, *crew, *blocks;
    int64_t shapes[SDX_INPUT_COUNT + 1][SARDONYX_MAX_RANK];
    char *memory; /* scratch, then segment 0 */
    size_t memory_bytes, given_bytes;
    char *own_memory, *given_memory;
    void *results[SDX_OUTPUT_COUNT + 1]; /* of outputs that came without a buffer */
    size_t result_bytes[SDX_OUTPUT_COUNT + 1];
    const char *weights;
    void *mapped;
    size_t mapped_bytes;
    char error[384];
};

static const int64_t modes[3] = {SDX_MODE_RUN, SDX_MODE_TEAM, SDX_MODE_EVALUATE};
static char open_error[384];

/* ------------------------------------------------------------------------------------------------------------------ text */
static size_t put_text(char *out, size_t at, size_t room, const char *text) {
    while (*text && at + 1 < room) out[at++] = *text++;
    out[at] = 0;
    return at;
}

static size_t put_number(char *out, size_t at, size_t room, int64_t value) {
    char digits[24];
    int n = 0;
    uint64_t rest = value < 0 ? (uint64_t)0 - (uint64_t)value : (uint64_t)value;
    do digits[n++] = (char)('0' + rest % 10); while (rest /= 10);
    if (value < 0) digits[n++] = '-';
    while (n && at + 1 < room) out[at++] = digits[--n];
    out[at] = 0;
    return at;
}

/* `parts` are text but for "%", which stands for the next number. */
static int32_t say(char *out, size_t room, int32_t status, const char *const *parts, const int64_t *numbers) {
    size_t at = 0;
    for (; *parts; parts++) at = **parts == '%' && !(*parts)[1] ? put_number(out, at, room, *numbers++) : put_text(out, at, room, *parts);
    return status;
}

#define SAY(out, status, numbers, ...) say(out, sizeof(out), status, (const char *const[]){__VA_ARGS__, NULL}, numbers)

/* ---------------------------------------------------------------------------------------------------------------- memory */
#ifdef SARDONYX_BARE
static void *allocate(int64_t bytes) { (void)bytes; return NULL; }
static void release(void *at) { (void)at; }
#else
static void *allocate(int64_t bytes) {
    void *at = bytes < 0 || (uint64_t)bytes > SIZE_MAX ? NULL : malloc((size_t)bytes);
#ifdef MADV_HUGEPAGE
    /* Large pages where the system gives them to those who ask, as NumPy does for a session's memory; a refusal changes nothing. */
    if (at && bytes >= LARGE) {
        uintptr_t first = ((uintptr_t)at + PAGE - 1) & ~(uintptr_t)(PAGE - 1), last = ((uintptr_t)at + (uintptr_t)bytes) & ~(uintptr_t)(PAGE - 1);
        (void)madvise((void *)first, last - first, MADV_HUGEPAGE);
    }
#endif
    return at;
}
static void release(void *at) { free(at); }
#endif

static char *round_up(char *at) { return (char *)(((uintptr_t)at + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1)); }

static size_t round_size(int64_t bytes) { return ((size_t)bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1); }

static size_t word_count(int32_t threads) {
    size_t words = (size_t)threads * SDX_ARGUMENT_STRIDE + SDX_BLOCK_WORDS * (size_t)(SDX_BLOCKS + 1);
    for (int k = 0; k < PART_COUNT; k++) words += (size_t)(sdx_parts[k].numbers + sdx_parts[k].pointers + sdx_parts[k].given + sdx_parts[k].loop + 4);
    return words;
}

static size_t instance_bytes(int32_t threads) {
    size_t crew = SDX_CREW_WORDS + (size_t)threads * SDX_LINE_WORDS;
    return sizeof(struct SDX_INSTANCE) + 8 * (word_count(threads) + crew) + 3 * ALIGN;
}

/* --------------------------------------------------------------------------------------------------------------- threads */
#if SDX_HAS_THREADS && !defined(SARDONYX_BARE)
typedef struct openmp {
    void *parallel, *number, *yield;
} openmp;

#ifdef _WIN32
static void *find(void *library, const char *symbol) { return (void *)(uintptr_t)GetProcAddress((HMODULE)library, symbol); }
static void *load(const char *name) { return (void *)LoadLibraryA(name); }
static int32_t yield_processor(void) { SwitchToThread(); return 0; }
static const char *const openmp_names[] = {"libiomp5md.dll", "libomp.dll", "libgomp-1.dll", NULL};
#else
static void *find(void *library, const char *symbol) { return dlsym(library, symbol); }
static void *load(const char *name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }
static int32_t yield_processor(void) { return sched_yield(); }
static const char *const openmp_names[] = {"libgomp.so.1", "libomp.so.5", "libomp.so", "libiomp5.so", "libomp.dylib", "libiomp5.dylib", NULL};
#endif

static int find_openmp(openmp *found) {
    for (const char *const *name = openmp_names; *name; name++) {
        void *library = load(*name);
        if (!library) continue;
        found->parallel = find(library, "GOMP_parallel");
        found->number = find(library, "omp_get_thread_num");
        found->yield = (void *)(uintptr_t)yield_processor;
        if (found->parallel && found->number) return 1;
    }
    return 0;
}
#endif

/* --------------------------------------------------------------------------------------------------------------- weights */
#if SDX_WEIGHTS_BESIDE
static int right_weights(const char *at, size_t bytes) { return bytes >= SDX_WEIGHTS_BYTES && !memcmp(at, sdx_weights_key, sizeof(sdx_weights_key)); }

#if !defined(SARDONYX_BARE) && !defined(__wasm__) && !defined(_WIN32)
static const char *map_weights(struct SDX_INSTANCE *m, const char *path) {
    struct stat facts;
    int file = open(path, O_RDONLY);
    if (file < 0) return NULL;
    if (!fstat(file, &facts) && (size_t)facts.st_size >= SDX_WEIGHTS_BYTES) {
        void *at = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (at != MAP_FAILED) m->mapped = at, m->mapped_bytes = (size_t)facts.st_size;
    }
    close(file);
    return m->mapped;
}
static void unmap_weights(struct SDX_INSTANCE *m) { if (m->mapped) munmap(m->mapped, m->mapped_bytes); }
#elif !defined(SARDONYX_BARE)
static const char *map_weights(struct SDX_INSTANCE *m, const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    m->mapped = malloc(SDX_WEIGHTS_BYTES + ALIGN);
    if (m->mapped && fread(round_up(m->mapped), 1, SDX_WEIGHTS_BYTES, file) == SDX_WEIGHTS_BYTES) m->mapped_bytes = SDX_WEIGHTS_BYTES;
    fclose(file);
    return m->mapped_bytes ? round_up(m->mapped) : NULL;
}
static void unmap_weights(struct SDX_INSTANCE *m) { free(m->mapped); }
#else
static const char *map_weights(struct SDX_INSTANCE *m, const char *path) { (void)m, (void)path; return NULL; }
#endif

static int32_t take_weights(struct SDX_INSTANCE *m, const sardonyx_options *options) {
    const char *path = options && options->weights_path ? options->weights_path : SDX_WEIGHTS_NAME;
    const char *at = options && options->weights ? options->weights : map_weights(m, path);
    size_t bytes = options && options->weights ? options->weights_bytes : m->mapped_bytes;
    if (!at) return SAY(open_error, SARDONYX_BAD_WEIGHTS, NULL, "weights file '", path, "' cannot be read or is cut short; give its path or its contents in the options");
    if ((uintptr_t)at % ALIGN || !right_weights(at, bytes))
        return SAY(open_error, SARDONYX_BAD_WEIGHTS, NULL, "the weights are not those that this library was compiled with, or not aligned to 64 bytes");
    m->weights = at;
    return SARDONYX_OK;
}
#else
static int32_t take_weights(struct SDX_INSTANCE *m, const sardonyx_options *options) {
    (void)options;
    m->weights = SDX_WEIGHTS_BYTES ? (const char *)sdx_weights : NULL;
    return SARDONYX_OK;
}
#ifndef SARDONYX_BARE
static void unmap_weights(struct SDX_INSTANCE *m) { (void)m; }
#endif
#endif

/* ----------------------------------------------------------------------------------------------------- computed constants */
#if SDX_COMPUTED_BYTES
static char *computed, *computed_memory; /* of all instances, from the first one that is opened until the library is unloaded */
static volatile char computing;

static const char *constant(const struct SDX_INSTANCE *m, int64_t k) {
    int64_t offset = sdx_constant_offsets[k];
    return offset < 0 ? computed + ~offset : m->weights + offset;
}

static int32_t compute_constants(const struct SDX_INSTANCE *m) {
    while (__atomic_test_and_set(&computing, __ATOMIC_ACQUIRE)) {}
    if (!computed && (computed_memory = allocate((int64_t)SDX_COMPUTED_BYTES + ALIGN))) {
        char *scratch = allocate((int64_t)SDX_COMPUTING_SCRATCH + ALIGN);
        if (scratch) computed = round_up(computed_memory);
        else release(computed_memory), computed_memory = NULL;
        for (const int64_t *p = sdx_preparations; computed && p[0] >= 0; p += 4 + p[2] + p[3]) {
            void *buffers[SDX_COMPUTING_BUFFERS];
            for (int64_t k = 0; k < p[2]; k++) buffers[k] = (void *)(uintptr_t)constant(m, p[4 + k]);
            sdx_kernels[p[0]](buffers, p + 4 + p[2], 0, p[1], round_up(scratch));
        }
        release(scratch);
    }
    __atomic_clear(&computing, __ATOMIC_RELEASE);
    if (computed) return SARDONYX_OK;
    return SAY(open_error, SARDONYX_NO_MEMORY, ((int64_t[]){(int64_t)SDX_COMPUTED_BYTES}), "no memory for ", "%", " bytes of weights");
}

#ifndef __wasm__
__attribute__((destructor)) static void release_constants(void) { release(computed_memory); }
#endif
#else
static const char *constant(const struct SDX_INSTANCE *m, int64_t k) { return m->weights + sdx_constant_offsets[k]; }
static int32_t compute_constants(const struct SDX_INSTANCE *m) { (void)m, (void)sdx_preparations; return SARDONYX_OK; }
#endif

/* -------------------------------------------------------------------------------------------------------------- processor */
#if SDX_FEATURES
static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t *out) {
    __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

static int has_feature(uint32_t leaf, uint32_t subleaf, uint32_t word, uint32_t bit) {
    uint32_t r[4];
    cpuid(leaf & 0x80000000u, 0, r);
    if (r[0] < leaf) return 0;
    if (subleaf) {
        cpuid(leaf, 0, r);
        if (r[0] < subleaf) return 0;
    }
    cpuid(leaf, subleaf, r);
    return r[word] >> bit & 1;
}

/* Whether the processor has, and the system saves, what the kernels use; the code of this file needs none of it. */
static int32_t right_processor(void) {
    for (int k = 0; k < SDX_FEATURES; k++)
        if (!has_feature(sdx_features[k].leaf, sdx_features[k].subleaf, sdx_features[k].word, sdx_features[k].bit))
            return SAY(open_error, SARDONYX_WRONG_MACHINE, NULL, "this library was compiled for processors with ", sdx_features[k].name, ", which this one lacks");
    uint32_t low = 0, high = 0;
    if (SDX_SAVED_STATE && has_feature(1, 0, 2, 27)) __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & SDX_SAVED_STATE) != SDX_SAVED_STATE)
        return SAY(open_error, SARDONYX_WRONG_MACHINE, NULL, "the system does not save the vector registers that this library was compiled for");
    return SARDONYX_OK;
}
#else
static int32_t right_processor(void) { return SARDONYX_OK; }
#endif

/* --------------------------------------------------------------------------------------------------------- tile registers */
#if SDX_TILES
/* Ask for the tile registers of AMX, for all threads of the process; asking again changes nothing. Source: Linux, Documentation/arch/x86/xstate.rst. */
static int32_t take_tiles(void) {
    long status = SDX_ARCH_PRCTL;
    __asm__ volatile("syscall" : "+a"(status) : "D"((long)SDX_REQUEST_STATE), "S"((long)SDX_TILE_DATA) : "rcx", "r11", "memory");
    if (!status) return SARDONYX_OK;
    return SAY(open_error, SARDONYX_WRONG_MACHINE, ((int64_t[]){-status}), "the system does not give the tile registers (AMX) that this library was compiled for: error ", "%");
}
#else
static int32_t take_tiles(void) { return SARDONYX_OK; }
#endif

/* -------------------------------------------------------------------------------------------------------------- instances */
static int64_t *take(int64_t **free_words, int64_t count) {
    int64_t *at = *free_words;
    *free_words += count + 1;
    memset(at, 0, 8 * (size_t)(count + 1));
    return at;
}

static int64_t address(const void *at) { return (int64_t)(intptr_t)at; }

static void fill_part(struct SDX_INSTANCE *m, int k, int64_t **free_words) {
    const sdx_part *t = &sdx_parts[k];
    part *p = &m->parts[k];
    int64_t *c = p->context;
    p->numbers = take(free_words, t->numbers);
    p->pointers = take(free_words, t->pointers);
    p->given = take(free_words, t->given);
    p->loop = take(free_words, t->loop);
    memcpy(p->numbers, t->first_numbers, 8 * (size_t)t->numbers);
    for (int64_t j = 0; j < t->pointers; j++)
        if (t->constants[j] >= 0) p->pointers[j] = address(constant(m, t->constants[j]));
    c[SDX_SELF] = address(c);
    c[SDX_STEPS] = address(t->steps), c[SDX_STEP_COUNT] = t->step_count;
    c[SDX_OPERANDS] = address(t->operands), c[SDX_PROGRAM] = address(t->program), c[SDX_EAGER] = t->eager;
    c[SDX_NUMBERS] = address(p->numbers), c[SDX_POINTERS] = address(p->pointers);
    c[SDX_SEGMENTS] = address(t->segments), c[SDX_SEGMENT_COUNT] = t->segment_count;
    c[SDX_KERNELS] = address(m->kernels), c[SDX_THREADS] = m->threads, c[SDX_STATE] = address(m->state);
    c[SDX_ARGUMENTS] = address(m->arguments), c[SDX_ARGUMENTS_EACH] = SDX_ARGUMENT_STRIDE;
    c[SDX_CREW] = address(m->crew), c[SDX_BODIES] = address(m->bodies);
    c[SDX_ALLOCATE] = (int64_t)(intptr_t)allocate, c[SDX_RELEASE] = (int64_t)(intptr_t)release;
    c[SDX_BLOCK_TABLE] = address(m->blocks + SDX_BLOCK_WORDS * t->first_block);
    if (k) {
        c[SDX_BODY] = address(t->body), c[SDX_GIVEN] = address(p->given), c[SDX_LOOP] = address(p->loop);
        c[SDX_PARENT] = address(m->parts[t->parent].context), c[SDX_PARENT_STEP] = t->parent_step, c[SDX_IDENTITY] = k;
        m->bodies[k - 1] = address(c);
    }
}

static void fill(struct SDX_INSTANCE *m, char *memory) {
    int64_t *words = (int64_t *)round_up(memory);
    int64_t *c = m->parts[0].context;
    m->crew = words, words += SDX_CREW_WORDS + m->threads * SDX_LINE_WORDS;
    memset(m->crew, 0, (size_t)((char *)words - (char *)m->crew));
    m->arguments = take(&words, (int64_t)m->threads * SDX_ARGUMENT_STRIDE - 1);
    m->blocks = take(&words, SDX_BLOCK_WORDS * (SDX_BLOCKS + 1) - 1);
    for (int k = 0; k < SDX_KERNEL_COUNT; k++) m->kernels[k] = (int64_t)(intptr_t)sdx_kernels[k];
    for (int k = 0; k < PART_COUNT; k++) fill_part(m, k, &words);
    m->run_record[0] = m->team_record[0] = m->evaluate_record[0] = c;
    m->run_record[1] = (void *)&modes[0], m->team_record[1] = (void *)&modes[1], m->evaluate_record[1] = (void *)&modes[2];
    c[SDX_DRIVER] = (int64_t)(intptr_t)SDX_DRIVER_SYMBOL, c[SDX_TEAM] = address(m->team_record);
}

static void drive(void **record) { SDX_DRIVER_SYMBOL(record, NULL, 0, 0, NULL); }

SDX_API size_t SDX_NAME(instance_bytes)(void) { return instance_bytes(1) + ALIGN; }

SDX_API int32_t SDX_NAME(open_in)(void *memory, size_t bytes, const sardonyx_options *options, struct SDX_INSTANCE **out) {
    struct SDX_INSTANCE *m = (struct SDX_INSTANCE *)round_up(memory);
    if (!memory || !out) return SAY(open_error, SARDONYX_INVALID_ARGUMENT, NULL, "memory and a place for the instance are needed");
    *out = NULL;
    if (bytes < instance_bytes(1) + ALIGN)
        return SAY(open_error, SARDONYX_SHORT_BUFFER, ((int64_t[]){(int64_t)instance_bytes(1) + ALIGN, (int64_t)bytes}), "an instance takes ", "%", " bytes, ", "%", " were given");
    int32_t status = right_processor();
    if (status || (status = take_tiles())) return status;
    memset(m, 0, sizeof(*m));
    m->threads = 1;
    if ((status = take_weights(m, options)) || (status = compute_constants(m))) return status;
    fill(m, (char *)(m + 1));
    *out = m;
    return SARDONYX_OK;
}

#ifndef SARDONYX_BARE
SDX_API int32_t SDX_NAME(open)(const sardonyx_options *options, struct SDX_INSTANCE **out) {
    if (!out) return SAY(open_error, SARDONYX_INVALID_ARGUMENT, NULL, "a place for the instance is needed");
    *out = NULL;
    int32_t threads = options && options->threads > 1 ? options->threads : 1;
    if (threads > 1024) return SAY(open_error, SARDONYX_INVALID_ARGUMENT, ((int64_t[]){threads}), "%", " threads were asked for, at most 1024 are possible");
    int32_t status = right_processor();
    if (status || (status = take_tiles())) return status;
#if SDX_HAS_THREADS
    openmp found = {0};
    if (threads > 1 && !find_openmp(&found)) threads = 1;
#else
    threads = 1;
#endif
    char *memory = malloc(instance_bytes(threads) + ALIGN);
    if (!memory) return SAY(open_error, SARDONYX_NO_MEMORY, NULL, "no memory for an instance");
    struct SDX_INSTANCE *m = (struct SDX_INSTANCE *)round_up(memory + 1);
    memset(m, 0, sizeof(*m));
    ((char *)m)[-1] = (char)((char *)m - memory);
    m->threads = threads;
    if ((status = take_weights(m, options)) || (status = compute_constants(m))) {
        unmap_weights(m);
        free(memory);
        return status;
    }
    fill(m, (char *)(m + 1));
#if SDX_HAS_THREADS
    int64_t *c = m->parts[0].context;
    if (threads > 1) c[SDX_PARALLEL] = address(found.parallel), c[SDX_THREAD_NUMBER] = address(found.number), c[SDX_YIELD] = address(found.yield);
#endif
    *out = m;
    return SARDONYX_OK;
}

SDX_API void SDX_NAME(close)(struct SDX_INSTANCE *m) {
    if (!m) return;
    for (int64_t k = 0; k < SDX_BLOCKS; k++)
        if (m->blocks[SDX_BLOCK_WORDS * k]) release((void *)(intptr_t)m->blocks[SDX_BLOCK_WORDS * k]);
    for (int k = 0; k < SDX_OUTPUT_COUNT; k++) free(m->results[k]);
    free(m->own_memory);
    unmap_weights(m);
    free((char *)m - (unsigned char)((char *)m)[-1]);
}
#endif

SDX_API const char *SDX_NAME(error)(const struct SDX_INSTANCE *m) { return m ? m->error : open_error; }
SDX_API int32_t SDX_NAME(threads)(const struct SDX_INSTANCE *m) { return m ? m->threads : 0; }
SDX_API int32_t SDX_NAME(input_count)(void) { return SDX_INPUT_COUNT; }
SDX_API int32_t SDX_NAME(output_count)(void) { return SDX_OUTPUT_COUNT; }
SDX_API const sardonyx_port *SDX_NAME(input)(int32_t k) { return k < 0 || k >= SDX_INPUT_COUNT ? NULL : &sdx_ports[k]; }
SDX_API const sardonyx_port *SDX_NAME(output)(int32_t k) { return k < 0 || k >= SDX_OUTPUT_COUNT ? NULL : &sdx_ports[SDX_INPUT_COUNT + k]; }

/* ----------------------------------------------------------------------------------------------------------------- shapes */
static size_t scratch_stride(const struct SDX_INSTANCE *m) { return round_size(m->parts[0].numbers[SDX_SCRATCH_NUMBER]) + ALIGN; }

static size_t workspace_bytes(const struct SDX_INSTANCE *m) {
    int64_t first = SDX_FIRST_SEGMENT < 0 ? 0 : m->parts[0].numbers[SDX_FIRST_SEGMENT];
    return (size_t)m->threads * scratch_stride(m) + round_size(first) + ALIGN;
}

static int32_t check_inputs(struct SDX_INSTANCE *m, const sardonyx_tensor *inputs, int32_t count, int data) {
    if (count != SDX_INPUT_COUNT || (count && !inputs))
        return SAY(m->error, SARDONYX_INVALID_ARGUMENT, ((int64_t[]){SDX_INPUT_COUNT, count}), "the model takes ", "%", " inputs, ", "%", " were given");
    for (int k = 0; k < count; k++) {
        const sardonyx_port *p = &sdx_ports[k];
        uint64_t bytes = (uint64_t)p->item_size;
        if (inputs[k].type != p->type)
            return SAY(m->error, SARDONYX_INVALID_ARGUMENT, ((int64_t[]){inputs[k].type, p->type}), "input '", p->name, "' has type ", "%", ", the model takes type ", "%");
        if (inputs[k].rank != p->rank)
            return SAY(m->error, SARDONYX_INVALID_ARGUMENT, ((int64_t[]){inputs[k].rank, p->rank}), "input '", p->name, "' has rank ", "%", ", the model takes rank ", "%");
        for (int d = 0; d < p->rank; d++) {
            int64_t n = inputs[k].dims[d];
            if (n < 0 || (n && bytes > (uint64_t)INT64_MAX / (uint64_t)n))
                return SAY(m->error, SARDONYX_WRONG_SHAPE, ((int64_t[]){d, n}), "dimension ", "%", " of input '", p->name, "' is ", "%");
            bytes *= (uint64_t)n;
        }
        if (data && bytes && !inputs[k].data) return SAY(m->error, SARDONYX_INVALID_ARGUMENT, NULL, "input '", p->name, "' has no data");
        if (data && inputs[k].bytes < bytes)
            return SAY(m->error, SARDONYX_SHORT_BUFFER, ((int64_t[]){(int64_t)bytes, (int64_t)inputs[k].bytes}), "input '", p->name, "' takes ", "%", " bytes, its buffer has ", "%");
    }
    return SARDONYX_OK;
}

static int same_shapes(const struct SDX_INSTANCE *m, const sardonyx_tensor *inputs) {
    for (int k = 0; k < SDX_INPUT_COUNT; k++)
        if (memcmp(m->shapes[k], inputs[k].dims, 8 * (size_t)sdx_ports[k].rank)) return 0;
    return 1;
}

static int32_t bind(struct SDX_INSTANCE *m, const sardonyx_tensor *inputs) {
    int64_t *numbers = m->parts[0].numbers;
    m->prepared = 0;
    memcpy(numbers, sdx_parts[0].first_numbers, 8 * (size_t)sdx_parts[0].numbers);
    for (const int64_t *s = sdx_sizes; s[0] >= 0; s += 3) numbers[s[2]] = inputs[s[0]].dims[s[1]];
    drive(m->evaluate_record);
    for (const int64_t *s = sdx_checks; s[0] >= 0; s += 3)
        if (inputs[s[0]].dims[s[1]] != numbers[s[2]])
            return SAY(m->error, SARDONYX_WRONG_SHAPE, ((int64_t[]){s[1], inputs[s[0]].dims[s[1]], numbers[s[2]]}), "dimension ", "%", " of input '", sdx_ports[s[0]].name, "' is ", "%",
                       ", ", "%", " was expected");
    for (int k = 0; sdx_reasons[k]; k++)
        if (!numbers[sdx_conditions[k]]) return SAY(m->error, SARDONYX_WRONG_SHAPE, NULL, sdx_reasons[k]);
    for (int k = 0; k < SDX_INPUT_COUNT; k++) memcpy(m->shapes[k], inputs[k].dims, 8 * (size_t)sdx_ports[k].rank);
    m->memory = NULL;
    m->prepared = 1;
    return SARDONYX_OK;
}

static int begin(struct SDX_INSTANCE *m) { return !__atomic_test_and_set(&m->busy, __ATOMIC_ACQUIRE); }

static int32_t end(struct SDX_INSTANCE *m, int32_t status) {
    __atomic_clear(&m->busy, __ATOMIC_RELEASE);
    return status;
}

SDX_API int32_t SDX_NAME(prepare)(struct SDX_INSTANCE *m, const sardonyx_tensor *inputs, int32_t count) {
    if (!m) return SARDONYX_INVALID_ARGUMENT;
    if (!begin(m)) return SARDONYX_BUSY;
    int32_t status = check_inputs(m, inputs, count, 0);
    return end(m, status ? status : bind(m, inputs));
}

SDX_API size_t SDX_NAME(workspace_bytes)(const struct SDX_INSTANCE *m) { return m && m->prepared ? workspace_bytes(m) : 0; }

SDX_API int32_t SDX_NAME(set_workspace)(struct SDX_INSTANCE *m, void *memory, size_t bytes) {
    if (!m) return SARDONYX_INVALID_ARGUMENT;
    if (!begin(m)) return SARDONYX_BUSY;
    m->given_memory = memory, m->given_bytes = memory ? bytes : 0, m->memory = NULL;
    return end(m, SARDONYX_OK);
}

SDX_API int32_t SDX_NAME(output_dims)(const struct SDX_INSTANCE *m, int32_t k, int64_t *dims) {
    if (!m || !dims || k < 0 || k >= SDX_OUTPUT_COUNT || !m->prepared) return SARDONYX_INVALID_ARGUMENT;
    const sdx_output *o = &sdx_outputs[k];
    for (int d = 0; d < sdx_ports[SDX_INPUT_COUNT + k].rank; d++) dims[d] = o->late[d] ? -1 : m->parts[0].numbers[o->shape[d]];
    return SARDONYX_OK;
}

/* ------------------------------------------------------------------------------------------------------------------- runs */
static int32_t place(struct SDX_INSTANCE *m) {
    size_t bytes = workspace_bytes(m);
    char *memory = m->given_memory;
    if (m->given_memory && m->given_bytes < bytes)
        return SAY(m->error, SARDONYX_SHORT_BUFFER, ((int64_t[]){(int64_t)bytes, (int64_t)m->given_bytes}), "the workspace for these shapes takes ", "%", " bytes, ", "%", " were given");
    if (!memory) {
        if (m->memory_bytes < bytes) {
            release(m->own_memory);
            m->own_memory = allocate((int64_t)bytes);
            m->memory_bytes = m->own_memory ? bytes : 0;
        }
        memory = m->own_memory;
        if (!memory) return SAY(m->error, SARDONYX_NO_MEMORY, ((int64_t[]){(int64_t)bytes}), "no memory for a workspace of ", "%", " bytes");
    }
    m->memory = round_up(memory);
    int64_t *c = m->parts[0].context, *numbers = m->parts[0].numbers, *pointers = m->parts[0].pointers;
    size_t stride = scratch_stride(m);
    c[SDX_FIRST_SCRATCH] = address(m->memory), c[SDX_FIRST_STRIDE] = (int64_t)stride;
    for (const int64_t *s = sdx_arena; s[0] >= 0; s += 2) pointers[s[0]] = address(m->memory + (size_t)m->threads * stride) + numbers[s[1]];
    return SARDONYX_OK;
}

static int32_t output_bytes(struct SDX_INSTANCE *m, int k, int64_t *dims, uint64_t *bytes) {
    const sardonyx_port *p = &sdx_ports[SDX_INPUT_COUNT + k];
    *bytes = (uint64_t)p->item_size;
    for (int d = 0; d < p->rank; d++) {
        dims[d] = m->parts[0].numbers[sdx_outputs[k].shape[d]];
        if (dims[d] < 0) return SAY(m->error, SARDONYX_WRONG_SHAPE, ((int64_t[]){d, dims[d]}), "dimension ", "%", " of output '", p->name, "' would be ", "%");
        *bytes *= (uint64_t)dims[d];
    }
    return SARDONYX_OK;
}

/* Where output k goes: the caller's buffer, or one of the instance's own. */
static int32_t take_output(struct SDX_INSTANCE *m, sardonyx_tensor *out, int k) {
    const sardonyx_port *p = &sdx_ports[SDX_INPUT_COUNT + k];
    uint64_t bytes;
    int32_t status = output_bytes(m, k, out->dims, &bytes);
    if (status) return status;
    out->type = p->type, out->rank = p->rank;
    if (out->data && out->data != m->results[k]) {
        if (out->bytes < bytes)
            return SAY(m->error, SARDONYX_SHORT_BUFFER, ((int64_t[]){(int64_t)bytes, (int64_t)out->bytes}), "output '", p->name, "' takes ", "%", " bytes, its buffer has ", "%");
        return SARDONYX_OK;
    }
    if (!m->results[k] || m->result_bytes[k] < bytes) {
        release(m->results[k]);
        m->results[k] = allocate((int64_t)(bytes + (bytes == 0)));
        m->result_bytes[k] = m->results[k] ? (size_t)(bytes + (bytes == 0)) : 0;
        if (!m->results[k]) return SAY(m->error, SARDONYX_NO_MEMORY, ((int64_t[]){(int64_t)bytes}), "no memory for output '", p->name, "' of ", "%", " bytes");
    }
    out->data = m->results[k], out->bytes = (size_t)bytes;
    return SARDONYX_OK;
}

/* Copy a finished output to row-major order from where the plan left it. */
static void copy_output(const struct SDX_INSTANCE *m, const sardonyx_tensor *out, int k) {
    const sdx_output *o = &sdx_outputs[k];
    const char *from = (const char *)(intptr_t)m->parts[0].pointers[o->buffer];
    size_t item = (size_t)sdx_ports[SDX_INPUT_COUNT + k].item_size, total = item;
    int64_t step[SARDONYX_MAX_RANK], at[SARDONYX_MAX_RANK] = {0};
    int in_order = 1;
    for (int d = out->rank - 1; d >= 0; d--) {
        step[o->order[d]] = (int64_t)total;
        total *= (size_t)out->dims[o->order[d]];
        in_order &= o->order[d] == d;
    }
    if (!total) return;
    if (in_order) {
        memcpy(out->data, from, total);
        return;
    }
    for (char *to = out->data, *last = to + total; to < last; to += item) {
        int64_t offset = 0;
        for (int d = 0; d < out->rank; d++) offset += at[d] * step[d];
        memcpy(to, from + offset, item);
        for (int d = out->rank - 1; d >= 0 && ++at[d] == out->dims[d]; d--) at[d] = 0;
    }
}

static int32_t failure(struct SDX_INSTANCE *m) {
    int64_t what = m->state[SDX_FAILURE], where = m->state[SDX_FAILED_IN], a = m->state[SDX_FAILED_A], b = m->state[SDX_FAILED_B];
    const char *step = where > 0 && where < PART_COUNT ? sdx_parts[where].name : SDX_TEXT_NAME;
    if (what == SDX_NO_MEMORY) return SAY(m->error, SARDONYX_NO_MEMORY, &b, "no memory for ", "%", " bytes of intermediate results");
    for (int k = 0; sdx_failures[k].text; k++)
        if (sdx_failures[k].what == what) return SAY(m->error, SARDONYX_CONTROL_FLOW, ((int64_t[]){a, b}), step, ": ", sdx_failures[k].text, " (", "%", ", ", "%", ")");
    return SAY(m->error, SARDONYX_CONTROL_FLOW, &what, step, ": failure ", "%");
}

static int32_t run(struct SDX_INSTANCE *m, const sardonyx_tensor *inputs, int32_t input_count, sardonyx_tensor *outputs, int32_t output_count) {
    int64_t *pointers = m->parts[0].pointers;
    int32_t status = check_inputs(m, inputs, input_count, 1);
    if (status) return status;
    if (output_count != SDX_OUTPUT_COUNT || (output_count && !outputs))
        return SAY(m->error, SARDONYX_INVALID_ARGUMENT, ((int64_t[]){SDX_OUTPUT_COUNT, output_count}), "the model has ", "%", " outputs, ", "%", " were given");
    if ((!m->prepared || !same_shapes(m, inputs)) && (status = bind(m, inputs))) return status;
    if (!m->memory && (status = place(m))) return status;
    for (int k = 0; k < SDX_OUTPUT_COUNT; k++)
        if (sdx_outputs[k].direct && (status = take_output(m, &outputs[k], k))) return status;
    for (const int64_t *s = sdx_slots; s[0] >= 0; s += 2) pointers[s[1]] = address(s[0] < SDX_INPUT_COUNT ? inputs[s[0]].data : outputs[s[0] - SDX_INPUT_COUNT].data);
    m->parts[0].context[SDX_START] = 0;
    drive(m->run_record);
    if (m->state[SDX_STOPPED] == SDX_FAILED) return failure(m);
    for (int k = 0; k < SDX_OUTPUT_COUNT; k++) {
        if (sdx_outputs[k].direct) continue;
        if ((status = take_output(m, &outputs[k], k))) return status;
        copy_output(m, &outputs[k], k);
    }
    return SARDONYX_OK;
}

SDX_API int32_t SDX_NAME(run)(struct SDX_INSTANCE *m, const sardonyx_tensor *inputs, int32_t input_count, sardonyx_tensor *outputs, int32_t output_count) {
    if (!m) return SARDONYX_INVALID_ARGUMENT;
    if (!begin(m)) return SARDONYX_BUSY;
    return end(m, run(m, inputs, input_count, outputs, output_count));
}
