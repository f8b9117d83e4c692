"""From a folder of photographs to a data set and a recipe: `ssld init`."""
