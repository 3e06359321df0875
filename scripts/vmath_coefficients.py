#!/usr/bin/env python3
"""Prints the polynomial coefficients of kernels/cpu/vmath.h: Chebyshev fits on the reduced ranges, rounded to float.

Needs mpmath. The error printed is that of the polynomial alone, before float arithmetic.
"""
import struct

from mpmath import chebyfit, exp, log, log1p, mp, mpf, sqrt, tanh

mp.prec = 120


def to_float(x):
    return struct.unpack("f", struct.pack("f", float(x)))[0]


def show(name, f, interval, terms):
    coefficients, error = chebyfit(f, interval, terms, error=True)
    print(f"{name}: error {float(error):.2e}")
    for power, c in enumerate(reversed(coefficients)):
        print(f"  x^{power}: {to_float(c).hex()}f")


def taylor_guard(f, limit):
    """f near 0 by its limit, where the quotient that defines it cancels."""
    return lambda x: limit if abs(x) < mpf(10) ** -15 else f(x)


half_ln2 = log(2) / 2
show("exp(r) = 1 + r + r^2 q(r)", taylor_guard(lambda r: (exp(r) - 1 - r) / r**2, mpf(1) / 2), [-half_ln2, half_ln2], 5)
show("log(1+f) = f - f^2/2 + f^3 q(f)",
     taylor_guard(lambda f: (log1p(f) - f + f**2 / 2) / f**3, mpf(1) / 3), [sqrt(mpf(1) / 2) - 1, sqrt(mpf(2)) - 1], 9)
show("tanh(x) = x + x^3 q(x^2)", taylor_guard(lambda u: (tanh(sqrt(u)) / sqrt(u) - 1) / u, -mpf(1) / 3), [mpf(0), mpf("0.625") ** 2], 5)
ln2 = log(2)
high = mpf(int(ln2 * 2**14)) / 2**14  # 14 bits: n * high is exact for |n| < 2^10
print(f"ln2: high {to_float(high).hex()}f, low {to_float(ln2 - high).hex()}f")
print(f"log2(e): {to_float(1 / ln2).hex()}f")
