"""Lists profiles, clauses, operations and cases, one per line, or shows one of them in full."""

import json
from collections.abc import Iterator
from dataclasses import astuple
from difflib import get_close_matches
from pathlib import Path

from conformance.cases.case import Case, load_all
from conformance.cases.clauses import Clause, read_clauses
from conformance.cases.coverage import coverage, elsewhere
from conformance.cases.ops import OPS
from conformance.cases.profiles import NEEDS, PROFILES, is_scalar, profile_of, profiles_of_case
from conformance.cases.wire import RECORDS, type_of
from conformance.judge.harness import Variant, can_ask
from conformance.properties import PROPERTIES
from conformance.properties.running import Largest, largest_arrays
from conformance.properties.trial import Property
from conformance.protocol.port import clause_of
from conformance.report import whole_text

__all__ = ["SIZES", "explained", "lines", "operations_page", "sizes"]

SIZES = Path(__file__).parents[1] / "registry" / "sizes.json"


def lines(*, clauses: bool, ops: bool, cases: bool) -> Iterator[str]:
    """Yield the lines of the lists that are asked for, or of the list of profiles if none is."""
    every = load_all()
    if not (clauses or ops or cases):
        for profile, names in PROFILES.items():
            n = sum(profile in profiles_of_case(case) for case in every)
            yield f"{profile}: {n} cases of {len(names)} operations: {', '.join(names)}"
    if clauses:
        for shown in coverage(read_clauses(), every, elsewhere()).values():
            yield f"{shown.clause.id} {shown.clause.level}  {_how(shown.cases, shown.reason)}"
    if ops:
        for op in OPS:
            yield from _operation(op, every)
    if cases:
        for case in every:
            yield f"{case.id}  {case.op}  {' '.join(case.clauses)}  {case.purpose}"


def _how(cases: tuple[str, ...], reason: str) -> str:
    return f"{len(cases)} cases" if cases else reason or "NOT SHOWN"


def _operation(op: str, every: list[Case]) -> Iterator[str]:
    n = sum(case.op == op for case in every)
    yield f"{op} ({profile_of(op)}, {OPS[op].kind}, {n} cases)"
    yield "  in:  " + ", ".join(f"{name} {type_of(op, name.rstrip('?'), output=False)}" for name in OPS[op].inputs)
    outputs = OPS[op].outputs.items()
    yield "  out: " + ", ".join(f"{name} {type_of(op, name, output=True)} ({how})" for name, how in outputs)
    if op in NEEDS:
        yield f"  rests on {', '.join(NEEDS[op])}"


def explained(what: str) -> list[str]:
    """Return the lines that describe a profile, a clause, an operation, a case or a property.

    Raises:
        KeyError: nothing has that name; the message suggests similar names.
    """
    every, clauses = load_all(), read_clauses()
    what = clause_of(what)
    if what in PROFILES:
        return [line for op in PROFILES[what] for line in _operation(op, every)]
    if what in clauses:
        return _clause(clauses[what], every)
    if what in OPS:
        return [*_operation(what, every), "", *(f"{c.id}  {c.purpose}" for c in every if c.op == what)]
    match = next((case for case in every if case.id == what), None)
    if match is not None:
        return _case(match, clauses)
    if what in PROPERTIES:
        return _property(PROPERTIES[what], clauses)
    names = dict.fromkeys([*PROFILES, *clauses, *OPS, *(case.id for case in every), *PROPERTIES])
    near = get_close_matches(what, names, 3)
    raise KeyError(f"nothing is called {what!r}" + (f"; near it are {', '.join(near)}" if near else "; see list"))


def _property(one: Property, clauses: dict[str, Clause]) -> list[str]:
    asks = f"asks {', '.join(one.ops)}"
    return [f"{one.name} ({one.profile}, a property on random inputs)", one.text, asks] + [
        f"{name}: {clauses[name].shown}" for name in one.clauses
    ]


def _clause(clause: Clause, every: list[Case]) -> list[str]:
    shown = coverage(read_clauses(), every, elsewhere())[clause.id]
    tags = " [paper-silent]" if clause.paper_silent else ""
    out = [f"{clause.id} ({clause.level}){tags}", clause.shown, ""]
    if shown.reason:
        out.append(shown.reason)
    return out + [f"{c.id}  {c.op}  {c.purpose}" for c in every if clause.id in c.clauses]


def _case(case: Case, clauses: dict[str, Clause]) -> list[str]:
    out = [
        f"{case.id} ({case.op}), profiles {', '.join(sorted(profiles_of_case(case)))}",
        f"meant to catch: {case.purpose}",
    ]
    out += [f"{name} {clauses[name].text}" for name in case.clauses]
    out += ["", "in:"] + [f"  {k} = {whole_text(v)}" for k, v in case.inputs.items() if v is not None]
    if case.refused:
        return [*out, "", f"refused by {' or '.join(case.refused)}"]
    out += ["", f"out, from {case.oracle}:"] + [f"  {k} = {whole_text(v)}" for k, v in case.expected.items()]
    return out + [f"  bound of {k}: {b.terms} terms, gauge {whole_text(b.gauge)}" for k, b in case.bounds.items()]


NAMES = (
    ("`out`, `in`", "integers: rows and columns of a matrix"),
    (
        "`positions`, `base`, `delta`, `old`, `new`, `dropped`",
        "i64: flat positions row · in + column, ascending",
    ),
    ("`ids` of `select.*`", "i64: ascending, each once; they decide ties (SEL-001)"),
    ("`indptr`, `indices`", "i64: row pointers (out + 1) and columns (TOP-001)"),
    ("`values`, `base_values`, `delta_values`", "floats: one a slot, in the order of the positions; φ for a delta"),
    ("`gradient`, `absolute`, `square`", "floats (out, in), or one a position where `positions` is an input"),
    ("`m`, `v`, `u`, `origin`; `age`", "floats; i64: one a slot of the delta (chapter 9, DROP-003)"),
    (
        "`x`, `dy`",
        "floats (tokens, in), (tokens, out); lists of them over steps and micro-batches",
    ),
    ("`scope` of `update.*`", "`all` grows anywhere, `active` in the base (GROW-001)"),
    ("`adapts` of `update.evolve`", "1 adapts in the event, 0 leaves adaptation out"),
    ("`settings`", "names of chapters 8 to 10, 1 and 0 for true and false; `rule` holds choices that change `preset`"),
    (
        "`start`; `warmup`, `schedule`; `rows` of `settings`",
        "`initial_positions`; `warmup_steps`, `lr_schedule`; those of a whole step, in `micro_batches` equal parts",
    ),
    ("`update.adapt`", "nothing is exempt: the last pass (EVT-004)"),
    ("`k`, `n`, `n_drop`, `budget`, `delta_budget`, `step`, `steps`", "integers"),
    ("`lr`, `beta1`, `eps`, `density`, `drop_fraction` ...", "floats alone: binary64, whatever the dtype of the call"),
    (
        "`parts`; `logits` of `generate.read`",
        "how many tokens each reading has; (B, parts, V), those behind each (GEN-001)",
    ),
    ("`numbers` of `generate.pick`; `picked`", "for each number of tokens before it, the id that is picked (GEN-005)"),
    ("`words`", "u64 (RNG-002)"),
    ("`raw`", "a file, byte by byte"),
    (
        "`tensors` of `file.*`, `folder.*`, `delta.apply`, `convert.*`",
        (
            "`dtype` is a name of chapter 12, `bits` the stored values as bytes, little-endian; `row_pointers` and"
            " `columns` are those of TOP-001, null for a tensor with full support"
        ),
    ),
    (
        "`attributes`, `scales`, `delta`; `state`",
        "canonical JSON text (FMT-028); the state digest, hexadecimal (FMT-099)",
    ),
    (
        "`odd`",
        (
            "for the name of an input `other` or `int64`: the port converts that input to the other of float64 and"
            " float32, or to int64, before it multiplies, and the product refuses it (KRN-010)"
        ),
    ),
    (
        "`held`; `live`",
        (
            "`float16`, `bfloat16`, or a grid of chapter 19 on which the values lie: the matrix is held in this type or"
            " as codes, but for the values of the slots `live`, which are a matrix of their own beside it (KRN-015,"
            " KRN-016, KRN-018); no result depends on it (KRN-011)"
        ),
    ),
    (
        "`pattern` of `topology.of`",
        "(N, M): the topology may be held group by group, and is the same; without such groups refused (TOP-005)",
    ),
    ("`recompute`", "1 to keep the input of each block only; no result depends on it (MDL-008)"),
    (
        "`origin`; `stop` of `state.write`",
        "the digests `model` and `text` of a state; the step after which it is written",
    ),
    ("`stored`, `asked`, `dtype` of `checkpoint.dtype`", "a name of FMT-006; `float32` or `float64`, as is the answer"),
    ("`bits` of `checkpoint.final`, `file.expand`", "the bytes of the values, little-endian, in order"),
    ("`config`, `generation`, `record` as texts", "what `config.json`, `generation_config.json`, `pruning.json` hold"),
    (
        "`support`, `stored` of `run.warnings`; `steps`, `names`",
        "stored weights after events, at the end; of each warning step and name: jump, divergence, support, end",
    ),
    ("`first` of `ranks.rows`", "the first row of every rank, and the number of rows"),
    (
        "`files` of `folder.*`, `convert.to_hf`",
        "bytes by name: what a folder holds; for `folder.write` its companions, and as an answer all of it",
    ),
    (
        "`files`, `large` of `convert.from_hf`",
        (
            "a Hugging Face folder: bytes by name, where a name that ends in a slash is a folder without entries;"
            " further files, of so many zero bytes"
        ),
    ),
    (
        "`zeros`; `cast`",
        "`any` or `positive` (FMT-127); the dtype to cast to, a name of FMT-006 (FMT-126), absent for none",
    ),
    (
        "`companions`; `left_out`; `quantised`",
        (
            "the digest (FMT-047) of each by name; names sorted by bytes, that of a folder with a slash (FMT-123); 1 if"
            " the converter says that it carries a quantisation, else 0 (FMT-128)"
        ),
    ),
    (
        "`kind`, `files`, `tensors`; `how`, `tensors`, `left_out` of `convert.adapter`",
        (
            "`spiel`, `shira`, `super-tuning`, `lora`, `trl-delta` or `weight-sync`; an adapter folder, the file of a"
            " patch or a version folder by name; the base; `add` or `replace`; amounts or new bits by position; of"
            " `lora` how many entries off the support have a bit set, by name, else nothing (FMT-151, FMT-152,"
            " FMT-168, FMT-170)"
        ),
    ),
    (
        "`files`, `expand_quantised` of `convert.codes`; `config`",
        (
            "a Hugging Face folder, bytes by name, whose format the port detects; 1 if its matrices of codes are to be"
            " expanded, else 0 (FMT-175); what `config.json` of the answer holds, as canonical JSON text (FMT-028)"
        ),
    ),
    (
        "`files` of `convert.keep_codes`, `.expand_codes`, `.pack_codes`, `.gptq_codes`; `scheme`, `zeros`, `rounded`",
        (
            "such a folder, whose codes are kept (QNT-010); the other three also take a folder of chapter 12 with a"
            " quantised model (QNT-009), and expand its codes, or write them for compressed-tensors (FMT-178) or GPTQ"
            " (FMT-180); of the scheme that is written `num_bits`, `group_size`, `symmetric`, `type`"
            " and `strategy`, or all of `quantization_config` for GPTQ, as canonical JSON text; how many stored weights"
            " are 0, and how many scales F16 cannot hold"
        ),
    ),
    (
        "`files`, `grid` of `quantise.model`",
        "a folder of chapter 12 with a pruned model, whose targets are rounded to nearest on the grid (QNT-009)",
    ),
    (
        "`type`, `raw` of `convert.gguf_blocks`; `scales`, `zeros`",
        "`Q4_0` or `Q8_0`; the blocks of a matrix, row by row; one a block (QNT-010.4)",
    ),
    (
        "`parts` of `update.event`, `event.ratios`",
        (
            "matrices in the order of their indices; `lost` are the positions that were stored at load and are not in"
            " `base`; `first` is 1 at the first event of a run; `steps` is the length of the window; `budget` and"
            " `delta_budget` have a number for each pool: the matrix, each row, or each group in row-major order"
        ),
    ),
    (
        "`choices` of `preset.rule`",
        "`name=value` of every choice of chapter 8 and setting of the preset, sorted; 1 and 0 for true and false",
    ),
    (
        "`held`, `codes?`, `scales?`, `zeros?`, `exact?` of `train.held`",
        (
            "`float16`, `bfloat16` or a grid, which the targets are held in (CKP-008); of a grid codes, scales and zero"
            " points of each target by name; 1 for mode `grid-exact` (QNT-011)"
        ),
    ),
    ("`part_bytes`", "the part size of FMT-085; of `convert.to_hf` the bytes that a shard may hold (FMT-124)"),
    (
        "`batches`; `branches`",
        "dicts of `tokens`, `labels` and `mask?`, (B, T), -100 for what does not count; tokens (B, T)",
    ),
    (
        "`churn`, `overlap`, `gradient_norm`",
        "floats, one a matrix (TRN-009); null where ḡ is not asked for, or not kept everywhere",
    ),
    ("`starts`", "for each event the count `start` of TRN-009, one a target"),
)
"""Names of inputs and outputs, and their descriptions on the page of operations."""


TYPES = (
    ("int", "an integer (PRT-002)"),
    ("float", '`{"f64": ...}`, binary64 whatever the dtype of the call'),
    ("string, bool, null", "JSON's own"),
    ("i64[...], u64[...], u8[...], bool[...]", "an array of this dtype (PRT-003)"),
    ("real[...]", "an array of floats in the dtype of the call"),
    ("list of T", "a JSON list"),
    ("dict of T", '`{"dict": {name: T}}`'),
    ("value", "any of these but an array: what a configuration holds"),
    (
        "tensor, part of ..., record of ...",
        '`{"dict": {...}}` with the members below; of an input one that is null may be absent, an answer has all',
    ),
)
"""Types of `conformance.cases.wire`, and their descriptions on the page of operations."""


def _records() -> Iterator[str]:
    """Yield the lines of a table for every type of dict with fixed members."""
    for title, members in RECORDS.items():
        yield from ("", f"### {title}", "", "| member | type |", "|---|---|")
        yield from (f"| `{name}` | {kind} |" for name, kind in members.items())


def _marks(op: str, cases: list[Case]) -> list[str]:
    """Return the marks of an operation, which say in which classes it is asked (PRT-011, PRT-015)."""
    marks = ["**scalar**"] if is_scalar(op) else []
    reduced = not is_scalar(op) and any(can_ask(case, "bfloat16") for case in cases)
    return marks + (["**16 bits**"] if reduced else [])


def sizes(path: Path = SIZES) -> dict[str, Largest]:
    """Return by operation the largest array that a run asks, from the file that this module writes."""
    table = json.loads(path.read_text(encoding="utf-8"))
    return {op: Largest(numbers, tuple(shape), by) for op, (numbers, shape, by) in table.items()}


def _largest(one: Largest | None) -> str:
    return f"{one.numbers:,}: {' x '.join(map(str, one.shape))}, by `{one.by}`" if one else ""


def operations_page() -> str:
    """Return the page of all operations, as Markdown."""
    every, largest = load_all(), sizes()
    out = [
        "# Operations",
        "",
        "What a port may offer, by profile. An input with ? may be absent. How each output is compared:",
        "*exact*, equal bits; *value*, equal numbers; *gauge*, within the rounding of its sums (NUM-002), and what",
        "OPT-009 and LYR-017 leave open of a power of β and of a frequency of RoPE;",
        "*binary64*, the same in binary64 whatever the dtype; *relative*, within 1e-9 (float64) or 1e-4 (float32)",
        "of the largest value (NUM-004); *state*, a file that is read and compared tensor by tensor (PRT-020);",
        "*packed*, a compressed file, compared by what its sections expand to (FMT-140 to FMT-142);",
        "*stock*, a Hugging Face folder, compared by tensors, companions and index (FMT-124).",
        "`seft verify explain OPERATION` lists its cases, `explain CASE` shows one in full. Written by",
        "`python -m conformance.command.listing`.",
        "",
        "A **scalar** operation has no numeric class of its own (PRT-015).",
        "It is asked once, with the dtype `float64`: what is `real` in its row is `f64`.",
        "An operation marked **16 bits** has cases in `bf16` and `fp16`; no other is asked there (PRT-011).",
        "The last column has the largest array that a run asks or expects, in numbers or bytes, and who asks it.",
        "",
        "## Types",
        "",
        "| type | what goes over the line |",
        "|---|---|",
        *(f"| {name} | {what} |" for name, what in TYPES),
        "",
        "Within brackets stand the lengths of the axes, the last one fastest.",
        "A name that is also an integer input is that input's value.",
        "Another name is the same length wherever it stands in one call, within a list in one entry.",
        "`...` is any number of axes, and `*` a length that depends on the answer or on nothing else in the call.",
        *_records(),
        "",
        "## Names",
        "",
        "| name | what it is |",
        "|---|---|",
        *(f"| {name} | {what} |" for name, what in NAMES),
    ]
    for profile, names in PROFILES.items():
        out += [
            "",
            f"## {profile}",
            "",
            "| operation | in | out | rests on | clauses | cases | largest array |",
            "|---|---|---|---|---|---:|---|",
        ]
        for op in names:
            mine = [case for case in every if case.op == op]
            clauses = sorted({name for case in mine for name in case.clauses if not name.startswith("NUM-")})
            cells = (
                f"`{op}`" + "".join(f"<br>{mark}" for mark in _marks(op, mine)),
                "<br>".join(f"`{name}` {type_of(op, name.rstrip('?'), output=False)}" for name in OPS[op].inputs),
                "<br>".join(
                    f"`{name}` {type_of(op, name, output=True)}, *{how}*" for name, how in OPS[op].outputs.items()
                ),
                " ".join(f"`{need}`" for need in NEEDS.get(op, ())),
                " ".join(clauses),
                str(len(mine)),
                _largest(largest.get(op)),
            )
            out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main() -> None:
    """Measure what a run asks, and write the file of sizes and the page of operations."""
    from conformance.engine.port import reference_numpy

    largest = largest_arrays(load_all(), Variant(reference_numpy(), "float64"))
    rows = [f" {json.dumps(op)}: {json.dumps(astuple(largest[op]))}" for op in OPS if op in largest]
    SIZES.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8", newline="\n")
    (SIZES.parents[1] / "OPERATIONS.md").write_text(operations_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
