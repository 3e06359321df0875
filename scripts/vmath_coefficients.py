#!/usr/bin/env python3
"""Prints the polynomial coefficients of kernels/cpu/vmath.h: Chebyshev fits on the reduced ranges, rounded to float.

Needs mpmath. The error printed is that of the polynomial alone, before float arithmetic.
"""
import struct

from mpmath import chebyfit, cos, exp, log, log1p, lu_solve, matrix, mp, mpf, pi, sqrt, tanh

mp.prec = 120


def to_float(x):
    return struct.unpack("f", struct.pack("f", float(x)))[0]


def show(name, f, interval, terms):
    coefficients, error = chebyfit(f, interval, terms, error=True)
    print(f"{name}: error {float(error):.2e}")
    for power, c in enumerate(reversed(coefficients)):
        print(f"  x^{power}: {to_float(c).hex()}f")


def show_exp2(terms):
    """2^r = 1 + r q(r) on [-1/2, 1/2], the error in ulp of the result: those below 1 (r < 0) are half as large. Remez's
    exchange; the sign of error / r alternates, because the error vanishes at 0."""
    def ulp(x):
        return mpf(1) if x < 0 else mpf(2)

    at = [cos(pi * (i + mpf(1) / 4) / (terms + mpf(1) / 2)) / 2 for i in range(terms + 1)]
    grid = [mpf(i) / 4000 - mpf(1) / 2 for i in range(4001) if i != 2000]
    for _ in range(30):
        at.sort()
        a = matrix([[x ** (j + 1) / ulp(x) for j in range(terms)] + [(-1) ** i * (1 if x > 0 else -1)] for i, x in enumerate(at)])
        q = lu_solve(a, matrix([(2**x - 1) / ulp(x) for x in at]))
        error = [(1 + sum(q[j] * x ** (j + 1) for j in range(terms)) - 2**x) / ulp(x) for x in grid]
        worst = max(abs(e) for e in error)
        peaks = []  # the largest error of each run of equal sign
        for x, e in zip(grid, error):
            if peaks and (peaks[-1][1] * peaks[-1][0] > 0) == (e * x > 0):
                peaks[-1] = max(peaks[-1], (x, e), key=lambda p: abs(p[1]))
            else:
                peaks.append((x, e))
        if len(peaks) != terms + 1:
            break
        at = [x for x, _ in peaks]
    print(f"exp2(r) = 1 + r q(r): error {float(worst):.2e}")
    for power in range(terms):
        print(f"  x^{power}: {to_float(q[power]).hex()}f")


def taylor_guard(f, limit):
    """f near 0 by its limit, where the quotient that defines it cancels."""
    return lambda x: limit if abs(x) < mpf(10) ** -15 else f(x)


half_ln2 = log(2) / 2
show("exp(r) = 1 + r + r^2 q(r)", taylor_guard(lambda r: (exp(r) - 1 - r) / r**2, mpf(1) / 2), [-half_ln2, half_ln2], 5)
show_exp2(5)
show("log(1+f) = f - f^2/2 + f^3 q(f)",
     taylor_guard(lambda f: (log1p(f) - f + f**2 / 2) / f**3, mpf(1) / 3), [sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1], 9)
show("tanh(x) = x + x^3 q(x^2)", taylor_guard(lambda u: (tanh(sqrt(u)) / sqrt(u) - 1) / u, -mpf(1) / 3), [mpf(0), mpf("0.625") ** 2], 5)
ln2 = log(2)
high = mpf(int(ln2 * 2**14)) / 2**14  # 14 bits: n * high is exact for |n| < 2^10
print(f"ln2: high {to_float(high).hex()}f, low {to_float(ln2 - high).hex()}f")
print(f"log2(e): {to_float(1 / ln2).hex()}f")
