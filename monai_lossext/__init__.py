"""Segmentation losses for medical imaging, MONAI bundles that use them, and honest comparisons between them."""

__version__ = "1.0.0"
