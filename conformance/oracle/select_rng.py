"""The counter-based random numbers of RNG-001 and RNG-002, in Python integers."""

_MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix(z: int) -> int:
    """Return the finalizer of RNG-001."""
    z = ((z ^ (z >> 30)) * FACTORS[0]) & _MASK
    z = ((z ^ (z >> 27)) * FACTORS[1]) & _MASK
    return z ^ (z >> 31)


def key(*words: int) -> int:
    """Return the key of the words (RNG-002)."""
    value = 0
    for word in words:
        value = mix(((value + GAMMA) & _MASK) ^ word)
    return value


def draw(k: int, number: int) -> int:
    """Return draw `number` of key k (RNG-001)."""
    return mix((k + (number + 1) * GAMMA) & _MASK)
