/* seft_read: checks checkpoint files against SPEC.md chapter 12 and prints what they hold.
 *
 *     seft_read FILE                JSON lines: the checkpoint, then each tensor; exit status 0.
 *                                   {"clause":...,"message":...} alone and 1 if a rule is broken, 2 if memory runs out
 *     seft_read --dense NAME FILE   the bytes of a tensor as a dense array; --limit BYTES in front changes FMT-098's
 *     seft_read --many LISTFILE     for each path of a list, one per line: 0 or 1 or 2 and the clause or -
 *
 * As a shared library it exports seft_verdict and the functions of seft_file.h. */
#define _POSIX_C_SOURCE 200809L /* stat */
#define SEFT_IMPLEMENTATION
#include "seft_file.h"

#include <sys/stat.h>

int seft_verdict(const uint8_t *data, size_t size, char clause[8], char *json, size_t json_size);

/* ------------------------------------------------------------------------------------------- a limit on memory */

/* FMT-096: a limit on all memory, because a reader must not allocate by a number that the file merely states. */
typedef struct {
    size_t taken, most;
} sf_account;

static void *sf_account_take(void *user, size_t size)
{
    sf_account *account = (sf_account *)user;
    if (size > account->most - account->taken)
        return NULL;
    account->taken += size;
    return malloc(size);
}

static void sf_account_give(void *user, void *block)
{
    (void)user;
    free(block);
}

/* --------------------------------------------------------------------------------------------------- JSON lines */

typedef struct {
    char *at;
    size_t left;
    int full;
} sf_out;

static void sf_write(sf_out *out, const char *bytes, size_t size)
{
    out->full |= size >= out->left;
    if (out->full)
        return;
    memcpy(out->at, bytes, size);
    out->at += size;
    out->left -= size;
    *out->at = 0;
}

static void sf_print(sf_out *out, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    sf_write(out, text, strlen(text));
}

/* A message may quote a name cut within a character, so every byte that is not plain ASCII becomes `?`. */
static void sf_print_error(sf_out *out, const seft_error *error)
{
    const char *c;
    sf_print(out, "{\"clause\":\"%s\",\"message\":\"", error->clause);
    for (c = error->message; *c; c++)
        sf_print(out, "%c", *c < ' ' || *c > '~' || *c == '"' || *c == '\\' ? '?' : *c);
    sf_print(out, "\"}\n");
}

/* Prints digests of row pointers and columns as 64-bit integers, or null if the support is every position. */
static void sf_print_support(sf_out *out, const seft_file *file, const sf_tensor *t)
{
    char rows[65], columns[65];
    sf_sha sha;
    if (t->info.nnz == t->info.numel) {
        sf_print(out, "\"row_pointers_sha256\":null,\"columns_sha256\":null,");
        return;
    }
    sf_sha_begin(&sha);
    sf_sha_rows(&sha, sf_begin(file, t), 8);
    sf_sha_end(&sha, rows);
    sf_sha_begin(&sha);
    sf_sha_columns(&sha, sf_begin(file, t), 8);
    sf_sha_end(&sha, columns);
    sf_print(out, "\"row_pointers_sha256\":\"%s\",\"columns_sha256\":\"%s\",", rows, columns);
}

static void sf_print_tensor(sf_out *out, const seft_file *file, const sf_tensor *t)
{
    uint64_t size;
    const uint8_t *values = sf_bytes(file, t, SF_VALUES, &size);
    char hex[65];
    unsigned i;
    sf_write(out, "{\"name\":", 8);
    sf_write(out, t->info.name_json, t->info.name_json_size);
    sf_print(out, ",\"dtype\":\"%s\",\"shape\":[", t->info.dtype);
    for (i = 0; i < t->info.dims; i++)
        sf_print(out, "%s%" PRIu64, i ? "," : "", t->info.shape[i]);
    sf_print(out, "],\"nnz\":%" PRIu64 ",\"encoding\":\"%s\",", t->info.nnz, t->info.encoding);
    sf_print_support(out, file, t);
    seft_sha256(values, (size_t)size, hex);
    sf_print(out, "\"values_sha256\":\"%s\"}\n", hex);
}

static void sf_print_file(sf_out *out, const seft_file *file)
{
    static const char *const keys[] = {"attributes", "delta", "scales", "tied"};
    char root[65], state[65];
    size_t i, size;
    seft_root(file, root);
    seft_state(file, state);
    sf_print(out, "{\"kind\":\"%s\",\"root\":\"%s\",\"state\":\"%s\",", seft_kind(file), root, state);
    for (i = 0; i < 4; i++) {
        const char *text = seft_text(file, keys[i], &size);
        sf_print(out, "\"%s\":", keys[i]);
        sf_write(out, text ? text : "null", text ? size : 4);
        sf_write(out, ",", 1);
    }
    sf_print(out, "\"tensors\":%" PRIu64 "}\n", (uint64_t)seft_count(file));
    for (i = 0; i < file->count; i++)
        sf_print_tensor(out, file, &file->tensors[i]);
}

/* Checks a file. Returns 0 if it is valid and `json` gets its lines, 1 if it is refused and `json` says why, 2 if
 * memory or `json` is too small. */
int seft_verdict(const uint8_t *data, size_t size, char clause[8], char *json, size_t json_size)
{
    sf_account account = {0, 0};
    seft_memory memory = {sf_account_take, sf_account_give, NULL};
    sf_out out = {NULL, 0, 0};
    seft_error error = {"", ""};
    seft_file *file;
    size_t i;
    int sound = 1;
    account.most = (size < (SIZE_MAX >> 7) ? 64 * size : SIZE_MAX >> 1) + (16 << 20);
    memory.user = &account;
    out.at = json;
    out.left = json_size;
    file = seft_open_in(data, size, &memory, &error);
    for (i = 0; file && sound && i < seft_count(file); i++)
        sound = seft_check(file, i, &error);
    if (file && sound)
        sf_print_file(&out, file);
    else
        sf_print_error(&out, &error);
    memcpy(clause, error.clause, sizeof error.clause);
    sound = sound && file;
    seft_close(file);
    return out.full || (!sound && !*clause) ? 2 : !sound;
}

/* ------------------------------------------------------------------------------------------------- command line */

/* Reads a whole file into a block of exactly its size. FMT-165: only a regular one, because a pipe waits for ever. */
static uint8_t *sf_slurp(const char *path, size_t *size)
{
    struct stat what;
    FILE *stream = !stat(path, &what) && S_ISREG(what.st_mode) ? fopen(path, "rb") : NULL;
    uint8_t *data = NULL;
    long end = -1;
    if (stream && !fseek(stream, 0, SEEK_END))
        end = ftell(stream);
    *size = end < 0 ? 0 : (size_t)end;
    if (end >= 0 && !fseek(stream, 0, SEEK_SET))
        data = (uint8_t *)malloc(*size ? *size : 1);
    if (data && fread(data, 1, *size, stream) != *size) {
        free(data);
        data = NULL;
    }
    if (stream)
        fclose(stream);
    return data;
}

/* Reads and checks a file; the caller frees json. */
static int sf_judge(const char *path, char clause[8], char **json)
{
    size_t size;
    uint8_t *data = sf_slurp(path, &size);
    int verdict = 2;
    *json = data ? (char *)malloc(4 * size + 4096) : NULL;
    if (*json)
        verdict = seft_verdict(data, size, clause, *json, 4 * size + 4096);
    free(data);
    return verdict;
}

static int sf_one(const char *path)
{
    char clause[8], *json;
    int verdict = sf_judge(path, clause, &json);
    if (verdict == 2)
        fprintf(stderr, "seft_read: %s: cannot be read, or memory ran out\n", path);
    else if (fputs(json, stdout) < 0 || fflush(stdout)) {
        fprintf(stderr, "seft_read: the answer cannot be written\n");
        verdict = 2;
    }
    free(json);
    return verdict;
}

static int sf_many(const char *list)
{
    char path[4096], clause[8], *json;
    FILE *stream = fopen(list, "r");
    if (!stream)
        return 2;
    while (fgets(path, sizeof path, stream)) {
        int verdict;
        path[strcspn(path, "\n")] = 0;
        verdict = sf_judge(path, clause, &json);
        printf("%d %s\n", verdict, verdict == 1 ? clause : "-");
        free(json);
    }
    fclose(stream);
    return 0;
}

/* FMT-098.5: the default limit of a command line, for a file of this size. */
static uint64_t sf_limit(size_t size)
{
    uint64_t least = UINT64_C(1) << 30, own = size < (UINT64_MAX >> 10) ? (uint64_t)size << 10 : UINT64_MAX;
    return own < least ? least : own;
}

static int sf_expand(seft_file *file, const char *name, uint64_t limit, seft_error *error)
{
    size_t index = sf_place(file, name, strlen(name));
    uint64_t size = seft_dense_size(file, index);
    uint8_t *out;
    int done;
    if (size > limit || size > SIZE_MAX) /* FMT-098 */
        return sf_fail(error, "FMT-098", "a dense array of %" PRIu64 " bytes is above %" PRIu64 "; raise --limit", size,
                       limit);
    out = (uint8_t *)malloc(size ? (size_t)size : 1);
    if (!out)
        return sf_fail(error, "", "out of memory");
    done = seft_check(file, index, error) && seft_dense(file, index, out, (size_t)size, error);
    if (done && (fwrite(out, 1, (size_t)size, stdout) != size || fflush(stdout)))
        done = sf_fail(error, "", "cannot write");
    free(out);
    return done;
}

/* limit  bytes at most; 0 for the default */
static int sf_dense(const char *name, const char *path, uint64_t limit)
{
    seft_error error = {"", "the file cannot be read"};
    size_t size;
    uint8_t *data = sf_slurp(path, &size);
    seft_file *file = data ? seft_open(data, size, &error) : NULL;
    int done = file && sf_expand(file, name, limit ? limit : sf_limit(size), &error);
    if (!done)
        fprintf(stderr, "seft_read: %s %s\n", error.clause, error.message);
    seft_close(file);
    free(data);
    return done ? 0 : *error.clause ? 1 : 2;
}

int main(int count, char **words)
{
    if (count == 2)
        return sf_one(words[1]);
    if (count == 3 && !strcmp(words[1], "--many"))
        return sf_many(words[2]);
    if (count == 4 && !strcmp(words[1], "--dense"))
        return sf_dense(words[2], words[3], 0);
    if (count == 6 && !strcmp(words[1], "--limit") && !strcmp(words[3], "--dense") && strtoull(words[2], NULL, 10))
        return sf_dense(words[4], words[5], strtoull(words[2], NULL, 10));
    fputs("usage: seft_read FILE | seft_read [--limit BYTES] --dense NAME FILE | seft_read --many LISTFILE\n", stderr);
    return 2;
}
