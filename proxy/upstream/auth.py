"""Authentication that is made anew for each call, or for each hour: AWS signatures and Google's access tokens.

    provider.signs   credential  what is added to the head                                                extra
    no               any         nothing: `Heads` has put the key there, a bearer key of Bedrock's too
    yes, bedrock     none        SigV4 over method, path, date and body, by botocore, with the            aws
                                 credentials of its own chain: environment, profile, container or
                                 instance role
    yes, any other   none        a bearer token of Google's application default credentials               google
                     one         the same of a service account: the path of its key file, or its JSON

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    https://docs.cloud.google.com/docs/authentication/application-default-credentials

Looking for credentials and fetching tokens blocks, so it is done in a thread, by one thread for all who wait; the loop only ever reads
what is there. What will soon expire is renewed while it still serves; only what has expired is waited for, and not for longer than
WAIT_S. Both libraries are optional and take long to import: they are imported in that thread, when first needed.
"""

from __future__ import annotations

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from proxy.core.errors import ErrorClass, UpstreamError
from proxy.core.ports import RequestHead
from proxy.core.target import Credential, Provider, Secret

WAIT_S = 10.0  # for credentials or a token
FETCH_TIMEOUT_S = 8.0  # of one request for a Google token
EXPIRES_SOON_S = 60  # AWS credentials with less time left than this are not used any more

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
# bedrock-runtime.eu-west-1.amazonaws.com, bedrock-runtime-fips.…, vpce-0a1b-2c3d.bedrock-runtime.us-east-1.vpce.amazonaws.com
_REGION = re.compile(r"(?:^|\.)bedrock(?:-[a-z]+)*\.([a-z]{2,4}(?:-[a-z]+)+-[0-9]+)\.")


class Authorizer:
    """For one running proxy. Keeps what it was given: credentials of AWS, and one token per Google credential."""

    def __init__(self, *, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._aws = AwsSource()
        self._google: dict[str, GoogleSource] = {}

    async def authorize(self, provider: Provider, credential: Credential, head: RequestHead, body: bytes) -> RequestHead:
        """The head for this one call. Raises UpstreamError (auth, connect, connect_timeout) with `sent` false."""
        if not provider.signs:
            return head
        if provider.dialect == "bedrock":
            region = _region(provider, head)  # a call that cannot be signed needs no credentials
            return _with(head, _signature(head, body, await self._aws.get(self._wait_s), region))
        source = self._google.get(credential.id)
        if source is None:
            source = self._google[credential.id] = GoogleSource(credential.secret)
        return _with(head, await source.get(self._wait_s))


def _with(head: RequestHead, headers: Mapping[str, str]) -> RequestHead:
    """The head with these headers in place of what it says of the same names."""
    added = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    names = {name for name, _ in added}
    kept = [header for header in head.headers if header[0] not in names]
    return RequestHead.make(head.origin, head.method, head.path, kept + added)


class Source(ABC):
    """Something that expires and is fetched by blocking code: never on the loop, and never twice at once."""

    what: ClassVar[str]
    extra: ClassVar[str]

    def __init__(self) -> None:
        self._held: Any = None
        self._awaited = False  # what is held has run out: it is not used again, whatever the thread has come to know meanwhile
        self._fetching: asyncio.Task[Any] | None = None

    async def get(self, wait_s: float) -> Any:
        """Raises UpstreamError. A caller that is cancelled does not take the fetch with it: others may wait for it."""
        if self._held is not None and not self._awaited and self._usable():
            if self._stale():
                self._fetch()
            return self._held
        self._awaited = True
        try:
            async with asyncio.timeout(wait_s):
                return await asyncio.shield(self._fetch())
        except TimeoutError:
            raise UpstreamError(
                ErrorClass.CONNECT_TIMEOUT, f"{self.what} could not be had within {wait_s:g} s", sent=False
            ) from None

    def _fetch(self) -> asyncio.Task[Any]:
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(asyncio.to_thread(self._fetched))
            self._fetching.add_done_callback(self._landed)
        return self._fetching

    def _landed(self, task: asyncio.Task[Any]) -> None:
        self._fetching = None
        self._awaited = False
        if not task.cancelled() and task.exception() is None:
            self._held = task.result()

    def _fetched(self) -> Any:
        try:
            return self._blocking_fetch()
        except ModuleNotFoundError as error:
            missing = f"{self.what} need a package that is not installed ({error.name}): pip install 'tollbridge[{self.extra}]'"
            raise UpstreamError(ErrorClass.AUTH, missing, sent=False) from error

    @abstractmethod
    def _blocking_fetch(self) -> Any:
        """In a thread. Raises UpstreamError, and ModuleNotFoundError where the extra is not installed."""

    @abstractmethod
    def _usable(self) -> bool: ...

    @abstractmethod
    def _stale(self) -> bool:
        """Usable, but soon not any more."""


class AwsSource(Source):
    """The frozen credentials of botocore's own chain; its rules say when temporary ones are renewed (15 minutes before)."""

    what = "AWS credentials"
    extra = "aws"

    def __init__(self) -> None:
        super().__init__()
        self._credentials: Any = None

    def _blocking_fetch(self) -> Any:
        # an optional extra, and a third of a second to import
        import botocore.exceptions
        import botocore.session
        from botocore.auth import SigV4Auth  # noqa: F401  here, so that the first signature does not import it on the loop

        faults = botocore.exceptions
        try:
            if self._credentials is None:
                self._credentials = botocore.session.Session().get_credentials()
            if self._credentials is None:
                raise UpstreamError(ErrorClass.AUTH, "no AWS credentials: none in environment, profile or role", sent=False)
            return self._credentials.get_frozen_credentials()
        except (faults.HTTPClientError, faults.ConnectionError, faults.MetadataRetrievalError) as error:
            raise _unreachable(self.what, error) from error
        except (faults.BotoCoreError, faults.ClientError) as error:
            raise _refused(self.what, error) from error

    def _usable(self) -> bool:
        return not self._needs_renewal(EXPIRES_SOON_S)

    def _stale(self) -> bool:
        return self._needs_renewal(None)

    def _needs_renewal(self, within_s: int | None) -> bool:
        ask = getattr(self._credentials, "refresh_needed", None)  # a pair of keys that is written down has none: it never expires
        return ask is not None and bool(ask(within_s))


def _signature(head: RequestHead, body: bytes, credentials: Any, region: str) -> dict[str, str]:
    # an optional extra: whoever has credentials has imported it
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    origin = head.origin
    request = AWSRequest(
        method=head.method,
        url=f"{origin.scheme}://{origin.authority}{head.path}",
        data=body,
        # what is signed must arrive as it was sent: only what AWS asks for, nothing that a proxy on the way may change
        headers={"content-type": "application/json"},
    )
    SigV4Auth(credentials, "bedrock", region).add_auth(request)
    return {name: value for name, value in request.headers.items() if name.lower() != "content-type"}


def _region(provider: Provider, head: RequestHead) -> str:
    if provider.region:
        return provider.region
    found = _REGION.search(head.origin.host)
    if found is None:
        raise UpstreamError(ErrorClass.AUTH, "a signature names the region: set `region` of this provider", sent=False)
    return found[1]


class GoogleSource(Source):
    """The headers that carry an access token: `authorization`, and `x-goog-user-project` where the credentials name one."""

    what = "Google credentials"
    extra = "google"

    def __init__(self, secret: Secret | None) -> None:
        super().__init__()
        self._secret = secret
        self._credentials: Any = None

    def _blocking_fetch(self) -> dict[str, str]:
        # an optional extra, and slow to import
        import google.auth.exceptions
        import google.auth.transport.requests

        faults = google.auth.exceptions
        try:
            if self._credentials is None:
                self._credentials = _google_credentials(self._secret)
            self._credentials.refresh(partial(google.auth.transport.requests.Request(), timeout=FETCH_TIMEOUT_S))
        except faults.GoogleAuthError as error:
            unreachable = error.retryable or isinstance(error, faults.TransportError)
            raise (_unreachable if unreachable else _refused)(self.what, error) from error
        except (OSError, ValueError) as error:  # the key file: not there, not readable, not a service account's
            raise _refused(self.what, error) from error
        headers: dict[str, str] = {}
        self._credentials.apply(headers)
        return headers

    def _usable(self) -> bool:
        return self._state() != "INVALID"

    def _stale(self) -> bool:
        return self._state() == "STALE"

    def _state(self) -> str:
        return str(self._credentials.token_state.name)  # stale: less than 3 m 45 s are left


def _google_credentials(secret: Secret | None) -> Any:
    # an optional extra, and slow to import
    import google.auth
    from google.oauth2.service_account import Credentials

    account: Any = Credentials  # half of its methods have no types
    if secret is None:
        return google.auth.default(scopes=_SCOPES)[0]
    said = secret.reveal().strip()
    if said.startswith("{"):
        return account.from_service_account_info(json.loads(said), scopes=_SCOPES)
    return account.from_service_account_file(said, scopes=_SCOPES)


def _unreachable(what: str, error: Exception) -> UpstreamError:
    """The key may be right: this one call cannot be made, and nothing is held against the credential."""
    return UpstreamError(ErrorClass.CONNECT, f"{what} could not be fetched: {_reason(error)}", sent=False)


def _refused(what: str, error: Exception) -> UpstreamError:
    return UpstreamError(ErrorClass.AUTH, f"{what} are not usable: {_reason(error)}", sent=False)


def _reason(error: Exception) -> str:
    # of a file that cannot be read only why: its name is what stands where a key is expected, and may be one
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{type(error).__name__}: {said[:200]}"
