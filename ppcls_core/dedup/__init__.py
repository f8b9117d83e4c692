"""Which images show one another, however altered: features, matching, results."""
