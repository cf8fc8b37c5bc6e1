/* Prints a line for each tensor that csafetensors (github.com/syoyo/safetensors-cpp) reads from a file.
 *
 * A line has name, dtype, shape and bytes, separated by tabs.
 *
 *     cc -O1 -I SAFETENSORS_CPP -o csafetensors csafetensors.c SAFETENSORS_CPP/csafetensors.c
 */
#include <stdio.h>

#include "csafetensors.h"

int main(int argc, char **argv)
{
    static csafetensors_t st;
    csafetensors_init(&st);
    if (argc != 2 || csafetensors_load_from_file(argv[1], &st) != CSAFETENSORS_SUCCESS || !csafetensors_validate(&st)) {
        fprintf(stderr, "%s\n", csafetensors_get_error(&st));
        return 1;
    }
    for (size_t i = 0; i < st.n_tensors; i++) {
        const csafetensors_tensor_t *t = csafetensors_get_tensor_by_index(&st, i);
        const uint8_t *data = csafetensors_get_tensor_data(&st, t);
        printf("%s\t%s\t", t->name, csafetensors_dtype_name(t->dtype));
        for (size_t d = 0; d < t->n_dims; d++)
            printf(d ? ",%zu" : "%zu", t->shape[d]);
        printf("\t");
        for (size_t at = t->data_offset_begin; data && at < t->data_offset_end; at++)
            printf("%02x", data[at - t->data_offset_begin]);
        printf("\n");
    }
    csafetensors_free(&st);
    return 0;
}
