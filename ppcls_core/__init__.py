"""Algorithms of SSLD distillation: models, data, engine, dedup, labels, deployment. No Prefect.

What libraries read from the environment as they are loaded is set here, before any module of this
package can import them; children inherit it, and what the user has set stands.
"""

import os
import warnings
from itertools import takewhile
from pathlib import Path


def _amd_with_avx2(cpuinfo: Path) -> bool:
    """Whether the processor is AMD's and has AVX2, by Linux's `cpuinfo`; elsewhere False."""
    try:
        with cpuinfo.open() as lines:
            first = "".join(takewhile(str.strip, lines))  # one of its cores
    except OSError:
        return False
    return "AuthenticAMD" in first and "avx2" in first.split()


warnings.filterwarnings("ignore", message="No ccache found")  # nothing is compiled here
os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's own chatter on stderr
# Paddle's import sets it to 1 unless it is set; FAISS then finds the same setting.
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
if _amd_with_avx2(Path("/proc/cpuinfo")):
    # Paddle comes with Intel's MKL of 2019, which computes with SSE2 on AMD's processors unless it
    # is told that they have AVX2: training is two to three times faster (benchmarks/threads.py).
    os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
