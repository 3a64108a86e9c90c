"""What tests of losses share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from monai_lossext.losses.paths import uncompiled_path


@pytest.fixture(params=["compiled", "uncompiled"])
def compiled_or_not(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run a test with compiled loops where they fit, and once more without."""
    if request.param == "compiled":
        yield
    else:
        with uncompiled_path():
            yield
