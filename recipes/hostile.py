"""Files that a reader of checkpoints must refuse, built from single pickle instructions.

``CASES`` has them by name: the bytes, or a function that makes the thing at a path. Every payload
would touch the file ``CANARY`` in the working folder.
"""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

CANARY = "was-executed"
COMMAND = f"touch {CANARY}"
CODE = f"open({CANARY!r}, 'w').close()"
Case = bytes | Callable[[Path], None]


def text(value: str) -> bytes:
    """A text instruction."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """An integer instruction."""
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    """A GLOBAL instruction."""
    return f"c{module}\n{attribute}\n".encode()


def whole(*parts: bytes, protocol: int = 3) -> bytes:
    """A whole pickle."""
    return bytes([0x80, protocol]) + b"".join(parts) + b"."


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    """A global called with arguments."""
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def entry(key: str, value: bytes) -> bytes:
    """A dict with one item."""
    return b"}" + text(key) + value + b"s"


SYSTEM = call("posix", "system", text(COMMAND))
ORDERED = name("collections", "OrderedDict") + b")R"


def legacy(value: bytes, keys: bytes = pickle.dumps(["0"], 2), tail: bytes = b"") -> bytes:
    """torch.save's old layout around a pickled value."""
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps(info, 2)
    return head + whole(value, protocol=2) + keys + tail


def reference(count: int, key: str = "0", kind: bytes = name("torch", "FloatStorage")) -> bytes:
    """A reference to a storage outside the pickle."""
    parts = text("storage") + kind + text(key) + text("cpu") + number(count) + b"N"
    return b"(" + parts + b"tQ"


def storage(numbers: list[float], claimed: int | None = None) -> bytes:
    """A storage inside a snapshot, as it is pickled there."""
    raw = struct.pack(f"<{len(numbers)}f", *numbers)
    count = len(numbers) if claimed is None else claimed
    data = legacy(reference(count), tail=struct.pack("<q", count) + raw)
    return call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(data)) + data)


def embedded(data: bytes) -> bytes:
    """Other bytes where a storage belongs."""
    return call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(data)) + data)


def tensor(store: bytes, offset: int = 0, shape: object = (2,), stride: object = (1,)) -> bytes:
    """A tensor over a storage, with any claims."""
    numbers = [pickle.dumps(x, 2)[2:-1] for x in (offset, shape, stride)]
    arguments = store + b"".join(numbers) + b"\x89" + ORDERED
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def record(state: bytes = b"}", kind: str = "class", version: int = 6) -> bytes:
    """An object with embedded source."""
    meta = b"}(" + text("type") + text(kind) + text("version") + number(version)
    meta += text("module_src") + text(CODE) + text("class_name") + text("Generator")
    meta += text("state") + state + b"u"
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def snapshot(value: bytes) -> bytes:
    """A training snapshot whose network is this value."""
    return whole(entry("G_ema", value))


def state(**entries: bytes) -> bytes:
    """A record's attributes."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def archive(data: bytes, storages: dict[str, bytes] | None = None, packed: bool = False) -> bytes:
    """An archive as torch.save writes it."""
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("archive/data.pkl", data)
        for key, raw in (storages or {}).items():
            file.writestr(f"archive/data/{key}", raw)
    return buffer.getvalue()


def safetensors(entries: object, data: bytes = b"", size: int | None = None) -> bytes:
    """A .safetensors file with any header."""
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def own(**config: object) -> bytes:
    """A weights file of ours whose header makes claims."""
    header = {"format": 1, "architecture": "stylegan2", "kind": "generator", "config": config}
    return safetensors({"__metadata__": {"sat3d": json.dumps(header)}})


def overlapping_archive() -> bytes:
    """Two members of the list point at the same bytes."""
    data = bytearray(archive(whole(b"}"), {"0": bytes(4000), "1": bytes(10)}))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    third = data.index(b"PK\x01\x02", second + 4)
    for start, end in ((16, 28), (42, 46)):  # checksum and sizes; place
        data[third + start : third + end] = data[second + start : second + end]
    return bytes(data)


def patched_end(data: bytes, at: int, value: bytes) -> bytes:
    """An archive with other bytes in its end record."""
    end = data.rindex(b"PK\x05\x06") + at
    return data[:end] + value + data[end + len(value) :]


def shared_modules() -> bytes:
    """Forty modules, each holding the one before twice: 2**40 paths."""
    parts = text("part") + record() + b"q\x00s"
    for _ in range(40):
        inner = b"}(" + text("a") + b"h\x00" + text("b") + b"h\x00u"
        parts += text("part") + record(state(_modules=inner)) + b"q\x00s"
    return whole(b"}", parts, text("G_ema"), b"h\x00s")


def cyclic_module() -> bytes:
    """A module that is its own submodule."""
    return whole(
        b"}", text("modules"), b"}q\x01s", text("G_ema"), record(state(_modules=b"h\x01")),
        b"q\x02s", text("cycle"), b"h\x01", text("again"), b"h\x02ss",
    )  # fmt: skip


def chain(levels: int) -> bytes:
    """Modules nested so deep."""
    inner = record(state(_modules=b"}"))
    for _ in range(levels):
        inner = record(state(_modules=entry("a", inner)))
    return snapshot(inner)


def laughing_tuples(end: bytes) -> bytes:
    """A tuple of the same tuple twice, forty times over: ``h\\x00`` of what follows."""
    return whole(b"(", b")q\x00", *[b"h\x00h\x00\x86q\x00"] * 40, end, b"t")


def network(**more: bytes) -> bytes:
    """A whole tiny Generator record with entries replaced."""
    synthesis = record(state(_modules=b"}"))
    mapping = record(state(_modules=b"}", num_layers=number(2)))
    modules = b"}(" + text("synthesis") + synthesis + text("mapping") + mapping + b"u"
    sizes = {key: number(32) for key in ("z_dim", "w_dim", "img_resolution")}
    entries = {"_modules": modules, "c_dim": number(0), "img_channels": number(3), **sizes}
    return snapshot(record(state(**{**entries, **more})))


def linked(path: Path) -> None:
    """A symbolic link to a pickle."""
    target = path.with_name("target-of-link")
    target.write_bytes(whole(b"}"))
    path.symlink_to(target)


EVIL_NAMES = {
    "os.system": ("os", "system", text(COMMAND)),
    "posix.system": ("posix", "system", text(COMMAND)),
    "nt.system": ("nt", "system", text(COMMAND)),
    "eval": ("builtins", "eval", text(CODE)),
    "exec": ("builtins", "exec", text(CODE)),
    "python 2 eval": ("__builtin__", "eval", text(CODE)),
    "import": ("builtins", "__import__", text("os")),
    "getattr": ("builtins", "getattr", text("x") + text("__class__")),
    "open": ("builtins", "open", text(CANARY) + text("w")),
    "Popen": ("subprocess", "Popen", text(COMMAND)),
    "pty.spawn": ("pty", "spawn", text(COMMAND)),
    "runpy": ("runpy", "_run_code", text(CODE)),
    "pickle.loads": ("pickle", "loads", b"C" + bytes([len(whole(SYSTEM))]) + whole(SYSTEM)),
    "_pickle.loads": ("_pickle", "loads", b"C\x01."),
    "torch.load": ("torch", "load", text("other.pt")),
    "torch.hub.load": ("torch.hub", "load", text("user/project")),
    "torch.jit.load": ("torch.jit", "load", text("other.pt")),
    "import_module": ("importlib", "import_module", text("os")),
    "attrgetter": ("operator", "attrgetter", text("system")),
    "partial": ("functools", "partial", name("posix", "system")),
    "FunctionType": ("types", "FunctionType", b"N"),
    "marshal": ("marshal", "loads", b"C\x01N"),
    "numpy.load": ("numpy", "load", text("other.npy")),
    "tensorflow network": ("dnnlib.tflib.network", "Network", b""),
    "a method of an allowed name": ("collections", "OrderedDict.fromkeys", b"]"),
    "a dunder of an allowed name": ("builtins", "set.__class__", b"]"),
    "an allowed name, other module": ("os", "OrderedDict", b""),
}

CASES: dict[str, Case] = {
    **{f"global {key}": whole(call(*parts)) for key, parts in EVIL_NAMES.items()},
    # Where a reducer can hide.
    "reducer in a snapshot": snapshot(SYSTEM),
    "reducer in a record's state": snapshot(record(state(_modules=SYSTEM))),
    "reducer in reducer arguments": snapshot(call("collections", "OrderedDict", SYSTEM)),
    "reducer behind the value": whole(entry("G_ema", record()), SYSTEM, b"\x86"),
    "reducer in a storage": snapshot(tensor(embedded(legacy(SYSTEM)))),
    "reducer instead of a storage": snapshot(tensor(embedded(whole(SYSTEM)))),
    "reducer among the keys": snapshot(tensor(embedded(legacy(reference(1), whole(SYSTEM))))),
    "reducer in a storage reference": whole(reference(1, kind=SYSTEM)),
    "storage in a storage": snapshot(tensor(embedded(legacy(storage([1.0]))))),
    "reducer in torch's old layout": legacy(SYSTEM),
    "reducer in an archive": archive(whole(SYSTEM, protocol=2)),
    "pickle in an archive's reference": archive(whole(SYSTEM + b"Q", protocol=2)),
    **{f"reducer, protocol {k}": whole(SYSTEM, protocol=k) for k in (2, 4, 5)},
    "protocol 0": pickle.dumps({"a": [1]}, 0),
    "protocol 1": pickle.dumps({"a": [1]}, 1),
    "protocol 6": whole(b"}", protocol=6),
    "INST": whole(b"(" + text(COMMAND) + b"iposix\nsystem\n"),
    "OBJ": whole(b"(" + name("posix", "system") + text(COMMAND) + b"o"),
    "STACK_GLOBAL": whole(text("posix") + text("system") + b"\x93" + text(COMMAND) + b"\x85R"),
    "STACK_GLOBAL of no text": whole(b"K\x01K\x02\x93"),
    "NEWOBJ": whole(name("subprocess", "Popen") + text(COMMAND) + b"\x85\x81"),
    "NEWOBJ_EX": whole(name("collections", "OrderedDict") + b")" + entry("a", b"N") + b"\x92"),
    "EXT1": whole(b"\x82\x01"),
    "EXT2": whole(b"\x83\x01\x00"),
    "EXT4": whole(b"\x84\x01\x00\x00\x00"),
    "PERSID": whole(b"Pposix.system\n"),
    "BINPERSID in a plain pickle": whole(reference(1)),
    "BINPERSID of another kind": legacy(b"(" + text("module") + b"NNNNtQ"),
    "BUILD of a global": whole(name("collections", "OrderedDict") + entry("__init__", b"N") + b"b"),
    "BUILD of a list": whole(b"]" + entry("__class__", b"N") + b"b"),
    "BUILD with slots": snapshot(record() + b"N" + entry("a", b"N") + b"\x86b"),
    "REDUCE of a text": whole(text("posix.system") + text(COMMAND) + b"\x85R"),
    "REDUCE of a storage class": whole(call("torch", "FloatStorage")),
    "REDUCE without a tuple": whole(name("collections", "OrderedDict") + b"]R"),
    "BYTEARRAY8": whole(b"\x96" + struct.pack("<Q", 2**62), protocol=5),
    "NEXT_BUFFER": whole(b"\x97", protocol=5),
    "unknown instruction": whole(b"\xff"),
    # Claims.
    "BINBYTES of 4 GiB": whole(b"B\xff\xff\xff\xff"),
    "BINBYTES8 of 2**63": whole(b"\x8e" + struct.pack("<Q", 2**63)),
    "BINUNICODE of 4 GiB": whole(b"X\xff\xff\xff\xff"),
    "BINUNICODE8 of 2**62": whole(b"\x8d" + struct.pack("<Q", 2**62)),
    "LONG4 of 2 GiB": whole(b"\x8b\xff\xff\xff\x7f"),
    "LONG4 of a negative size": whole(b"\x8b\xff\xff\xff\xff"),
    "LONG1 of 255 bytes": whole(b"\x8a\xff" + b"\xff" * 255),
    "FRAME of 2**63": whole(b"\x95" + struct.pack("<Q", 2**63) + b"N", protocol=4),
    "memo at 2**32 - 1": whole(b"}r\xff\xff\xff\xff"),
    "memo never set": whole(b"h\x07"),
    "name without an end": b"\x80\x03c" + b"a" * 100_000,
    "shape beyond the storage": snapshot(tensor(storage([1.0, 2.0]), shape=(2**40,))),
    "shape of 2**160": snapshot(tensor(storage([1.0]), shape=(2**40,) * 4, stride=(0,) * 4)),
    "stride 0 repeats": snapshot(tensor(storage([1.0]), shape=(2**30,), stride=(0,))),
    "stride beyond the storage": snapshot(tensor(storage([1.0, 2.0]), stride=(2**40,))),
    "few numbers far apart": snapshot(
        tensor(storage([0.0] * 200_000), shape=(4, 4), stride=(60_000, 1))
    ),
    "offset beyond the storage": snapshot(tensor(storage([1.0, 2.0]), offset=2**39)),
    "negative size": snapshot(tensor(storage([1.0]), shape=(-1,))),
    "negative stride": snapshot(tensor(storage([1.0, 2.0]), stride=(-1,))),
    "negative offset": snapshot(tensor(storage([1.0, 2.0]), offset=-8)),
    "size of 2**200": snapshot(tensor(storage([1.0]), shape=(2**200,))),
    "sizes that are no tuple": snapshot(tensor(storage([1.0]), shape=[1])),
    "thousand dimensions": snapshot(tensor(storage([1.0]), shape=(1,) * 999, stride=(1,) * 999)),
    "storage claims 2**62 numbers": snapshot(tensor(storage([1.0], claimed=2**62))),
    "storage claims too few": snapshot(tensor(storage([1.0] * 9, claimed=3))),
    "storage claims -1 numbers": snapshot(tensor(storage([1.0], claimed=-1))),
    "tensor of a text": snapshot(tensor(text("storage"))),
    "storage listed but unused": legacy(b"}", pickle.dumps(["7"], 2), bytes(16)),
    "storage never stored": legacy(entry("a", tensor(reference(2))), pickle.dumps([], 2)),
    "storage of two sizes": legacy(b"(" + reference(2) + reference(3) + b"t"),
    "big-endian": legacy(b"}").replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
    # Growth, depth and time.
    "million nested tuples": whole(b")", b"\x85" * 1_000_000),
    "million nested lists": whole(b"]" * 1_000_000, b"a" * 999_999),
    "million nested dicts": whole(b"}", (text("a") + b"}") * 300_000, b"s" * 300_000),
    "million marks": whole(b"(" * 1_000_000),
    "flood of instructions": whole(b"(", b"N" * 3_000_000, b"t"),
    "flood of dicts": whole(b"(", b"}" * 3_000_000, b"t"),
    "flood of records": whole(b"(", record(), b"q\x00", b"h\x00" * 2_000_000, b"t"),
    "laughing tuples": laughing_tuples(b""),
    "laughing tuples as a key": laughing_tuples(b"}h\x00Ns"),
    "laughing tuples in a dtype": laughing_tuples(call("numpy", "dtype", b"h\x00")),
    "laughing tuples as a class": laughing_tuples(b"h\x00h\x00\x93"),
    "laughing tuples as an encoding": laughing_tuples(
        call("_codecs", "encode", text("a"), b"h\x00")
    ),

    "list inside itself": whole(b"]q\x00h\x00a"),
    "one state for many records": whole(
        b"}(", b"".join(text(str(k)) + b"N" for k in range(20_000)), b"uq\x00(",
        (name("argparse", "Namespace") + b")\x81h\x00b") * 20_000, b"t\x86",
    ),
    "module inside itself": cyclic_module(),
    "modules shared 2**40 times": shared_modules(),
    "modules nested 5000 deep": chain(5000),
    "text of 100 MB": whole(b"(", text("a" * 10**6) * 100, b"t"),
    # Files that are something else.
    "empty": b"",
    "one byte": b"\x80",
    "zeros": bytes(4096),
    "gzip": b"\x1f\x8b\x08" + bytes(100),
    "web page": b"<!DOCTYPE html><html>quota exceeded</html>",
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "JSON": b'{"a": 1}' + bytes(20),
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "plain number": whole(b"K\x07"),
    "foreign dict": whole(entry("weights", b"N")),
    "trailing bytes": whole(b"}") + b"more",
    "two values": whole(b"NN"),
    "nothing": whole(),
    # Archives.
    "zip bomb": archive(whole(b"}"), {"0": bytes(20_000_000)}, packed=True),
    "zip of a bomb of text": archive(b"\x80\x02" + b"]" * 20_000_000, packed=True),
    "overlapping members": overlapping_archive(),
    "archive without an end": b"PK\x03\x04" + bytes(100),
    "archive without a pickle": archive(b"}").replace(b"data.pkl", b"some.pkl"),
    "archive with code": archive(whole(b"}"), {"0": b""}).replace(b"data/0", b"code/0"),
    "archive without its storage": archive(whole(reference(4), protocol=2)),
    "archive with a short storage": archive(whole(reference(4), protocol=2), {"0": b"1234"}),
    "archive of 65534 members": patched_end(archive(whole(b"}")), 10, b"\xfe\xff"),
    "archive list beyond the file": patched_end(archive(whole(b"}")), 16, b"\xf0\xff\xff\x7f"),
    "archive list of 4 GiB": patched_end(archive(whole(b"}")), 12, b"\xfe\xff\xff\xff"),
    "archive with a false 64-bit end": patched_end(archive(whole(b"}")), 10, b"\xff" * 10),
    "truncated archive": archive(whole(b"}"), {"0": bytes(500)})[:-40],
    # .safetensors.
    "header of 2**60 bytes": safetensors(b"{}", size=2**60),
    "header nested a million deep": safetensors(b'{"a":' + b"[" * 1_000_000),
    "header that is no JSON": safetensors(b"{nonsense"),
    "tensors that overlap": safetensors(
        {k: {"dtype": "U8", "shape": [90], "data_offsets": [0, 90]} for k in "abc"}, bytes(100)
    ),
    "tensor outside": safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    "tensor of 2**47": safetensors(
        {"a": {"dtype": "F32", "shape": [2**47], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "tensor of negative size": safetensors(
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "type without a meaning": safetensors(
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "gigantic resolution": own(resolution=2**30),
    "gigantic channels": own(channel_max=10**9),
    "gigantic mapping": own(mapping={"num_layers": 10**9}),
    "gigantic w": own(w_dim=2**62),
    "configuration of another kind": own(resolution="large"),
    "allowed but not there": own(w_dim=8192, channel_max=2048, channel_base=2**17),
    "header of another format": safetensors({"__metadata__": {"sat3d": '{"format": 99}'}}),
    # Records.
    "record of version 7": snapshot(record(version=7)),
    "record of a module": snapshot(record(kind="module")),
    "record with hooks": network(_forward_hooks=entry("0", b"N")),
    "network without parts": snapshot(record()),
    "network of resolution 2**40": network(img_resolution=number(2**40)),
    "network without layers": network(),
    "network with a text for a size": network(z_dim=text("large")),
    # Not plain files.
    "symbolic link": linked,
    "folder": Path.mkdir,
    "named pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "not there": lambda path: None,
}  # fmt: skip
