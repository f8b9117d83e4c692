"""Does a server survive what no client should send? Every such request has to get a 4xx.

    python benchmarks/serving_fuzz.py [--num 10000]

A small network with random weights is exported and served by `ppcls serve` in its own process,
with short time limits. The requests are made by hand over sockets, several at a time, each kind in
turn: images cut short, bombs, wrong types, huge bodies, forms, JSON and headers that are broken,
lengths that lie, slow and vanishing senders. Between them, proper requests have to be answered.
Printed are the answers by kind ("closed": the connection was closed without one), and the server's
memory, file descriptors and threads before (after a first round, which fills caches) and after.
Exit status 1 if anything else than a 4xx came, or the server died or grew.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

MAX_BODY, SECONDS = 2**20, 1.0  # the server's limits
LIMITS = (
    f"max_body_bytes={MAX_BODY}",
    f"header_seconds={SECONDS}",
    f"body_seconds={SECONDS}",
    "max_connections=64",
)
TOKEN = "0123456789abcdef0123456789abcdef"
SENDERS = 12
GROWTH_MIB, GROWTH_FILES = 64, 5
BOUNDARY = "frontier"


@dataclass(frozen=True)
class Case:
    """Bytes to send, and what to do after that."""

    data: bytes
    then: str = "wait"  # for an answer; or "half": close for sending; "gone": close altogether
    pause: float = 0  # seconds before each byte of `rest`
    rest: bytes = b""


Make = Callable[[random.Random], Case]


def request(body: bytes, content_type: str, *headers: str, target: str = "/predict") -> bytes:
    lines = [
        f"POST {target} HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {TOKEN}",
        f"Content-Type: {content_type}",
        *headers,
    ]
    if not any(line.lower().startswith(("content-length", "transfer-enc")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def part(data: bytes, head: str = 'Content-Disposition: form-data; name="image"') -> bytes:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode("latin-1") + data + b"\r\n"


def form(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return b"".join(parts) + end


FORM = f"multipart/form-data; boundary={BOUNDARY}"


def with_image(data: bytes, rng: random.Random) -> Case:
    """A proper request around `data`, as a form or as JSON."""
    if rng.random() < 0.5:
        return Case(request(form(part(data)), FORM))
    return with_json({"images": [base64.b64encode(data).decode()]})


def with_json(value: object) -> Case:
    return Case(request(json.dumps(value).encode(), "application/json"))


def encoded(suffix: str) -> bytes:
    small = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return cv2.imencode(suffix, cv2.resize(small, (160, 120)))[1].tobytes()


IMAGES = {suffix: encoded(suffix) for suffix in (".jpg", ".png", ".webp")}


def truncated(suffix: str) -> Make:
    def make(rng: random.Random) -> Case:
        data = IMAGES[suffix]
        return with_image(data[: rng.randrange(int(0.9 * len(data)))], rng)

    return make


def jpeg_bomb(rng: random.Random) -> Case:
    data = bytearray(IMAGES[".jpg"])
    at = data.find(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 50_000, 50_000)
    return with_image(bytes(data), rng)


def png_bomb(rng: random.Random) -> Case:
    def chunk(name: bytes, content: bytes) -> bytes:
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(150_001 * rng.randrange(1, 4)))
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return with_image(b"\x89PNG\r\n\x1a\n" + chunks, rng)


def other_bomb(rng: random.Random) -> Case:
    side = struct.pack("<I", 49_999)[:3]
    webp = b"WEBPVP8X" + struct.pack("<IBxxx", 10, 0) + side + side
    bmp = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6
    )
    gif = b"GIF89a" + struct.pack("<HHBBB", 50_000, 50_000, 0x80, 0, 0) + bytes(6) + b";"
    riff = b"RIFF" + struct.pack("<I", len(webp)) + webp
    return with_image(rng.choice([riff, bmp, gif, b"P6 50000 50000 255\n" + bytes(100)]), rng)


def scan_bomb(rng: random.Random) -> Case:
    data = cv2.imencode(
        ".jpg", np.zeros((2000, 2000, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    )[1].tobytes()
    last = data[data.rfind(b"\xff\xda") : -2]
    return with_image(data[:-2] + last * rng.randrange(1000, 5000) + b"\xff\xd9", rng)


def other_file(rng: random.Random) -> Case:
    files = [b"", b"%PDF-1.7 ...", b"PK\3\4" + bytes(60), b"<svg/>", b"\xff\xd8\xff\xd9", b"BM"]
    starts = [
        b"",
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBP",
        b"II*\0",
    ]
    noise = rng.choice(starts) + rng.randbytes(rng.randrange(300))
    return with_image(rng.choice([*files, noise, noise]), rng)


def wrong_type(rng: random.Random) -> Case:
    kinds = ["", "text/plain", "image/jpeg", "application/x-www-form-urlencoded", "*/*", ";;=;"]
    if rng.random() < 0.3:
        head = 'Content-Disposition: form-data; name="image"\r\nContent-Type: text/html'
        return Case(request(form(part(IMAGES[".jpg"], head)), FORM))
    if rng.random() < 0.2:
        return Case(request(form(part(IMAGES[".jpg"])), FORM, "Content-Encoding: gzip"))
    return Case(request(IMAGES[".jpg"], rng.choice(kinds)))


def huge_body(rng: random.Random) -> Case:
    body = bytes(MAX_BODY + rng.randrange(1, 2**20))
    kind = rng.randrange(4)
    if kind == 0:
        return Case(request(b"", FORM, f"Content-Length: {10 ** rng.randrange(8, 19)}"))
    if kind == 1:
        return Case(request(form(part(body)), FORM))
    if kind == 2:
        chunks = b"%x\r\n%b\r\n" % (len(body), body)
        return Case(request(chunks + b"0\r\n\r\n", FORM, "Transfer-Encoding: chunked"))
    return with_json({"images": [body.decode()]})


def many_chunks(rng: random.Random) -> Case:
    body = b"1\r\nx\r\n" * rng.randrange(1, 20_000) + b"0\r\n\r\n"
    return Case(request(body, FORM, "Transfer-Encoding: chunked"))


def broken_form(rng: random.Random) -> Case:
    jpeg = IMAGES[".jpg"]
    bodies = [
        form(),
        form(part(jpeg), end=b""),
        form(part(jpeg), end=b"--frontie--\r\n"),
        b"prose before" + form(part(jpeg)),
        form(part(jpeg)[: rng.randrange(60)]),
        form(*[part(jpeg)] * rng.randrange(33, 200)),
        form(*[part(b"")] * 5000),
        form(part(jpeg, "X: " + "y" * rng.randrange(5000, 50_000))),
        form(part(jpeg, "")),
        form(part(jpeg).replace(b"\r\n", b"\n")),
        rng.randbytes(rng.randrange(2000)),
        b"\r\n" * rng.randrange(100_000),
        b"--frontier" * rng.randrange(1, 50_000),
    ]
    kinds = [FORM] * 6 + [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 300,
        'multipart/form-data; boundary="',
        "multipart/form-data; charset=undefined; boundary=other",
    ]
    body = rng.choice(bodies)
    # Where parts carry images without a name or with an empty head the form is read as it is meant.
    return Case(request(body, rng.choice(kinds[:6] if len(body) < 10 else kinds)))


def lying_length(rng: random.Random) -> Case:
    body = form(part(IMAGES[".jpg"]))
    few = rng.randrange(len(body) - 60)
    lengths = [
        [f"Content-Length: {few}"],
        [f"Content-Length: {len(body) + rng.randrange(1, 5000)}"],
        ["Content-Length: -1"],
        [f"Content-Length: {rng.choice(['x', '', '1e3', '0x10', '+5', '1' * 300])}"],
        [f"Content-Length: {few}", f"Content-Length: {few + 1}"],
        ["Transfer-Encoding: gzip"],
        ["Transfer-Encoding: chunked"],
        ["Content-Length: 0"],
    ]
    return Case(request(body, FORM, *rng.choice(lengths)))


def bad_json(rng: random.Random) -> Case:
    good = base64.b64encode(IMAGES[".jpg"]).decode()
    texts = [
        b"",
        b"{",
        b"\xff\xfe{}",
        b"[" * rng.randrange(1, 200_000),
        b'{"images":' * rng.randrange(1, 50_000),
        b"9" * rng.randrange(5000, 100_000),
        b'{"images": ["' + good.encode()[: rng.randrange(200)],
        b'{"images": NaN}',
        b'{"images": ["\\ud800"]}',
        *(
            json.dumps(value).encode()
            for value in (
                None,
                1,
                "x",
                [],
                {},
                {"images": []},
                {"images": good},
                {"images": [1]},
                {"images": [None]},
                {"images": [[good]]},
                {"images": ["*" + good]},
                {"images": [good[:-1]]},
                {"images": [good], "extra": 1},
                {"images": [good] * 33},
                {"images": ["é"]},
                {"image": [good]},
            )
        ),
    ]
    return Case(request(rng.choice(texts), "application/json"))


def bad_query(rng: random.Random) -> Case:
    values = ["0", "-1", "x", "1.5", "9" * rng.randrange(10, 5000), "%00", "", "1e3", "%ff"]
    target = f"/predict?top_k={rng.choice(values)}"
    return Case(request(form(part(IMAGES[".jpg"])), FORM, target=target))


def bad_head(rng: random.Random) -> Case:
    good = request(form(part(IMAGES[".jpg"])), FORM).decode("latin-1")
    line = good.index("\r\n")
    heads = [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "x" * 200,
        "GET /\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\0" * rng.randrange(1, 3000),
        "G" * 70_000,
        "SSH-2.0-OpenSSH_9.2\r\n",
        "GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n",
        "".join(chr(rng.randrange(256)) for _ in range(rng.randrange(1, 200))) + "\r\n\r\n",
        good[:line] + "\r\nX: \0" + good[line:],
        good[:line] + "\r\nB ad: 1" + good[line:],
        good[:line] + "\r\n folded" + good[line:],
        good[:line] + "\r\nX: " + "y" * 100_000 + good[line:],
        good[:line] + "\r\nX: y" * 20_000 + good[line:],
        good.replace("Host: localhost\r\n", ""),
        good.replace("localhost", rng.choice(["evil.example", "[", "127.0.0.1.evil", "", "a@b"])),
        good.replace("localhost", "localhost\r\nOrigin: http://evil.example"),
        good.replace("localhost", "localhost\r\nOrigin: null"),
        good.replace("localhost", "localhost\r\nOrigin: http://["),
        good.replace(TOKEN, rng.choice(["", "x", TOKEN[:-1], "é" * 32])),
        good.replace("Bearer", "Basic"),
        good.replace("POST", rng.choice(["GET", "PUT", "BREW", "OPTIONS", "TRACE", "CONNECT"])),
        good.replace("/predict", rng.choice(["/nothing", "//", "/predict/", "/docs", "/%00"])),
    ]
    return Case(rng.choice(heads).encode("latin-1"))


def slow_head(rng: random.Random) -> Case:
    data = request(form(part(IMAGES[".jpg"])), FORM)
    end = data.index(b"\r\n\r\n")
    cut = rng.randrange(end)
    return Case(data[:cut], pause=0.2, rest=data[cut : end - 1])


def slow_body(rng: random.Random) -> Case:
    data = request(form(part(IMAGES[".jpg"])), FORM)
    cut = rng.randrange(data.index(b"\r\n\r\n") + 4, len(data) - 200)
    return Case(data[:cut], pause=0.2, rest=data[cut:])


def vanishing(rng: random.Random) -> Case:
    data = request(form(part(IMAGES[".jpg"])), FORM)
    return Case(data[: rng.randrange(len(data) - 60)], then=rng.choice(["half", "gone"]))


KINDS: dict[str, tuple[Make, int]] = {  # and how often
    "JPEG truncated": (truncated(".jpg"), 12),
    "PNG truncated": (truncated(".png"), 12),
    "WebP truncated": (truncated(".webp"), 12),
    "JPEG of 50,000 x 50,000": (jpeg_bomb, 8),
    "PNG of 50,000 x 50,000": (png_bomb, 8),
    "others of 50,000 x 50,000": (other_bomb, 8),
    "JPEG of 1,000s of scans": (scan_bomb, 1),
    "no image": (other_file, 15),
    "wrong type": (wrong_type, 8),
    "huge body": (huge_body, 6),
    "many chunks": (many_chunks, 2),
    "broken form": (broken_form, 15),
    "lying length": (lying_length, 10),
    "bad JSON": (bad_json, 15),
    "bad parameter": (bad_query, 6),
    "bad head": (bad_head, 20),
    "slow head": (slow_head, 3),
    "slow body": (slow_body, 3),
    "vanishing": (vanishing, 6),
}


def outcome(connection: socket.socket, case: Case) -> str:
    """Status of the first answer; closed: there was none; gone: nobody waited for one."""
    try:
        connection.sendall(case.data)
        for byte in case.rest:
            time.sleep(case.pause)
            connection.sendall(bytes([byte]))
    except OSError:
        pass  # refused before its end: the answer may be there
    if case.then == "gone":
        return "gone"
    try:
        if case.then == "half":
            connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
    except OSError:
        return "closed"
    status = re.match(rb"HTTP/1.1 (\d{3}) ", answer)
    return status[1].decode() if status else "closed" if not answer else "not HTTP"


def plan(num: int, seed: int) -> Iterator[tuple[str, Case]]:
    rng = random.Random(seed)
    names = [name for name, (_, weight) in KINDS.items() for _ in range(weight)]
    for _ in range(num):
        name = rng.choice(names)
        yield name, KINDS[name][0](rng)


@dataclass(frozen=True)
class Server:
    """`ppcls serve` in its own process."""

    port: int
    process: subprocess.Popen[str]

    def figures(self) -> tuple[int, int, int]:
        """MiB resident, open files and threads, with the inference process, at rest."""
        time.sleep(3 * SECONDS)
        return figures(self.process.pid)

    def answers(self) -> bool:
        """Whether a proper request gets its classes, once there is room."""
        case = Case(request(form(part(IMAGES[".jpg"])), FORM, "Connection: close"))
        results = (self.outcome(case) for _ in range(100) if not time.sleep(0.05))
        return next((result for result in results if result != "503"), "") == "200"

    def outcome(self, case: Case) -> str:
        """Of a case, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as connection:
            return outcome(connection, case)


def figures(server: int) -> tuple[int, int, int]:
    """MiB resident, open files and threads of a process and its children."""
    tasks = Path(f"/proc/{server}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    folders = [Path("/proc", pid) for pid in (str(server), *children)]
    files = sum(len(list((folder / "fd").iterdir())) for folder in folders)
    kib, threads = (sum(_status(f, field) for f in folders) for field in ("VmRSS", "Threads"))
    return kib // 1024, files, threads


def _status(process: Path, field: str) -> int:
    """A number of /proc/PID/status."""
    found = re.search(rf"^{field}:\s+(\d+)", (process / "status").read_text(), re.MULTILINE)
    assert found, field
    return int(found[1])


@contextmanager
def serving(model: Path, log: Path) -> Iterator[Server]:
    command = [sys.executable, "-m", "ppcls_core.cli.app", "serve", str(model), "--port", "0"]
    command += [word for limit in LIMITS for word in ("-o", limit)]
    env = {**os.environ, "SSLD_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env
        ) as process,
    ):
        try:
            yield Server(_port(process), process)
        finally:
            process.terminate()
            process.wait(60)


def _port(process: subprocess.Popen[str]) -> int:
    """The port, once the server is ready."""
    assert process.stdout
    for line in process.stdout:
        if found := re.match(r"ready after .*:(\d+)$", line):
            return int(found[1])
    raise SystemExit("the server did not start")


def export_tiny(folder: Path) -> None:
    import paddle

    from ppcls_core.data.transforms import Preprocess
    from ppcls_core.inference.export import export
    from ppcls_core.inference.sidecar import Sidecar
    from ppcls_core.models.registry import build_model

    paddle.seed(0)
    spec = {"depths": [1, 1, 1, 1], "width": 4}
    model = build_model("ResNet18_vd", num_classes=4, spec=spec)
    sidecar = Sidecar(
        architecture="ResNet18_vd", classes=("a", "b", "c", "d"), preprocess=Preprocess(size=48)
    )
    export(model, sidecar, folder)


def attack(server: Server, cases: Sequence[tuple[str, Case]]) -> dict[str, Counter[str]]:
    """Outcomes by kind."""
    results: dict[str, Counter[str]] = defaultdict(Counter)
    lock = threading.Lock()

    def send(named: tuple[str, Case]) -> None:
        name, case = named
        found = server.outcome(case)
        with lock:
            results[name][found] += 1

    with ThreadPoolExecutor(SENDERS) as pool:
        for start in range(0, len(cases), 1000):
            list(pool.map(send, cases[start : start + 1000]))
            results["(proper)"]["200" if server.answers() else "none"] += 1
    return results


def is_refused(result: str) -> bool:
    return result in ("closed", "gone") or "400" <= result <= "499"


def show(results: dict[str, Counter[str]]) -> None:
    table = Table("kind", "number", "answers", title="Malformed requests")
    for name in [*KINDS, "(proper)"]:
        counts = results.get(name, Counter())
        answers = ", ".join(f"{key} {count:,}" for key, count in sorted(counts.items()))
        table.add_row(name, f"{counts.total():,}", answers)
    Console(width=110).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, at Paddle's import
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_tiny(folder / "model")
        with serving(folder / "model", folder / "log") as server:
            first = list(plan(min(1000, arguments.num), arguments.seed + 1))
            results = attack(server, first)
            before = server.figures()
            begun = time.perf_counter()
            more = attack(server, list(plan(arguments.num, arguments.seed)))
            seconds, after = time.perf_counter() - begun, server.figures()
        for name, counts in more.items():
            results[name] += counts
        log, status = (folder / "log").read_text(), server.process.returncode
    show(results)
    for title, old, new in zip(("MiB", "open files", "threads"), before, after, strict=True):
        print(f"{title}: {old} before, {new} after")
    print(
        f"{arguments.num} in {seconds:.0f} s; ended with status {status}; its log:\n{log[-2000:]}"
    )
    wrong = [n for n, c in results.items() for r in c if n != "(proper)" and not is_refused(r)]
    grown = after[0] - before[0] > GROWTH_MIB or after[1] - before[1] > GROWTH_FILES
    failed = bool(wrong) or grown or status != 0 or "Traceback" in log
    failed = failed or results["(proper)"]["none"] > 0 or after[2] > before[2]
    print("FAILED" if failed else "passed", *sorted(set(wrong)))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
