"""The ground floor: typed configuration, errors, files that are whole or absent, downloads."""
