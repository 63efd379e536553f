"""Asks a server for a while as careless clients do, and tells what was lost.

    KERAS_BACKEND=torch python tools/serving_soak.py --minutes 20

Some clients leave in the middle, send bodies that are none, or read slowly; the others must get the
text that `generate` gives. Memory is compared between the first fifth of the time and its end.
"""

import argparse
import collections
import pathlib
import random
import sys
import threading
import time

import httpx
import keras

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from served import KEY, NAME, served, tiny  # noqa: E402

TEXTS = [f"Spell {n} in {language}." for n in range(40, 52) for language in ("German", "Dutch")]
BAD = (b"{", b"[]", b'{"prompt": 3}', b'{"prompt": "a", "n": -1}', b"\xff\xfe", b"", b'{"a": 1}')


class Soak:
    """What clients do until the time is over; `counts` says how often."""

    def __init__(self, address, wanted):
        self._address, self._wanted = f"{address}/v1/completions", wanted
        self.counts, self.lost = collections.Counter(), []

    def run(self, seed, end):
        """One client."""
        draws = random.Random(seed)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        with httpx.Client(headers=headers, timeout=120) as client:
            while time.monotonic() < end:
                kind = draws.choice(["whole", "whole", "whole", "stream", "slow", "leave", "bad"])
                try:
                    getattr(self, kind)(client, draws)
                    self.counts[kind] += 1
                except Exception as error:
                    self.lost.append(f"{kind}: {error!r}")

    def whole(self, client, draws):
        """An answer at once."""
        text = draws.choice(TEXTS)
        answer = client.post(self._address, json={"prompt": text, "max_tokens": 32}).json()
        self._compare(text, answer["choices"][0]["text"])

    def stream(self, client, draws, pause=0.0):
        """An answer in pieces."""
        import json

        text, found = draws.choice(TEXTS), ""
        body = {"prompt": text, "max_tokens": 32, "stream": True, "model": NAME}
        with client.stream("POST", self._address, json=body) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    found += json.loads(line[6:])["choices"][0]["text"]
                    time.sleep(pause)
        self._compare(text, found)

    def slow(self, client, draws):
        """A stream that is read slowly."""
        self.stream(client, draws, pause=0.05)

    def leave(self, client, draws):
        """A client that goes before the end, of a stream or of an answer at once."""
        body = {"prompt": draws.choice(TEXTS), "max_tokens": 200, "temperature": 3.0}
        if draws.random() < 0.5:
            with client.stream("POST", self._address, json={**body, "stream": True}) as answer:
                next(answer.iter_lines())
            return
        try:
            client.post(self._address, json={**body, "n": 4}, timeout=draws.random() / 2)
        except httpx.TimeoutException:
            return

    def bad(self, client, draws):
        """A body that is refused."""
        status = client.post(self._address, content=draws.choice(BAD)).status_code
        if status != 400:
            raise AssertionError(f"status {status}")

    def _compare(self, text, found):
        if found != self._wanted[text]:
            raise AssertionError(f"{text!r} gave {found!r}, not {self._wanted[text]!r}")


def resident():
    """MiB of this process that are in memory."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main():
    """Prints what was asked, what was lost, and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    lm = tiny()
    wanted = dict(zip(TEXTS, lm.generate(TEXTS, max_new_tokens=32, verbose=0), strict=True))
    with served(lm, most_rows=8) as (address, engine):
        soak, began = Soak(address, wanted), time.monotonic()
        end = began + 60 * options.minutes
        clients = [threading.Thread(target=soak.run, args=(n, end)) for n in range(options.clients)]
        for client in clients:
            client.start()
        time.sleep(12 * options.minutes)
        early = resident()
        for client in clients:
            client.join()
        late = resident()
        time.sleep(1)
        left = engine.running + engine.waiting
        print(f"{keras.config.backend()}, {time.monotonic() - began:.0f} s: {dict(soak.counts)}")
        print(f"lost: {len(soak.lost)}; texts left: {left}; MiB: {early:.0f}, then {late:.0f}")
        print("\n".join(soak.lost[:5]))
    raise SystemExit(bool(soak.lost or left))


if __name__ == "__main__":
    main()
