"""Sends valid and invalid requests to `serve` for minutes, and measures its memory.

    python scripts/soak.py "blood-cells.zip/*/images/TEST/*" --minutes 10

Starts a server of the bundled model and sends requests from four threads: one or 32 images, damaged
images, bodies that are too large, requests from other sites, and paths of local files. Prints the
number of requests by response, the wrong responses, and the resident memory each minute.
"""

import io
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from random import Random

import httpx
import numpy as np
from arguments import make_parser, positive, short_errors
from PIL import Image

from bloodcell.infer.inputs import find_images

THREADS = 4


def ask(address: str, images: list[bytes], large: bytes, draw: Random) -> tuple[str, int, int]:
    """Sends one request; returns its kind, the expected status and the received status."""
    way = draw.choices(range(7), [60, 6, 10, 1, 6, 6, 6])[0]
    url, headers = f"{address}/api/predict", {}
    image = draw.choice(images)
    if way == 0:
        what, must, files = "one image", 200, [image]
    elif way == 1:
        what, must, files = "32 images", 200, draw.choices(images, k=32)
    elif way == 2:
        what, must, files = "a damaged image", 422, [image[: draw.randrange(600)]]
    elif way == 3:
        what, must, files = "60 MB", 413, [bytes(60_000_000)]
    elif way == 4:
        what, must, files = "another site's page", 403, [image]
        headers = {"Origin": "http://elsewhere.example"}
    elif way == 5:
        what, must, files = "a large image", 200, [large]
    else:
        got = httpx.get(f"{address}/gradio_api/file=/etc/passwd", timeout=120).status_code
        return "a file of this machine", 403, got
    given = [("image", ("a.jpeg", file)) for file in files]
    answer = httpx.post(url, files=given, headers=headers, timeout=120)
    return what, must, answer.status_code


def memory(process: int) -> float:
    """Returns the resident MB of a process."""
    text = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) / 1024 if found else 0.0


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("images", help="as for predict")
    parser.add_argument("--minutes", type=positive, default=10, help="default: 10")
    given = parser.parse_args()
    with short_errors(), ExitStack() as archives:
        images = [one.read() for one in islice(find_images([given.images], archives), 200)]
    noise = np.random.default_rng(0).integers(0, 255, (2_000, 3_000, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    answered: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    serve = [sys.executable, "-m", "bloodcell", "serve", "--port", "0"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        end = time.monotonic() + 60 * given.minutes

        def work(seed: int) -> None:
            draw = Random(seed)
            while time.monotonic() < end:
                try:
                    what, must, got = ask(address, images, file.getvalue(), draw)
                except httpx.HTTPError as error:
                    wrong[f"{type(error).__name__}"] += 1
                    continue
                answered[f"{what}: {got}"] += 1
                if got != must:
                    wrong[f"{what}: {got}, not {must}"] += 1

        threads = [
            threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        used = []
        while any(thread.is_alive() for thread in threads):
            used.append(memory(process.pid))
            print(f"{sum(answered.values()):,} requests, {used[-1]:,.0f} MB", flush=True)
            time.sleep(min(60, max(1, end - time.monotonic() + 1)))
        for thread in threads:
            thread.join()
        used.append(memory(process.pid))
        process.terminate()
    for what, count in sorted(answered.items()):
        print(f"  {what}: {count:,}")
    print(f"wrong responses: {dict(wrong) or 'none'}")
    print(f"memory, MB: {' '.join(f'{one:,.0f}' for one in used)}")


if __name__ == "__main__":
    main()
