"""Search for the hyper-parameters of a training: a space, a study on Optuna, its trials."""
