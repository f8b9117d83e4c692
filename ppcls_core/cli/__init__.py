"""The commands of `ppcls`, a file a subject; modules that need Paddle are imported late."""
