"""Mutants of readers of integer codes: zero points, words, groups, roundings, parts (FMT-172 to FMT-175)."""

import json

from conformance.engine.parts import int_codes, int_folder, int_layers, int_schemes
from conformance.wrong.mutants.base import Mutant, Values, after, edits, forgotten, mutant, mutants, reset

OP = "convert.codes"
_ROUND = "weights[first:last] = steps.astype(matrix.dtype)"
_TWO_PRODUCTS = """scale = np.take(matrix.scales[first:last], columns, axis=1)
            zero = 0 if matrix.zeros is None else np.take(matrix.zeros[first:last], columns, axis=1)
            weights[first:last] = matrix.codes[first:last].astype(matrix.dtype) * scale
            weights[first:last] -= np.asarray(zero).astype(matrix.dtype) * scale"""
_AWQ_PAIR = 'codes, zeros = (in_order(parts.array(part)) for part in ("qweight", "qzeros"))'
_AWQ_ZEROS = 'in_order(parts.array("qweight")), _turned(unpacked(parts.array("qzeros"), out, bits, straddling=False))'
_LAST = "((1 << bits - 1) - 1)"
_WRAPS = "if (zeros == (1 << bits - 1) - 1).any():"
_UNPACK, _DEQUANTISE = int_codes.unpacked, int_codes.dequantised


def without(name: str) -> Mutant:
    """Return a mutant that does not record an attribute."""

    def change(out: Values, _: Values) -> Values:
        kept = {key: value for key, value in json.loads(out["attributes"]).items() if key != name}
        return {"attributes": json.dumps(kept, sort_keys=True, separators=(",", ":"))}

    return mutant("FMT-175", OP, after(OP, change), f"the attribute {name} is missing")


def has_no_codes(a: Values) -> bool:
    """Return whether a folder that is to be expanded has no part of a matrix."""
    raw = a["files"]["model.safetensors"].tobytes()
    return bool(a["expand_quantised"]) and not any(part in raw for part in (b"qweight", b"weight_scale"))


_NUMBERS: list[Mutant] = [
    *mutants(OP,
        ("FMT-173", int_codes._straddling, "padded[:, word] | padded[:, word + 1] << np.uint64(32)",
         "padded[:, word]", "the rest of a code in the next word"),
        ("FMT-173", int_layers._awq, _AWQ_PAIR, f"codes, zeros = {_AWQ_ZEROS}", "zero points of AWQ not reordered"),
        ("FMT-173", int_layers._of_column, "np.clip(parts.array(part), -1, groups).astype",
         "parts.array(part).astype", "a group that wraps"),
        ("FMT-172", int_layers._of_column, "if parts.has(part):", "if False:", "the stated groups ignored"),
        ("FMT-174", int_codes.expanded, "if not matrix.mask_is_stored:", "if True:", "a stored mask forgotten"),
        ("FMT-174", _DEQUANTISE, "weights[first:last][~matrix.mask[first:last]] = 0", "pass",
         "absent weights that overflow"),
        ("FMT-174", int_codes.made, "if stored_mask is None:", "if True:",
         "kept codes of the zero point taken for pruned")),
    *edits(OP, "FMT-173", _UNPACK,
        ("- half).view", "- (half - 1)).view", "codes less 2^(b − 1) − 1"),
        (".view(np.uint32)", '.view(">u4")', "words of big-endian bytes"),
        ("shifts = np.arange(0, 32 - bits + 1, bits", "shifts = np.arange(32 - bits, -1, -bits",
         "the highest bits first")),
    *edits(OP, "FMT-173", int_layers._gptq,
        ("if scheme.source == GPTQ:", "if False:", "zero points of gptq as stored"),
        ("if scheme.source == GPTQ:", "if True:", "zero points of gptq_v2 less one"),
        (_WRAPS, f"zeros[zeros == {_LAST}] = -{_LAST} - 2\n            if False:", "a zero point that wraps")),
    *edits(OP, "FMT-173", _DEQUANTISE,
        ("if matrix.zeros is not None:", "if False:", "zero points forgotten"),
        ("steps -= np.take", "steps += np.take", "zero points added"),
        (_ROUND, _TWO_PRODUCTS, "code · scale less zero point · scale"),
        (_ROUND, _ROUND.replace("steps", "(steps.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)"),
         "cut off"),
        ("steps += np.float32(0)", "pass", "a zero with the sign of the scale"),
        ("if not np.isfinite(weights[first:last]).all():", "if False:", "weights that overflow")),
    *edits(OP, "FMT-173", int_codes.check_values,
        ("if not finite:", "if False:", "scales that are not finite"),
        ("int(np.min(of_column)) < 0 or ", "", "groups counted from the end"),
        ('("codes", matrix.codes)', '("codes", None)', "codes of more bits"),
        ('("zero points", matrix.zeros)', '("zero points", None)', "zero points of more bits")),
    reset("FMT-173", OP, int_layers, "AWQ in the order of columns", AWQ_ORDER=tuple(range(8))),
    reset("FMT-173", OP, int_layers, "AWQ in the inverse order", AWQ_ORDER=(0, 2, 4, 6, 1, 3, 5, 7)),
]  # fmt: skip

_DESCRIPTIONS: list[Mutant] = [
    reset("FMT-172", OP, int_schemes, "no descriptions in files of their own", OWN_CONFIGS={}),
    *mutants(OP,
        ("FMT-172", int_schemes._awq, '"gemm").lower()', '"gemm")', "GEMM refused"),
        ("FMT-172", int_schemes._awq, 'old = "w_bit" in description', "old = False",
         "the older keys of awq refused"),
        ("FMT-172", int_schemes._schemes, 'for part in ("transform_config", "kv_cache_scheme"):',
         "for part in ():", "transforms and caches"),
        ("FMT-172", int_schemes.Schemes.of, "named or [", "[", "targets not looked at"),
        ("FMT-175", int_schemes.read_schemes, "any(other != descriptions[0]", "any(False", "the first description"),
        ("FMT-175", int_schemes.read_schemes, "changed[file] = None", "pass", "the older description travels"),
        ("FMT-175", int_schemes.without_descriptions, "descriptions.append(inner)",
         "descriptions.append(inner)\n            cleaned[key] = inner", "descriptions stay"),
        ("FMT-175", int_schemes.without_descriptions,
         "[without_descriptions(inner, descriptions) for inner in value]", "value", "descriptions in lists stay")),
    *edits(OP, "FMT-172", int_schemes._gptq,
        ('description.get("format") or GPTQ', 'description.get("format") or GPTQ_V2', "gptq_v2 by default"),
        ('if description.get("dynamic"):', "if False:", "bits of the description where shapes tell"),
        ('or description.get("is_marlin_format")', "", "codes in the layout of a kernel")),
    *edits(OP, "FMT-172", int_schemes._of_weights,
        ('{"num_bits": 8, **weights}', '{"num_bits": 4, **weights}', "4 bits by default"),
        ('weights.get("symmetric", True)', 'weights.get("symmetric", False)', "zero points by default"),
        ("GROUP if size else CHANNEL", "CHANNEL", "channels by default"),
        ("range(1, 9)", "range(2, 9)", "1 bit refused")),
]  # fmt: skip

_PARTS: list[Mutant] = [
    *mutants(OP,
        ("FMT-172", int_layers._awq, "scheme.group_size or columns", "min(scheme.group_size or columns, columns)",
         "a group of awq that ends early"),
        ("FMT-172", int_layers.layer_of, 'scheme.source != PLAIN and parts.has("weight")', "False", "two weights"),
        ("FMT-172", int_folder._layers, "        if strange:", "        if False:", "parts of other schemes"),
        ("FMT-172", int_folder._layers, "isinstance(weight, Dense) and weight.dtype == np.int8", "False",
         "codes without a scale carried"),
        ("FMT-172", int_folder._layer, "if len(fitting) > 1:", "if False:", "the first scheme that fits"),
        ("FMT-175", int_folder.QuantisedFolder._left_out,
         'modules = [name.removesuffix(".weight") for name in self.layers]',
         'modules = {name.rpartition(".")[0] for name in self._source.tensors}',
         "scales of activations of other tensors go"),
        ("FMT-175", int_folder.QuantisedFolder.checkpoint, '" and ".join(sources)', "sources[0]",
         "one source named"),
        ("FMT-175", int_folder.codes_in, "    return None", '    return "w"', "folders without codes refused"),
        unchecked="FMT-172 FMT-173 FMT-175"),
    *edits(OP, "FMT-172", int_layers._gptq,
        ("elif size is None or not scheme.in_order:", "elif False:", "an order that nothing states"),
        ("if size is not None and groups != -(-columns // size):", "if False:", "another number of groups"),
        ("groups != -(-columns // size)", "groups * size != columns", "a short last group refused")),
    *edits(OP, "FMT-172", int_layers._groups,
        (' and not parts.has("weight_g_idx")', "", "groups of g_idx that do not divide refused"),
        (" and groups > 1", "", "a group wider than a row refused"),
        ("if columns % scheme.group_size and", "if False and", "groups that do not divide")),
    *edits(OP, "FMT-172", int_layers._straddling,
        ("if len(fitting) == 2 and 32 % bits and", "if False and", "either way of packing"),
        ("    if groups:", "    if False:", "zero points that are packed in another way"),
        ("either = (True, False)", "either = (True,)", "codes in whole words refused"),
        (" and max(n for n, _ in counts) > 32 // bits", "", "one word refused")),
    *edits(OP, "FMT-172", int_layers._compressed,
        ("scalars = ((), (1,), (1, 1))", "scalars = ((1,),)", "scales without dimensions refused"),
        ("if zeros.any():", "if False:", "zero points of a symmetric matrix"),
        ('if not packed_zeros and (not scheme.symmetric or parts.has("weight_zero_point")):',
         "if not packed_zeros and not scheme.symmetric:", "zero points of 0 refused")),
    reset("FMT-175", OP, int_folder, "scales of activations stay", _OF_ACTIVATIONS=()),
    *forgotten(OP, "FMT-175", "FMT-084 FMT-175", a_matrix_to_expand=has_no_codes),
    without("source"),
    without("expanded"),
]  # fmt: skip

MUTANTS: list[Mutant] = [*_NUMBERS, *_DESCRIPTIONS, *_PARTS]
