"""Recompute tests/vectors/ed25519_edge_cases.json: python tests/vectors/make_ed25519_edge_cases.py

The torsion points are found by multiplying arbitrary points of the curve by the group order L; the classes
of cases are those of Chalkias, Garillot and Nikolaenko, "Taming the many EdDSAs" (2020), and of
https://c2sp.org/CCTV/ed25519. Affine arithmetic straight from RFC 8032, section 5.1, shared with nothing
under test.
"""

import hashlib
import json
from pathlib import Path

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
I = pow(2, (P - 1) // 4, P)  # noqa: E741


def add(p, q):
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def times(n, point):
    result = (0, 1)
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result


def points_with(y):
    x2 = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if x * x % P != x2:
        x = x * I % P
    return [] if x * x % P != x2 else [(x, y % P), (-x % P, y % P)]


def encode(x, y):
    return (y | (x & 1) << 255).to_bytes(32, "little")


def torsion():
    for y in range(2, 1000):
        for point in points_with(y):
            candidate = times(L, point)
            if times(4, candidate) != (0, 1):
                return [times(k, candidate) for k in range(8)]
    raise AssertionError("no point of order 8")


def main():
    base = next(point for point in points_with(4 * pow(5, -1, P) % P) if point[0] % 2 == 0)
    low = torsion()
    cases = [{"what": f"low order, {k} T", "key": encode(*point).hex()} for k, point in enumerate(low)]
    for y, sign in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        alias = (y + P | sign << 255).to_bytes(32, "little")
        cases.append({"what": f"low order, y = p + {y} not reduced, sign {sign}", "key": alias.hex()})
    for y in (1, P - 1):
        minus_zero = (y | 1 << 255).to_bytes(32, "little")
        cases.append(
            {"what": f"low order, x = 0 with a sign, y = {y if y == 1 else '-1'}", "key": minus_zero.hex()}
        )
    for y in range(2, 19):
        if points_with(y):
            cases.append({"what": f"not reduced, y = p + {y}", "key": (y + P).to_bytes(32, "little").hex()})
    cases.extend(
        {"what": f"no point of the curve, y = {y}", "key": y.to_bytes(32, "little").hex()}
        for y in range(2, 12)
        if not points_with(y)
    )
    secret = int.from_bytes(hashlib.sha512(b"patronage edge cases").digest(), "little") % L
    public = times(secret, base)
    for k in range(1, 8):
        cases.append({"what": f"prime order + {k} T", "key": encode(*add(public, low[k])).hex()})
    good = [encode(*times(secret + k, base)).hex() for k in range(8)]

    message = b"pay the bearer"
    nonce = times(secret + 99, base)
    challenge = int.from_bytes(hashlib.sha512(encode(*nonce) + encode(*public) + message).digest(), "little")
    s = (secret + 99 + challenge * secret) % L
    neutral = encode(0, 1)
    challenge = int.from_bytes(hashlib.sha512(neutral + encode(*public) + message).digest(), "little")
    signature = {
        "neutral_r": (neutral + (challenge * secret % L).to_bytes(32, "little")).hex(),
        "key": encode(*public).hex(),
        "message": message.hex(),
        "valid": (encode(*nonce) + s.to_bytes(32, "little")).hex(),
        "malleable": [(encode(*nonce) + (s + k * L).to_bytes(32, "little")).hex() for k in range(1, 8)],
    }
    any_message = {"key": encode(0, 1).hex(), "signature": (encode(*base) + (1).to_bytes(32, "little")).hex()}
    document = {
        "source": "recomputed by make_ed25519_edge_cases.py",
        "refused_keys": cases,
        "accepted_keys": good,
        "signature": signature,
        "valid_for_any_message": any_message,
    }
    Path(__file__).with_name("ed25519_edge_cases.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
