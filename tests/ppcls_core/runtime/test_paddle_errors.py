"""Errors of CUDA, cuDNN and NCCL come as Python's own kinds: what they say reaches the user."""

import pickle

import pytest

from ppcls_core.runtime.paddle import reason_of
from ppcls_core.runtime.processes import _portable
from ppcls_core.runtime.terminal import run_app

STACK = """

--------------------------------------
C++ Traceback (most recent call last):
--------------------------------------
0   paddle::AnalysisPredictor::ZeroCopyRun()
1   common::enforce::EnforceNotMet::EnforceNotMet()

----------------------
Error Message Summary:
----------------------
ExternalError: CUBLAS error(15). 
  [Hint: Please search for the error code(15)] (at /paddle/blas_impl.cu.h:41)
"""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("(External) NCCL error(6). \n  [Hint: x] (at a:1)"), "(External) NCCL error(6)."),
        (MemoryError("(ResourceExhausted) \n\nOut of memory error on GPU 0.\n\nPlease check"),
         "(ResourceExhausted) Out of memory error on GPU 0."),
        (OSError(STACK), "ExternalError: CUBLAS error(15)."),
        (RuntimeError("plain"), "plain"),
        (RuntimeError(), "RuntimeError"),
    ],
)  # fmt: skip
def test_the_reason_is_a_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
    assert reason_of(pickle.loads(pickle.dumps(_portable(error)))) == reason  # out of a child


@pytest.mark.parametrize(
    ("error", "words", "others"),
    [
        (
            OSError("(External) CUDNN error(9)"),
            "(External) CUDNN error(9); `ppcls doctor`",
            "rights",
        ),
        (OSError(2, "No such file", "x.yaml"), "x.yaml: No such file; check the path", "doctor"),
        (MemoryError("(ResourceExhausted) \n\nOut of memory"), "memory); ask for", "rights"),
        (OSError(12, "Cannot allocate memory"), "not enough memory", "rights"),
        (ImportError("libpaddle.so: failed to map segment"), "not enough memory", "rights"),
        (RuntimeError("can't start new thread"), "not enough memory", "rights"),
    ],
)
def test_a_command_says_it(
    error: Exception, words: str, others: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def app() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_app(app)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in said
    assert others not in said
