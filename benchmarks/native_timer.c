/* Times a model library on tensors from a file, on demand: each number of runs that comes in is done, then their nanoseconds go out, elapsed and of the processor,
 * a line a run. "0" writes the outputs and ends.
 *
 * Compiled with -DMODEL=NAME -DHEADER="NAME.h"; arguments: inputs, outputs, threads. Both files as tensor_file.h says. */
#include HEADER

#include "tensor_file.h"
#include <time.h>

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
