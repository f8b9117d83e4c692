"""Class names beside weights are those of the data, or an error names both."""

import pytest

from data_catalog.base.config import UserError
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.sidecar import SIDECAR, Sidecar, check_class_names


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (None, ("cat", "dog"), None),
        (("cat", "dog"), ("cat", "dog"), None),
        (("0", "1"), ("cat", "dog"), None),
        (("cat", "dog"), ("0", "1"), None),
        (("cat", "dog"), ("dog", "cat"), "class 0 is 'cat' in .* and 'dog' in the data set"),
        (("cat", "dog"), ("cat", "owl"), "class 1 is 'dog' in .* and 'owl' in the data set"),
        (("cat", "dog", "owl"), ("cat", "dog"), "is for 3 classes .* the data set has 2"),
        (("0", "1"), ("0", "1", "2"), "is for 2 classes .* the data set has 3"),
    ],
)
def test_names_are_compared_where_both_have_them(tmp_path, theirs, ours, message):
    if theirs:
        sidecar = Sidecar(architecture="X", classes=theirs, preprocess=Preprocess(size=32))
        (tmp_path / SIDECAR).write_text(sidecar.text())
    weights = tmp_path / "student.pdparams"
    weights.touch()
    if message is None:
        check_class_names(weights, ours)
        return
    with pytest.raises(UserError, match=message):
        check_class_names(weights, ours)
