"""Serve directories as Hub repos until a signal: `python -m tests.support.hub --model org/name=FOLDER`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.support.hub.content import RepoType
from tests.support.hub.server import Hub


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.support.hub", description=__doc__)
    parser.add_argument(
        "--model", action="append", default=[], metavar="ID=FOLDER", help="a folder to serve as a model"
    )
    parser.add_argument("--dataset", action="append", default=[], metavar="ID=FOLDER", help="the same, as a dataset")
    parser.add_argument("--port", type=int, default=0, help="0 selects a free one; the first output line is the URL")
    parser.add_argument("--license", default=None, help="the license of every repo")
    parser.add_argument("--lfs-over", type=int, default=10 * 1024, metavar="BYTES", help="larger files are LFS files")
    parser.add_argument("--no-cdn", action="store_true", help="serve LFS files from the hub itself")
    options = parser.parse_args()
    hub = Hub(port=options.port, cdn=not options.no_cdn)
    repos: list[tuple[RepoType, str]] = [("model", text) for text in options.model]
    repos += [("dataset", text) for text in options.dataset]
    for repo_type, text in repos:
        repo_id, _, folder = text.partition("=")
        root = Path(folder)
        if not repo_id or not root.is_dir():
            parser.error(f"{text}: not of the form ID=FOLDER")
        files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
        hub.add_repo(repo_id, files, repo_type=repo_type, license=options.license, lfs_over=options.lfs_over)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with hub:
        print(hub.url, flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    sys.exit(0)


if __name__ == "__main__":
    main()
