"""The same operations as Triton kernels, for GPUs of NVIDIA and AMD.

:mod:`.walk` holds the kernels, :mod:`.kernels` launches them on torch's tensors. Triton comes with torch's builds for
these devices; it is imported when a kernel is wanted for the first time.
"""
