"""The functions of the stages, as tasks/dag.py names them."""
