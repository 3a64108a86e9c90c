"""Parts of ``benchmarks/losses.py``: what is measured, how, and how it is shown."""
