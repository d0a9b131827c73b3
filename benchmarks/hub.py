"""Compare llmstack hub with nginx as a proxy for the same blob of the same registry.

    python -m benchmarks.hub              complete files and ranges, with 1 client and with 32
    python -m benchmarks.hub --small      small files, and the processor time of large ones
    python -m benchmarks.hub --quick      a tenth of the size, to check the benchmark itself
    python -m benchmarks.hub --soak       200 clients for a minute, and 50 GB from one hub

Needs the programs of the tests (make system), curl, nginx-light and apache2-utils (Debian). Prints Markdown
tables with the medians of the rounds; each round runs all candidates. On a shared machine, compare only the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.support.carried import carry
from tests.support.process import Daemon, free_port, need, processes_below
from tests.support.registry import Registry, plain_registry
from tests.support.serving import Serving, repository, run_client, serving, sparse_repo

from llmstack.oci.layout import Layout

PIECE = 1024 * 1024
FILE = "/bench/big/resolve/main/big.bin"
BIG = "/org/big/resolve/main/big.bin"
TINY = 1500
MUCH = 50 * 1000**3
CLIENTS = 200
MINUTE = 60.0
NGINX = """
worker_processes auto; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.err;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3;
  uwsgi_temp_path {work}/t4; scgi_temp_path {work}/t5;
  upstream registry {{ server {registry}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://registry; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_max_temp_file_size 0; {buffers}
    }}
  }}
}}
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="run with a tenth of the size")
    parser.add_argument("--small", action="store_true", help="measure small files, and processor time")
    parser.add_argument("--soak", action="store_true", help="run 200 clients for a minute, and transfer 50 GB")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmstack-bench-") as folder:
        if options.small:
            _small(Path(folder), 10 if options.quick else 1, options.rounds)
        elif options.soak:
            _soak(Path(folder))
        else:
            _compare(Path(folder), 512 * PIECE // (10 if options.quick else 1), options.rounds)


def _compare(work: Path, size: int, rounds: int) -> None:
    with plain_registry(work / "registry") as registry:
        namespace = registry.namespace()
        files = {"big.bin": os.urandom(size)}
        index = carry(repository(namespace), "bench--big", files, repo_id="bench/big")
        blob = f"/v2/{namespace.partition('/')[2]}/models/blobs/{index.files[0].layers[0]}"
        large = "proxy_buffers 16 256k; proxy_buffer_size 256k; proxy_busy_buffers_size 512k;"
        with (
            serving(work, namespace, "--quiet") as hub,
            _nginx(work / "nginx", registry, "") as nginx,
            _nginx(work / "nginx-large", registry, large) as tuned,
        ):
            urls = {
                "the registry itself": registry.url + blob,
                "nginx": nginx + blob,
                "nginx with buffers of 256 KiB": tuned + blob,
                "llmstack hub": hub.url + FILE,
            }
            for clients in (1, 32):
                each = max(1, 4 // clients)
                title = f"complete file, {clients} in parallel"
                _table(
                    title,
                    _measure(urls, partial(_complete, clients=clients, count=clients * each), rounds),
                    size * clients * each,
                )
                title = f"ranges of 1 MiB, {clients} in parallel"
                _table(title, _measure(urls, partial(_ranges, clients=clients, size=size), rounds), 320 * PIECE)
            print(f"\nPeak memory of the hub: {_memory(hub) / 1e6:.0f} MB")


@contextlib.contextmanager
def _nginx(work: Path, registry: Registry, buffers: str) -> Iterator[str]:
    work.mkdir()
    port = free_port()
    config = NGINX.format(work=work, registry=registry.host, port=port, buffers=buffers)
    (work / "nginx.conf").write_text(config)
    daemon = Daemon([need("nginx", "nginx-light"), "-c", str(work / "nginx.conf")], work / "log")
    daemon.wait_until((work / "nginx.pid").exists)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        daemon.stop()


def _measure(urls: Mapping[str, str], run: Callable[[str], None], rounds: int) -> dict[str, float]:
    """Return the median seconds of each candidate."""
    seconds: dict[str, list[float]] = {name: [] for name in urls}
    for _ in range(rounds):
        for name, url in urls.items():
            began = time.perf_counter()
            run(url)
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def _complete(url: str, clients: int, count: int) -> None:
    _curl(clients, [f'url = "{url}"\noutput = /dev/null\n'] * count)


def _ranges(url: str, clients: int, size: int) -> None:
    starts = [number * 7919 * 4096 % (size - PIECE) for number in range(320)]
    requests = [f'url = "{url}"\noutput = /dev/null\nrange = {at}-{at + PIECE - 1}\nfail\n' for at in starts]
    _curl(clients, requests)


def _curl(clients: int, requests: list[str]) -> None:
    """Send requests with one curl process, which reuses its connections."""
    parallel = ["--parallel", "--parallel-immediate", "--parallel-max", str(clients)] if clients > 1 else []
    subprocess.run(
        [need("curl", "curl"), "--silent", "--show-error", "--fail", *parallel, "--config", "-"],
        input="next\n".join(requests), text=True, check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _table(title: str, seconds: Mapping[str, float], size: int) -> None:
    nginx = seconds["nginx"]
    print(f"\n{title}\n\n| | MB/s | relative to nginx |\n|---|---:|---:|")
    for name, time_ in seconds.items():
        print(f"| {name} | {size / time_ / 1e6:.0f} | {nginx / time_:.2f} |", flush=True)


def _small(work: Path, divisor: int, rounds: int) -> None:
    files = {f"f{number:04}.json": b"%d" % number * 200 for number in range(TINY // divisor)}
    big = {"big.bin": os.urandom(1024 * PIECE // divisor)}
    with plain_registry(work / "registry") as registry:
        namespace = registry.namespace()
        tiny = carry(repository(namespace), "bench--tiny", files, repo_id="bench/tiny").files[0].layers[0]
        index = carry(repository(namespace), "bench--big", big, repo_id="bench/big")
        carry(Layout(work / "carried/models"), "bench--big", big, repo_id="bench/big")
        blobs = f"/v2/{namespace.partition('/')[2]}/models/blobs/"
        workers = len(os.sched_getaffinity(0))
        with (
            serving(work, namespace, "--quiet", workers=workers) as hub,
            serving(work, f"oci:{work}/carried", "--quiet", workers=workers) as local,
            _nginx(work / "nginx", registry, "") as nginx,
        ):
            _requests(hub, nginx + blobs + tiny, TINY * 4 // divisor, rounds)
            seconds = statistics.median(_download(hub, work / f"home{number}") for number in range(rounds))
            print(f"\nhf download of {len(files)} tiny files: {seconds:.1f} s", flush=True)
            nginx_pid = int((work / "nginx/nginx.pid").read_text())
            _processor_time(
                {
                    "nginx": (nginx_pid, nginx + blobs + index.files[0].layers[0], ""),
                    "llmstack hub, complete file (hashed)": (hub.daemon.pid, hub.url + FILE, ""),
                    "llmstack hub, range": (hub.daemon.pid, hub.url + FILE, "0-"),
                    "llmstack hub of a layout, complete file (hashed before)": (local.daemon.pid, local.url + FILE, ""),
                },
                len(big["big.bin"]),
                rounds,
            )


def _requests(hub: Serving, blob: str, count: int, rounds: int) -> None:
    """Print how many requests for a small file are answered in a second; nginx gets a blob of the registry."""
    urls = {"nginx": blob, "llmstack hub": f"{hub.url}/bench/tiny/resolve/main/f0001.json"}
    run = partial(_ab, count=count)
    print("\nsmall file, 100 connections\n\n| | requests/s |\n|---|---:|")
    for name, seconds in _measure(urls, run, rounds).items():
        print(f"| {name} | {count / seconds:.0f} |", flush=True)


def _ab(url: str, count: int) -> None:
    done = subprocess.run(
        [need("ab", "apache2-utils"), "-q", "-n", str(count), "-c", "100", url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    if "Failed requests:        0" not in done.stdout or "Non-2xx" in done.stdout:
        raise SystemExit(f"{url}: some requests failed\n{done.stdout}")


def _download(hub: Serving, home: Path) -> float:
    began = time.perf_counter()
    run_client(None, hub.url, home, "-c", "import huggingface_hub as h; h.snapshot_download('bench/tiny')")
    return time.perf_counter() - began


def _processor_time(candidates: Mapping[str, tuple[int, str, str]], size: int, rounds: int) -> None:
    """Print the processor time that the processes below each id take for a large file."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds + 1):
        for name, (pid, url, range_) in candidates.items():
            before = _processor_seconds(pid)
            options = ["--range", range_] if range_ else []
            subprocess.run(["curl", "--silent", "--fail", "--output", "/dev/null", *options, url], check=True)
            seconds[name].append(_processor_seconds(pid) - before)
    print("\n| one client | processor time for 1 GB |\n|---|---:|")
    for name, found in seconds.items():
        # Each worker hashes a file of a layout once.
        print(f"| {name} | {statistics.median(found[1:]) / size * 1e9:.2f} s |", flush=True)


def _processor_seconds(pid: int) -> float:
    ticks = 0
    for each in (pid, *processes_below(pid)):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _soak(work: Path) -> None:
    sparse_repo(Layout(work / "carried/models"), "org--big", MUCH, hashed=True)
    with serving(work, f"oci:{work}/carried", "--quiet") as hub:
        _much(hub)
        _many(hub)


def _much(hub: Serving) -> None:
    idle, began = _memory(hub), time.perf_counter()
    subprocess.run(["curl", "--silent", "--fail", "--output", "/dev/null", f"{hub.url}{BIG}"], check=True)
    rate = MUCH / (time.perf_counter() - began) / 1e6
    grown = f"{idle / 1e6:.0f} MB of memory before, {_memory(hub) / 1e6:.0f} MB peak"
    print(f"{MUCH / 1e9:.0f} GB from one hub at {rate:.0f} MB/s: {grown}", flush=True)


def _many(hub: Serving) -> None:
    stop, asked = threading.Event(), [0] * CLIENTS
    with ThreadPoolExecutor(CLIENTS) as pool:
        threading.Timer(MINUTE, stop.set).start()
        list(pool.map(lambda number: _ask_until(hub, stop, asked, number), range(CLIENTS)))
    print(
        f"{CLIENTS} clients for {MINUTE:.0f} s, 1 MiB per request: {sum(asked)} complete responses; "
        f"the slowest client got {min(asked)}; peak memory {_memory(hub) / 1e6:.0f} MB"
    )


def _ask_until(hub: Serving, stop: threading.Event, asked: list[int], number: int) -> None:
    while not stop.is_set():
        start = (number * 1_000_003 + asked[number] * 7919) * 4096 % (MUCH - PIECE)
        answer = hub.get(BIG, Range=f"bytes={start}-{start + PIECE - 1}")
        if answer.status != 206 or len(answer.body) != PIECE:
            raise SystemExit(f"client {number} got {answer.status} and {len(answer.body)} bytes")
        asked[number] += 1


def _memory(hub: Serving) -> int:
    text = Path(f"/proc/{hub.daemon.pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM:"))) * 1024


if __name__ == "__main__":
    main()
