"""What does serving cost? A server against the predictor it uses, on the same machine.

    python benchmarks/serving.py [--model FOLDER] [--precision bf16]
    python benchmarks/serving.py --minutes 30 --load 0.8 --malformed 0.01
    python benchmarks/serving.py --rolling --load 0.3

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

With --minutes and with --rolling the server has half of the cores and the clients have the others.
Its capacity is measured, and a share of it (--load) is sent: each request on a connection of its
own when it is due, whether or not others are answered, and its latency is from then on.
--minutes: each minute the latencies, the answers and the memory; a share of the requests
(--malformed) is of the kinds of serving_fuzz.py. Exit status 1 if a proper request was not
answered, a malformed one got another answer than a 4xx, or memory grew.
--rolling: two servers share those cores. Where one refuses the connection, or answers 503 while it
loads, the other is asked, as balancers do. One after the other is sent SIGTERM, and started again
once it has ended. Exit status 1 if a request was not answered. A start takes time from the other
server: so less load.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from serving_fuzz import (
    FORM,
    GROWTH_MIB,
    TOKEN,
    figures,
    form,
    is_refused,
    outcome,
    part,
    plan,
    request,
)

from ppcls_core.serving.engine import ENVIRONMENT

BATCH, SIZE = 8, 224
WARM_UP = 1.5  # seconds
SENDERS = 64  # more than may wait for an answer

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
    return [request(form(part(image)), FORM, target="/predict?top_k=5") for image in images]


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
def serving(
    folder: Path, precision: str, max_batch: int, port: int = 0, cores: Sequence[int] = ()
) -> Iterator[Server]:
    command = [sys.executable, "-m", "ppcls_core.cli.app", "serve", str(folder)]
    command += ["--port", str(port), "--precision", precision, "-o", f"max_batch={max_batch}"]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            if cores:
                os.sched_setaffinity(process.pid, cores)
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
                assert receive(connection) == "200"
                done = time.perf_counter()
                if begin <= done < end:
                    latencies.append(done - sent)
                turn += num_clients
        return latencies

    with ThreadPoolExecutor(num_clients) as pool:
        return [latency for each in pool.map(client, range(num_clients)) for latency in each]


def receive(connection: socket.socket) -> str:
    """Take in an answer whole; its status, or "none" where it does not come."""
    answer, whole = b"", None
    while whole is None or len(answer) < whole:
        if not (more := connection.recv(65536)):
            return "none"
        answer += more
        if whole is None and (end := answer.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"content-length: (\d+)", answer[:end])
            assert length, answer
            whole = end + 4 + int(length[1])
    return answer[9:12].decode()


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


@dataclass(frozen=True)
class Answer:
    is_proper: bool  # the request
    status: str
    latency: float  # seconds since it was due


class Traffic:
    """Requests to servers, at a rate, as long as this is open; a share of them is malformed."""

    def __init__(
        self, ports: Sequence[int], requests: list[bytes], rate: float, malformed: float = 0
    ) -> None:
        self._ports, self._requests, self._rate, self._malformed = ports, requests, rate, malformed
        self._turns, self._begin = itertools.count(), time.perf_counter()
        self._answers, self._num_taken, self._is_over = list[Answer](), 0, False
        self._pool = ThreadPoolExecutor(SENDERS)

    def __enter__(self) -> Self:
        self._senders = [self._pool.submit(self._send) for _ in range(SENDERS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for sender in self._senders:
            sender.result()
        self._pool.shutdown()

    def taken(self) -> list[Answer]:
        """The answers since this was called last."""
        taken = self._answers[self._num_taken :]
        self._num_taken += len(taken)
        return taken

    def _send(self) -> None:
        while not self._is_over:
            turn = next(self._turns)
            due = self._begin + turn / self._rate
            time.sleep(max(0, due - time.perf_counter()))
            is_proper = int(turn * self._malformed) == int((turn + 1) * self._malformed)
            talk = partial(self._send_proper if is_proper else self._send_broken, turn)
            status = self._balanced(turn, talk)
            self._answers.append(Answer(is_proper, status, time.perf_counter() - due))

    def _balanced(self, turn: int, talk: Callable[[socket.socket], str]) -> str:
        """What a server answers; the next one where it refuses the connection or answers 503."""
        status = "refused"
        for at in range(turn, turn + len(self._ports)):
            address = ("127.0.0.1", self._ports[at % len(self._ports)])
            try:
                with socket.create_connection(address, 60) as connection:
                    status = talk(connection)
            except ConnectionRefusedError:
                continue
            except OSError as error:
                return type(error).__name__
            if status != "503":
                return status
        return status

    def _send_proper(self, turn: int, connection: socket.socket) -> str:
        connection.sendall(self._requests[turn % len(self._requests)])
        return receive(connection)

    def _send_broken(self, turn: int, connection: socket.socket) -> str:
        ((_, case),) = plan(1, turn)
        return outcome(connection, case)


def statuses(answers: Iterable[Answer]) -> str:
    counts = Counter(answer.status for answer in answers)
    return ", ".join(f"{status} {number:,}" for status, number in sorted(counts.items()))


def milliseconds(answers: list[Answer]) -> tuple[float, float]:
    """Median and 99th percentile of the proper requests."""
    found = sorted(answer.latency for answer in answers if answer.is_proper) or [float("nan")]
    p50, p99 = (1e3 * found[int(q * (len(found) - 1))] for q in (0.5, 0.99))
    return p50, p99


def is_wrong(answer: Answer) -> bool:
    return answer.status != "200" if answer.is_proper else not is_refused(answer.status)


def steady(folder: Path, arguments: argparse.Namespace, requests: list[bytes]) -> bool:
    """Whether a server that is under load for minutes answers all it should, and does not grow."""
    cores = split_cores()
    memory, p99s, wrong = list[int](), list[float](), 0
    with serving(folder, arguments.precision, BATCH, cores=cores) as server:
        rate = arguments.load * capacity(server, requests, arguments.seconds)
        print(" minute   p50 ms   p99 ms   MiB  files  threads  proper; malformed")
        with Traffic([server.port], requests, rate, arguments.malformed) as traffic:
            for minute in range(1, arguments.minutes + 1):
                time.sleep(60)
                answers, (mib, files, threads) = traffic.taken(), figures(server.process.pid)
                proper, malformed = (
                    statuses(a for a in answers if a.is_proper is kind) for kind in (True, False)
                )
                p50, p99 = milliseconds(answers)
                print(
                    f"{minute:7}{p50:9.0f}{p99:9.0f}{mib:6}{files:7}{threads:9}  {proper}; "
                    f"{malformed}",
                    flush=True,
                )
                memory.append(mib)
                p99s.append(p99)
                wrong += sum(map(is_wrong, answers))
        wrong += sum(map(is_wrong, traffic.taken()))
    print(
        f"p99 {min(p99s):.0f} to {max(p99s):.0f} ms; {memory[0]} MiB after the first minute, "
        f"{memory[-1]} after the last; {wrong} wrong answers"
    )
    return not wrong and memory[-1] - memory[0] <= GROWTH_MIB


def rolling(folder: Path, arguments: argparse.Namespace, requests: list[bytes]) -> bool:
    """Whether all requests are answered while either of two servers is ended and started again."""
    cores = split_cores()
    with ExitStack() as stack:

        def start(port: int = 0) -> Server:
            server = serving(folder, arguments.precision, BATCH, port, cores)
            return stack.enter_context(server)

        servers = [start(), start()]
        rate = arguments.load * capacity(servers[0], requests, arguments.seconds)
        with Traffic([s.port for s in servers], requests, rate, arguments.malformed) as traffic:
            for server in servers:
                time.sleep(arguments.seconds)
                begun = time.perf_counter()
                server.process.terminate()
                status, drained = server.process.wait(60), time.perf_counter()
                start(server.port)
                print(
                    f"port {server.port}: ended with {status} after {drained - begun:.1f} s, "
                    f"ready again after {time.perf_counter() - drained:.1f} s"
                )
            time.sleep(arguments.seconds)
    answers = traffic.taken()
    p50, p99 = milliseconds(answers)
    print(f"answers: {statuses(answers)}; p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    return not any(map(is_wrong, answers))


def split_cores() -> list[int]:
    """Half of the cores, for servers; this process keeps the others (all, where there is one)."""
    cores = sorted(os.sched_getaffinity(0))
    half = (len(cores) + 1) // 2
    os.sched_setaffinity(0, cores[half:] or cores)
    return cores[:half]


def capacity(server: Server, requests: list[bytes], seconds: float) -> float:
    """Images a second under 32 clients, each with its next request at once after an answer."""
    rate = len(load(server.port, requests, 4 * BATCH, seconds)) / seconds
    print(f"capacity: {rate:.1f} images a second")
    return rate


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a folder of `ppcls export`")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", type=int, default=256, help="short side of the JPEGs, pixels")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--minutes", type=int, help="under a load that stays the same")
    mode.add_argument("--rolling", action="store_true", help="restart two servers, one at a time")
    parser.add_argument("--load", type=float, default=0.8, help="of what a server can do")
    parser.add_argument("--malformed", type=float, default=0, help="share of the requests")
    arguments = parser.parse_args()
    requests = requests_of(jpegs(64, arguments.short))
    print(f"load average before: {os.getloadavg()[0]:.1f}; requests of {len(requests[0]):,} bytes")
    with ExitStack() as stack:
        folder = arguments.model
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            subprocess.run([sys.executable, "-c", EXPORT, str(folder)], check=True)
        if arguments.minutes or arguments.rolling:
            os.environ["SSLD_TOKEN"] = TOKEN
            passed = (steady if arguments.minutes else rolling)(folder, arguments, requests)
            print("passed" if passed else "FAILED")
            return int(not passed)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
