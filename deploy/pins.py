"""The image's requirements with their hashes, from pip's report on standard input: `make pins`."""

import json
import sys
from collections.abc import Iterator
from typing import Any


def pinned(report: dict[str, Any]) -> Iterator[str]:
    """Lines of requirements; the project itself, a folder, has no hash and no line.

    A version is written without its local part, `+cpu`: the hash tells which build is meant.
    """
    for item in report["install"]:
        sha256 = item["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if sha256 is not None:
            version = item["metadata"]["version"].partition("+")[0]
            yield f"{item['metadata']['name'].lower()}=={version} --hash=sha256:{sha256}"


if __name__ == "__main__":
    print("# Made by `make pins`: CPython 3.11 on Linux, x86-64.")
    print("\n".join(sorted(pinned(json.load(sys.stdin)))))
