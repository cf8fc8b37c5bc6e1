"""Fixtures of the tests of the conformance kit."""

import pytest

from conformance.second_reader import read


@pytest.fixture
def try_read(tmp_path):
    def run(raw):
        (tmp_path / "x.seft").write_bytes(raw)
        return read(tmp_path / "x.seft")

    return run
