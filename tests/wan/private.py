"""private.py PLAIN.pcap TLS.pcap FILE...: no 16 bytes of any FILE are in the connections of either capture; what the protocol
says of itself can be read in the first and not in the second. The search is tried on a stream that has such bytes."""
import collections
import pathlib
import struct
import sys

WINDOW = 16
SPOKEN = b"10.77.2.1:7701"  # where a site says that it is to be reached


def streams(path):
    """The bytes of each direction of each TCP connection, in order."""
    data = pathlib.Path(path).read_bytes()
    pieces = collections.defaultdict(dict)
    at = 24
    while at + 16 <= len(data):
        n = struct.unpack_from("<I", data, at + 8)[0]
        p = data[at + 16:at + 16 + n]
        at += 16 + n
        header = (p[0] & 15) * 4
        if p[9] != 6:
            continue
        body = header + (p[header + 12] >> 4) * 4
        if len(p) > body:
            sequence = struct.unpack_from(">I", p, header + 4)[0]
            pieces[p[12:20] + p[header:header + 4]].setdefault(sequence, p[body:])
    out = []
    for segments in pieces.values():
        whole, end = bytearray(), None
        for sequence in sorted(segments):  # nobody sends 4 GB here
            segment = segments[sequence]
            if end is not None and sequence < end:
                segment = segment[end - sequence:]
            whole += segment
            end = max(end or 0, sequence + len(segments[sequence]))
        out.append(bytes(whole))
    return out


def windows(path):
    data = pathlib.Path(path).read_bytes()
    all_of_it = {data[i:i + WINDOW] for i in range(0, len(data) - WINDOW)}
    return {w for w in all_of_it if len(set(w)) >= 8}


def found(secret, stream):
    return sum(stream[i:i + WINDOW] in secret for i in range(len(stream) - WINDOW))


def main():
    plain, tls = streams(sys.argv[1]), streams(sys.argv[2])
    secret = set()
    for path in sys.argv[3:]:
        own = windows(path)
        if len(own) < 10000:
            sys.exit(f"{path}: too little to look for")
        if not found(own, b"x" * 1000 + (lambda d: d[len(d) // 2:len(d) // 2 + 1000])(pathlib.Path(path).read_bytes())):
            sys.exit(f"{path}: the search finds nothing where something is")
        secret |= own
    size = [sum(map(len, s)) for s in (plain, tls)]
    if min(size) < 100000:
        sys.exit(f"captures of {size} bytes prove nothing")
    for name, capture in (("plain", plain), ("tls", tls)):
        hits = sum(found(secret, s) for s in capture)
        if hits:
            sys.exit(f"{hits} places of the data are in the capture {name}")
    if not any(SPOKEN in s for s in plain):
        sys.exit("the capture without encryption cannot be read: it proves nothing")
    if any(SPOKEN in s for s in tls):
        sys.exit("what was said under encryption can be read")
    print(f"nothing of {len(secret)} pieces of data in {size[0]} bytes in the clear and {size[1]} bytes under TLS")


main()
