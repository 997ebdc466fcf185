"""Whom we trust: the TLS context of every outbound connection. Certificates and names are always verified, TLS 1.2 or newer.

The system's store decides: that is where a company puts its own authority, and `SSL_CERT_FILE` moves it. Python builds that look
for it in the wrong place get the usual ones. A `ca_file` replaces it: only what that file holds is trusted.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

WELL_KNOWN_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


@lru_cache(maxsize=64)
def client_context(ca_file: str | None) -> ssl.SSLContext:
    """Raises OSError (ssl.SSLError is one) when the file cannot be read. Made once per file: it takes some milliseconds."""
    context = ssl.create_default_context(cafile=ca_file or _bundle())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _bundle() -> str | None:
    """None: what OpenSSL finds by itself. Slim images have its folder, but nothing in it."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(os.scandir(paths.capath))):
        return None
    for bundle in WELL_KNOWN_BUNDLES:
        if os.path.exists(bundle):
            return bundle
    raise FileNotFoundError("this system has no CA certificates: install them (ca-certificates) or set ca_file")
