"""What tests of losses share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_lossext.losses.paths import plain_path


@pytest.fixture(params=["kernels", "plain"])
def kernels_or_plain(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with kernels where there are some, and once more with torch's own operations."""
    if request.param == "kernels":
        yield
    else:
        with plain_path():
            yield
