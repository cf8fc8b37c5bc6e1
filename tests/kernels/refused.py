"""Refusals of kernels."""

import inspect

import pytest

from seft_ref.errors import KernelError


def assert_refused(clause, function, *args):
    """The kernel's own refusal; a shape-checking decorator, where one is installed, is looked through."""
    with pytest.raises(KernelError, match=clause) as error:
        inspect.unwrap(function)(*args)
    assert error.value.clause == clause
