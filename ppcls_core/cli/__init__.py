"""What `ppcls` does, a file a subject. Paddle is imported where it is used."""
