"""The flow, which says what runs after what, and the command line of the pipeline."""
