"""What this bundle needs beyond MONAI: volumes as files, and the brain as one piece."""
