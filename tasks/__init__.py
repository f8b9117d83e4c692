"""The stages of the pipeline: a file each, on the contract of stage.py."""
