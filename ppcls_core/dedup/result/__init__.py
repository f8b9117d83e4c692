"""The tables, removal list and pairs to look at that a search leaves."""
