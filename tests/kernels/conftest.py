"""Shared by the tests of kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headscope.kernels import api, first_use


@pytest.fixture
def _never_used() -> Iterator[None]:
    """No kind of call has been compared with the definition yet, and nobody was warned."""
    first_use.forget()
    api.warn_once.cache_clear()
    yield
    first_use.forget()
