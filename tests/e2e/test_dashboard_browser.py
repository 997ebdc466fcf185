"""The dashboard as somebody sees it: in a real browser, in front of the whole proxy, with nothing faked but the providers.

Whatever a test does, the browser may report no error, no violation of the page's policy, no dialog, and no request to anywhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)
from pytest_httpserver import HTTPServer

from proxy.torture.upstream import completion
from tests.e2e.client import until
from tests.e2e.conftest import Start, provider, write_config
from tests.e2e.running import Proxy

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no browser at /usr/bin/chromium (Debian: apt install chromium)"),
]

TOKEN = "admin-token-0001"
HOSTILE = "<img src=x onerror=alert(1)>"
WIDTH, HEIGHT = 1280, 900
BLANK = "about:blank"
RESTS = "/livez"  # where it has nothing to do; on the same host, or the browser would start a process anew
SLOW_MS = 20_000  # two rounds of the page's questions, and a check of a provider
WIDTHS = [375, 768, 1280, 1920]
FITS = """[...document.querySelectorAll('.plot canvas')].every((picture) =>
    Math.abs(picture.clientWidth - picture.closest('.plot').clientWidth) < 3)"""


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    expect.set_options(timeout=SLOW_MS)
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    # no sandbox: tests may run as root in a container, and load nothing but our own pages
    started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
    yield started
    started.close()


Look = Callable[..., Page]


class Watch:
    """What a browser reports is wrong, but for what a test says it may report, as patterns."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.allowed: list[str] = []
        self.origin = ""

    def over(self, page: Page) -> None:
        page.set_default_timeout(SLOW_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._note(f"uncaught: {error}"))
        page.on("dialog", self._refuse)
        page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        of_its_own = message.location["url"].endswith("/favicon.ico")  # which it looks for where a page names no picture
        if message.type in ("error", "warning") and not of_its_own:
            self._note(message.text)

    def _note(self, text: str) -> None:
        if not any(re.search(pattern, text) for pattern in self.allowed):
            self.wrong.append(text)

    def _refuse(self, dialog: Dialog) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _asked(self, request: Request) -> None:
        if not request.url.startswith(self.origin):
            self._note(f"asked elsewhere: {request.url}")


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@pytest.fixture(scope="module")
def shared(browser: Browser, watch: Watch) -> Page:
    """For all that look as most do: a page of its own is a process of its own, and seconds to start."""
    page = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce").new_page()
    watch.over(page)
    return page


@pytest.fixture
def look(browser: Browser, shared: Page, watch: Watch) -> Iterator[Look]:
    """Opens a page of a proxy. `told`: what the browser may report, as patterns; that and `options` are for a page of its own."""
    contexts: list[BrowserContext] = []
    watch.allowed.clear()

    def open_page(proxy: Proxy, path: str = "/", *, told: tuple[str, ...] = (), **options: Any) -> Page:
        watch.origin = f"http://127.0.0.1:{proxy.port}"
        watch.allowed.extend(told)
        page = shared
        if options or told:
            width = options.pop("width", WIDTH)
            contexts.append(browser.new_context(viewport={"width": width, "height": HEIGHT}, reduced_motion="reduce", **options))
            page = contexts[-1].new_page()
            watch.over(page)
        page.goto(watch.origin + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    if not shared.url.endswith((RESTS, BLANK)):  # what it kept is not for the next, and what it asks no longer
        shared.evaluate("localStorage.clear(), sessionStorage.clear()")
        shared.context.clear_cookies()
        shared.goto(urljoin(shared.url, RESTS))
    wrong = watch.wrong.copy()
    watch.wrong.clear()
    assert wrong == []


@contextmanager
def fake(answer: int = 200) -> Iterator[HTTPServer]:
    """A provider with a list of models, whose completions have this status."""
    server = HTTPServer(port=0, threaded=True)
    server.expect_request("/v1/models").respond_with_json({"object": "list", "data": [{"id": "m1"}, {"id": "m2"}]})
    said = completion("Hello") if answer == 200 else {"error": {"message": "<b>overloaded</b>, says the provider"}}
    server.expect_request("/v1/chat/completions").respond_with_json(said, status=answer)
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


@pytest.fixture(scope="module")
def bad() -> Iterator[HTTPServer]:
    with fake(500) as server:
        yield server


@pytest.fixture(scope="module")
def good() -> Iterator[HTTPServer]:
    with fake() as server:
        yield server


def config(bad: HTTPServer, good: HTTPServer, **more: Any) -> dict[str, Any]:
    return {
        "health": {"interval": "1s", "timeout": "1s"},
        "defaults": {"retries": 0, "circuit": {"failures": 1000, "min_requests": 1000}},
        "providers": {"bad": provider(bad.url_for("/v1")), "good": provider(good.url_for("/v1")), "cohere": {}},
        "chains": {"smart": ["bad/m1", "good/m1"], HOSTILE: ["good/m2"]},
        **more,
    }


@pytest.fixture(scope="module")
def empty_proxy(start: Start, bad: HTTPServer, good: HTTPServer) -> Proxy:
    """Nobody asks it anything."""
    return start(config(bad, good))


@pytest.fixture(scope="module")
def proxy(start: Start, bad: HTTPServer, good: HTTPServer) -> Proxy:
    """With some requests in its ledger, among them all that a hostile caller may choose."""
    made = start(config(bad, good, budget={"usd": 1, "per": "month", "hard": False}))
    tags = {"x-tollbridge-department": "research", "x-tollbridge-agent": "search", "x-tollbridge-task": "triage"}
    answers = [made.client.chat("smart", headers=tags) for _ in range(3)]
    answers.append(made.client.chat("good/m1", headers={"x-tollbridge-department": "sales"}))
    answers.append(made.client.chat(HOSTILE, headers={"x-tollbridge-agent": "<script>alert(2)</script>"}))
    answers.append(made.client.chat("good/<script>alert(3)</script>"))
    answers.append(made.client.chat("<svg onload=alert(4)>"))
    assert [answer.status for answer in answers] == [200] * 6 + [404]
    for answer in answers:
        made.client.row(answer.id)
    return made


def rows(page: Page) -> Any:
    return page.locator("#log-rows tr.line")


def card(page: Page, name: str) -> Any:
    return page.locator(f'.card[data-provider="{name}"]')


# -- the first look


def test_where_nothing_was_asked_there_is_a_line_to_copy_that_works(empty_proxy: Proxy, look: Look) -> None:
    page = look(empty_proxy)
    expect(page.locator("#curl")).to_be_visible()
    line = page.locator("#curl").text_content() or ""
    body = re.fullmatch(r"curl (\S+) -H 'Content-Type: application/json' -d '(.+)'", line)
    assert body is not None
    assert body[1] == f"http://127.0.0.1:{empty_proxy.port}/v1/chat/completions"
    assert json.loads(body[2]) == {"model": "smart", "messages": [{"role": "user", "content": "Hello"}]}
    expect(page.locator("#over-time")).to_be_hidden()
    expect(card(page, "good")).to_have_attribute("data-state", "healthy")


def test_the_first_screen_has_what_was_asked_in_its_order(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    expect(rows(page)).to_have_count(7)
    titles = [text for text in page.locator("main h2").all_text_contents() if text]
    wanted = ["Alerts", "Totals", "Providers", "Over time", "Who and what", "Requests"]
    assert [next(name for name in titles if name.startswith(title)) for title in wanted]
    positions = [next(n for n, name in enumerate(titles) if name.startswith(title)) for title in wanted]
    assert positions == sorted(positions)
    expect(page.locator(".tile", has=page.get_by_text("Requests", exact=True)).locator(".figure")).to_have_text("7")
    both = "tiles => tiles.map(tile => [tile.querySelector('dt').textContent, tile.querySelector('.figure').textContent])"
    tiles = dict(page.locator(".tile").evaluate_all(both))  # in one look: the page goes on meanwhile
    assert tiles["This month"].endswith(" of $1.00")
    assert re.fullmatch(r"[\d.]+ m?s", tiles["Latency p95"])
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator("#moves-table")).to_contain_text("bad/m1 → good/m1")
    expect(page.locator("#limits")).to_contain_text("everything")


def test_a_new_request_comes_up_by_itself(proxy: Proxy, look: Look) -> None:
    page = look(proxy, "/?department=fresh")
    expect(page.locator("#log-none")).to_be_visible()
    proxy.client.chat("smart", headers={"x-tollbridge-department": "fresh"})
    expect(rows(page)).to_have_count(1)
    expect(page.locator("#live-text")).to_have_text("live")


# -- requests


def test_a_row_opens_to_its_attempts_and_why_this_target(proxy: Proxy, look: Look) -> None:
    page = look(proxy, "/?department=research")
    row = rows(page).first
    expect(row).to_contain_text("failed over")
    row.locator("button").click()
    detail = page.locator("#log-rows tr.detail:visible")
    expect(detail.locator(".attempt")).to_have_count(2)
    first, second = detail.locator(".attempt").all()
    expect(first).to_contain_text("bad/m1")
    expect(first).to_contain_text("HTTP 500")
    expect(second).to_contain_text("good/m1")
    expect(second).to_contain_text("11 in, 7 out")
    expect(detail.locator(".trace li")).to_have_count(2)
    expect(detail.locator(".trace li").first).to_contain_text("attempt 1 ended with 5xx")
    expect(detail.locator(".trace li").last).to_contain_text("answered")
    expect(detail).to_contain_text("triage")


def test_nothing_moves_while_somebody_reads_an_open_row(proxy: Proxy, look: Look) -> None:
    page = look(proxy, "/?department=steady")
    proxy.client.chat("smart", headers={"x-tollbridge-department": "steady"})
    rows(page).first.locator("button").click()
    opened = rows(page).first.get_attribute("data-id")
    expect(page.locator("tr.detail:visible .attempt")).to_have_count(2)
    proxy.client.chat("smart", headers={"x-tollbridge-department": "steady"})
    expect(page.locator("#newer")).to_have_text("1 newer request")
    expect(rows(page)).to_have_count(1)
    assert page.evaluate("document.activeElement.closest('tr').dataset.id") == opened
    page.locator("#newer").click()
    expect(rows(page)).to_have_count(2)
    expect(page.locator(f"#detail-{opened}")).to_be_visible()
    rows(page).nth(1).locator("button").click()
    expect(page.locator("tr.detail:visible")).to_have_count(0)


def test_older_requests_follow_upon_the_newer_ones(start: Start, good: HTTPServer, bad: HTTPServer, look: Look) -> None:
    proxy = start(config(bad, good))
    ids = [proxy.client.chat(HOSTILE).id for _ in range(120)]
    proxy.client.row(ids[-1])
    page = look(proxy)
    expect(rows(page)).to_have_count(50)
    page.locator("#older").click()
    expect(rows(page)).to_have_count(100)
    page.locator("#older").click()
    expect(rows(page)).to_have_count(120)
    expect(page.locator("#older")).to_be_hidden()
    ids.append(proxy.client.chat(HOSTILE).id)
    expect(rows(page)).to_have_count(121)
    assert [row.get_attribute("data-id") for row in rows(page).all()] == ids[::-1]


def test_rows_by_keyboard(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    expect(rows(page).first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    buttons = page.locator("#log-rows .opener")
    buttons.nth(0).focus()
    page.keyboard.press("ArrowDown")
    expect(buttons.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(buttons.nth(1)).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(buttons.nth(1)).to_have_attribute("aria-expanded", "false")


def test_what_callers_choose_stays_text(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    expect(rows(page)).not_to_have_count(0)
    for text in (HOSTILE, "<script>alert(2)</script>", "good/<script>alert(3)</script>", "<svg onload=alert(4)>"):
        expect(page.locator("#log-rows").get_by_text(text, exact=False).first).to_be_visible()
    expect(card(page, "good").get_by_text(HOSTILE)).to_be_visible()  # a chain's name
    expect(page.locator("#tops")).to_contain_text("<script>alert(3)</script>")
    rows(page).filter(has_text="alert(3)").locator("button").click()
    expect(page.locator("tr.detail:visible .attempt")).to_have_count(1)
    failed = rows(page).filter(has_text="failed over").first
    failed.locator("button").click()
    expect(page.locator(".fault").first).to_be_visible()
    assert page.locator("main img, main script, body > script, b:has-text('overloaded')").count() == 0
    assert page.evaluate("[...document.querySelectorAll('svg')].every((svg) => !svg.onload)")


def test_the_policy_holds_even_for_a_script_of_the_page(proxy: Proxy, look: Look) -> None:
    page = look(proxy, told=("Trusted", "violates the following", "TrustedHTML"))
    refused = "try { document.body.insertAdjacentHTML('beforeend', '<i id=bad></i>'); 'let in' } catch (error) { error.name }"
    assert page.evaluate(refused) == "TypeError"
    assert page.locator("#bad").count() == 0


# -- providers


def test_a_provider_that_dies_turns_its_card(start: Start, bad: HTTPServer, look: Look) -> None:
    with fake() as dying:
        proxy = start(config(bad, dying))
        page = look(proxy)
        expect(card(page, "good")).to_have_attribute("data-state", "healthy")
        expect(card(page, "good")).to_contain_text("healthy")
        dying.stop()
        expect(card(page, "good")).to_have_attribute("data-state", "down")
        expect(card(page, "good").locator(".state")).to_have_text("down")
        expect(card(page, "good").locator(".reason")).not_to_be_empty()
        expect(page.locator("#spoken")).to_contain_text("good is down")
        expect(page.locator("#overall")).to_contain_text("1 down")


def test_a_card_says_what_its_state_rests_on(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    shown = card(page, "good")
    expect(shown).to_contain_text("Circuit")
    expect(shown.locator(".role").first).to_contain_text("primary")
    expect(card(page, "bad").locator(".roles")).to_contain_text("smart")
    shown.locator("summary").click()
    expect(shown.locator(".targets")).to_contain_text("m1")
    expect(page.locator("#disabled summary")).to_have_text("1 provider not in use")
    page.locator("#disabled summary").click()
    expect(page.locator("#disabled li")).to_contain_text("COHERE_API_KEY")


def test_an_alert_can_be_seen_off(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    told = page.locator(".alert", has_text="fallback used")
    expect(told.locator(".what")).to_have_text("info")
    told.get_by_role("button", name="Acknowledge").click()
    expect(told.locator(".about")).to_contain_text("acknowledged")
    expect(told.get_by_role("button")).to_be_hidden()
    expect(page.locator("#alerts-title")).to_have_text(re.compile(r"^Alerts(: \d open)?$"))


# -- what is looked at


def test_range_and_filters_live_in_the_address(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    expect(rows(page).first).to_be_visible()
    page.locator("#ranges label", has_text="7 d").click()
    page.locator("#department").select_option("research")
    expect(page).to_have_url(re.compile(r"\?range=7d&department=research$"))
    expect(rows(page)).to_have_count(3)
    page.reload()
    expect(rows(page)).to_have_count(3)
    expect(page.locator("#department")).to_have_value("research")
    page.go_back()
    expect(page).to_have_url(re.compile(r"\?range=7d$"))
    expect(page.locator("#department")).to_have_value("")


def test_a_model_is_found_by_what_was_asked_for_and_by_what_answered(proxy: Proxy, look: Look) -> None:
    page = look(proxy, "/?model=m1&department=sales")
    expect(rows(page)).to_have_count(1)
    page = look(proxy, "/?model=smart&department=research")
    expect(rows(page)).to_have_count(3)


def test_outcomes_can_be_picked(proxy: Proxy, look: Look) -> None:
    page = look(proxy, "/?department=research&outcome=failed_over")
    expect(rows(page)).to_have_count(3)
    page.locator("#outcome").select_option("failed")
    expect(rows(page)).to_have_count(0)
    expect(page.locator("#log-none")).to_be_visible()
    expect(page.locator("#empty")).to_be_hidden()


def test_every_range_has_its_pictures(proxy: Proxy, look: Look) -> None:
    page = look(proxy, "/?range=nonsense")
    expect(page.get_by_label("24 hours")).to_be_checked()
    for label in ("1 hour", "6 hours", "7 days", "30 days", "24 hours"):
        asked = ("timeseries", "requests")[label == "1 hour"]
        with page.expect_response(lambda answer, asked=asked: f"/api/v1/{asked}" in answer.url):  # type: ignore[misc]
            page.get_by_label(label).focus()
            page.keyboard.press("Space")
        expect(page.locator("#chart-requests canvas")).to_be_visible()
        expect(page.locator("#chart-requests .legend")).to_contain_text(re.compile(r"ok\d+"))
        expect(page.locator("#chart-tokens canvas")).to_be_visible()
    expect(page.locator("#trouble")).to_be_hidden()


def test_a_picture_is_a_table_for_who_cannot_see_it(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    figure = page.locator("#chart-requests")
    expect(figure.locator(".plot")).to_have_attribute("aria-label", re.compile(r"^Requests by outcome over time: ok \d+"))
    figure.locator("button").click()
    expect(figure.locator("thead")).to_have_text("Fromokfailedother")
    counted = [int(text) for text in figure.locator("tbody tr td:nth-child(2)").all_text_contents()]
    assert sum(counted) >= 6
    expect(figure.locator(".plot")).to_be_hidden()


@pytest.mark.parametrize("zone", ["Australia/Adelaide", "America/St_Johns"])
def test_any_place_s_time_is_understood(proxy: Proxy, look: Look, zone: str) -> None:
    page = look(proxy, "/?range=30d", timezone_id=zone)
    expect(page.locator("#period")).to_contain_text(zone)
    expect(page.locator("#chart-requests canvas")).to_be_visible()
    expect(page.locator("#trouble")).to_be_hidden()


# -- how it looks


def test_nothing_sticks_out_sideways(proxy: Proxy, look: Look) -> None:
    page = look(proxy, width=WIDTHS[0])
    expect(rows(page).first).to_be_visible()
    expect(page.locator("#chart-requests canvas")).to_be_visible()
    assert outside(page) == []
    rows(page).filter(has_text="failed over").first.locator("button").click()
    expect(page.locator("tr.detail:visible .attempt").first).to_be_visible()
    page.locator(".card summary").first.click()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        until(lambda: page.evaluate(FITS), what=f"the pictures at {width} px")
        assert outside(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def outside(page: Page) -> list[str]:
    """What reaches beyond the right edge, but for what is cut off on purpose."""
    found: list[str] = page.evaluate("""() => [...document.querySelectorAll('body *')].filter((element) => {
        const box = element.getBoundingClientRect();
        const scrolls = element.closest('.scroll, .hidden, .skip, .spark, .u-wrap');
        const cut = element.closest('td, .model, h3, .link, bdi');
        return box.width > 0 && box.right > innerWidth + 1 && !scrolls && !cut;
    }).map((element) => element.outerHTML.slice(0, 80))""")
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_until_somebody_chooses(proxy: Proxy, look: Look, scheme: str) -> None:
    page = look(proxy, color_scheme=scheme)
    ground = "getComputedStyle(document.body).backgroundColor"
    by_system = page.evaluate(ground)
    assert (by_system == "rgb(14, 17, 22)") == (scheme == "dark")
    for _ in range(2 if scheme == "light" else 1):  # as the system, light, dark
        page.locator("#theme").click()
    assert page.evaluate(ground) != by_system
    page.reload()
    assert page.evaluate(ground) != by_system
    expect(page.locator("#theme")).to_have_attribute("aria-label", "Colours: dark" if scheme == "light" else "Colours: light")


def test_everything_that_can_be_used_says_what_it_is(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    expect(rows(page).first).to_be_visible()
    rows(page).first.locator("button").click()
    expect(page.locator("tr.detail:visible .attempt").first).to_be_visible()
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, select, input, summary, a[href]')].filter((element) =>
        !(element.getAttribute('aria-label') || element.textContent.trim() || element.closest('label')?.textContent.trim())
    ).map((element) => element.outerHTML)""")
    assert unnamed == []
    repeated = page.evaluate("""() => { const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
        return ids.filter((id, n) => ids.indexOf(id) !== n); }""")
    assert repeated == []
    assert page.evaluate("[...document.querySelectorAll('main > section')].every((part) => part.getAttribute('aria-labelledby'))")


# -- signing in


@pytest.fixture(scope="module")
def guarded(start: Start, bad: HTTPServer, good: HTTPServer) -> Proxy:
    return start(config(bad, good, auth={"admin_token": TOKEN}, clients={"app": {"key": "sk-caller-1"}}))


UNAUTHORIZED = (r"status of 401",)


def test_signing_in_and_out(guarded: Proxy, look: Look) -> None:
    page = look(guarded, "/dashboard?range=7d", told=UNAUTHORIZED)
    expect(page.locator("#token")).to_be_focused()
    page.keyboard.type("not the token")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("This is not the admin token.")
    page.locator("#token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("#curl")).to_contain_text("-H 'Authorization: Bearer YOUR_KEY'")
    expect(page).to_have_url(re.compile(r"/dashboard\?range=7d$"))
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
    assert page.evaluate("document.cookie") == ""
    page.locator("#sign-out").click()
    expect(page.locator("#token")).to_be_visible()
    assert page.context.cookies() == []


def test_a_session_that_has_ended_shows_the_form(guarded: Proxy, look: Look) -> None:
    page = look(guarded, "/dashboard", told=UNAUTHORIZED)
    page.locator("#token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(card(page, "good")).to_be_visible()
    guarded.runtime.gateway.guard.sessions.end_all()
    expect(page.locator("#token")).to_be_visible(timeout=SLOW_MS)


# -- when the proxy is gone


def test_what_was_known_stays_and_says_how_old_it_is(tmp_path: Path, bad: HTTPServer, good: HTTPServer, look: Look) -> None:
    stopping = Proxy(write_config(tmp_path, config(bad, good)))
    page = look(stopping, told=(r"ERR_CONNECTION_REFUSED", r"Failed to load resource"))
    expect(card(page, "good")).to_be_visible()
    stopping.stop()
    expect(page.locator("#trouble")).to_contain_text("The proxy does not answer")
    expect(card(page, "good")).to_be_visible()


def test_while_it_is_paused_nothing_is_asked(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    expect(rows(page).first).to_be_visible()
    page.locator("#pause").click()
    expect(page.locator("#live-text")).to_have_text("paused")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    proxy.client.chat("smart")
    page.locator("#pause").click()
    expect(page.locator("#pause")).to_have_text("Pause")
    expect(page.locator("#live-text")).to_have_text("live")
    assert {url.split("?")[0].rsplit("/", 1)[-1] for url in asked} <= set(
        "dashboard health-check alerts requests timeseries fallback-stats budgets quotas advice usage".split()
    )


# -- how values are written

WRITTEN: list[tuple[str, Any, str]] = [
    ("count", None, "–"),
    ("count", 0, "0"),
    ("count", 9999, "9,999"),
    ("count", 18342, "18.3k"),
    ("count", 14_893_104, "14.9M"),
    ("usd", None, "–"),
    ("usd", "0", "$0"),
    ("usd", "41.221", "$41.22"),
    ("usd", "1234.5", "$1,234.50"),
    ("usd", "12345.6", "$12.3k"),
    ("usd", "0.0141", "$0.014"),
    ("usd", "0.00021", "$0.00021"),
    ("usd", "0.000000001", "$0.000000001"),
    ("usd", "0.5", "$0.50"),
    ("share", None, "–"),
    ("share", 0, "0 %"),
    ("share", 0.0004, "<0.1 %"),
    ("share", 0.004, "0.4 %"),
    ("share", 0.62, "62 %"),
    ("share", 0.99996, "99.9 %"),
    ("share", 1, "100 %"),
    ("ms", None, "–"),
    ("ms", 0.35, "0.3 ms"),
    ("ms", 843.4, "843 ms"),
    ("ms", 1243, "1.24 s"),
    ("ms", 83_000, "1 min 23 s"),
    ("duration", 59, "59 s"),
    ("duration", 7500, "2 h 5 min"),
    ("duration", 100_000, "1 d 3 h"),
    ("name", None, "–"),
    ("name", "a\u202eb\u0000c\u200bd", "a□b□c□d"),
    ("name", "modèle/größe", "modèle/größe"),
    ("words", "half_open", "half open"),
    ("ago", None, "never"),
    ("moment", "nonsense", "–"),
]


def test_values_as_people_read_them(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    script = """async (cases) => { const all = await import('/dashboard/static/format.js');
        return cases.map(([name, value]) => all[name](value)); }"""
    assert page.evaluate(script, [[name, value] for name, value, _ in WRITTEN]) == [text for _, _, text in WRITTEN]


def test_more_or_less_than_before(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    script = """async (cases) => { const { change } = await import('/dashboard/static/format.js');
        return cases.map(([now, before]) => change(now, before)); }"""
    cases = [[114, 100], [90, 100], [100, 100], [1, 0], [None, 5], [5, None], [5000, 100]]
    told = ["+14 % on before", "−10 % on before", "as before", None, None, None, "over ten times as before"]
    assert page.evaluate(script, cases) == told


def test_the_last_hour_by_the_minute(proxy: Proxy, look: Look) -> None:
    page = look(proxy)
    script = """async (rows) => { const { byMinute } = await import('/dashboard/static/minutes.js');
        return byMinute(rows, Date.parse('2026-11-21T10:00:30Z'), Date.parse('2026-11-21T10:03:00Z')); }"""

    def row(time: str, outcome: str, **more: Any) -> dict[str, Any]:
        return {
            "time": f"2026-11-21T10:{time}Z",
            "outcome": outcome,
            "attempts": 1,
            "input_tokens": 10,
            "output_tokens": 2,
            **more,
        }

    given = [
        row("02:59", "running"),
        row("02:10", "ok", duration_ms=300, cost_usd="0.5", attempts=2, first_token_ms=7),
        row("02:05", "ok", duration_ms=100, cost_usd=None),
        row("02:01", "failed", duration_ms=900, attempts=2),
        row("00:01", "rejected"),
    ]
    made = page.evaluate(script, given)
    assert [point["time"][11:16] for point in made] == ["10:00", "10:01", "10:02", "10:03"]
    assert [point["requests"] for point in made] == [1, 0, 3, 0]
    busy = made[2]
    assert (busy["ok"], busy["failed"], busy["failed_over"], busy["cost_usd"], busy["input_tokens"]) == (2, 1, 1, 0.5, 30)
    assert (busy["p50_ms"], busy["p95_ms"], busy["first_token_p95_ms"]) == (100, 300, 7)
    assert made[1]["p95_ms"] is None
