/* A port of SEFT with two operations, in C99; json.h reads and writes the lines. Judge it with
 *
 *     seft verify doctor --port ./my_port
 *     seft verify --port ./my_port --only select.largest
 *
 * `seft verify list --ops` lists the others; SPEC.md says what they mean, its chapter 16 what a line looks like. */
#include "json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What an operation has to say besides its outputs. */
typedef struct {
    const char *refused; /* the clause that the inputs break */
    const char *broken;  /* what else is wrong */
} outcome;

typedef struct {
    const json_tree *tree;
    const json *in;
    json_out *out;
    outcome what;
} call;

/* values (PRT-002, PRT-003); the machine is taken to be little-endian */

static double number(call *c, const char *name)
{
    const json *v = json_member(c->tree, c->in, name), *hex = json_member(c->tree, v, "f64");
    char text[40] = "";
    if (v && v->kind == JSON_INTEGER)
        return (double)v->integer;
    if (!hex || hex->kind != JSON_STRING || hex->size >= sizeof text) {
        c->what.broken = "an input is no number";
        return 0.0;
    }
    memcpy(text, hex->text, hex->size);
    return strtod(text, NULL);
}

/* The bytes of an array, to be freed, and the number of its entries. */
static void *array(call *c, const char *name, int *is_float, size_t *count)
{
    const json *v = json_member(c->tree, c->in, name), *b64 = json_member(c->tree, v, "b64");
    size_t size = b64 && b64->kind == JSON_STRING ? json_base64_size(b64) : SIZE_MAX;
    unsigned char *raw = size == SIZE_MAX ? NULL : malloc(size + 1);
    *is_float = json_is(json_member(c->tree, v, "dtype"), "f32");
    *count = raw ? size / (*is_float ? 4 : 8) : 0;
    if (!raw || !json_base64_bytes(b64, raw))
        c->what.broken = "an input is no array";
    return raw;
}

static void put_integers(call *c, const char *name, const int64_t *values, size_t count)
{
    json_string(c->out, name, strlen(name));
    json_puts(c->out, ":{\"dtype\":\"i64\",\"shape\":[");
    json_integer(c->out, (int64_t)count);
    json_puts(c->out, "],\"b64\":\"");
    json_base64(c->out, (const unsigned char *)values, count * sizeof *values);
    json_puts(c->out, "\"}");
}

/* operations */

typedef struct {
    double score;
    int64_t id;
} ranked;

/* SEL-001: by score descending, then id ascending */
static int before(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_id(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void largest(call *c)
{
    int is_float, unused;
    size_t count, ids_count, i;
    void *scores = array(c, "scores", &is_float, &count);
    int64_t *ids = array(c, "ids", &unused, &ids_count), k = (int64_t)number(c, "k");
    ranked *all = malloc((count + 1) * sizeof *all);
    if (!c->what.broken && (!all || count != ids_count))
        c->what.broken = "scores and ids do not fit";
    for (i = 0; !c->what.broken && i < count; i++) {
        all[i].score = is_float ? ((float *)scores)[i] : ((double *)scores)[i];
        all[i].id = ids[i];
        if (!isfinite(all[i].score))
            c->what.refused = "SEL-004";
    }
    if (k < 0 || (uint64_t)k > count)
        c->what.refused = "SEL-005";
    if (!c->what.broken && !c->what.refused) {
        qsort(all, count, sizeof *all, before);
        for (i = 0; i < (size_t)k; i++)
            ids[i] = all[i].id;
        qsort(ids, (size_t)k, sizeof *ids, by_id); /* SEL-003 */
        put_integers(c, "chosen", ids, (size_t)k);
    }
    free(scores);
    free(ids);
    free(all);
}

/* SCH-001, SCH-002, SEL-006 */
static void drops(call *c)
{
    const double pi = 3.141592653589793;
    double rate = number(c, "drop_fraction"), step = number(c, "step"), steps = number(c, "steps");
    double fraction = 0.5 * rate * (1.0 + cos(pi * step / steps));
    json_puts(c->out, "\"n\":");
    json_integer(c->out, (int64_t)floor(fraction * number(c, "slots") + ldexp(1.0, -20)));
}

static const struct {
    const char *name;
    void (*run)(call *);
} OPERATIONS[] = {{"select.largest", largest}, {"count.drop", drops}};
enum { COUNT = sizeof OPERATIONS / sizeof *OPERATIONS };

/* the protocol (PRT-004 to PRT-008) */

static void put_head(json_out *out, const char *type, const json *id)
{
    json_puts(out, "{\"type\":\"");
    json_puts(out, type);
    json_puts(out, "\",\"id\":");
    if (id && id->kind == JSON_STRING)
        json_string(out, id->text, id->size);
    else
        json_puts(out, "null");
}

static void put_hello(json_out *out)
{
    int i;
    json_puts(out, "{\"type\":\"hello\",\"protocol\":1,\"port\":{\"name\":\"my_port\",\"version\":\"0.1\","
                   "\"language\":\"C99\"},\"flags\":{\"deterministic\":true},\"ops\":{");
    for (i = 0; i < COUNT; i++) {
        json_puts(out, i ? ",\"" : "\"");
        json_puts(out, OPERATIONS[i].name);
        json_puts(out, "\":[\"exact64\",\"fp32\"]");
    }
    json_puts(out, "}}");
}

static void answer_call(const json_tree *tree, const json *message, json_out *out)
{
    const json *id = json_member(tree, message, "id"), *op = json_member(tree, message, "op");
    call c = {tree, json_member(tree, message, "in"), out, {NULL, NULL}};
    int i = 0;
    while (i < COUNT && !json_is(op, OPERATIONS[i].name))
        i++;
    if (i == COUNT) {
        put_head(out, "unsupported", id);
        json_puts(out, "}");
        return;
    }
    put_head(out, "ok", id);
    json_puts(out, ",\"out\":{");
    OPERATIONS[i].run(&c);
    json_puts(out, "}}");
    if (c.what.refused || c.what.broken) {
        out->size = 0; /* nothing of the answer so far */
        put_head(out, c.what.broken ? "error" : "rejected", id);
        json_puts(out, c.what.broken ? ",\"message\":\"" : ",\"code\":\"");
        json_puts(out, c.what.broken ? c.what.broken : c.what.refused);
        json_puts(out, c.what.broken ? "\"}" : "\",\"detail\":\"the inputs break it\"}");
    }
}

static int answer(json_tree *tree, char *line, size_t size, json_out *out)
{
    const json *message, *type;
    out->size = 0;
    if (!json_parse(tree, line, size)) {
        json_puts(out, "{\"type\":\"error\",\"id\":null,\"message\":\"no JSON\"}");
        return 1;
    }
    message = tree->values;
    type = json_member(tree, message, "type");
    if (json_is(type, "stop"))
        return 0;
    if (json_is(type, "hello")) {
        put_hello(out);
    } else if (json_is(type, "call")) {
        answer_call(tree, message, out);
    } else {
        put_head(out, json_is(type, "ping") ? "pong" : "error", json_member(tree, message, "id"));
        json_puts(out, json_is(type, "ping") ? "}" : ",\"message\":\"a message of no known type\"}");
    }
    return 1;
}

int main(void)
{
    static json_tree tree;
    static json_out out;
    char *line = NULL;
    size_t room = 0, size = 0;
    int c;
    while ((c = getchar()) != EOF) {
        if (size + 1 >= room && !(line = realloc(line, room = 2 * room + 4096)))
            return 1;
        line[size++] = (char)c;
        if (c != '\n')
            continue;
        if (!answer(&tree, line, size - 1, &out) || out.failed)
            break;
        fwrite(out.at, 1, out.size, stdout);
        putchar('\n');
        fflush(stdout);
        size = 0;
    }
    free(line);
    free(out.at);
    json_free(&tree);
    return out.failed; /* out of memory */
}
