"""Torch and NPZ files that are made to hang, crash or mislead: each is one error, soon, in words of our own."""

import contextlib
import os
import pickle
import time
import warnings
import zipfile

import numpy as np
import pytest

from formats import errors

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")

from formats.dialects import npz  # noqa: E402 - after the libraries that it needs
from formats.dialects.torch_file import read_torch  # noqa: E402

ADVICE = ("weights_only", "allow_pickle", "safe_globals", "trust", "max_header_size")


def with_pickle(path, steps):
    """Write a zip as torch.save writes it around the opcodes of a pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + steps + b".")
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
    return path


def text(name):
    raw = name.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def doubled(levels, inner=b")", make=b"\x86"):
    """Return a tuple of twice the same tuple, and so on: each level is put into memory and fetched once more."""
    return inner + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + make for i in range(levels))


HANGING = {
    "key": b"}" + doubled(60) + b"Ns",
    "value": b"}" + text("w") + doubled(60) + b"s",
    # OrderedDict([(key, None)]) hashes its key, too
    "ordered": b"ccollections\nOrderedDict\n]" + doubled(60) + b"N\x86a\x85R",
    "id": b"}" + text("w") + doubled(60) + b"Qs",
    "deep": b"}" + text("w") + b")" + b"\x85" * 20_000 + b"s",
    "deep key": b"}" + b")" + b"\x85" * 20_000 + b"Ns",
    "itself": b"}q\x00" + text("w") + b"h\x00s",
    # all lists are made first, so that each is small when the one before takes it up
    "late": b"}"
    + text("w")
    + b"("
    + b"".join(b"]q%c" % i for i in range(40))
    + b"".join(b"h%c(h%ch%ce" % (i, i + 1, i + 1) for i in range(39))
    + b"ts",
}


@pytest.mark.parametrize("case", HANGING)
def test_FMT_153_what_repeats_or_nests_without_bound_is_refused_at_once(tmp_path, case):
    path = with_pickle(tmp_path / "m.pt", HANGING[case])
    started = time.perf_counter()
    with pytest.raises(errors.FormatError, match="FMT-153") as found:
        read_torch(path)
    assert time.perf_counter() - started < 10
    assert len(str(found.value)) < 400


def test_a_model_of_one_shared_layer_is_read(tmp_path):
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        shared = torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), size=(1, 4))
    state = {f"layers.{i}.weight": shared for i in range(3000)} | {"w": torch.ones(2)}
    torch.save(state, tmp_path / "m.pt")
    found = read_torch(tmp_path / "m.pt")
    assert sorted(found.tensors) == ["layers.0.weight", "w"]
    assert len(found.tied) == 2999


@pytest.mark.parametrize("called", ["posix system", "builtins eval", "os system", "numpy.core.multiarray scalar", "x"])
def test_FMT_153_a_program_is_named_and_torch_is_not_quoted(tmp_path, called, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, _, name = called.partition(" ")
    steps = b"}" + text("w") + f"c{module}\n{name}\n".encode() + b"(" + text("touch evil") + b"tRs"
    with pytest.raises(errors.FormatError, match="FMT-153") as found:
        read_torch(with_pickle(tmp_path / "m.pt", steps))
    assert f"{module}.{name}" in str(found.value)
    assert not any(word in str(found.value) for word in ADVICE)
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


class Evil:
    """Runs a program when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch evil",)


def test_FMT_153_no_message_advises_to_switch_protection_off(tmp_path):
    for i, state in enumerate(({"w": Evil()}, torch.nn.Linear(2, 2), {"w": np.float64(1)})):
        torch.save(state, tmp_path / f"{i}.pt")
        with pytest.raises(errors.FormatError, match="FMT-153") as found:
            read_torch(tmp_path / f"{i}.pt")
        assert not any(word in str(found.value) for word in ADVICE), found.value


@pytest.mark.parametrize("shape", [(0, 2**62), (2**62, 0), (2**30, 2**30, 0)])
def test_FMT_153_dimensions_beyond_all_limits_are_refused(tmp_path, shape):
    torch.save({"w": torch.empty(shape)}, tmp_path / "m.pt")
    with pytest.raises(errors.CannotHold, match="FMT-007"):
        read_torch(tmp_path / "m.pt")


def test_FMT_153_damaged_pickles_are_refused(tmp_path):
    torch.save({"w": torch.ones(3), "v": torch.eye(2).to_sparse()}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    whole = next(data for name, data in members.items() if name.endswith("data.pkl"))
    rng = np.random.default_rng(0)
    for i in range(150):
        spoiled = bytearray(whole[: rng.integers(len(whole))] if i % 3 == 0 else whole)
        for at in rng.integers(0, max(1, len(spoiled)), 3):
            if spoiled:
                spoiled[at] = rng.integers(256)
        path = tmp_path / f"{i}.pt"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(name, bytes(spoiled) if name.endswith("data.pkl") else data)
        with contextlib.suppress(errors.FormatError):
            read_torch(path)


@pytest.mark.parametrize("case", ["twice", "comment", "front"])
def test_FMT_153_a_zip_that_two_readers_may_read_differently_is_refused(tmp_path, case):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(3)}, path)
    if case == "front":
        path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    else:
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if case == "twice":
                archive.writestr(archive.namelist()[0], b"\x80\x02}.")
            else:
                archive.comment = b"PK\x05\x06"
    with pytest.raises(errors.FormatError, match="FMT-153"):
        read_torch(path)


def npy(header, version=b"\x01\x00"):
    width = 2 if version[0] == 1 else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header


@pytest.mark.parametrize(
    "member",
    [
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (0,)}" + b" " * 20_000 + b"\n"),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n") + pickle.dumps(Evil()),
        npy(b"(" * 9_000 + b"\n"),
        npy(b"{" * 60_000, b"\x02\x00"),
        b"\x93NUMPY\x01",
        b"",
    ],
    ids=["long", "object", "nested", "nested long", "short", "empty"],
)
def test_FMT_153_npz_members_are_refused_in_our_words(tmp_path, member, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("data.npy", member)
    with pytest.raises(errors.FormatError, match="FMT-153") as found:
        npz.read_npz(tmp_path / "w.npz", limit=1 << 20)
    assert not any(word in str(found.value) for word in ADVICE), found.value
    assert [p.name for p in tmp_path.iterdir()] == ["w.npz"]
