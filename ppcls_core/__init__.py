"""Algorithms of SSLD distillation: models, data, engine, dedup, labels, deployment. No Prefect.

Paddle's import sets OMP_NUM_THREADS to 1 unless it is set, so every core is asked for here, before
any module of this package can import Paddle; FAISS then finds the same setting.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
