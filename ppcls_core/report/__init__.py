"""The report of a run: page, charts, model card."""
