"""Linear probes: a network's classifier learnt by logistic regression, all else as it is."""

import numpy as np
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from threadpoolctl import threadpool_limits

from data_catalog.base.config import UserError
from data_catalog.base.words import counted
from ppcls_core.models.networks.layers import Network
from ppcls_core.runtime.threads import max_threads

STRENGTHS = np.logspace(-4, 1, 11)  # inverse of the L2 penalty, of standardised features
FOLDS = 5  # at most


def fit_classifier(model: Network, features: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Set the classifier of `model` to the multinomial logistic regression of `labels` int [N] on
    `features` float32 [N, F]; the inverse L2 that cross-validation chose, of FOLDS folds, or of as
    many as the smallest class has images.

    Raises UserError: a class has fewer than two images, or there is one class.
    """
    num_classes = model.classifier.weight.shape[1]
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() < 2 or num_classes < 2:
        least = counted(int(counts.min()), "labelled image")
        raise UserError(
            f"class {counts.argmin()} has {least} that can be read, of "
            f"{counted(num_classes, 'class')}; a probe needs two images or more of each of two "
            "classes or more: take `mode: finetune`, or label more"
        )
    num_folds = min(FOLDS, int(counts.min()))
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed % 2**32)
    # Standardised, so that one range of strengths suits every network.
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    # Likelihood, not accuracy: soft labels need probabilities that can be believed.
    search = GridSearchCV(
        LogisticRegression(max_iter=1000),
        {"C": STRENGTHS.tolist()},
        cv=folds,
        scoring="neg_log_loss",
    )
    # A fit is on one thread: two take seven times as long, spinning.
    with threadpool_limits(1), parallel_config("threading", n_jobs=max_threads()):
        search.fit((features - mean) / deviation, labels)
    # Of two classes there is one row: the second one's log-odds.
    weight, bias = search.best_estimator_.coef_, search.best_estimator_.intercept_
    if num_classes == 2:
        weight, bias = np.stack([0 * weight[0], weight[0]]), np.array([0.0, bias[0]])
    weight = weight / deviation
    model.classifier.weight.set_value(weight.T.astype(np.float32))
    model.classifier.bias.set_value((bias - weight @ mean).astype(np.float32))
    return float(search.best_params_["C"])
