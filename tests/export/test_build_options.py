"""Options of a build as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.errors import UsageError
from mpft_deploy.export.builders import parse_batch, parse_capability


@given(st.integers(1, 99), st.integers(0, 9))
def test_capabilities_are_read(major, minor):
    for text in (f"{major}{minor}", f"{major}.{minor}", f"sm_{major}{minor}", f"SM{major}{minor}"):
        assert parse_capability(text) == f"{major}.{minor}"


@pytest.mark.parametrize("text", ["", "9", "8.", "sm", "8.9.1", "8,9", "-89", "٨٩", "08", "1200"])
def test_capabilities_are_refused(text):
    with pytest.raises(UsageError, match="compute capability"):
        parse_capability(text)


@pytest.mark.parametrize("text", ["", "1", "1:2", "1:2:3:4", "a:b:c", "1:-1:1", "1:1:100000000"])
def test_batches_are_refused(text):
    with pytest.raises(UsageError, match="batch"):
        parse_batch(text)
