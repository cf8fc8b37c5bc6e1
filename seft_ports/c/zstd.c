/* FMT-140, FMT-142: expands one zstd frame of known size, without dictionary and checksum (RFC 8878). */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int seft_zstd(const uint8_t *frame, size_t size, uint8_t *out, size_t out_size);

enum { MOST_BLOCK = 1 << 17, MOST_STATES = 512, MOST_CODES = 2048 };

/* An entry of a table: the symbol of a state. The next state is `next` plus the value of the `bits` bits read next. */
typedef struct {
    uint8_t symbol, bits;
    uint16_t next;
} entry;

typedef struct {
    entry states[MOST_STATES];
    int log, known;
} table;

typedef struct {
    uint8_t symbol[MOST_CODES], bits[MOST_CODES];
    int log, known;
} codes;

typedef struct {
    uint8_t *out;
    size_t out_size, done, most_block; /* 3.1.1.2.4: the most bytes that a compressed block has, or becomes */
    uint8_t literals[MOST_BLOCK];
    size_t literal_count;
    codes huffman;
    table lengths, offsets, matches;
    uint64_t repeats[3];
} decoder;

static int log2_of(uint64_t value)
{
    int log = -1;
    for (; value; value >>= 1)
        log++;
    return log;
}

/* Returns `count` bits, at most 56, from bit `at` on; bits before the first byte are 0. */
static uint64_t bits_at(const uint8_t *bytes, int64_t at, int count)
{
    uint64_t value = 0;
    int have = 0;
    if (at < 0) {
        have = -at < count ? (int)-at : count;
        at = 0;
    }
    while (have < count) {
        int shift = (int)(at % 8), part = 8 - shift < count - have ? 8 - shift : count - have;
        value |= (uint64_t)(bytes[at / 8] >> shift & ((1 << part) - 1)) << have;
        have += part;
        at += part;
    }
    return value;
}

/* A stream that is read from its end; `left` is negative if more bits were taken than there are. */
typedef struct {
    const uint8_t *bytes;
    int64_t left;
} stream;

static int stream_open(stream *s, const uint8_t *bytes, size_t size)
{
    if (!size || !bytes[size - 1])
        return 0;
    s->bytes = bytes;
    s->left = (int64_t)(size - 1) * 8 + log2_of(bytes[size - 1]);
    return 1;
}

static uint64_t stream_take(stream *s, int count)
{
    s->left -= count;
    return bits_at(s->bytes, s->left, count);
}

/* -------------------------------------------------------------------------------------------------- FSE (4.1) */

static int table_build(table *t, const int16_t *odds, int symbols, int log)
{
    int size = 1 << log, high = size, step = (size >> 1) + (size >> 3) + 3, at = 0, symbol, i;
    uint16_t seen[256];
    for (symbol = 0; symbol < symbols; symbol++) {
        seen[symbol] = (uint16_t)(odds[symbol] < 0 ? 1 : odds[symbol]);
        if (odds[symbol] < 0)
            t->states[--high].symbol = (uint8_t)symbol;
    }
    for (symbol = 0; symbol < symbols; symbol++)
        for (i = 0; i < odds[symbol]; i++) {
            t->states[at].symbol = (uint8_t)symbol;
            do
                at = (at + step) & (size - 1);
            while (at >= high);
        }
    for (i = 0; i < size; i++) {
        uint16_t next = seen[t->states[i].symbol]++;
        t->states[i].bits = (uint8_t)(log - log2_of(next));
        t->states[i].next = (uint16_t)((next << t->states[i].bits) - size);
    }
    t->log = log;
    t->known = 1;
    return 1;
}

/* Reads the description of a table; returns its size in bytes, 0 if it is not valid. */
static size_t table_read(table *t, const uint8_t *bytes, size_t size, int most_symbols, int most_log)
{
    int16_t odds[256];
    int64_t at = 4, end = (int64_t)size * 8;
    int symbols = 0, log, left;
    if (!size)
        return 0;
    log = (bytes[0] & 15) + 5;
    if (log > most_log)
        return 0;
    for (left = 1 << log; left > 0;) {
        int bits = log2_of((uint64_t)left + 1) + 1, low = (1 << (bits - 1)) - 1, rest = (1 << bits) - 2 - left;
        int value, zeros;
        if (symbols >= most_symbols || at + bits > end)
            return 0;
        value = (int)bits_at(bytes, at, bits);
        at += bits;
        if ((value & low) < rest) {
            at--;
            value &= low;
        } else if (value > low) {
            value -= rest;
        }
        odds[symbols++] = (int16_t)(value - 1);
        left -= value ? value - 1 : 1;
        for (zeros = value == 1 ? 3 : 0; zeros == 3;) {
            int i;
            if (at + 2 > end)
                return 0;
            zeros = (int)bits_at(bytes, at, 2);
            at += 2;
            for (i = 0; i < zeros; i++, symbols++) {
                if (symbols >= most_symbols)
                    return 0;
                odds[symbols] = 0;
            }
        }
    }
    return left || !table_build(t, odds, symbols, log) ? 0 : (size_t)((at + 7) / 8);
}

/* ---------------------------------------------------------------------------------------------- Huffman (4.2) */

static int weights_coded(const uint8_t *bytes, size_t size, uint8_t *weights)
{
    table t;
    stream s;
    size_t used = table_read(&t, bytes, size, 13, 6), state[2];
    int count = 0, turn = 0;
    if (!used || !stream_open(&s, bytes + used, size - used))
        return 0;
    state[0] = (size_t)stream_take(&s, t.log);
    state[1] = (size_t)stream_take(&s, t.log);
    while (count < 254) {
        const entry *e = t.states + state[turn];
        weights[count++] = e->symbol;
        state[turn] = (size_t)(e->next + stream_take(&s, e->bits));
        turn ^= 1;
        if (s.left < 0) {
            weights[count++] = t.states[state[turn]].symbol;
            return count;
        }
    }
    return 0;
}

static int codes_build(codes *c, uint8_t *weights, int count)
{
    uint32_t sum = 0, left, starts[13] = {0}, at = 0;
    int i, weight;
    for (i = 0; i < count; i++) {
        if (weights[i] > 12)
            return 0;
        sum += weights[i] ? UINT32_C(1) << (weights[i] - 1) : 0;
    }
    c->log = log2_of(sum) + 1;
    if (!sum || c->log > 11)
        return 0;
    left = (UINT32_C(1) << c->log) - sum;
    if (left & (left - 1))
        return 0;
    weights[count++] = (uint8_t)(log2_of(left) + 1);
    for (weight = 1; weight <= c->log; weight++) {
        starts[weight] = at;
        for (i = 0; i < count; i++)
            at += weights[i] == weight ? UINT32_C(1) << (weight - 1) : 0;
    }
    if (at != UINT32_C(1) << c->log)
        return 0;
    for (i = 0; i < count; i++) {
        uint32_t width = weights[i] ? UINT32_C(1) << (weights[i] - 1) : 0;
        memset(c->symbol + starts[weights[i]], i, width);
        memset(c->bits + starts[weights[i]], c->log + 1 - weights[i], width);
        starts[weights[i]] += width;
    }
    return 1;
}

static size_t codes_read(codes *c, const uint8_t *bytes, size_t size)
{
    uint8_t weights[257];
    size_t used;
    int count, i;
    if (!size)
        return 0;
    if (bytes[0] < 128) {
        used = 1 + (size_t)bytes[0];
        count = used <= size ? weights_coded(bytes + 1, used - 1, weights) : 0;
    } else {
        count = bytes[0] - 127;
        used = 1 + ((size_t)count + 1) / 2;
        for (i = 0; used <= size && i < count; i++)
            weights[i] = (uint8_t)(bytes[1 + i / 2] >> (i % 2 ? 0 : 4) & 15);
    }
    if (!count || used > size)
        return 0;
    c->known = codes_build(c, weights, count);
    return c->known ? used : 0;
}

static int codes_stream(const codes *c, const uint8_t *bytes, size_t size, uint8_t *out, size_t count)
{
    stream s;
    size_t state, mask = ((size_t)1 << c->log) - 1, i;
    if (!stream_open(&s, bytes, size))
        return 0;
    state = (size_t)stream_take(&s, c->log);
    for (i = 0; i < count; i++) {
        int bits = c->bits[state];
        if (s.left <= -c->log)
            return 0;
        out[i] = c->symbol[state];
        state = ((state << bits) | (size_t)stream_take(&s, bits)) & mask;
    }
    /* 4.2.2: a stream must be consumed exactly. FMT-142 lets a reader accept others, and libzstd does. */
    return s.left == -c->log;
}

/* -------------------------------------------------------------------------------------------- blocks (3.1.1.3) */

static int literals_coded(decoder *d, const uint8_t *bytes, size_t size, int streams)
{
    size_t each = streams == 4 ? (d->literal_count + 3) / 4 : d->literal_count, at = 6, done = 0;
    int i;
    if (streams == 1)
        return codes_stream(&d->huffman, bytes, size, d->literals, each);
    if (size < 6 || 3 * each > d->literal_count)
        return 0;
    for (i = 0; i < 4; i++) {
        size_t part = i < 3 ? (size_t)bytes[2 * i] | (size_t)bytes[2 * i + 1] << 8 : size - at;
        if (part > size - at ||
            !codes_stream(&d->huffman, bytes + at, part, d->literals + done, i < 3 ? each : d->literal_count - done))
            return 0;
        at += part;
        done += each;
    }
    return 1;
}

/* Expands the literals; returns their size in the block, 0 if they are not valid. */
static size_t literals(decoder *d, const uint8_t *bytes, size_t size)
{
    static const int widths[4] = {10, 10, 14, 18};
    int type = bytes[0] & 3, format = bytes[0] >> 2 & 3;
    size_t head, packed, used;
    if (type < 2) {
        head = format == 1 ? 2 : format == 3 ? 3 : 1;
        if (head > size)
            return 0;
        d->literal_count = (size_t)(format % 2 ? bits_at(bytes, 4, format == 1 ? 12 : 20) : bits_at(bytes, 3, 5));
        packed = type ? 1 : d->literal_count;
        if (d->literal_count > d->most_block || packed > size - head)
            return 0;
        if (type)
            memset(d->literals, bytes[head], d->literal_count);
        else
            memcpy(d->literals, bytes + head, packed);
        return head + packed;
    }
    head = format < 2 ? 3 : (size_t)format + 2;
    if (head > size)
        return 0;
    d->literal_count = (size_t)bits_at(bytes, 4, widths[format]);
    packed = (size_t)bits_at(bytes, 4 + widths[format], widths[format]);
    if (d->literal_count > d->most_block || packed > size - head)
        return 0;
    used = type == 2 ? codes_read(&d->huffman, bytes + head, packed) : 0;
    if ((type == 2 && !used) || !d->huffman.known)
        return 0;
    return literals_coded(d, bytes + head + used, packed - used, format ? 4 : 1) ? head + packed : 0;
}

static const int16_t LENGTH_ODDS[36] = {4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2,  2,
                                        2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1};
static const int16_t OFFSET_ODDS[29] = {1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1,
                                        1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1};
static const int16_t MATCH_ODDS[53] = {1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                       1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                       1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1};

/* Look up the base and the extra bits of a code. The tables start at code 16 for literal lengths, at 32 for match
 * lengths. */
static void length_of(int code, uint64_t *base, int *bits)
{
    static const uint32_t bases[20] = {16,  18,  20,  22,   24,   28,   32,   40,    48,    64,
                                       128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};
    static const uint8_t extra[20] = {1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    *base = code < 16 ? (uint64_t)code : bases[code - 16];
    *bits = code < 16 ? 0 : extra[code - 16];
}

static void match_of(int code, uint64_t *base, int *bits)
{
    static const uint32_t bases[21] = {35,  37,  39,  41,   43,   47,   51,   59,   67,    83,   99,
                                       131, 259, 515, 1027, 2051, 4099, 8195, 16387, 32771, 65539};
    static const uint8_t extra[21] = {1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    *base = code < 32 ? (uint64_t)code + 3 : bases[code - 32];
    *bits = code < 32 ? 0 : extra[code - 32];
}

/* Reads one of the three tables of a block, and advances `at`. */
static int table_of(table *t, int mode, const int16_t *odds, int symbols, int log, int most_symbols, int most_log,
                    const uint8_t *bytes, size_t size, size_t *at)
{
    size_t used;
    if (mode == 0)
        return table_build(t, odds, symbols, log);
    if (mode == 3)
        return t->known;
    if (mode == 2) {
        used = table_read(t, bytes + *at, size - *at, most_symbols, most_log);
        *at += used;
        return used != 0;
    }
    if (*at == size || bytes[*at] >= most_symbols)
        return 0;
    t->states[0].symbol = bytes[(*at)++];
    t->states[0].bits = 0;
    t->states[0].next = 0;
    t->log = 0;
    t->known = 1;
    return 1;
}

static int copy_out(decoder *d, size_t literal, size_t count)
{
    if (count > d->out_size - d->done)
        return 0;
    if (count)
        memcpy(d->out + d->done, d->literals + literal, count);
    d->done += count;
    return 1;
}

/* 3.1.1.5: returns the offset that a value stands for, 0 if the value is not valid. */
static uint64_t offset_of(decoder *d, uint64_t value, uint64_t literal)
{
    uint64_t *r = d->repeats, offset, which = value + (literal == 0);
    if (value <= 3 && which == 1)
        return r[0];
    offset = value > 3 ? value - 3 : which < 4 ? r[which - 1] : r[0] - 1;
    if (value > 3 || which > 2)
        r[2] = r[1];
    r[1] = r[0];
    r[0] = offset;
    return offset;
}

static int one_sequence(decoder *d, stream *s, size_t *state, size_t *literal)
{
    int of = d->offsets.states[state[1]].symbol, bits;
    uint64_t offset = (UINT64_C(1) << of) + stream_take(s, of), match, base, run;
    match_of(d->matches.states[state[2]].symbol, &base, &bits);
    match = base + stream_take(s, bits);
    length_of(d->lengths.states[state[0]].symbol, &base, &bits);
    run = base + stream_take(s, bits);
    offset = offset_of(d, offset, run);
    if (s->left < 0 || run > d->literal_count - *literal || !copy_out(d, *literal, (size_t)run))
        return 0;
    *literal += (size_t)run;
    if (!offset || offset > d->done || match > d->out_size - d->done)
        return 0;
    for (; match; match--, d->done++)
        d->out[d->done] = d->out[d->done - offset];
    return 1;
}

static size_t next_state(const table *t, size_t state, stream *s)
{
    return (size_t)(t->states[state].next + stream_take(s, t->states[state].bits));
}

static int sequences(decoder *d, const uint8_t *bytes, size_t size)
{
    size_t count, at, literal = 0, state[3], i;
    stream s;
    int modes;
    if (!size)
        return 0;
    count = bytes[0];
    at = count < 128 ? 1 : count < 255 ? 2 : 3;
    if (at > size)
        return 0;
    if (at == 2)
        count = (count - 128) << 8 | bytes[1];
    if (at == 3)
        count = (size_t)bytes[1] + ((size_t)bytes[2] << 8) + 0x7f00;
    if (!count)
        return at == size && copy_out(d, 0, d->literal_count);
    if (at == size)
        return 0;
    modes = bytes[at++];
    if (modes & 3 ||
        !table_of(&d->lengths, modes >> 6, LENGTH_ODDS, 36, 6, 36, 9, bytes, size, &at) ||
        !table_of(&d->offsets, modes >> 4 & 3, OFFSET_ODDS, 29, 5, 32, 8, bytes, size, &at) ||
        !table_of(&d->matches, modes >> 2 & 3, MATCH_ODDS, 53, 6, 53, 9, bytes, size, &at) ||
        !stream_open(&s, bytes + at, size - at))
        return 0;
    state[0] = (size_t)stream_take(&s, d->lengths.log);
    state[1] = (size_t)stream_take(&s, d->offsets.log);
    state[2] = (size_t)stream_take(&s, d->matches.log);
    for (i = 0; i < count; i++) {
        if (s.left < 0 || !one_sequence(d, &s, state, &literal))
            return 0;
        if (i + 1 < count) {
            state[0] = next_state(&d->lengths, state[0], &s);
            state[2] = next_state(&d->matches, state[2], &s);
            state[1] = next_state(&d->offsets, state[1], &s);
        }
    }
    return s.left == 0 && copy_out(d, literal, d->literal_count - literal);
}

static int block(decoder *d, int type, const uint8_t *bytes, size_t size)
{
    size_t used, before = d->done;
    if (type == 2) {
        used = size && size <= d->most_block ? literals(d, bytes, size) : 0;
        return used && sequences(d, bytes + used, size - used) && d->done - before <= d->most_block;
    }
    if (size > d->out_size - d->done)
        return 0;
    if (type == 0 && size)
        memcpy(d->out + d->done, bytes, size);
    if (type == 1)
        memset(d->out + d->done, bytes[0], size);
    d->done += size;
    return 1;
}

/* 3.1.1.1: returns the size of the header, 0 if FMT-142 does not allow it; most_block is the window, 128 KiB at most. */
static size_t header(const uint8_t *frame, size_t size, size_t out_size, size_t *most_block)
{
    static const int widths[4] = {0, 2, 4, 8};
    size_t at = 5, width;
    uint64_t stated, window = out_size;
    if (size < 6 || memcmp(frame, "\x28\xb5\x2f\xfd", 4))
        return 0;
    /* no dictionary, no checksum, and nothing reserved */
    if (frame[4] & 0x0f)
        return 0;
    width = (size_t)widths[frame[4] >> 6];
    if (frame[4] & 0x20) {
        width = width ? width : 1;
    } else {
        window = UINT64_C(1) << (10 + (frame[5] >> 3));
        window += window / 8 * (frame[5] & 7);
        at++;
    }
    if (window > UINT64_C(1) << 30) /* FMT-142.6 */
        return 0;
    *most_block = window < MOST_BLOCK ? (size_t)window : MOST_BLOCK;
    if (!width || width > size - at)
        return 0;
    stated = width == 8 ? bits_at(frame + at, 0, 32) | bits_at(frame + at, 32, 32) << 32
                        : bits_at(frame + at, 0, (int)width * 8) + (width == 2 ? 256 : 0);
    return stated == out_size ? at + width : 0;
}

/* Expands a frame; the caller provides the decoder. */
static int expand(decoder *d, const uint8_t *frame, size_t size)
{
    size_t at = header(frame, size, d->out_size, &d->most_block), part, taken;
    int last = 0;
    if (!at)
        return 0;
    while (!last) {
        uint64_t head;
        int type;
        if (size - at < 3)
            return 0;
        head = bits_at(frame + at, 0, 24);
        at += 3;
        last = (int)(head & 1);
        type = (int)(head >> 1 & 3);
        part = (size_t)(head >> 3);
        taken = type == 1 ? 1 : part;
        if (type == 3 || part > MOST_BLOCK || taken > size - at || !block(d, type, frame + at, part))
            return 0;
        at += taken;
    }
    return at == size && d->done == d->out_size;
}


/* Returns 1 if FMT-142 allows the frame and it expands to out_size bytes, 0 if not, -1 if memory ran out. */
int seft_zstd(const uint8_t *frame, size_t size, uint8_t *out, size_t out_size)
{
    decoder *d = (decoder *)calloc(1, sizeof *d);
    int done;
    if (!d)
        return -1;
    d->out = out;
    d->out_size = out_size;
    d->repeats[0] = 1;
    d->repeats[1] = 4;
    d->repeats[2] = 8;
    done = expand(d, frame, size);
    free(d);
    return done;
}
