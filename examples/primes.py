"""Counts the primes below a limit and hashes all of them, for about 20 seconds; saves nothing on the way.

The state of the work (the count, the largest gap, the running SHA-256) lies in memory only, and Python offers no way
to write a half-finished hash object to a file. Killed in the middle, this program would have to begin anew, unless
somebody saves the process itself.

usage: primes.py [LIMIT]     (default 32000000; the result is written to primes.txt)
"""

import hashlib
import sys
from math import isqrt

STEPS = 16


def primes_below(limit):
    """All primes below a small limit."""
    is_prime = bytearray([1]) * limit
    is_prime[:2] = b"\0\0"
    for number in range(2, isqrt(limit - 1) + 1):
        if is_prime[number]:
            is_prime[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return [number for number in range(limit) if is_prime[number]]


def primes_between(start, end, small):
    """The primes from start up to end, crossed out by the small ones."""
    is_prime = bytearray([1]) * (end - start)
    for number in small:
        first = max(number * number, -(-start // number) * number) - start
        if first < len(is_prime):
            is_prime[first::number] = bytes(len(range(first, len(is_prime), number)))
    for offset in range(end - start):
        if is_prime[offset] and start + offset > 1:
            yield start + offset


def main():
    limit = int(sys.argv[1]) if len(sys.argv) > 1 else 32_000_000
    small = primes_below(isqrt(limit) + 1)
    count, largest_gap, last, digest = 0, 0, 2, hashlib.sha256()
    for step in range(STEPS):
        for prime in primes_between(limit * step // STEPS, limit * (step + 1) // STEPS, small):
            count += 1
            largest_gap = max(largest_gap, prime - last)
            last = prime
            digest.update(b"%d\n" % prime)
        print(f"step {step + 1:2} of {STEPS}: {count:10,} primes, {digest.hexdigest()[:12]}", flush=True)
    with open("primes.txt", "w", encoding="ascii") as result:
        print(f"primes below {limit}: {count}", file=result)
        print(f"largest gap: {largest_gap}", file=result)
        print(f"sha256 of them all: {digest.hexdigest()}", file=result)


main()
