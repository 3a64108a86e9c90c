"""The operations of :mod:`.engine` as loops that Numba compiles for the processor.

:mod:`.runtime` compiles, keeps and calls loops; :mod:`.memory` reads and writes rows of tensors of any type and strides;
:mod:`.arithmetic` holds functions of numbers; :mod:`.walk` is the walk of sums, gradients and values; :mod:`.sorting`
sorts the errors of Lovasz losses; :mod:`.kernels` is what operators call. All but the last need Numba at import.
"""
