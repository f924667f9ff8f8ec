"""Downloads from a server of the test's own that drops, truncates, redirects and lies."""

import hashlib
import http.server
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sat3d import answers, download
from sat3d.answers import Expected, shown
from sat3d.download import fetch
from sat3d.errors import Sat3dError, UsageError
from sat3d.progress import SILENT

DATA = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = random.Random(8).randbytes(300_000)
Handler = http.server.BaseHTTPRequestHandler
_connect = socket.socket.connect


@dataclass
class Server:
    """Serves DATA with ranges; ``script`` replaces the answers to the first requests."""

    port: int = 0
    data: bytes = DATA
    tag: str | None = '"one"'
    script: list[Callable[["Server", Handler], None]] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/file.bin"

    def answer(self, handler: Handler) -> None:
        self.asked.append({key.lower(): value for key, value in handler.headers.items()})
        (self.script.pop(0) if self.script else honest)(self, handler)


def send(handler: Handler, code: int, body: bytes = b"", **headers: object) -> None:
    handler.send_response(code)
    for key, value in headers.items():
        handler.send_header(key.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


def plan(server: Server, handler: Handler) -> tuple[int, int, dict[str, object]]:
    """Status, first byte and headers that an honest server answers with."""
    start, code, total = 0, 200, len(server.data)
    same = handler.headers.get("If-Range", server.tag) == server.tag
    if "Range" in handler.headers and same:
        start, code = int(handler.headers["Range"].removeprefix("bytes=")[:-1]), 206
    headers: dict[str, object] = {"Content_Length": total - start}
    if code == 206:
        headers["Content_Range"] = f"bytes {start}-{total - 1}/{total}"
    return code, start, headers | ({"ETag": server.tag} if server.tag else {})


def honest(server: Server, handler: Handler) -> None:
    code, start, headers = plan(server, handler)
    send(handler, code, server.data[start:], **headers)


def cut_at(position: int) -> Callable[[Server, Handler], None]:
    """An honest answer of which the connection drops at an absolute position."""

    def answer(server: Server, handler: Handler) -> None:
        code, start, headers = plan(server, handler)
        send(handler, code, server.data[start:position], **headers)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    return answer


def says(code: int, body: bytes = b"", **headers: object) -> Callable[[Server, Handler], None]:
    return lambda server, handler: send(handler, code, body, **headers)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """On the loopback interface, the only one that this test may reach."""

    def connect(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", address
        _connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    state = Server()

    class Answer(Handler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    listening.handle_error = lambda *_: None  # the client may hang up
    state.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield state
    listening.shutdown()
    listening.server_close()
    thread.join()


def get(server: Server, target: Path, tries: int = 5, **known: Any) -> download.Fetched:
    return fetch([server.address], target, Expected(**known), tries=tries, wait=0)


def nothing_left(target: Path) -> bool:
    return not [path for path in target.parent.iterdir() if not path.name.endswith(".lock")]


def test_a_file_arrives_whole(server, tmp_path):
    done = get(server, tmp_path / "new" / "f.bin", size=len(DATA), sha256=SHA)
    assert done.path.read_bytes() == DATA
    assert (done.size, done.sha256, done.address) == (len(DATA), SHA, server.address)
    assert server.asked[0]["accept-encoding"] == "identity"
    done.path.unlink()
    assert nothing_left(tmp_path / "new" / "f.bin")


def test_a_file_that_is_there_is_not_fetched_again_and_a_wrong_one_is(server, tmp_path):
    target = tmp_path / "f.bin"
    target.write_bytes(DATA)
    assert get(server, target, sha256=SHA).address == ""
    assert not server.asked
    target.write_bytes(OTHER)
    assert get(server, target, sha256=SHA).address == server.address
    assert target.read_bytes() == DATA


# ------------------------------------------------------------------ breaks


@pytest.mark.parametrize("known", [True, False], ids=["hash known", "hash unknown"])
@pytest.mark.parametrize("case", range(20))
def test_a_pull_interrupted_at_a_random_point_goes_on_in_the_next_run(
    server, tmp_path, case, known
):
    cut = random.Random(case).randrange(1, len(DATA))
    target = tmp_path / "f.bin"
    expected = {"sha256": SHA} if known else {}
    server.script = [cut_at(cut)]
    with pytest.raises(Sat3dError, match="given up"):
        get(server, target, tries=0, **expected)
    assert not target.exists()
    have = (tmp_path / "f.bin.part").stat().st_size
    assert have == cut
    assert get(server, target, **expected).sha256 == SHA
    assert server.asked[-1]["range"] == f"bytes={cut}-"
    assert server.asked[-1]["if-range"] == '"one"'
    assert len(server.asked) == 2
    assert target.read_bytes() == DATA


def test_one_run_survives_twenty_breaks(server, tmp_path):
    cuts = sorted(random.Random(99).sample(range(1, len(DATA)), 20))
    server.script = [cut_at(cut) for cut in cuts]
    assert get(server, tmp_path / "f.bin", tries=1).sha256 == SHA
    assert [request.get("range") for request in server.asked] == [
        None,
        *(f"bytes={cut}-" for cut in cuts),
    ]


def test_a_killed_process_leaves_no_file_under_the_final_name_and_the_next_goes_on(
    server, tmp_path
):
    stall = threading.Event()

    def stalls(server: Server, handler: Handler) -> None:
        code, start, headers = plan(server, handler)
        send(handler, code, server.data[start : start + 70_000], **headers)
        handler.wfile.flush()
        stall.wait(30)

    target = tmp_path / "f.bin"
    server.script = [stalls]
    code = (
        "import sys; from pathlib import Path; from sat3d.download import fetch; "
        "fetch([sys.argv[1]], Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, server.address, str(target)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 30
        part = tmp_path / "f.bin.part"
        # What is still in the process's buffer is lost with it; the system's is not.
        while not (part.exists() and part.stat().st_size > 40_000) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    stall.set()
    assert not target.exists()
    have = part.stat().st_size
    assert 40_000 < have <= 70_000
    assert get(server, target).sha256 == SHA
    assert server.asked[-1]["range"] == f"bytes={have}-"


def test_ctrl_c_keeps_what_has_arrived(server, tmp_path, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(SILENT), "advance", stop)
    with pytest.raises(KeyboardInterrupt):
        get(server, tmp_path / "f.bin")
    monkeypatch.undo()
    assert not (tmp_path / "f.bin").exists()
    assert (tmp_path / "f.bin.part").stat().st_size > 0


def test_a_part_that_was_whole_only_needs_its_name(server, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(DATA)
    note = {"address": server.address, "mark": '"one"', "total": len(DATA)}
    (tmp_path / "f.bin.part.json").write_text(json.dumps(note))
    assert get(server, tmp_path / "f.bin", sha256=SHA).sha256 == SHA
    assert not server.asked


def test_two_processes_do_not_fetch_the_same_file(server, tmp_path):
    with (
        download._alone(tmp_path / "f.bin"),
        pytest.raises(UsageError, match="by another process"),
    ):
        get(server, tmp_path / "f.bin")


# ------------------------------------------------------------------ the file changes


def test_a_file_that_changed_meanwhile_is_fetched_from_the_beginning(server, tmp_path):
    server.script = [cut_at(100_000)]
    with pytest.raises(Sat3dError):
        get(server, tmp_path / "f.bin", tries=0)
    server.data, server.tag = OTHER, '"two"'
    assert get(server, tmp_path / "f.bin").path.read_bytes() == OTHER


def test_without_a_mark_and_without_a_hash_nothing_is_stitched_together(server, tmp_path):
    server.tag = None
    server.script = [cut_at(100_000)]
    with pytest.raises(Sat3dError):
        get(server, tmp_path / "f.bin", tries=0)
    server.data = OTHER
    assert get(server, tmp_path / "f.bin").path.read_bytes() == OTHER
    assert "range" not in server.asked[-1]


def test_a_stitched_file_with_a_wrong_hash_is_fetched_once_more_from_the_beginning(
    server, tmp_path
):
    server.tag = None
    server.data = OTHER
    server.script = [cut_at(100_000)]
    with pytest.raises(Sat3dError):
        get(server, tmp_path / "f.bin", tries=0, sha256=SHA)
    server.data = DATA
    assert get(server, tmp_path / "f.bin", sha256=SHA).path.read_bytes() == DATA
    assert [request.get("range") for request in server.asked] == [None, "bytes=100000-", None]


def test_a_weak_tag_does_not_count(server, tmp_path):
    server.tag = 'W/"one"'
    server.script = [cut_at(1000)]
    with pytest.raises(Sat3dError):
        get(server, tmp_path / "f.bin", tries=0)
    get(server, tmp_path / "f.bin")
    assert "range" not in server.asked[-1]


def lying_range(first: int, total: int, body: bytes, tag: str = '"one"') -> Any:
    return says(
        206,
        body,
        Content_Range=f"bytes {first}-{total - 1}/{total}",
        Content_Length=len(body),
        ETag=tag,
    )


@pytest.mark.parametrize(
    "lie",
    [
        lying_range(0, len(DATA), DATA),  # from the beginning instead of from the cut
        lying_range(99_990, len(DATA), DATA[99_990:]),  # a little earlier, as caches do
        lying_range(100_000, len(DATA), OTHER[100_000:], '"two"'),  # another file
        lying_range(100_000, 400_000, b"x" * 300_000),  # of another length
        lying_range(100_000, len(DATA), b"short"),  # contradicts its own length
        says(206, b"x", Content_Length=1),  # without a place
        says(206, b"x", Content_Length=1, Content_Range="bytes 5-2/nonsense"),
        says(416, Content_Range=f"bytes */{len(DATA)}", Content_Length=0),
    ],
)
def test_a_server_that_lies_about_the_rest_is_asked_for_the_whole(server, tmp_path, lie):
    server.script = [cut_at(100_000), lie]
    assert get(server, tmp_path / "f.bin").path.read_bytes() == DATA
    assert [request.get("range") for request in server.asked] == [None, "bytes=100000-", None]


# ------------------------------------------------------------------ lies


def declared(length: object, body: bytes) -> Callable[[Server, Handler], None]:
    return says(200, body, Content_Length=length)


def chunked(*pieces: bytes, end: bool = True) -> Callable[[Server, Handler], None]:
    def answer(server: Server, handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        send(handler, 200, Transfer_Encoding="chunked", Connection="close")
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if end:
            handler.wfile.write(b"0\r\n\r\n")

    return answer


@pytest.mark.parametrize(
    ("answer", "known", "reason"),
    [
        (declared(len(OTHER), OTHER), {"sha256": SHA}, "sha256 is .*, not"),
        (declared(len(OTHER), OTHER), {"sha256": SHA[:8]}, "sha256 is .*, not"),
        (declared(10, b"x" * 10), {"size": 11}, "has 10 bytes, not 11"),
        (declared(1 << 50, b"x"), {"size": 11}, "has 1125899906842624 bytes, not 11"),
        (declared(11, b"x" * 10), {}, "given up"),
        (declared("-5", b"x"), {}, "given up"),
        (declared("many", b"x"), {}, "given up"),
        (says(200, b"x" * 10), {}, "does not say how long"),
        (says(200, b"x" * 10), {"size": 11}, "ended after 10 of 11"),
        (says(200, b"x" * 12), {"size": 11}, "more than 11 bytes"),
        (chunked(b"x" * 12), {"size": 11}, "more than 11 bytes"),
        (chunked(b"x" * 10, end=False), {}, "given up"),
        (chunked(b"x" * 10), {"size": 11}, "ended after 10 of 11"),
        (says(200, b"<html>", Content_Type="text/html; x", Content_Length=6), {}, "a web page"),
        (says(200, b"x", Content_Encoding="gzip", Content_Length=1), {}, "compressed"),
        (says(404, b"", Content_Length=0), {}, "says 404"),
        (says(403, b"", Content_Length=0), {}, "says 403"),
        (says(204), {}, "says 204"),
        (says(503, b"", Content_Length=0), {}, r"says 503; given up"),
        (says(206, b"x", Content_Range="bytes 0-0/1", Content_Length=1), {}, "not give the rest"),
        (says(302, b"", Content_Length=0, Location="file:///etc/passwd"), {}, "not http or https"),
        (says(302, b"", Content_Length=0, Location="ftp://127.0.0.1/x"), {}, "not http or https"),
        (says(302, b"", Content_Length=0, Location="data:,x"), {}, "not http or https"),
        (says(302, b"", Content_Length=0, Location="http://[::1"), {}, "no address"),
    ],
)
def test_what_is_not_the_file_never_gets_its_name(server, tmp_path, answer, known, reason):
    server.script = [answer]
    target = tmp_path / "f.bin"
    with pytest.raises(Sat3dError, match=reason) as raised:
        get(server, target, tries=0, **known)
    assert "\n" not in str(raised.value)
    assert not target.exists()
    # And the truth is accepted afterwards.
    assert get(server, target, sha256=SHA).path.read_bytes() == DATA


def test_a_chunked_answer_is_whole_when_its_end_came(server, tmp_path):
    server.script = [chunked(DATA[:1000], DATA[1000:])]
    assert get(server, tmp_path / "f.bin").sha256 == SHA


def test_a_server_that_is_busy_is_asked_again(server, tmp_path):
    server.script = [says(503, Content_Length=0), says(429, Content_Length=0)]
    assert get(server, tmp_path / "f.bin").sha256 == SHA
    assert len(server.asked) == 3


def test_an_unknown_length_is_not_followed_for_ever(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_BYTES", 1000)
    server.script = [chunked(*[b"x" * 300] * 10)]
    with pytest.raises(Sat3dError, match="more than 1000 bytes"):
        get(server, tmp_path / "f.bin")
    assert nothing_left(tmp_path / "f.bin")


def test_a_server_that_gives_one_byte_at_a_time_is_left_in_the_end(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOST_ATTEMPTS", 6)
    server.script = [cut_at(k) for k in range(1, 10)]
    with pytest.raises(Sat3dError, match="broke 6 times"):
        get(server, tmp_path / "f.bin")


# ------------------------------------------------------------------ redirections and mirrors


def to(location: str) -> Callable[[Server, Handler], None]:
    return says(302, b"", Location=location, Content_Length=0)


def test_redirections_are_followed_five_times(server, tmp_path):
    server.script = [to("/other"), *[to(server.address)] * 4]
    assert get(server, tmp_path / "f.bin").sha256 == SHA
    server.script = [to("/loop")] * 20
    with pytest.raises(Sat3dError, match="more than 5 redirections"):
        get(server, tmp_path / "g.bin")
    assert len(server.asked) == 6 + 6


def test_after_a_break_the_redirection_is_followed_again(server, tmp_path):
    server.script = [to("/cdn"), cut_at(5000), to("/cdn")]
    assert get(server, tmp_path / "f.bin").sha256 == SHA
    assert server.asked[-1]["range"] == "bytes=5000-"


def test_the_next_address_is_tried_and_all_reasons_are_told(server, tmp_path):
    bad = server.address.replace("file.bin", "bad")
    server.script = [says(404, Content_Length=0)]
    done = fetch([bad, server.address], tmp_path / "f.bin", wait=0)
    assert done.address == server.address
    server.script = [says(404, Content_Length=0), says(410, Content_Length=0)]
    with pytest.raises(Sat3dError, match="bad: the server says 404; .*says 410"):
        fetch([bad, server.address], tmp_path / "g.bin", wait=0)


def test_the_address_that_gave_a_part_is_asked_first(server, tmp_path):
    server.script = [cut_at(5000)]
    with pytest.raises(Sat3dError):
        get(server, tmp_path / "f.bin", tries=0)
    other = server.address.replace("file.bin", "other")
    fetch([other, server.address], tmp_path / "f.bin", wait=0)
    assert [request.get("range") for request in server.asked] == [None, "bytes=5000-"]


def test_a_password_is_neither_shown_nor_written(server, tmp_path):
    secret = server.address.replace("127", "me:secret@127")
    assert shown(secret) == server.address
    server.script = [cut_at(5000)]
    with pytest.raises(Sat3dError) as raised:
        fetch([secret], tmp_path / "f.bin", tries=0, wait=0)
    assert "secret" not in str(raised.value)
    assert "secret" not in (tmp_path / "f.bin.part.json").read_text()
    assert "authorization" in server.asked[0]
    assert "secret" not in fetch([secret], tmp_path / "f.bin", wait=0).address


def test_a_server_that_is_not_there_is_one_line(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Sat3dError, match=r"cannot fetch 'f.bin': .*given up"):
        fetch([f"http://127.0.0.1:{port}/f"], tmp_path / "f.bin", tries=2, wait=0)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/x", "x", "http://", "http:///x", "//x/y"])
def test_addresses_of_other_kinds_are_refused(tmp_path, address):
    with pytest.raises(Sat3dError, match="cannot fetch 'f.bin'"):
        fetch([address], tmp_path / "f.bin", tries=0, wait=0)
    assert nothing_left(tmp_path / "f.bin")


# ------------------------------------------------------------------ file: and the disk


def test_a_file_address_is_copied_and_checked(tmp_path):
    source = tmp_path / "a file.bin"
    source.write_bytes(DATA)
    done = fetch([source.as_uri()], tmp_path / "out" / "f.bin", Expected(sha256=SHA))
    assert done.path.read_bytes() == DATA
    with pytest.raises(Sat3dError, match="sha256 is"):
        fetch([source.as_uri()], tmp_path / "out" / "g.bin", Expected(sha256="0" * 64))
    with pytest.raises(Sat3dError, match="300000 bytes, not 5"):
        fetch([source.as_uri()], tmp_path / "out" / "g.bin", Expected(size=5))
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["f.bin"]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///dev/zero", "not a file"),
        ("file:///", "not a file"),
        ("file:///no/such/file", "No such file"),
        ("file://elsewhere/share/f", "of this machine"),
    ],
)
def test_a_file_address_of_no_file_is_refused(tmp_path, address, reason):
    with pytest.raises(Sat3dError, match=reason):
        fetch([address], tmp_path / "f.bin")


def test_too_little_space_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(Sat3dError, match="needs 300000 more bytes, .* has 1000"):
        get(server, tmp_path / "f.bin")
    assert nothing_left(tmp_path / "f.bin")


def test_a_disk_that_fills_up_is_one_line(server, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="limits of POSIX stand in for a full disk")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(Sat3dError, match="cannot write .*: File too large"):
            get(server, tmp_path / "f.bin")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not (tmp_path / "f.bin").exists()
    assert get(server, tmp_path / "f.bin").sha256 == SHA


def test_a_redirection_from_https_to_http_is_refused():
    assert answers._next("https://a/b", "/c") == "https://a/c"
    assert answers._next("http://a/b", "https://d/c") == "https://d/c"
    with pytest.raises(answers.Refused, match="which anyone can change"):
        answers._next("https://a/b", "http://a/b")
