"""Every reader of what images exist: lists, folders and tars, as columns of one table."""
