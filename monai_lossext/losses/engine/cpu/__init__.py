"""The operations of :mod:`.engine` as loops that Numba compiles for the processor.

``runtime`` compiles, keeps and calls loops; ``memory`` reads and writes rows of tensors of any type and strides;
``arithmetic`` holds functions of numbers. ``walk`` goes through a volume block by block: ``rows`` are read of it,
and ``likelihoods``, ``sums``, ``gradients`` and ``values`` computed. ``parts`` walks through components, ``sorting``
sorts the errors of Lovasz losses. ``kernels`` is what operators call. All but the last need Numba at import.
"""
