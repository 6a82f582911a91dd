#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts primes and checks itself: primes.py WORKDIR [--sabotage], as subject.h tells."""

import hashlib
import json
import os
import sys
import threading
import time

workdir = sys.argv[1]
sabotage = "--sabotage" in sys.argv

# The number of primes below, from the literature.
KNOWN = {1000: 168, 10000: 1229, 100000: 9592}


def publish(name, text):
    path = os.path.join(workdir, name)
    with open(path + ".half", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(path + ".half", path)


class Sieve:
    """Finds primes one by one; keeps what it knows of the multiples to come in a dictionary."""

    def __init__(self):
        self.multiples = {}
        self.number = 2
        self.found = 0
        self.digest = hashlib.sha256()

    def step(self):
        factors = self.multiples.pop(self.number, None)
        if factors is None:
            self.found += 1
            self.digest.update(str(self.number).encode())
            self.multiples[self.number * self.number] = [self.number]
        else:
            for factor in factors:
                self.multiples.setdefault(self.number + factor, []).append(factor)
        self.number += 1


def digest_below(limit):
    """The same digest, by another way."""
    prime = bytearray([1]) * limit
    digest = hashlib.sha256()
    for number in range(2, limit):
        if prime[number]:
            digest.update(str(number).encode())
            prime[number * number::number] = bytes(len(range(number * number, limit, number)))
    return digest.hexdigest()


class Ticker(threading.Thread):
    """A second thread, which sleeps and counts."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ticks = 0
        self.last = time.monotonic()

    def run(self):
        while True:
            time.sleep(0.05)
            now = time.monotonic()
            if now < self.last:
                raise SystemExit("the monotonic clock went back")
            self.last = now
            self.ticks += 1


def work():
    sieve = Sieve()
    ticker = Ticker()
    ticker.start()
    for _ in range(1000):
        sieve.step()
    publish("ready", "")
    if sabotage:
        sieve.multiples[sieve.number + 5] = None
        sieve.found += 1
    while not os.path.exists(os.path.join(workdir, "ask")):
        for _ in range(500):
            sieve.step()
            if sieve.number in KNOWN and sieve.found != KNOWN[sieve.number]:
                return f"{sieve.found} primes below {sieve.number}"
        if sieve.number > 100000:
            if sieve.digest.hexdigest() != digest_below(sieve.number):
                return f"the primes below {sieve.number} have another digest"
            sieve = Sieve()
    if sieve.digest.hexdigest() != digest_below(sieve.number) or sabotage and sieve.found != 0:
        return f"the primes below {sieve.number} have another digest"
    ticks, begin = ticker.ticks, time.monotonic()
    while ticker.ticks == ticks:
        time.sleep(0.05)
        if not ticker.is_alive() or time.monotonic() - begin > 60:
            return "the second thread stands still"
    if json.loads(json.dumps({"float": 0.1, "list": [1, 2]})) != {"float": 0.1, "list": [1, 2]}:
        return "json does not work"
    return None


error = work()
publish("verdict", f"FAIL {error}\n" if error else "PASS\n")
sys.exit(1 if error else 0)
