"""The layers on any array library: the definition of every layer set."""

from seft_ref.layers.attention import attention_backward, attention_forward
from seft_ref.layers.cross_entropy import cross_entropy_backward, cross_entropy_forward
from seft_ref.layers.rmsnorm import rmsnorm_backward, rmsnorm_forward
from seft_ref.layers.rope import rope_backward, rope_forward
from seft_ref.layers.swiglu import swiglu_again, swiglu_backward, swiglu_forward

__all__ = [
    "attention_backward",
    "attention_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "rmsnorm_backward",
    "rmsnorm_forward",
    "rope_backward",
    "rope_forward",
    "swiglu_again",
    "swiglu_backward",
    "swiglu_forward",
]
