"""Do the readers of files hold out against any bytes? Two engines damage good files of each kind.

    python benchmarks/fuzz.py --target tar --engine hypothesis --seconds 600

What is given is read or refused with the reader's own error, within MAX_SECONDS, MAX_MIB and
MAX_MESSAGE; anything else is a finding. The smallest input of each is kept in the folder, as is
`input`, the last one, should the process itself die. `hypothesis` damages as the tests do;
`atheris` follows the branches that inputs take: pip install atheris. Seconds are the processor's.

Printed are the executions, the ways that inputs took (tracebacks of refusals; for atheris the
inputs too that it kept for a new branch), and the findings. Exit status 1 if there were any.
"""

import argparse
import io
import os
import resource
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    import atheris
except ImportError:
    atheris = None
READERS = ("data_catalog", "ppcls_core", "csv", "pickle", "tarfile", "zipfile")
for name in READERS[2:]:  # to be imported anew, with what notes the branches
    sys.modules.pop(name, None)
with atheris.instrument_imports(include=READERS) if atheris else nullcontext():
    import cv2
    import numpy as np
    import onnx
    import pyarrow as pa
    import pyarrow.parquet as pq
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis import strategies as st
    from onnx import TensorProto, helper, numpy_helper
    from PIL import Image

    from data_catalog.base.config import load_yaml
    from data_catalog.base.errors import UserError
    from data_catalog.images.classes import read_classes
    from data_catalog.images.collect import find, headers_only
    from data_catalog.images.tars import read_tar
    from ppcls_core.data.decode import BadImage, decode
    from ppcls_core.data.transforms import Preprocess
    from ppcls_core.dedup.decisions import Decision, read_decisions
    from ppcls_core.inference.onnx_session import open_session
    from ppcls_core.inference.sidecar import Sidecar, read_sidecar
    from ppcls_core.labels.config import LabelFileConfig
    from ppcls_core.labels.table import import_labels
    from ppcls_core.models.weights.files import load_state, save_arrays
    from tests.ppcls_core.models.test_pytorch_files import archive, legacy, state_dict, tensor
    from tests.support.damage import damaged

MAX_SECONDS, MAX_MIB = 5, 512  # of the processor, and by which the process may grow, for one input
MAX_LENGTH = 20_000  # bytes of an input
MAX_MESSAGE = 1500  # characters of a refusal
ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2, np.int64)}


@dataclass(frozen=True)
class Target:
    """A reader: `read` it is called with a path, and raises `refusal` of what it does not take."""

    read: Callable[[Path], Any]
    seeds: Callable[[Path], Sequence[bytes]]  # good files, made with the help of a folder
    refusal: type[Exception] = UserError
    suffix: str = ""


def read_list(path: Path) -> None:
    for delimiter in (None, ","):
        find(path, path.parent, headers_only, lambda more: None, delimiter)


def read_members(path: Path) -> None:
    found, size = read_tar(path, with_contents=True), path.stat().st_size
    names = found.table["name"].to_pylist()
    assert len(set(names)) == len(names)
    assert found.damaged or names or found.passed_over
    for row in found.table.to_pylist():
        assert 0 <= row["offset"] <= row["offset"] + row["size"]
        assert row["offset"] + row["size"] <= size or found.damaged  # it ends within the image


def read_picture(path: Path) -> None:
    pixels = decode(path.read_bytes(), max_pixels=4_000_000)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def lists(folder: Path) -> list[bytes]:
    (folder / "a.jpg").write_bytes(pictures(".jpg")(folder)[0])
    (folder / "t.tar").write_bytes(tars(folder)[0])
    texts = ("a.jpg 0\nb c.jpg 12\n", "\ufeff./a.jpg,1\r\nt.tar/d/b.png,2\r\n", "t.tar/a.jpg\t3\n")
    return [text.encode() for text in texts]


def classes(folder: Path) -> list[bytes]:
    texts = ("tench, Tinca\nKäfer\ngoldfish\n", "\ufeff1: b\r\n0: a\r\n2\tc\r\n", "10 a\n")
    return [text.encode() for text in texts]


def tars(folder: Path) -> list[bytes]:
    """One in each of the two formats, with a tar within it, links and a name that is long."""
    found: list[bytes] = []
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as file:
            long = "d/" * 60 + "ü.jpg"
            for name in ("a.jpg", "d/b.png", long, *(["in.tar"] if found else [])):
                data = found[0] if name == "in.tar" else name.encode() * 9
                member = tarfile.TarInfo(name)
                member.size = len(data)
                file.addfile(member, io.BytesIO(data))
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
                member = tarfile.TarInfo(f"link{kind.decode()}.jpg")
                member.type, member.linkname = kind, "a.jpg"
                file.addfile(member)
        data = buffer.getvalue().rstrip(b"\0")
        found.append(data + bytes(1024 + -len(data) % 512))
    return found


def weights(name: str) -> Callable[[Path], list[bytes]]:
    def made(folder: Path) -> list[bytes]:
        save_arrays(folder / name, ARRAYS)
        return [(folder / name).read_bytes()]

    return made


def torch_files(folder: Path) -> list[bytes]:
    numbers = [("0", np.arange(6, dtype=np.float32).tobytes())]
    return [make(state_dict(w=tensor()), numbers) for make in (archive, legacy)]


def paddle1_tars(folder: Path) -> list[bytes]:
    save_arrays(folder / "net", ARRAYS)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as file:
        file.add(folder / "net", "net")
    return [buffer.getvalue()[:4096]]


def onnx_models(folder: Path) -> list[bytes]:
    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", *shape))
        for name, shape in (("x", (3, 4, 4)), ("y", (2,)))
    ]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["f"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["f", "w"], ["y"]),
    ]
    (folder / "w.bin").write_bytes(bytes(24))
    found = []
    for lies_outside in (False, True):
        if lies_outside:
            onnx.external_data_helper.set_external_data(weight, "w.bin", 0, 24)
            weight.ClearField("raw_data")
        graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
        opsets = [helper.make_opsetid("", 17)]
        found.append(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    return [model.SerializeToString() for model in found]


def pictures(*suffixes: str) -> Callable[[Path], list[bytes]]:
    def made(folder: Path) -> list[bytes]:
        noise = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
        pixels, exif = cv2.resize(noise, (30, 24)), Image.Exif()
        exif[0x10F], exif[0x112] = "a camera", 6
        found = [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in suffixes]
        for mode in ("L", "CMYK") if ".jpg" in suffixes else ():
            buffer = io.BytesIO()
            picture = Image.fromarray(pixels).convert(mode)
            picture.save(buffer, "JPEG", exif=exif, progressive=mode == "L")
            found.append(buffer.getvalue())
        return found

    return made


def recipes(folder: Path) -> list[bytes]:
    return [b"a: 1\nb: {c: [1, 2.5e-3, no], d: *e}\nf: &e |\n  text\n", b"- a\n- {b: ~}\n"]


def label_files(folder: Path) -> list[bytes]:
    return [b"image_id,y,x\na.jpg,0.5,-1e3\nb.jpg,1,2\n", b"\xef\xbb\xbfimage_id,x,y\r\na,1,2\r\n"]


def parquet_files(folder: Path) -> list[bytes]:
    outputs = pa.array([[0.5, 1.5], [2.0, -1.0]], pa.list_(pa.float32()))
    found = []
    for columns in ({"x": [0.5, 2.0], "y": [1.0, -1.0]}, {"out": outputs}):
        pq.write_table(pa.table({"image_id": ["a", "b"], **columns}), folder / "t")
        found.append((folder / "t").read_bytes())
    return found


def read_labels(path: Path) -> None:
    import_labels(LabelFileConfig(labels=str(path)), ("x", "y"), path.with_name("taken.parquet"))


def decisions(folder: Path) -> list[bytes]:
    decision = Decision(
        pool_id="a", val_id="b", pool_sha256="0" * 64, val_sha256="1" * 64, verdict="refused"
    )
    return [f"{decision.model_dump_json()}\n".encode() * 2]


def sidecars(folder: Path) -> list[bytes]:
    sidecar = Sidecar(architecture="Net", classes=("x", "y"), preprocess=Preprocess(size=32))
    return [sidecar.text().encode()]


OTHERS = (".png", ".webp", ".bmp", ".tiff", ".ppm", ".gif")
TARGETS = {
    "list": Target(read_list, lists, suffix=".txt"),
    "classes": Target(read_classes, classes, suffix=".txt"),
    "tar": Target(read_members, tars, suffix=".tar"),
    "pdparams": Target(load_state, weights("w.pdparams"), suffix=".pdparams"),
    "pth": Target(load_state, torch_files, suffix=".pth"),
    "safetensors": Target(load_state, weights("w.safetensors"), suffix=".safetensors"),
    "paddle1": Target(load_state, paddle1_tars, suffix=".tar"),
    "onnx": Target(lambda path: open_session(path, 1), onnx_models, suffix=".onnx"),
    "jpeg": Target(read_picture, pictures(".jpg"), BadImage),
    "picture": Target(read_picture, pictures(*OTHERS), BadImage),
    "labels": Target(read_labels, label_files, suffix=".csv"),
    "parquet": Target(read_labels, parquet_files, suffix=".parquet"),
    "decisions": Target(read_decisions, decisions, suffix=".jsonl"),
    "sidecar": Target(read_sidecar, sidecars, suffix=".json"),
    "yaml": Target(load_yaml, recipes, suffix=".yaml"),
}


class TooSlow(BaseException):
    """No `except Exception` of a reader takes it for its own."""


def give_up(number: int, frame: Any) -> None:
    """Handler of the timer of one reading."""
    raise TooSlow(f"more than {MAX_SECONDS} s")


@dataclass
class Trial:
    """Gives inputs to a reader, and keeps what should not have happened."""

    target: Target
    folder: Path
    seconds: float
    executions: int = 0
    ways: set[tuple[Any, ...]] = field(default_factory=set)
    findings: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = self.folder / f"input{self.target.suffix}"
        self.until = time.process_time() + self.seconds
        signal.signal(signal.SIGPROF, give_up)

    @property
    def is_over(self) -> bool:
        return time.process_time() > self.until

    def __call__(self, data: bytes) -> None:
        """Give one input."""
        self.executions += 1
        self.path.write_bytes(data)
        before = memory()
        try:
            signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
            self.target.read(self.path)
            signal.setitimer(signal.ITIMER_PROF, 0)
        except (Exception, TooSlow) as error:  # noqa: BLE001 - those are what is sought
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._judge(error, data)
        if (grown := memory() - before) > MAX_MIB:
            self._find(("memory",), data, f"the process grew by {grown:.0f} MiB")

    def _judge(self, error: BaseException, data: bytes) -> None:
        cause = error.__cause__ or error
        way = tuple((f.filename, f.lineno) for f in traceback.extract_tb(cause.__traceback__))
        self.ways.add(way)
        if not isinstance(error, self.target.refusal):
            self._find((type(error), way[-1:]), data, "".join(traceback.format_exception(error)))
        elif len(text := str(error)) > MAX_MESSAGE:
            self._find(("words", way[-1:]), data, f"{len(text):,} characters: {text[:500]!a}")

    def _find(self, kind: tuple[Any, ...], data: bytes, told: str) -> None:
        """Keep the smallest input of this kind of finding."""
        number = [*self.findings, kind].index(kind)
        kept = self.folder / f"finding-{number}{self.target.suffix}"
        if kind not in self.findings or len(data) < kept.stat().st_size:
            self.findings[kind] = told
            kept.write_bytes(data)
            kept.with_suffix(".txt.why").write_text(told, errors="backslashreplace")


def memory() -> float:
    """The most that this process has held, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def by_hypothesis(trial: Trial, seeds: Sequence[bytes]) -> None:
    """Inputs that are damaged at random, a thousand a round."""
    number = 0
    while not trial.is_over:

        @seed(number)
        @settings(
            max_examples=1000, database=None, deadline=None, suppress_health_check=[*HealthCheck]
        )
        @given(st.sampled_from(seeds).flatmap(damaged))
        def give(data: bytes) -> None:
            if not trial.is_over:
                trial(data)

        give()
        number += 1


def by_atheris(trial: Trial, seeds: Sequence[bytes], end: Callable[[int], None]) -> None:
    """Inputs that grow from those which took a new branch; libFuzzer never returns."""
    corpus = trial.folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(data)

    def give(data: bytes) -> None:
        trial(data)
        if trial.is_over:
            end(len([*corpus.iterdir()]) - len(seeds))

    limits = (f"-max_len={MAX_LENGTH}", "-len_control=0", "-rss_limit_mb=0", "-timeout=1000000")
    prefix = f"-artifact_prefix={trial.folder}/"
    atheris.Setup([sys.argv[0], str(corpus), *limits, prefix, "-verbosity=0"], give)
    atheris.Fuzz()


def main() -> None:
    """Damage, read, tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--folder", type=Path, default=Path("work/fuzz"))
    given = parser.parse_args()
    if given.engine == "atheris" and atheris is None:
        parser.error("atheris is not installed: pip install atheris, or --engine hypothesis")
    folder = given.folder / given.target
    folder.mkdir(parents=True, exist_ok=True)
    target = TARGETS[given.target]
    seeds = target.seeds(folder)
    trial = Trial(target, folder, given.seconds)
    for data in seeds:
        trial(data)

    def end(kept: int = 0) -> None:
        new = f", {kept:,} inputs kept" if kept else ""
        print(
            f"{given.target} by {given.engine}: {given.seconds:.0f} s, {trial.executions:,} "
            f"executions, {len(trial.ways):,} ways to be refused{new}, "
            f"{len(trial.findings)} findings",
            *trial.findings.values(),
            sep="\n",
            flush=True,
        )
        os._exit(bool(trial.findings))  # libFuzzer has no other end

    if given.engine == "atheris":
        by_atheris(trial, seeds, end)
    by_hypothesis(trial, seeds)
    end()


if __name__ == "__main__":
    main()
