/* Runs a model library on tensors from a file and writes its outputs to another (tensor_file.h).
 *
 * Compiled with -DMODEL=NAME -DHEADER="NAME.h"; arguments: inputs, outputs, threads, number of runs. */
#include HEADER

#include "tensor_file.h"

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
    return failed;
}
