"""How long a run of a recipe will take, and what of: from a sample of it that is run here."""
