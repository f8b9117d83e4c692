"""Data sets that are made on the spot from photographs inside installed packages."""
