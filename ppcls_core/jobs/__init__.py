"""One model by itself: training, evaluation and quantisation from a YAML file."""
