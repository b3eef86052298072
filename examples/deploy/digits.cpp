// Recognises a handwritten digit, with the C++ face of the header:
//
//   sardonyx compile runtime/data/digits.onnx -o libdigits.so
//   c++ -std=c++17 -I. examples/deploy/digits.cpp ./libdigits.so -Wl,-rpath,. -o digits && ./digits
#include "digits.h"

#include <array>
#include <iostream>
#include <string>

int main() {
    const std::string picture = "  .@@.   .@@@@.  @@  @@  @@  @@  @@  @@  @@  @@  .@@@@.   .@@.  ";
    std::array<std::uint8_t, 64> image{};
    for (std::size_t k = 0; k < image.size(); k++) image[k] = picture[k] == '@' ? 16 : picture[k] == '.' ? 8 : 0;
    try {
        digits_model model;
        auto outputs = model.run({sardonyx_view(image.data(), SARDONYX_UINT8, {1, 8, 8})});
        const auto digit = static_cast<const std::int64_t *>(outputs[1].data)[0];
        std::cout << digit << " (" << static_cast<int>(100 * static_cast<const float *>(outputs[0].data)[digit] + 0.5f) << "%)\n";
    } catch (const std::exception &e) {
        std::cerr << e.what() << "\n";
        return 1;
    }
}
