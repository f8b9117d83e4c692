"""What the programs are given that they cannot use, and what they say: cases and their page.

    python -m tests.support.bad_input   # writes docs/bad_input.md anew

Each case lies in a folder of good files of which some are replaced. Commands run in this process.
"""

import contextlib
import http.client
import io
import json
import os
import pickle
import shlex
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from flows.cli import main as ssld
from ppcls_core.cli.app import main as ppcls
from ppcls_core.jobs.job import load_job
from ppcls_core.models.registry import build_model
from ppcls_core.models.weights.files import save_arrays
from ppcls_core.models.weights.state import state_of
from tests.conftest import PROJECT, TINY
from tests.support.images import write_jpeg
from tests.support.stand_in import Running, encoded

PAGE = PROJECT / "docs" / "bad_input.md"
Content = bytes | str | Callable[[Path], object] | None  # None: there is no such file


@dataclass(frozen=True)
class Case:
    """`files` in place of good ones, a `command`, and the end that is expected of it.

    `names` is of what was got, and stands in what is said.
    """

    given: str
    command: str
    names: str
    files: Mapping[str, Content] = field(default_factory=dict)
    status: int = 2

    def said(self, folder: Path) -> tuple[int, str]:
        """(exit status, what is printed) in `folder`, which is made."""
        make_good(folder)
        for name, content in self.files.items():
            put(folder / name, content)
        with contextlib.chdir(folder), mock.patch.dict(os.environ, SSLD_HOME="home"):
            status, text = run(shlex.split(self.command))
        return status, text.replace(f"{folder}/", "").replace(str(folder), ".").strip()


@dataclass(frozen=True)
class Request:
    """A request to `ppcls serve`, and the status that is expected."""

    given: str
    method: str
    target: str
    names: str
    status: int
    body: bytes = b""
    kind: str = "application/json"

    @property
    def command(self) -> str:
        return f"{self.method} {self.target}"

    def said(self, server: Running) -> tuple[int, str]:
        """(status, body) of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=100)
        headers = {"Content-Type": self.kind} if self.body else {}
        connection.request(self.method, self.target, self.body or None, headers)
        answer = connection.getresponse()
        with contextlib.closing(connection):
            return answer.status, answer.read().decode()


PROGRAMS: dict[str, Callable[[], object]] = {"ssld": ssld, "ppcls": ppcls}


def run(words: list[str]) -> tuple[int, str]:
    """(exit status, all that is printed but results) of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.argv", words),
        # A mistake is told before Prefect starts, or not at all.
        mock.patch("flows.commands.reachable_server", side_effect=AssertionError("taken for good")),
    ):
        try:
            PROGRAMS[words[0]]()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    results = [line for line in out.getvalue().splitlines() if "probability" not in line]
    return status, "\n".join([*results, err.getvalue()])


# ---- good files

MODEL = "{name: ResNet18_vd, spec: {depths: [1, 1, 1, 1], width: 4}}"
DATA = {"root": ".", "train": "train.txt", "val": "val.txt", "pool": "pool", "classes": "names.txt"}
JOB = f"""model: {MODEL}
num_classes: 3
train: {{list: train.txt, root: .}}
val: {{list: val.txt, root: .}}
training: {{epochs: 1, batch_size: 2, image_size: 32}}
preprocess: {{size: 32}}
workers: 1
"""
RECIPE = TINY.read_text().replace("few.yaml", "data.yaml").replace("size: 8", "size: 2")
TRAIN = "pool/0.jpg 0\npool/1.jpg 1\npool/2.jpg 2\n"
_weights: dict[str, np.ndarray] = {}


def make_good(folder: Path) -> None:
    """Images, lists, class names, a recipe, a job and its weights."""
    (folder / "pool").mkdir(parents=True)
    for row in range(4):
        write_jpeg(folder / "pool" / f"{row}.jpg", row, 64, 80)
    put(folder / "val" / "v.jpg", encoded("red"))
    put(folder / "train.txt", TRAIN)
    put(folder / "val.txt", "val/v.jpg 0\npool/3.jpg 1\n")
    put(folder / "names.txt", "one\ntwo\nthree\n")
    put(folder / "data.yaml", data())
    put(folder / "my.yaml", RECIPE)
    put(folder / "job.yaml", JOB)
    if not _weights:
        job = load_job(folder / "job.yaml", [])
        network = build_model(job.model.name, num_classes=3, spec=job.model.spec)
        _weights.update(state_of(network))
    save_arrays(folder / "w.pdparams", _weights)


def data(**changed: str) -> str:
    """A data set's file; a setting that is "" is left out."""
    return "".join(f"{key}: {value}\n" for key, value in (DATA | changed).items() if value)


def put(path: Path, content: Content) -> None:
    """Make the file `path`, or remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.unlink()
    elif callable(content):
        content(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def folder(path: Path) -> None:
    """A folder in a file's place."""
    path.unlink(missing_ok=True)
    path.mkdir()


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 999)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def image(suffix: str, pixels: np.ndarray) -> bytes:
    """`pixels` (BGR) as a file's bytes."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def cmyk() -> bytes:
    """A JPEG of four inks."""
    from PIL import Image

    stream = io.BytesIO()
    Image.new("CMYK", (40, 40), (10, 200, 30, 5)).save(stream, "JPEG")
    return stream.getvalue()


def tar_of(names: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar of files with these contents."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zip_of(names: Mapping[str, bytes], how: int) -> bytes:
    """A zip archive of files with these contents."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", how) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return stream.getvalue()


def onnx_beside(path: Path) -> None:
    """An ONNX model whose tensor lies in a file that is not there."""
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], [0.0, 0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph([], "g", [port], [port], [tensor])
    path.write_bytes(helper.make_model(graph).SerializeToString())


class Run:
    """An object whose pickle would run a command."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


def safetensors(header: object, data: bytes = b"") -> bytes:
    """A file with that header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def labels(rows: str, names: str = "image_id,one,two,three") -> dict[str, Content]:
    """A CSV of labels, and a recipe whose teacher it is."""
    return {"my.yaml": taught(labels="labels.csv"), "labels.csv": f"{names}\n{rows}"}


def parquet(path: Path) -> None:
    """A file of labels, half of it."""
    pq.write_table(pa.table({"image_id": ["a"], **{n: [0.0] for n in ("one", "two")}}), path)
    cut(path)


# ---- cases

RUN, TRAINING = "ssld run my.yaml", "ppcls train -c job.yaml"
CONVERT, INFER = "ppcls convert {} out.safetensors", "ppcls infer job.yaml --weights w.pdparams {}"
SEEN = INFER + " --format json"
SEARCH = "ppcls dedup pool --against val --out found"


REPLAYED = {"teacher": "replay", "teacher_batch_norm": "running"}


def taught(**teacher: object) -> str:
    """The recipe with a teacher in a file."""
    recipe = yaml.safe_load(RECIPE) | {"teacher": teacher}
    for training in ("distill", "finetune"):  # of outputs that are stored
        recipe[training] = recipe[training] | REPLAYED
    return json.dumps(recipe)


ONNX = {"my.yaml": taught(onnx="t.onnx", preprocess={"size": 32})}
CASES: dict[str, list[Case]] = {
    "Data sets": [
        Case("a file that is not there", RUN, "data.yaml", {"data.yaml": None}),
        Case("a misspelt setting", RUN, "clases", {"data.yaml": data() + "clases: names.txt\n"}),
        Case("no split", RUN, "train, val and pool", {"data.yaml": "root: .\n"}),
        Case("a root that is not there", RUN, "gone", {"data.yaml": data(root="gone")}),
        Case("a variable that is not set", RUN, "GARDEN", {"data.yaml": data(root="${GARDEN}")}),
        Case("a list that is not there", RUN, "gone.txt", {"data.yaml": data(val="gone.txt")}),
        Case(
            "an image as a list",
            RUN,
            "val.jpg",
            {"data.yaml": data(val="val.jpg"), "val.jpg": encoded("red")},
        ),
        Case("no validation images", RUN, "val", {"data.yaml": data(val="")}),
    ],
    "Class folders": [
        Case(
            "numbers with a gap",
            RUN,
            "0 to 2",
            {
                "data.yaml": data(train="c", classes=""),
                "c/0/a.jpg": encoded("red"),
                "c/2/a.jpg": encoded("blue"),
            },
        ),
        Case(
            "no image in them",
            RUN,
            "c",
            {
                "data.yaml": data(train="c"),
                "c/one/readme": "text",
            },
        ),
        Case(
            "a compressed tar of a class",
            RUN,
            "two.tar.gz",
            {
                "data.yaml": data(train="c", val="c", classes=""),
                "c/one/a.jpg": encoded("red"),
                "c/two.tar.gz": tar_of({"a.jpg": encoded("red")}, "w:gz"),
            },
        ),
        Case(
            "names that `classes` does not have",
            RUN,
            "four",
            {
                "data.yaml": data(train="c"),
                "c/four/a.jpg": encoded("red"),
            },
        ),
    ],
    "Lists": [
        Case("nothing", RUN, "val.txt", {"val.txt": ""}),
        Case("UTF-16", RUN, "UTF-16", {"val.txt": TRAIN.encode("utf-16")}),
        Case("bytes that are no text", RUN, "val.txt", {"val.txt": bytes(range(256))}),
        Case("an absolute path", RUN, "/pool/0.jpg", {"val.txt": "/pool/0.jpg 0\n"}),
        Case("a path twice", RUN, "pool/0.jpg", {"val.txt": "pool/0.jpg 0\npool/0.jpg 1\n"}),
        Case("a comma before the label", RUN, ",", {"val.txt": "pool/0.jpg,0\npool/1.jpg,1\n"}),
        Case("quotes", RUN, '"pool/0.jpg"', {"val.txt": '"pool/0.jpg" 0\n'}),
        Case("a line without a label", RUN, "val.txt:2", {"val.txt": "pool/0.jpg 0\npool/1.jpg\n"}),
        Case("a label that is a word", RUN, "dog", {"val.txt": "pool/0.jpg dog\n"}),
        Case("a label with a sign", RUN, "+1", {"val.txt": "pool/0.jpg +1\n"}),
        Case("a label of no class", RUN, "3", {"val.txt": "pool/0.jpg 3\n"}),
        Case(
            "images that are not there", TRAINING, "missing: 2", {"val.txt": "a.jpg 0\nb.jpg 1\n"}
        ),
    ],
    "Tars": [
        Case(
            "a compressed one",
            RUN,
            "pool.tar.gz",
            {
                "data.yaml": data(pool="pool.tar.gz"),
                "pool.tar.gz": tar_of({"a.jpg": encoded("red")}, "w:gz"),
            },
        ),
        Case(
            "a text called .tar",
            RUN,
            "pool.tar",
            {
                "data.yaml": data(pool="pool.tar"),
                "pool.tar": "<html>not found</html>",
            },
        ),
        Case(
            "one of texts",
            RUN,
            "pool.tar",
            {
                "data.yaml": data(pool="pool.tar"),
                "pool.tar": tar_of({"a.txt": b"text"}),
            },
        ),
    ],
    "Class names": [
        Case("a file that is not there", RUN, "names.txt", {"names.txt": None}),
        Case("nothing", RUN, "names.txt", {"names.txt": "\n"}),
        Case("bytes that are no UTF-8", RUN, "names.txt", {"names.txt": b"K\xe4fer\ntench\n"}),
        Case("a blank line", RUN, "names.txt:2", {"names.txt": "one\n\ntwo\n"}),
        Case("a name twice", RUN, "'one'", {"names.txt": "one\ntwo\none\n"}),
        Case("numbers with a gap", RUN, "number 3", {"names.txt": "0 one\n1 two\n3 three\n"}),
        Case("fewer than the labels", RUN, "2", {"names.txt": "one\ntwo\n"}),
    ],
    "Recipes": [
        Case("a name that nothing has", "ssld run demmo", "demmo"),
        Case("a misspelt setting", f"{RUN} --set distil.epochs=3", "distil"),
        Case("one below a section", f"{RUN} --set distill.epoch=3", "'distill.epochs'"),
        Case("a text for a number", f"{RUN} --set distill.epochs=many", "many"),
        Case("a number out of range", f"{RUN} --set select.k=0", "select.k"),
        Case("an override without a value", f"{RUN} --set distill.epochs", "distill.epochs"),
        Case("a batch of more than there are", f"{RUN} --set baseline.batch_size=9", "3 images"),
        Case("an unknown network", f"{RUN} --set student.name=ResNet19", "ResNet19"),
        Case("no YAML", RUN, "my.yaml", {"my.yaml": "data: [few.yaml\n"}),
        Case("no settings", RUN, "my.yaml", {"my.yaml": "just text\n"}),
        Case("a key twice", RUN, "select", {"my.yaml": RECIPE + "select: {k: 3}\n"}),
        Case("a number in eights", RUN, "010", {"my.yaml": RECIPE + "seed: 010\n"}),
        Case(
            "a bomb of aliases",
            RUN,
            "20,000",
            {
                "my.yaml": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
                + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)),
            },
        ),
        Case("a hundred kilobytes", RUN, "my.yaml", {"my.yaml": "# text\n" * 15_000}),
        Case("a folder", RUN, "my.yaml", {"my.yaml": folder}),
        Case(
            "a network that needs larger images", RUN + " --set student='{name: InceptionV4}'", "32"
        ),
    ],
    "Jobs and PaddleClas's files": [
        Case("a recipe of the pipeline", "ppcls train -c my.yaml", "my.yaml"),
        Case(
            "a record of a training",
            "ppcls train -c job.json",
            "job.json",
            {"job.json": '{"inputs": {}}'},
        ),
        Case(
            "a setting that PaddleClas would pass over",
            "ppcls train -c old.yaml",
            "epoch",
            {"old.yaml": "ARCHITECTURE: {name: ResNet50_vd}\nepoch: 3\n"},
        ),
        Case(
            "PaddleClas's form of mid-2021 on",
            "ppcls train -c new.yaml",
            "mid-2021",
            {"new.yaml": "Global: {epochs: 3}\nArch: {name: ResNet50}\nLoss: {Train: []}\n"},
        ),
        Case(
            "a transform that is none",
            "ppcls train -c ResNet/ResNet50_vd -o TRAIN.transforms='[{Blur: null}]'",
            "Blur",
        ),
        Case("images of 8,000 pixels", f"{TRAINING} -o training.image_size=8000", "8000"),
        Case(
            "a folder of another training",
            TRAINING,
            "output/ResNet18_vd",
            {"output/ResNet18_vd/job.json": "{}", "output/ResNet18_vd/best.pdparams": "x"},
        ),
        Case(
            "its record damaged",
            TRAINING,
            "its record is damaged",
            {"output/ResNet18_vd/job.json": '{"inp', "output/ResNet18_vd/best.pdparams": "x"},
        ),
        Case("its record gone", TRAINING, "job.json", {"output/ResNet18_vd/last.pdckpt": "x"}),
    ],
    "Weights": [
        Case("a file that is not there", CONVERT.format("gone.pdparams"), "gone.pdparams"),
        Case("half a file", CONVERT.format("w.pdparams"), "w.pdparams", {"w.pdparams": cut}),
        Case(
            "a page that says 404",
            CONVERT.format("w.pdparams"),
            "w.pdparams",
            {"w.pdparams": "<html>404 not found</html>"},
        ),
        Case(
            "a pickle that would run a command",
            CONVERT.format("w.pth"),
            "system",
            {"w.pth": pickle.dumps({"w": Run()})},
        ),
        Case("no dict of tensors", CONVERT.format("w.pth"), "list", {"w.pth": pickle.dumps([1])}),
        Case(
            "a zip of another kind",
            CONVERT.format("w.pth"),
            "zip",
            {"w.pth": zip_of({"a.txt": b"text"}, zipfile.ZIP_STORED)},
        ),
        Case(
            "a compressed zip",
            CONVERT.format("w.pth"),
            "compressed",
            {"w.pth": zip_of({"net/data.pkl": b"0" * 99}, zipfile.ZIP_DEFLATED)},
        ),
        Case(
            "a header that says more than there is",
            CONVERT.format("w.safetensors"),
            "w.safetensors",
            {
                "w.safetensors": safetensors(
                    {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
                )
            },
        ),
        Case(
            "a type that no network has",
            CONVERT.format("w.safetensors"),
            "F8_E4M3",
            {
                "w.safetensors": safetensors(
                    {"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"0"
                )
            },
        ),
        Case("an empty folder", CONVERT.format("w"), "w", {"w.pdparams": None, "w": folder}),
        Case(
            "those of another network",
            INFER.format("pool/0.jpg -o model.spec.width=8"),
            "w.pdparams",
        ),
        Case("a suffix that is none", "ppcls convert w.pdparams out.h5", "out.h5"),
    ],
    "Exported models and ONNX": [
        Case("a folder of something else", "ppcls predict pool x.jpg", "inference.json"),
        Case(
            "a sidecar that is no JSON",
            "ppcls py-infer net x.jpg",
            "sidecar.json",
            {"net/sidecar.json": "{", "net/inference.json": "", "net/inference.pdiparams": ""},
        ),
        Case(
            "files that do not belong together",
            "ppcls py-infer net x.jpg",
            "sidecar.json",
            {
                "net/sidecar.json": '{"architecture": "ResNet50", "classes": ["one"], '
                '"preprocess": {"size": 32}}',
                "net/inference.json": "",
                "net/inference.pdiparams": "",
            },
        ),
        Case("a recipe that has exported nothing yet", "ppcls predict my.yaml x.jpg", "my.yaml"),
        Case(
            "a recipe's name misspelt",
            "ppcls predict myy x.jpg",
            "did you mean 'my'",
        ),
        Case("a model's name misspelt", "ppcls export ResNet19 --out net", "ResNet19"),
        Case("a teacher that is no ONNX", RUN, "t.onnx", ONNX | {"t.onnx": "<html>"}),
        Case("an ONNX file without its tensors", RUN, "w.bin", ONNX | {"t.onnx": onnx_beside}),
        Case(
            "one without its preprocessing",
            RUN,
            "preprocess",
            {"my.yaml": taught(onnx="t.onnx"), "t.onnx": "<html>"},
        ),
    ],
    "Images": [
        Case("a file that is not there", SEEN.format("gone.jpg"), "missing", status=1),
        Case("0 bytes", SEEN.format("a.jpg"), "empty", {"a.jpg": b""}, 1),
        Case("half a file", SEEN.format("pool/0.jpg"), "truncated", {"pool/0.jpg": cut}, 1),
        Case("a page called .jpg", SEEN.format("a.jpg"), "not_an_image", {"a.jpg": "<html>"}, 1),
        Case(
            "a bomb: 60,000 x 60,000",
            SEEN.format("a.png"),
            "decompression_bomb",
            {"a.png": png(60_000, 60_000)},
            1,
        ),
        Case(
            "8 x 8 pixels",
            SEEN.format("a.png"),
            "too_small",
            {"a.png": image(".png", np.zeros((8, 8, 3), np.uint8))},
            1,
        ),
        Case(
            "a PNG without its rows", SEEN.format("a.png"), "truncated", {"a.png": png(64, 64)}, 1
        ),
        Case(
            "a PNG called .jpg",
            SEEN.format("a.jpg"),
            "1 predicted",
            {"a.jpg": encoded("red", ".png")},
            0,
        ),
        Case("CMYK", SEEN.format("a.jpg"), "1 predicted", {"a.jpg": cmyk()}, 0),
        Case(
            "16 bits a sample",
            SEEN.format("a.png"),
            "1 predicted",
            {"a.png": image(".png", np.full((40, 40, 3), 40_000, np.uint16))},
            0,
        ),
        Case("a folder without images", SEEN.format("texts"), "texts", {"texts/a.txt": "text"}),
    ],
    "Files of labels": [
        Case("no row", RUN, "labels.csv", labels("")),
        Case("no column of ids", RUN, "image_id", labels("1,2\n", "a,one")),
        Case(
            "other classes",
            RUN,
            "'three'",
            labels("a,1,2\n", "image_id,one,two"),
        ),
        Case("rows out of order", RUN, "row 2", labels("b,1,2,3\na,1,2,3\n")),
        Case("an id twice", RUN, "row 2", labels("a,1,2,3\na,1,2,3\n")),
        Case("NaN", RUN, "row 1", labels("a,1,nan,3\n")),
        Case("a word for a number", RUN, "labels.csv", labels("a,1,high,3\n")),
        Case(
            "probabilities that nobody called so",
            RUN,
            "row 1",
            labels("a,0.2,0.3,0.5\nb,0.1,0.1,0.8\n"),
        ),
        Case(
            "half a Parquet file",
            RUN,
            "labels.parquet",
            {"my.yaml": taught(labels="labels.parquet"), "labels.parquet": parquet},
        ),
    ],
    "The duplicate search, decisions and removal lists": [
        Case("a pool that is not there", "ppcls dedup gone --against val --out found", "gone"),
        Case("a folder of other things", SEARCH, "found", {"found/a.txt": "text"}),
        Case("validation images that cannot be read", SEARCH, "val", {"val/v.jpg": "<html>"}),
        Case("decisions that are not there", f"{SEARCH} -o reviewed=gone.jsonl", "gone.jsonl"),
        Case(
            "decisions that are no JSON",
            f"{SEARCH} -o reviewed=r.jsonl",
            "r.jsonl:1",
            {"r.jsonl": "yes\n"},
        ),
        Case(
            "a verdict that is none",
            f"{SEARCH} -o reviewed=r.jsonl",
            "maybe",
            {
                "r.jsonl": json.dumps(
                    {
                        "pool_id": "a",
                        "val_id": "b",
                        "pool_sha256": "0" * 64,
                        "val_sha256": "0" * 64,
                        "verdict": "maybe",
                    }
                )
                + "\n"
            },
        ),
        Case(
            "a removal list that is no JSON",
            "ppcls dedup pool --against val --verify removed.json",
            "removed.json",
            {"removed.json": "{"},
        ),
        Case(
            "one of another format",
            "ppcls dedup pool --against val --verify removed.json",
            "removed.json",
            {"removed.json": '{"format": 3}'},
        ),
        Case(
            "one that lacks its parts",
            "ppcls dedup pool --against val --verify removed.json",
            "removed.json",
            {"removed.json": '{"format": 4}'},
        ),
    ],
    "Stores": [
        Case("a file in the store's place", RUN, "home", {"home": "text"}),
        Case("a folder without labels", "ppcls labels pool", "pool"),
        Case(
            "a shard of labels that is cut",
            "ppcls labels l",
            "shard-00000.labels.parquet",
            {"l/shard-00000.labels.parquet": parquet},
        ),
        Case(
            "Parquet that holds no labels",
            "ppcls labels l",
            "shard-00000.labels.parquet",
            {
                "l/shard-00000.labels.parquet": lambda path: pq.write_table(
                    pa.table({"a": [1]}), path
                )
            },
        ),
        Case("a search's folder without a result", "ppcls dedup --review pool", "pool"),
    ],
}

FORM = "multipart/form-data; boundary=b"


def form(content: bytes, name: str = "image") -> bytes:
    """A form of one file."""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


RED = encoded("red")
REQUESTS = [
    Request("no image", "POST", "/predict", "no image", 422, b'{"images": []}'),
    Request("no JSON", "POST", "/predict", "the body", 400, b'{"images": ['),
    Request("no base64", "POST", "/predict", "base64", 400, b'{"images": ["%%%"]}'),
    Request("another kind of body", "POST", "/predict", "text/plain", 415, b"hello", "text/plain"),
    Request("a form that ends too soon", "POST", "/predict", "ends", 400, form(RED)[:-6], FORM),
    Request("another field", "POST", "/predict", "photo", 422, form(RED, "photo"), FORM),
    Request("half an image", "POST", "/predict", "truncated", 400, form(RED[:-4]), FORM),
    Request("no image's bytes", "POST", "/predict", "not_an_image", 400, form(b"<html>"), FORM),
    Request("a bomb", "POST", "/predict", "decompression_bomb", 413, form(png(9999, 9999)), FORM),
    Request("a body over the limit", "POST", "/predict", "bytes", 413, form(bytes(20_000)), FORM),
    Request("a query that is none", "POST", "/predict?topk=3", "topk", 422, form(RED), FORM),
    Request("a word for a number", "POST", "/predict?top_k=all", "all", 422, form(RED), FORM),
    Request("another method", "GET", "/predict", "GET", 405),
    Request("another path", "GET", "/classify", "/classify", 404),
]
LIMITS = {"max_body_bytes": 16_384}  # of the server that answers them

# ---- the page

HEAD = """# Bad input

What the programs say where they are given something that they cannot use: the cases of
tests/support/bad_input.py, as they are said. A mistake ends a command with status 2 before anything
is written; an image that cannot be read is a row with the reason, and the status is 1.
"""


def row(case: Case | Request, status: int, text: str) -> str:
    """A row of the page's tables."""
    cells = (case.given, f"`{case.command}`", str(status), f"`` {' '.join(text.split())} ``")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page(rows: Mapping[str, list[str]]) -> str:
    """The page with these rows, by door."""
    parts = [HEAD]
    for door, lines in rows.items():
        status = "status" if door == SERVER else "exit"
        parts += [f"\n## {door}\n\n| given | to | {status} | said |\n|---|---|---|---|\n"]
        parts += [f"{line}\n" for line in lines]
    return "".join(parts)


SERVER = "Requests to `ppcls serve`"


def main() -> None:
    """Write the page anew."""
    from tests.support.stand_in import running

    rows: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as place:
        for door, cases in CASES.items():
            rows[door] = [
                row(case, *case.said(Path(place, door, str(number))))
                for number, case in enumerate(cases)
            ]
    with running(**LIMITS) as server:
        rows[SERVER] = [row(request, *request.said(server)) for request in REQUESTS]
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
