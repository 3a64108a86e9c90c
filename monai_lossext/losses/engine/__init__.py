"""What all losses are made of: reading input and target, and a few operations, each in one place.

:mod:`.reading` gathers what a caller gave, :mod:`.checks` looks for values out of range, :mod:`.operations` are the
operations as losses call them, :mod:`.plain` says what each computes, in torch's own operations, :mod:`.operators`
registers them with torch, :mod:`.cpu` holds the same as compiled loops and :mod:`.cuda` as Triton kernels.
:mod:`.sorting`, :mod:`.distances` and :mod:`.neighbourhoods` are what single families need besides.
"""
