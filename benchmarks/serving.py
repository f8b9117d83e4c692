"""What does serving cost? A server against the predictor it uses, on the same machine.

    python benchmarks/serving.py [--model FOLDER] [--precision bf16]

Without FOLDER (of `ppcls export`), ResNet50_vd with random weights is exported, 224 x 224 pixels.
`ppcls serve` runs on all cores; the clients are threads of this process, which send JPEGs over
connections that they keep, as bytes made beforehand: they share the cores, and shall be cheap. The
server decodes, resizes and crops the JPEGs, whose short side is --short pixels.

First the throughput. Rounds of the bare predictor, in a process of its own that only repeats
batches of 8 from memory in the environment that the server gives its own, and rounds of the server
under 32 clients alternate; the process that is not in its round sleeps. The ratio is the median of
the rounds' ratios. The bare predictor has all cores; the server also receives, decodes and answers
on them. Beside it is the ratio of CPU time an image, which other work on the machine disturbs less:
with all cores busy the two are the same.

Then latencies of 1, 8 and 32 clients, each with its next request at once after an answer, with and
without dynamic batching (max_batch 8 and 1).
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from ppcls_core.serving.engine import ENVIRONMENT

BATCH, SIZE = 8, 224
WARM_UP = 1.5  # seconds
FORM = "multipart/form-data; boundary=frontier"

EXPORT = """
import sys
from pathlib import Path
import paddle
from ppcls_core.data.transforms import Preprocess
from ppcls_core.inference.export import export
from ppcls_core.inference.sidecar import Sidecar
from ppcls_core.models.registry import build_model
paddle.seed(0)
classes = tuple(map(str, range(1000)))
sidecar = Sidecar(architecture="ResNet50_vd", classes=classes, preprocess=Preprocess(size=224))
export(build_model("ResNet50_vd"), sidecar, Path(sys.argv[1]))
"""

BARE = """
import sys, time
from pathlib import Path
import numpy as np
from ppcls_core.inference.predictor import EngineOptions
from ppcls_core.inference.exported import Exported
folder, precision, threads, batch = sys.argv[1:]
exported = Exported(Path(folder))
size = exported.sidecar.preprocess.size
predict = exported.on_engine(EngineOptions(precision=precision, threads=int(threads)))
pixels = np.random.default_rng(0).integers(0, 256, (int(batch), 3, size, size), np.uint8)
predict(pixels), predict(pixels)
print("ready", flush=True)
for line in sys.stdin:
    cpu = time.process_time()
    begun, num, end = time.perf_counter(), 0, time.perf_counter() + float(line)
    while time.perf_counter() < end:
        predict(pixels)
        num += len(pixels)
    rate = num / (time.perf_counter() - begun)
    print(rate, (time.process_time() - cpu) / num, flush=True)
"""


def jpegs(num: int, short: int) -> list[bytes]:
    """Coarse noise that compresses like a photograph, 4 : 3."""
    rng, images = np.random.default_rng(0), []
    for _ in range(num):
        small = rng.integers(0, 256, (38, 50, 3), np.uint8)
        sides = (round(short * 4 / 3), short)
        image = cv2.resize(small, sides, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
        images.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
    return images


def requests_of(images: list[bytes]) -> list[bytes]:
    """Whole requests, ready to be sent."""
    part = b'--frontier\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    found = []
    for image in images:
        body = part + image + b"\r\n--frontier--\r\n"
        head = (
            "POST /predict?top_k=5 HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


def cpu_seconds(pid: int) -> float:
    """Of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    port: int

    def cpu_seconds(self) -> tuple[float, float]:
        """Of the process that receives, decodes and answers, and of the inference process."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        (engine,) = (pid for task in tasks for pid in (task / "children").read_text().split())
        return cpu_seconds(self.process.pid), cpu_seconds(int(engine))

    def metric(self, name: str) -> float:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(
                b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        found = re.search(rf"^{name} (\S+)", text, re.MULTILINE)
        assert found, name
        return float(found[1])

    def mean(self, name: str, since: tuple[float, float] = (0, 0)) -> float:
        """Of a histogram."""
        total, count = self.sums(name)
        return (total - since[0]) / max(1, count - since[1])

    def sums(self, name: str) -> tuple[float, float]:
        return self.metric(f"{name}_sum"), self.metric(f"{name}_count")


@contextmanager
def serving(folder: Path, precision: str, max_batch: int) -> Iterator[Server]:
    command = [sys.executable, "-m", "ppcls_core.cli.app", "serve", str(folder), "--port", "0"]
    command += ["--precision", precision, "-o", f"max_batch={max_batch}"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout
            lines = (re.match(r"ready after .*:(\d+)$", line) for line in process.stdout)
            ready = next(filter(None, lines), None)
            assert ready, "the server did not start"
            yield Server(process, int(ready[1]))
        finally:
            process.terminate()


@contextmanager
def bare(folder: Path, precision: str, batch: int) -> Iterator[subprocess.Popen[str]]:
    """A process that measures images a second for as many seconds as it is told."""
    cores = str(len(os.sched_getaffinity(0)))
    env = {**ENVIRONMENT, **os.environ, "OMP_NUM_THREADS": cores, "GLOG_minloglevel": "2"}
    command = [sys.executable, "-c", BARE, str(folder), precision, cores, str(batch)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, env=env, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin
        process.stdin.close()


def bare_rate(process: subprocess.Popen[str], seconds: float) -> tuple[float, float]:
    """Images a second, and CPU seconds an image."""
    assert process.stdin
    assert process.stdout
    print(seconds, file=process.stdin, flush=True)
    rate, cpu = map(float, process.stdout.readline().split())
    return rate, cpu


def served_rate(server: Server, requests: list[bytes], seconds: float) -> tuple[float, ...]:
    """Images a second, and CPU seconds an image: of both processes, and of the client."""
    before, (num, _) = server.cpu_seconds(), server.sums("ppcls_batch_images")
    spent = time.process_time()
    rate = len(load(server.port, requests, 4 * BATCH, seconds)) / seconds
    spent = time.process_time() - spent
    images = server.sums("ppcls_batch_images")[0] - num
    both = (new - old for new, old in zip(server.cpu_seconds(), before, strict=True))
    return rate, *(value / images for value in (*both, spent))


def load(port: int, requests: list[bytes], num_clients: int, seconds: float) -> list[float]:
    """Latencies of the answers within `seconds`, after WARM_UP."""
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds

    def client(number: int) -> list[float]:
        latencies = []
        with socket.create_connection(("127.0.0.1", port)) as connection:
            turn = number
            while (sent := time.perf_counter()) < end:
                connection.sendall(requests[turn % len(requests)])
                receive(connection)
                done = time.perf_counter()
                if begin <= done < end:
                    latencies.append(done - sent)
                turn += num_clients
        return latencies

    with ThreadPoolExecutor(num_clients) as pool:
        return [latency for each in pool.map(client, range(num_clients)) for latency in each]


def receive(connection: socket.socket) -> None:
    """Take in an answer, which has to be one of classes."""
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += connection.recv(65536)
    length = re.search(rb"content-length: (\d+)", answer[:end])
    assert answer.startswith(b"HTTP/1.1 200 ") and length, answer
    while len(answer) < end + 4 + int(length[1]):
        answer += connection.recv(65536)


def compare(
    server: Server,
    process: subprocess.Popen[str],
    requests: list[bytes],
    arguments: argparse.Namespace,
) -> None:
    """Rounds of both in turns."""
    columns = ("bare images/s", "served", "ratio", "bare CPU ms", "engine", "server", "client")
    table, rows = Table("round", *columns, "CPU ratio"), []
    for number in range(arguments.rounds):
        bare, bare_cpu = bare_rate(process, arguments.seconds)
        served, own, engine, client = served_rate(server, requests, arguments.seconds)
        cpus = [1e3 * value for value in (bare_cpu, engine, own, client)]
        rows.append([bare, served, served / bare, *cpus, bare_cpu / (engine + own + client)])
        table.add_row(str(number + 1), *formatted(rows[-1]))
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    table.add_row("median", *formatted(medians), style="bold")
    Console(width=120).print(table)
    print(
        f"decoding {1e3 * server.mean('ppcls_decode_seconds'):.2f} ms an image, inference "
        f"{1e3 * server.mean('ppcls_inference_seconds'):.0f} ms a batch of "
        f"{server.mean('ppcls_batch_images'):.1f} images (wall clock, cores shared)"
    )


def formatted(row: list[float]) -> list[str]:
    return [f"{value:.{3 if at in (2, 7) else 1}f}" for at, value in enumerate(row)]


def latencies(
    server: Server, requests: list[bytes], max_batch: int, seconds: float
) -> list[list[str]]:
    rows = []
    for num_clients in (1, 8, 32):
        before = server.sums("ppcls_batch_images")
        found = sorted(load(server.port, requests, num_clients, seconds))
        p50, p99 = (1e3 * found[int(q * (len(found) - 1))] for q in (0.5, 0.99))
        mean = server.mean("ppcls_batch_images", before)
        figures = [f"{p50:.0f}", f"{p99:.0f}", f"{len(found) / seconds:.1f}", f"{mean:.1f}"]
        rows.append([str(num_clients), str(max_batch), *figures, str(len(found))])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a folder of `ppcls export`")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", type=int, default=256, help="short side of the JPEGs, pixels")
    arguments = parser.parse_args()
    requests = requests_of(jpegs(64, arguments.short))
    print(f"load average before: {os.getloadavg()[0]:.1f}; requests of {len(requests[0]):,} bytes")
    with ExitStack() as stack:
        folder = arguments.model
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            subprocess.run([sys.executable, "-c", EXPORT, str(folder)], check=True)
        with serving(folder, arguments.precision, BATCH) as server:
            with bare(folder, arguments.precision, BATCH) as process:
                compare(server, process, requests, arguments)
            rows = latencies(server, requests, BATCH, arguments.seconds)
        with serving(folder, arguments.precision, 1) as server:
            rows += latencies(server, requests, 1, arguments.seconds)
    table = Table("clients", "max_batch", "p50 ms", "p99 ms", "images/s", "mean batch", "requests")
    for row in sorted(rows, key=lambda row: (int(row[0]), -int(row[1]))):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
