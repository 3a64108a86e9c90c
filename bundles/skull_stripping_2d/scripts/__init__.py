"""Files in, masks out: what the loaders and checks of the package share with the inference of every bundle.

Each bundle carries these modules, byte for byte, as its folder `scripts`, so that inference runs where nothing but the
bundle and MONAI is installed. `make scripts` writes the copies; change these files, never a copy.
"""
