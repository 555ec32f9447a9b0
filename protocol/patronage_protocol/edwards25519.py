"""Which 32 bytes are an acceptable Ed25519 public key: the group check that RFC 8032 leaves to the caller.

With a point of low order as public key, one signature verifies for every message. With a point that merely
has a low-order component, or another encoding of a good point, verifiers disagree: some multiply the
equation by the cofactor 8 and some do not (Chalkias, Garillot, Nikolaenko, "Taming the many EdDSAs", 2020).
Keys accepted here are canonical encodings of points of prime order; under those, what OpenSSL accepts,
every other verifier accepts.

Only public data passes through here, so nothing is constant-time. One check takes about two milliseconds.
"""

from functools import lru_cache

__all__ = ["IDENTITY", "ORDER", "refusal"]

ORDER = 2**252 + 27742317777372353535851937790883648493
"""The prime order L of the base point (RFC 8032, section 5.1). A signature's S must be below it."""

IDENTITY = bytes([1]) + bytes(31)
"""The encoding of the neutral point, which some verifiers refuse as the R of a signature."""

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_SQRT_MINUS_ONE = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, xy = T/Z
_IDENTITY: _Point = (0, 1, 1, 0)


@lru_cache(maxsize=1024)
def refusal(encoded: bytes) -> str | None:
    """Why these 32 bytes cannot be a public key, or None where they can."""
    y = int.from_bytes(encoded, "little") & (2**255 - 1)
    sign = encoded[31] >> 7
    if y >= _P:
        return "a y coordinate that is not reduced modulo p"
    x = _recover_x(y, sign)
    if x is None:
        return "bytes that encode no point of the curve"
    point: _Point = (x, y, 1, x * y % _P)
    if _is_identity(_times(8, point)):
        return "a point of low order"
    if not _is_identity(_times(ORDER, point)):
        return "a point with a low-order component"
    return None


def _recover_x(y: int, sign: int) -> int | None:
    # RFC 8032, section 5.1.3: solve x**2 = (y**2 - 1) / (d y**2 + 1), p = 5 mod 8.
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if (v * x * x - u) % _P:
        x = x * _SQRT_MINUS_ONE % _P
    if (v * x * x - u) % _P or (x == 0 and sign):
        return None
    return x if x & 1 == sign else _P - x


def _times(scalar: int, point: _Point) -> _Point:
    result = _IDENTITY
    for bit in bin(scalar)[2:]:
        result = _add(result, result)
        if bit == "1":
            result = _add(result, point)
    return result


def _add(p: _Point, q: _Point) -> _Point:
    # RFC 8032, section 5.1.4; complete, so it doubles as well.
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _is_identity(point: _Point) -> bool:
    return point[0] % _P == 0 and (point[1] - point[2]) % _P == 0
