// Reads the archive of the kit's cases without Python, answers five operations by itself and compares.
//
//     node reader.mjs seft-vectors-1.0-r1.tar.gz      prints a line for each operation; status 1 if an answer is wrong
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

// the archive: blocks of 512 bytes, a header before each file
const files = {};
const tar = gunzipSync(readFileSync(process.argv[2]));
for (let at = 0; tar[at]; ) {
  const text = (begin, end) => tar.toString("utf8", at + begin, at + end).replace(/\0.*/s, "");
  const size = parseInt(text(124, 136), 8);
  files[text(0, 100).replace(/^[^/]*\//, "")] = tar.subarray(at + 512, at + 512 + size);
  at += 512 + Math.ceil(size / 512) * 512;
}
const json = (name) => JSON.parse(files[name]);
for (const [name, digest] of Object.entries(json("index.json").files))
  if (createHash("sha256").update(files[name]).digest("hex") !== digest) throw new Error(`${name} is damaged`);
// values: 64-bit integers become BigInt
const READ = {
  f64: [8, (b, i) => b.readDoubleLE(i)], i64: [8, (b, i) => b.readBigInt64LE(i)],
  u64: [8, (b, i) => b.readBigUInt64LE(i)], u8: [1, (b, i) => b[i]], bool: [1, (b, i) => b[i] === 1],
};

function float(text) {
  if (!text.includes("0x")) return { inf: Infinity, "-inf": -Infinity, nan: NaN }[text];
  const [, sign, whole, part = "", power] = /^(-?)0x([01])\.?([0-9a-f]*)p([+-]\d+)$/.exec(text);
  const x = Number(BigInt("0x" + whole + part.padEnd(13, "0"))) * 2 ** -52;
  const half = Math.trunc(Number(power) / 2); // in two steps, because 2 ** -1074 alone may round x away
  return (sign ? -x : x) * 2 ** half * 2 ** (Number(power) - half);
}

function decode(v, dtype) {
  if (v === null || typeof v !== "object") return v;
  if (Array.isArray(v)) return v.map((one) => decode(one, dtype));
  if ("f64" in v) return float(v.f64);
  if ("int" in v) return BigInt(v.int);
  if ("dict" in v) return Object.fromEntries(Object.entries(v.dict).map(([k, one]) => [k, decode(one, dtype)]));
  const raw = Buffer.from(v.b64, "base64");
  const [size, read] = READ[v.dtype];
  const data = Array.from({ length: raw.length / size }, (_, i) => read(raw, i * size));
  return v.dtype === "f64" && dtype === "float32" ? data.map(Math.fround) : data;
}
// the operations, from SPEC.md
class Refused extends Error {} // the message is the clause
const refuse = (wrong, clause) => { if (wrong) throw new Refused(clause); };
const low = (x) => BigInt.asUintN(64, x), GAMMA = 0x9E3779B97F4A7C15n;
function mix(z) {
  z = low((z ^ (z >> 30n)) * 0xBF58476D1CE4E5B9n);
  z = low((z ^ (z >> 27n)) * 0x94D049BB133111EBn);
  return z ^ (z >> 31n);
}
const rising = (x, n) => x.every((p, i) => p >= 0n && p < n && (i === 0 || x[i - 1] < p));
const OPERATIONS = {
  "rng.draws": ({ words, numbers }) => {
    const key = words.reduce((k, word) => mix(low(k + GAMMA) ^ word), 0n);
    return { draws: numbers.map((i) => mix(low(key + (i + 1n) * GAMMA))) };
  },
  "select.largest": ({ scores, ids, k }) => {
    refuse(!scores.every(Number.isFinite), "SEL-004");
    refuse(k < 0 || k > scores.length, "SEL-005");
    const order = ids.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || (ids[a] < ids[b] ? -1 : 1));
    return { chosen: order.slice(0, k).map((i) => ids[i]).sort((a, b) => (a < b ? -1 : 1)) };
  },
  "topology.positions": ({ out, in: columns, indptr, indices }) => {
    const falls = indptr.some((p, i) => i > 0 && p < indptr[i - 1]);
    refuse(indptr.length !== out + 1 || indptr[0] !== 0n || falls || indptr[out] !== BigInt(indices.length), "TOP-001");
    const rows = Array.from({ length: out }, (_, r) => indices.slice(Number(indptr[r]), Number(indptr[r + 1])));
    refuse(!rows.every((row) => rising(row, BigInt(columns))), "TOP-002");
    return { positions: rows.flatMap((row, r) => row.map((c) => BigInt(r) * BigInt(columns) + c)) };
  },
  "change.source": ({ out, in: columns, old, new: next }) => {
    refuse(![old, next].every((x) => rising(x, BigInt(out) * BigInt(columns))), "TOP-003");
    return { source: next.map((p) => BigInt(old.indexOf(p))) };
  },
  "count.budget": ({ density, out, in: columns, stored }) =>
    ({ n: Math.min(Math.floor(density * out * columns + 2 ** -20), stored) }),
};

const SCHEMA = json("schemas/cases.schema.json").items;
for (const [op, answer] of Object.entries(OPERATIONS)) {
  const wrong = [];
  const asked = json(`cases/${op}.json`).flatMap((one) => one.dtypes.map((dtype) => [one, dtype]));
  for (const [one, dtype] of asked) {
    const unknown = Object.keys(one).filter((key) => !(key in SCHEMA.properties));
    if (unknown.length || SCHEMA.required.some((key) => !(key in one))) throw new Error(`${one.id} breaks the schema`);
    const all = (values) => Object.fromEntries(Object.entries(values).map(([k, v]) => [k, decode(v, dtype)]));
    const shown = (x) => JSON.stringify(x, (_, v) => (typeof v === "bigint" ? `${v}n` : v));
    let right;
    try { right = shown(answer(all(one.in))) === shown(all(one.out ?? {})); } catch (e) {
      if (!(e instanceof Refused)) throw e;
      right = (one.rejected ?? []).some((id) => id.split(".")[0] === e.message);
    }
    if (!right) wrong.push(`${one.id} ${dtype}`);
  }
  console.log(`${op}: ${asked.length - wrong.length} of ${asked.length}`, ...wrong);
  if (wrong.length) process.exitCode = 1;
}
