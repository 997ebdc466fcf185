"""TLS is verified: an authority, names and dates made for the test by the `openssl` command."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import pytest

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.upstream.client import HttpxTransport
from proxy.upstream.pool import NativeTransport
from proxy.upstream.tls import client_context

if TYPE_CHECKING:
    from tests.upstream.conftest import Line, Peer, Script

pytestmark = [
    pytest.mark.integration,
    pytest.mark.anyio,
    pytest.mark.skipif(which("openssl") is None, reason="makes its certificates with the openssl command, which is not here"),
]

Answer = Callable[..., Awaitable[tuple[int, bytes, bool]]]
Both = NativeTransport | HttpxTransport


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and what it signed: good.pem for 127.0.0.1 and localhost, name.pem for another host, old.pem expired."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, alternatives, days in (
        ("good", "IP:127.0.0.1,DNS:localhost", "1"),
        ("name", "DNS:elsewhere.example.com", "1"),
        ("old", "IP:127.0.0.1", "-1"),
    ):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text(f"subjectAltName={alternatives}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", days, "-extfile", f"{name}.ext", "-out", f"{name}.crt")  # fmt: skip
        (folder / f"{name}.pem").write_bytes((folder / f"{name}.crt").read_bytes() + (folder / f"{name}.key").read_bytes())
    return folder


def server_context(certificates: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem")
    return context


async def test_a_verified_connection_serves_and_is_kept(
    transport: Both, certificates: Path, peer: Peer, echo: Script, answer: Answer
) -> None:
    await peer.serve(echo, ssl=server_context(certificates, "good"))
    for host in ("127.0.0.1", "localhost"):
        head = peer.head(scheme="https", host=host, ca_file=str(certificates / "ca.pem"))
        assert await answer(transport, head) == (200, b"{}", False)
        assert await answer(transport, head, b"x" * 300_000) == (200, b"{}", True)


@pytest.mark.parametrize(("name", "trusted"), [("name", True), ("old", True), ("good", False)])
async def test_a_certificate_that_does_not_hold(
    name: str, trusted: bool, transport: Both, certificates: Path, peer: Peer, echo: Script, answer: Answer
) -> None:
    """Another host's, an expired one, and one whose authority is not known."""
    await peer.serve(echo, ssl=server_context(certificates, name))
    head = peer.head(scheme="https", ca_file=str(certificates / "ca.pem") if trusted else None)
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, head)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.TLS, False)
    assert transport.in_use == 0
    assert not any(line.requests for line in peer.lines)


async def test_a_peer_that_does_not_speak_tls(transport: Both, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await line.gone()

    await peer.serve(script)
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, peer.head(scheme="https"))
    assert caught.value.error_class is ErrorClass.TLS


async def test_a_ca_file_that_is_not_there(transport: Both, peer: Peer, echo: Script, answer: Answer) -> None:
    await peer.serve(echo)
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, peer.head(scheme="https", ca_file="/nowhere/ca.pem"))
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.TLS, False)


async def test_a_peer_that_never_finishes_the_handshake(transport: Both, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.gone()

    await peer.serve(script)
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, peer.head(scheme="https"), connect_timeout_s=0.2)
    assert (caught.value.error_class, caught.value.sent) == (ErrorClass.CONNECT_TIMEOUT, False)
    await peer.lines[0].closed.wait()


async def test_a_stream_cut_inside_tls(native: NativeTransport, certificates: Path, peer: Peer, answer: Answer) -> None:
    async def script(line: Line) -> None:
        await line.request()
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe")
        line.writer.transport.abort()

    await peer.serve(script, ssl=server_context(certificates, "good"))
    with pytest.raises(UpstreamError) as caught:
        await answer(native, peer.head(scheme="https", ca_file=str(certificates / "ca.pem")))
    assert caught.value.error_class in (ErrorClass.TRUNCATED, ErrorClass.RESET_STREAM)
    assert native.in_use == 0


async def test_https_through_a_tunnel(
    transport: Both, certificates: Path, peer: Peer, echo: Script, answer: Answer, tunnel: Callable[..., Awaitable[int]]
) -> None:
    await peer.serve(echo, ssl=server_context(certificates, "good"))
    ca_file = str(certificates / "ca.pem")
    asked: list[bytes] = []
    port = await tunnel(asked)
    head = peer.head(scheme="https", ca_file=ca_file, proxy_url=f"http://user:p%40ss@127.0.0.1:{port}")
    assert await answer(transport, head) == (200, b"{}", False)
    assert await answer(transport, head) == (200, b"{}", True)
    assert len(asked) == 1
    assert asked[0].startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % peer.port)
    assert b"proxy-authorization: basic dxnlcjpwqhnz" in asked[0].lower()
    assert b"content-type" not in asked[0].lower()


async def test_a_wrong_name_behind_a_tunnel(
    transport: Both, certificates: Path, peer: Peer, echo: Script, answer: Answer, tunnel: Callable[..., Awaitable[int]]
) -> None:
    await peer.serve(echo, ssl=server_context(certificates, "name"))
    proxy_url = f"http://127.0.0.1:{await tunnel([])}"
    with pytest.raises(UpstreamError) as caught:
        await answer(transport, peer.head(scheme="https", ca_file=str(certificates / "ca.pem"), proxy_url=proxy_url))
    assert caught.value.error_class is ErrorClass.TLS
    assert transport.in_use == 0


def test_verification_cannot_be_missed() -> None:
    context = client_context(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
