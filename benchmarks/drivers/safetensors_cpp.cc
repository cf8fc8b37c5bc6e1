/* Prints a line for each tensor that safetensors-cpp (github.com/syoyo/safetensors-cpp) reads from a file.
 *
 * A line has name, dtype, shape and bytes, separated by tabs.
 *
 *     c++ -O1 -std=c++17 -I SAFETENSORS_CPP -o safetensors_cpp safetensors_cpp.cc
 */
#include <cstdio>
#include <string>

#define SAFETENSORS_CPP_IMPLEMENTATION
#include "safetensors.hh"

int main(int argc, char **argv)
{
    safetensors::safetensors_t st;
    std::string warn, err;
    if (argc != 2 || !safetensors::load_from_file(argv[1], &st, &warn, &err) ||
        !safetensors::validate_data_offsets(st, err)) {
        std::fprintf(stderr, "%s\n", err.c_str());
        return 1;
    }
    for (size_t i = 0; i < st.tensors.size(); i++) {
        safetensors::tensor_t t;
        st.tensors.at(i, &t);
        std::printf("%s\t%s\t", st.tensors.keys()[i].c_str(), safetensors::get_dtype_str(t.dtype).c_str());
        for (size_t d = 0; d < t.shape.size(); d++)
            std::printf(d ? ",%zu" : "%zu", t.shape[d]);
        std::printf("\t");
        for (size_t at = t.data_offsets[0]; at < t.data_offsets[1] && at < st.storage.size(); at++)
            std::printf("%02x", st.storage.data()[at]);
        std::printf("\n");
    }
    return 0;
}
