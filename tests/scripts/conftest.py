"""Data sets that the tests of the loaders write."""

from __future__ import annotations

from tests.data.conftest import heads, plain, write_pair

__all__ = ["heads", "plain", "write_pair"]
