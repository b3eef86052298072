/* Recognises a handwritten digit:
 *
 *   sardonyx compile runtime/data/digits.onnx -o libdigits.so
 *   cc -I. examples/deploy/digits.c ./libdigits.so -Wl,-rpath,. -o digits && ./digits
 */
#include "digits.h"

#include <inttypes.h>
#include <stdio.h>

static const char picture[] =
    "  .@@.  "
    " .@@@@. "
    " @@  @@ "
    " @@  @@ "
    " @@  @@ "
    " @@  @@ "
    " .@@@@. "
    "  .@@.  ";

int main(void) {
    uint8_t image[64];
    for (int k = 0; k < 64; k++) image[k] = picture[k] == '@' ? 16 : picture[k] == '.' ? 8 : 0;

    digits *model;
    if (digits_open(NULL, &model)) {
        fprintf(stderr, "%s\n", digits_error(NULL));
        return 1;
    }
    sardonyx_tensor input = {image, sizeof(image), SARDONYX_UINT8, 3, {1, 8, 8}};
    sardonyx_tensor outputs[2] = {{0}}; /* no data: the instance's memory, until the next run */
    if (digits_run(model, &input, 1, outputs, 2)) {
        fprintf(stderr, "%s\n", digits_error(model));
        return 1;
    }
    int64_t digit = ((const int64_t *)outputs[1].data)[0];
    printf("%" PRId64 " (%.0f%%)\n", digit, 100 * ((const float *)outputs[0].data)[digit]);
    digits_close(model);
    return 0;
}
