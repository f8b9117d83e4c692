"""One module a family of networks; `layers.py` holds the blocks that several are built from."""
