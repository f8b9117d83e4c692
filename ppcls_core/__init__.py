"""Algorithms of SSLD distillation: models, data, engine, dedup, labels, deployment. No Prefect.

Paddle's import sets OMP_NUM_THREADS to 1 unless it is set, so every core is asked for here, before
any module of this package can import Paddle; FAISS then finds the same setting.
"""

import os
import warnings

warnings.filterwarnings("ignore", message="No ccache found")  # nothing is compiled here
os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's own chatter on stderr
os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
