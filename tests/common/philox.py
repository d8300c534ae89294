"""Philox4x32-10 in Python integers."""

MASK = 0xFFFFFFFF


def philox(counter, key, rounds=10):
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(rounds):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return [c0, c1, c2, c3]


def words_of_row(seed, row, stream, draw, rounds=10):
    counter = (row & MASK, (row >> 32) & MASK, stream, draw)
    return philox(counter, (seed & MASK, seed >> 32), rounds)


def uniform_of_row(seed, row, stream, draw=0):
    w0, w1, _, _ = words_of_row(seed, row, stream, draw)
    return ((w0 << 21) | (w1 >> 11)) / 2**53
