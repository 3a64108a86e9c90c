"""Which losses to try first on a data set: what its labels look like, and what is known for such labels."""

from __future__ import annotations
