"""Chapters 4 and 5 of SPEC.md once more, in torch and float64, for autograd to differentiate.

It reads config.json by itself and shares no line with the engine: heads and queries are visited one by one,
RoPE multiplies complex numbers, softmax runs over the visible keys alone.
"""

import cmath
import math

import torch


def logits(config, named, tokens, mask=None):
    """Return (B, T, V) of config (a dict), named tensors, tokens (B, T) and mask (B, T), True for tokens."""
    return torch.stack(
        [
            _logits_of_row(config, named, tokens[b], [True] * tokens.shape[1] if mask is None else mask[b].tolist())
            for b in range(tokens.shape[0])
        ]
    )


def loss(all_logits, labels):
    """Return the mean of −log p over all labels that count, each predicted by the position before it."""
    terms = []
    for row, wanted in zip(all_logits, labels.tolist(), strict=True):
        for t, label in enumerate(wanted[1:]):
            if label != -100:
                terms.append(torch.logsumexp(row[t], 0) - row[t][label])
    return torch.stack(terms).mean()


def _logits_of_row(config, named, tokens, real):
    x = named["model.embed_tokens.weight"][tokens]
    for layer in range(config["num_hidden_layers"]):
        x = _block(config, named, layer, x, real)
    x = _rmsnorm(x, named["model.norm.weight"], config["rms_norm_eps"])
    head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    return x @ named[head].T


def _block(config, named, layer, x, real):
    prefix = f"model.layers.{layer}"
    eps = config["rms_norm_eps"]
    family = config["model_type"]
    attention_biased = {"llama": config.get("attention_bias"), "qwen3": config.get("attention_bias")}.get(family, False)

    def linear(part, projection, u):
        y = u @ named[f"{prefix}.{part}.{projection}.weight"].T
        if part == "mlp":
            biased = family == "llama" and config.get("mlp_bias")
        else:
            biased = attention_biased or (family == "qwen2" and projection != "o_proj")
        return y + named[f"{prefix}.{part}.{projection}.bias"] if biased else y

    u = _rmsnorm(x, named[f"{prefix}.input_layernorm.weight"], eps)
    q, k, v = (linear("self_attn", projection, u) for projection in ("q_proj", "k_proj", "v_proj"))
    heads = config["num_attention_heads"]
    shared = config.get("num_key_value_heads") or heads
    d = config.get("head_dim") or config["hidden_size"] // heads
    frequencies = _frequencies(config, d, x.shape[0])
    outputs = []
    for i in range(heads):
        j = i // (heads // shared)
        q_i, k_j, v_j = q[:, i * d : (i + 1) * d], k[:, j * d : (j + 1) * d], v[:, j * d : (j + 1) * d]
        if family == "qwen3":
            q_i = _rmsnorm(q_i, named[f"{prefix}.self_attn.q_norm.weight"], eps)
            k_j = _rmsnorm(k_j, named[f"{prefix}.self_attn.k_norm.weight"], eps)
        outputs.append(_attend(_turn(q_i, frequencies), _turn(k_j, frequencies), v_j, _window(config, layer), real))
    h = x + linear("self_attn", "o_proj", torch.cat(outputs, dim=1))
    u = _rmsnorm(h, named[f"{prefix}.post_attention_layernorm.weight"], eps)
    gate = linear("mlp", "gate_proj", u)
    return h + linear("mlp", "down_proj", gate / (1 + torch.exp(-gate)) * linear("mlp", "up_proj", u))


def _rmsnorm(x, weight, eps):
    return x / torch.sqrt((x**2).sum(-1, keepdim=True) / x.shape[-1] + eps) * weight


def _attend(q, k, v, window, real):
    rows = []
    for t in range(q.shape[0]):
        seen = [s for s in range(t + 1) if real[s] and (window is None or t - s < window)]
        if not seen:
            rows.append(torch.zeros_like(v[0]))
            continue
        scores = (k[seen] @ q[t]) / math.sqrt(q.shape[1])
        rows.append(torch.softmax(scores, 0) @ v[seen])
    return torch.stack(rows)


def _window(config, layer):
    window = config.get("sliding_window")
    if config["model_type"] == "mistral":
        return window
    if config["model_type"] == "llama":
        return None
    if config.get("layer_types"):
        return window if config["layer_types"][layer] == "sliding_attention" else None
    return window if config.get("use_sliding_window") and layer >= config["max_window_layers"] else None


def _turn(x, frequencies):
    half = x.shape[1] // 2
    turns = torch.tensor(
        [[cmath.exp(1j * p * f) for f in frequencies] for p in range(x.shape[0])], dtype=torch.complex128
    )
    turned = torch.complex(x[:, :half], x[:, half:]) * turns
    return torch.cat([turned.real, turned.imag], dim=1)


def _frequencies(config, d, length):
    base, scaling = config["rope_theta"], config.get("rope_scaling") or {}
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "dynamic":
        m, s = config["max_position_embeddings"], scaling["factor"]
        base = base * (s * max(length, m) / m - (s - 1)) ** (d / (d - 2))
    plain = [1.0 / base ** (2 * j / d) for j in range(d // 2)]
    if kind == "linear":
        return [f / scaling["factor"] for f in plain]
    if kind != "llama3":
        return plain
    out = []
    for f in plain:
        wavelength, original = 2 * math.pi / f, scaling["original_max_position_embeddings"]
        low, high, s = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
        if wavelength < original / high:
            out.append(f)
        elif wavelength > original / low:
            out.append(f / s)
        else:
            m = (original / wavelength - low) / (high - low)
            out.append((1 - m) * f / s + m * f)
    return out
