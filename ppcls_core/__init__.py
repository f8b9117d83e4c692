"""Algorithms of SSLD distillation: models, data, engine, dedup, labels, deployment. No Prefect.

What libraries read from the environment as they are loaded is set here, before any module of this
package can import them; children inherit it, and what the user has set stands.
"""

import os
import warnings

from ppcls_core.runtime.processor import processor_words

warnings.filterwarnings("ignore", message="No ccache found")  # nothing is compiled here
os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's own chatter on stderr
# Paddle's import sets it to 1 unless it is set; FAISS then finds the same setting.
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
if processor_words() >= {"AuthenticAMD", "avx2"}:
    # Paddle comes with Intel's MKL of 2019, which computes with SSE2 on AMD's processors unless it
    # is told that they have AVX2: training is two to three times faster (benchmarks/threads.py).
    os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
