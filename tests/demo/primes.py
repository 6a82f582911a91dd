#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The demo's job: counts primes, and says every tenth, and on which host."""
import os
import time

found, number, primes = 0, 1, []
while True:
    number += 1
    if all(number % prime for prime in primes if prime * prime <= number):
        primes.append(number)
        found += 1
        if found % 10 == 0:
            print(f"{os.uname().nodename}: pid {os.getpid()}: prime number {found} is {number}",
                  flush=True)
            time.sleep(0.4)
