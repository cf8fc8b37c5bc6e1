"""What the port does for a GPU, as far as it can be seen without one: flags of products, and CUDA graphs."""

import pytest

torch = pytest.importorskip("torch")

from seft_ports.pytorch import kernels, product  # noqa: E402


@pytest.fixture
def allowed():
    """The flags of products on a GPU, with TF32 allowed."""
    of_cuda, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    of_cuda.allow_tf32 = True
    yield of_cuda
    of_cuda.allow_tf32 = before


def test_evidence_has_all_bits_of_float32_whatever_is_allowed(allowed):
    with kernels.exact_products(torch.device("cpu")):
        assert not allowed.allow_tf32
    assert allowed.allow_tf32
    with pytest.raises(ZeroDivisionError), kernels.exact_products(torch.device("cpu")):
        raise ZeroDivisionError
    assert allowed.allow_tf32


def test_PRT_011_sums_of_16_bits_are_not_added_in_16_bits():
    of_cuda = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = [getattr(of_cuda, name) for name in names]
    with kernels._whole_sums():
        assert not any(getattr(of_cuda, name) for name in names)
    assert [getattr(of_cuda, name) for name in names] == before


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="needs torch 2.8")
def test_no_cuda_graph_takes_a_product_that_events_look_at():
    assert product.number_of is not None
    for op in (torch.ops.seft.product.default, torch.ops.seft.product_backward.default):
        assert torch.Tag.cudagraph_unsafe in op.tags


def test_a_recording_is_refused(monkeypatch):
    class OnGpu:
        is_cuda = True

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(NotImplementedError, match="max-autotune-no-cudagraphs"):
        product._refuse_capture(OnGpu())
