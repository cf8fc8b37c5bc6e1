/* Operations of the protocol on checkpoint files. */
#include "call.h"

#include <string.h>

static int put_tensor(call *c, seft_file *file, size_t index, int first)
{
    const seft_tensor *t = seft_info(file, index);
    const uint8_t *values;
    uint64_t size;
    int64_t dims = t->dims, shape[8], rows = (int64_t)t->rows + 1, nnz = (int64_t)t->nnz;
    unsigned i;
    if (!call_did(c, seft_values(file, index, &values, &size, &c->error)))
        return 0;
    for (i = 0; i < t->dims; i++)
        shape[i] = (int64_t)t->shape[i];
    json_puts(c->out, first ? "" : ",");
    json_put(c->out, t->name_json, t->name_json_size);
    json_puts(c->out, ":{\"dict\":{\"dtype\":\"");
    json_puts(c->out, t->dtype);
    json_puts(c->out, "\",\"shape\":");
    call_write_array(c, I64, shape, 1, &dims);
    json_puts(c->out, ",\"row_pointers\":");
    if (t->nnz == t->numel) {
        json_puts(c->out, "null,\"columns\":null");
    } else {
        int64_t *pointers = (int64_t *)call_room(c, rows, sizeof *pointers);
        int64_t *columns = (int64_t *)call_room(c, nnz, sizeof *columns);
        if (c->failed || !call_did(c, seft_support(file, index, pointers, columns, sizeof *columns, &c->error)))
            return 0;
        call_write_array(c, I64, pointers, 1, &rows);
        json_puts(c->out, ",\"columns\":");
        call_write_array(c, I64, columns, 1, &nnz);
    }
    json_puts(c->out, ",\"bits\":");
    dims = (int64_t)size;
    call_write_array(c, U8, values, 1, &dims);
    json_puts(c->out, "}}");
    return 1;
}

static void put_file(call *c, seft_file *file)
{
    static const char *const texts[] = {"attributes", "scales", "delta"};
    char state[65];
    const char *text;
    size_t size, i;
    call_put_text(c, "kind", seft_kind(file), strlen(seft_kind(file)));
    for (i = 0; i < 3; i++) {
        text = seft_text(file, texts[i], &size);
        call_put_text(c, texts[i], text ? text : "null", text ? size : 4);
    }
    text = seft_text(file, "tied", &size);
    call_put(c, "tied");
    json_puts(c->out, "{\"dict\":");
    json_put(c->out, text, size);
    json_puts(c->out, "}");
    seft_state(file, state);
    call_put_text(c, "state", state, 64);
    call_put(c, "tensors");
    json_puts(c->out, "{\"dict\":{");
    for (i = 0; i < seft_count(file) && put_tensor(c, file, i, i == 0);)
        i++;
    json_puts(c->out, "}}");
}

static void file_read(call *c)
{
    array raw = call_array(c, "raw");
    seft_file *file;
    size_t i;
    if (!c->failed && raw.type != U8)
        call_fail(c, "the input raw is not bytes");
    if (c->failed)
        return;
    file = seft_open((const uint8_t *)raw.at, (size_t)raw.count, &c->error);
    call_did(c, file != NULL);
    /* FMT-095, verified: all of it before anything is handed out */
    for (i = 0; !c->failed && i < seft_count(file); i++)
        call_did(c, seft_check(file, i, &c->error));
    if (!c->failed)
        put_file(c, file);
    seft_close(file);
}

const operation file_operations[] = {{"file.read", {file_read, file_read}}, {NULL, {NULL, NULL}}};
