// A port of SEFT with two operations, for Node, without dependencies. Judge it with
//
//     seft verify doctor --port "node my_port.js"
//     seft verify --port "node my_port.js" --only select.largest
//
// `seft verify list --ops` lists the others; SPEC.md says what they mean, its chapter 16 what a line looks like.
"use strict";

// values (PRT-002, PRT-003): 64-bit integers in arrays become BigInt

const READ = {
  f64: [8, (b, i) => b.readDoubleLE(i)], f32: [4, (b, i) => b.readFloatLE(i)],
  i64: [8, (b, i) => b.readBigInt64LE(i)], u64: [8, (b, i) => b.readBigUInt64LE(i)],
  u8: [1, (b, i) => b[i]], bool: [1, (b, i) => b[i] === 1],
};

function float(text) {
  if (text === "nan") return NaN;
  if (text === "inf" || text === "-inf") return text === "inf" ? Infinity : -Infinity;
  const [, sign, whole, part, power] = /^(-?)0x([01])(?:\.([0-9a-f]*))?p([+-]\d+)$/.exec(text);
  const digits = BigInt("0x" + whole + (part || "").padEnd(13, "0")); // 53 bits
  const x = Number(digits) * 2 ** -52;
  const e = Number(power);
  // two steps, so that a power below the smallest normal number does not become 0 too early
  return (sign ? -1 : 1) * (e < -1000 ? x * 2 ** (e + 200) * 2 ** -200 : x * 2 ** e);
}

function decode(v) {
  if (v === null || typeof v !== "object") return v;
  if (Array.isArray(v)) return v.map(decode);
  if ("f64" in v) return float(v.f64);
  if ("int" in v) return BigInt(v.int);
  if ("dict" in v) return Object.fromEntries(Object.entries(v.dict).map(([k, x]) => [k, decode(x)]));
  const raw = Buffer.from(v.b64, "base64");
  const [size, read] = READ[v.dtype];
  const data = [];
  for (let i = 0; i < raw.length; i += size) data.push(read(raw, i));
  return { dtype: v.dtype, shape: v.shape, data };
}

function integers(data) {
  const raw = Buffer.alloc(8 * data.length);
  data.forEach((x, i) => raw.writeBigInt64LE(BigInt(x), 8 * i));
  return { dtype: "i64", shape: [data.length], b64: raw.toString("base64") };
}

function floats(data, dtype, shape) {
  const wide = dtype === "float64";
  const raw = Buffer.alloc((wide ? 8 : 4) * data.length);
  data.forEach((x, i) => (wide ? raw.writeDoubleLE(x, 8 * i) : raw.writeFloatLE(x, 4 * i)));
  return { dtype: wide ? "f64" : "f32", shape: shape || [data.length], b64: raw.toString("base64") };
}

// operations

class Refused extends Error {
  constructor(code, detail) { super(detail); this.code = code; }
}

function largest({ scores, ids, k }, dtype) { // dtype: what float arrays have, in and out; see floats()
  if (!scores.data.every(Number.isFinite)) throw new Refused("SEL-004", "a score is NaN or infinite");
  if (k < 0 || k > scores.data.length) throw new Refused("SEL-005", `cannot select ${k} of ${scores.data.length}`);
  // SEL-001: by score descending, then id ascending
  const order = ids.data.map((_, i) => i).sort((a, b) =>
    scores.data[b] - scores.data[a] || (ids.data[a] < ids.data[b] ? -1 : 1));
  // SEL-003
  return { chosen: integers(order.slice(0, k).map((i) => ids.data[i]).sort((a, b) => (a < b ? -1 : 1))) };
}

function drops({ drop_fraction, step, steps, slots }) {
  // SCH-001, SCH-002, SEL-006
  const fraction = 0.5 * drop_fraction * (1 + Math.cos((Math.PI * step) / steps));
  return { n: Math.floor(fraction * slots + 2 ** -20) };
}

const OPERATIONS = { "select.largest": largest, "count.drop": drops };

// the protocol (PRT-004 to PRT-008)

function answer(message) {
  const { type, id } = message;
  if (type === "hello") {
    const ops = Object.fromEntries(Object.keys(OPERATIONS).map((op) => [op, ["exact64", "fp32"]]));
    const port = { name: "my_port", version: "0.1", language: "JavaScript" };
    return { type: "hello", protocol: 1, port, ops, flags: { deterministic: true } };
  }
  if (type === "ping") return { type: "pong", id };
  if (type !== "call") return { type: "error", id, message: `a message of type ${type} is not known` };
  if (!(message.op in OPERATIONS)) return { type: "unsupported", id, what: message.op };
  try {
    const given = Object.fromEntries(Object.entries(message.in).map(([name, v]) => [name, decode(v)]));
    return { type: "ok", id, out: OPERATIONS[message.op](given, message.dtype) };
  } catch (e) {
    if (e instanceof Refused) return { type: "rejected", id, code: e.code, detail: e.message };
    return { type: "error", id, message: String(e), trace: e.stack };
  }
}

const lines = require("node:readline").createInterface({ input: process.stdin, terminal: false });
lines.on("line", (line) => {
  const message = JSON.parse(line);
  if (message.type === "stop") process.exit(0);
  process.stdout.write(JSON.stringify(answer(message)) + "\n");
});
