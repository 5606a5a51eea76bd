"""Messages between members are JSON and bytes; whatever else comes is refused, not unpickled."""

from __future__ import annotations

import pickle

import pytest

from tuner.measure.cluster.messages import pack, unpack


@pytest.mark.parametrize("blob", [b"", b"\n", b"\x7fELF\n\n{}", bytes(range(256)) * 100])
def test_what_is_packed_is_unpacked(blob: bytes) -> None:
    header = {"text": "line\nbreak \u2028", "numbers": [1, 2.5, None], "nested": {"": []}}
    assert unpack(pack(header, blob)) == (header, blob)


@pytest.mark.parametrize("message", [b"", b"{}", b"[]\n", b"null\n", b"{\n}", pickle.dumps({"a": 1})])
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(message)
