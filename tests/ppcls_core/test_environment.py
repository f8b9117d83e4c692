"""What the package sets in the environment before libraries are loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_core.runtime.processor import processor_words

CORE = "processor\t: {}\nvendor_id\t: {}\nmodel name\t: {}\nflags\t\t: fpu sse2 {}\n\n"


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", "avx avx2 bmi2", True),
        ("AuthenticAMD", "avx", False),  # it would end with an illegal instruction
        ("AuthenticAMD", "avx2x xavx2", False),
        ("GenuineIntel", "avx avx2 avx512f", False),
    ],
)
def test_amds_processors_with_avx2_are_known(
    tmp_path: Path, vendor: str, flags: str, expected: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("".join(CORE.format(core, vendor, "a name", flags) for core in range(2)))
    assert (processor_words(cpuinfo) >= {"AuthenticAMD", "avx2"}) is expected


def test_a_system_without_cpuinfo_is_left_alone(tmp_path: Path) -> None:
    assert processor_words(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(("name", "value"), [("MKL_DEBUG_CPU_TYPE", "4"), ("OMP_NUM_THREADS", "7")])
def test_what_the_user_has_set_stands(name: str, value: str) -> None:
    code = f"import os, ppcls_core; print(os.environ[{name!r}])"
    environment = os.environ | {name: value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == value
