"""The library in C applies long chains of deltas in bounded memory."""

import subprocess

import numpy as np
import pytest

import formats
from formats import delta
from tests.ports.test_c import CC, FOLDER, SANITIZERS, STRICT

pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler named cc")

CHAIN = """#include "delta.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static size_t held;
static void *take(void *user, size_t size) { void *at = malloc(size + 16); (void)user; held += size;
    if (at) memcpy(at, &size, sizeof size); return at ? (char *)at + 16 : NULL; }
static void give(void *user, void *block) { size_t size; (void)user;
    memcpy(&size, (char *)block - 16, sizeof size); held -= size; free((char *)block - 16); }
static seft_file *file(const char *path)
{
    static const seft_memory memory = {take, give, NULL};
    FILE *stream = fopen(path, "rb");
    static uint8_t room[3][1 << 20];
    static int used;
    uint8_t *data = room[used++];
    size_t size = fread(data, 1, 1 << 20, stream), i;
    seft_error error = {"", ""};
    seft_file *read = seft_open_in(data, size, &memory, &error);
    fclose(stream);
    for (i = 0; read && i < seft_count(read); i++)
        if (!seft_check(read, i, &error)) return NULL;
    return read;
}
int main(int count, char **paths)
{
    seft_error error = {"", ""};
    seft_model model;
    seft_file *files[] = {file(paths[1]), file(paths[2]), file(paths[3])};
    int i;
    if (count != 4 || !seft_model_load(&model, files[0], &error)) return 1;
    for (i = 0; i < 40; i++) {
        if (!seft_delta_apply(&model, files[1 + i % 2], &error)) { puts(error.message); return 1; }
        if (i == 1 || i == 39) printf("%u\\n", (unsigned)held);
    }
    seft_model_free(&model);
    for (i = 0; i < 3; i++) seft_close(files[i]);
    printf("%u\\n", (unsigned)held);
    return 0;
}
"""


def test_a_long_chain_of_deltas_holds_no_more_than_a_short_one(tmp_path):
    """Whatever a delta replaces is freed; after the end nothing is held."""
    rng = np.random.default_rng(3)
    w = rng.standard_normal((40, 64)).astype(np.float32)
    other = np.where(rng.random(w.shape) < 0.1, w + 1, w)
    kept = np.arange(64) % 3 > 0
    models = {
        name: formats.Checkpoint("model", {"w": formats.from_dense(matrix * kept)})
        for name, matrix in (("one", w), ("two", other))
    }
    for name, model in models.items():
        formats.write_file(tmp_path / name, model)
    for source, target in (("one", "two"), ("two", "one")):
        formats.write_file(tmp_path / f"{source}-{target}", delta.diff(models[source], models[target]))
    program = tmp_path / "chain.c"
    program.write_text(CHAIN)
    parts = [FOLDER / "delta.c", FOLDER / "zstd.c"]
    command = [CC, *STRICT[:-2], *SANITIZERS, f"-I{FOLDER}", program, *parts, "-lm", "-o", tmp_path / "chain"]
    subprocess.run(command, check=True)
    files = [tmp_path / name for name in ("one", "one-two", "two-one")]
    told = subprocess.run([tmp_path / "chain", *files], capture_output=True, text=True, check=True).stdout.split()
    assert told[0] == told[1] != "0"
    assert told[2] == "0"
