// Starts the page and keeps it fresh: what is asked, how often, and who draws it. A report that fails leaves the others alone.

import { Refused, get, post } from "./api.js";
import { drawAlerts } from "./alerts.js";
import { drawCards } from "./cards.js";
import { drawCharts, drawMoves, recolour } from "./charts.js";
import { byId, h, say, show } from "./dom.js";
import { ago, name, soon } from "./format.js";
import { drawLog, fetchOlder, forgetLog, showWaiting } from "./log.js";
import { drawAdvice, drawMeters } from "./meters.js";
import { byMinute } from "./minutes.js";
import { drawTops } from "./tops.js";
import { drawTotals } from "./totals.js";
import * as view from "./view.js";

const EVERY_MS = 5_000;
const SLOW_MS = 400;
const ROWS = 50;
const ROWS_OF_AN_HOUR = 1_000;
const facts = JSON.parse(document.querySelector("meta[name=tollbridge]").content);
const known = {}; // source -> its latest answer
const slow = new Set(); // sources whose last answer took longer than SLOW_MS: these are asked a third as often
let paused = false;
let round = 0;
let timer = null;
let abort = new AbortController();
let answeredAt = null;

const ranged = () => ({ since: view.since(), time_zone: view.zoneName(), ...view.filters() });
const M = "/api/v1/monitoring";

// every: in rounds of five seconds. `ask` may return undefined: there is nothing to ask for now.
const SOURCES = {
    summary: { every: 1, ask: (signal) => get(`${M}/dashboard`, ranged(), signal), draw: drawSummary },
    health: { every: 1, ask: (signal) => get(`${M}/health-check`, {}, signal), draw: drawHealth },
    alerts: {
        every: 1,
        ask: (signal) => get(`${M}/alerts`, { limit: 100 }, signal),
        draw: (answer) => drawAlerts(answer, { refresh: () => load(["alerts"]) }),
    },
    log: { every: 1, ask: askLog, draw: drawRequests },
    series: { every: 3, ask: askSeries, draw: drawCharts },
    latencies: { every: 6, ask: askLatencies, draw: () => known.health && drawHealth(known.health) },
    fallbacks: {
        every: 3,
        ask: (signal) => get(`${M}/fallback-stats`, ranged(), signal),
        draw: (answer) => drawMoves(answer, view.filtered()),
    },
    budgets: { every: 3, ask: (signal) => get("/api/v1/budgets", {}, signal), draw: drawLimits },
    quotas: { every: 3, ask: (signal) => get("/api/v1/quotas", {}, signal), draw: drawLimits },
    advice: { every: 24, ask: (signal) => get("/api/v1/advice", {}, signal), draw: (answer) => drawAdvice(answer.data) },
    choices: { every: 12, ask: askChoices, draw: drawChoices },
};

// -- asking

async function load(names) {
    const signal = abort.signal;
    const faults = await Promise.all(names.map((source) => loadOne(source, signal)));
    if (!signal.aborted) tellFaults(faults.filter(Boolean), names.length);
}

/** What went wrong, in words, or null. */
async function loadOne(source, signal) {
    let answer;
    const asked = performance.now();
    try {
        answer = await SOURCES[source].ask(signal);
        if (performance.now() - asked > SLOW_MS) slow.add(source);
        else slow.delete(source);
    } catch (error) {
        return signal.aborted ? null : faultOf(source, error);
    }
    if (signal.aborted) return null;
    known[source] = answer;
    answeredAt = Date.now();
    try {
        SOURCES[source].draw(answer);
    } catch (error) {
        reportError(error); // a mistake of the page: it is told in the console, and the rest goes on
        return `${source}: cannot be shown`;
    }
    return null;
}

function faultOf(source, error) {
    if (error instanceof Refused) {
        if (error.param !== "time_zone" || view.zoneName() === "UTC") return `${source}: ${error.message}`;
        view.forgetZone(); // the next round asks in UTC
        return null;
    }
    return `${source}: ${error.name === "TimeoutError" ? "no answer in time" : "no answer"}`;
}

function tellFaults(faults, asked) {
    const box = byId("trouble");
    show(box, faults.length > 0);
    if (faults.length === 0) return;
    const gone = faults.length === asked && faults.every((fault) => fault.endsWith("no answer"));
    const last = answeredAt === null ? "" : ` What is shown is from ${ago(answeredAt)}.`;
    say(
        box,
        gone
            ? `The proxy does not answer; trying again every five seconds.${last}`
            : `Not everything could be read: ${faults.slice(0, 3).join("; ")}.`,
    );
}

async function tick() {
    clearTimeout(timer);
    if (!paused && !document.hidden) {
        const due = Object.keys(SOURCES).filter((source) => round % (SOURCES[source].every * (slow.has(source) ? 3 : 1)) === 0);
        round += 1;
        await load(due);
    }
    tellLive();
    clearTimeout(timer);
    timer = setTimeout(tick, EVERY_MS);
}

function startAgain() {
    abort.abort();
    abort = new AbortController();
    round = 0;
    forgetLog();
    tick();
}

/** The log lists requests by the model that was asked for; who chose the model that answered means those rows, too. */
async function askLog(signal) {
    const { department, model, outcome } = view.view;
    const by = { department, outcome: outcome === "failed_over" ? "" : outcome };
    if (!model) return get("/api/v1/requests", { ...by, limit: ROWS }, signal);
    const pages = await Promise.all([
        get("/api/v1/requests", { ...by, model, limit: ROWS }, signal),
        get("/api/v1/requests", { ...by, limit: ROWS_OF_AN_HOUR }, signal),
    ]);
    const rows = new Map();
    for (const row of pages.flatMap((page) => page.data))
        if (row.model === model || row.upstream_model === model) rows.set(row.id, row);
    return { data: [...rows.values()].sort((a, b) => (a.id < b.id ? 1 : -1)).slice(0, ROWS), next: null };
}

async function askSeries(signal) {
    const step = view.step();
    if (step !== "minute") return get("/api/v1/timeseries", { ...ranged(), step }, signal);
    const { department, model } = view.view;
    const page = await get("/api/v1/requests", { department, limit: ROWS_OF_AN_HOUR }, signal);
    const rows = page.data.filter((row) => !model || row.model === model || row.upstream_model === model);
    return { step, data: byMinute(rows, Date.now() - 3_600_000, Date.now()) };
}

async function askLatencies(signal) {
    const step = view.RANGES[view.view.range].seconds > 86_400 ? "day" : "hour"; // a sparkline has no room for more
    const since = view.step() === "minute" ? "6h" : view.since();
    const answer = await get(
        "/api/v1/timeseries",
        { step, since, time_zone: view.zoneName(), group_by: "provider", ...view.filters() },
        signal,
    );
    const found = new Map();
    for (const row of answer.data) {
        if (!found.has(row.provider)) found.set(row.provider, []);
        found.get(row.provider).push(row);
    }
    return found;
}

async function askChoices(signal) {
    const of = async (group) =>
        (await get("/api/v1/usage", { group_by: group, since: "30d" }, signal)).data.map((row) => row[group]).filter(Boolean);
    const [departments, models] = await Promise.all([of("department"), of("model")]);
    return { departments, models };
}

// -- drawing

function drawSummary(summary) {
    drawTotals(summary, { filtered: view.filtered() });
    drawTops(summary, { change });
    const { since, until } = summary.period ?? {};
    say(
        byId("period"),
        since ? `Sums from ${soon(since)}${until ? ` to ${soon(until)}` : ""}, in whole hours, times in ${view.zoneName()}` : "",
    );
    drawEmpty();
}

function drawHealth(health) {
    drawCards(health, { series: known.latencies, quotas: known.quotas?.data, speak });
}

function drawLimits() {
    drawMeters(known.budgets?.data, known.quotas?.data);
    if (known.health) drawHealth(known.health);
}

function drawRequests(page) {
    drawLog(page, how());
    drawEmpty();
}

/** Which rows are shown, and what stands there when none is. */
function how() {
    const from = Date.now() - view.RANGES[view.view.range].seconds * 1000;
    const { outcome } = view.view;
    return {
        matches: (row) => fits(row, outcome, from),
        empty: view.filtered() || outcome ? "nothing that fits in this range" : "nothing in this range",
    };
}

function fits(row, outcome, from) {
    if (Date.parse(row.time) < from) return false;
    if (outcome === "failed_over") return row.outcome === "ok" && row.attempts - (row.hedged ? 1 : 0) > 1;
    return !outcome || row.outcome === outcome;
}

/** Only where there is nothing at all, and not where a filter or a short range hides it. */
function drawEmpty() {
    if (!known.log || !known.summary) return;
    const nothing =
        known.log.data.length === 0 && !known.log.next && !known.summary.calls && !view.filtered() && !view.view.outcome;
    show(byId("empty"), nothing);
    document.body.classList.toggle("is-new", nothing);
    if (nothing) say(byId("curl"), curl());
}

function curl() {
    const key = facts.needs_key ? " -H 'Authorization: Bearer YOUR_KEY'" : "";
    const body = JSON.stringify({ model: facts.model ?? "demo/chat", messages: [{ role: "user", content: "Hello" }] }).replaceAll(
        "'",
        "'\\''",
    );
    return `curl ${location.origin}/v1/chat/completions -H 'Content-Type: application/json'${key} -d '${body}'`;
}

function drawChoices({ departments, models }) {
    fillSelect("department", departments);
    fillSelect("model", models);
}

function fillSelect(id, values) {
    const select = byId(id);
    const chosen = view.view[id];
    const all = [...new Set([...values, ...(chosen ? [chosen] : [])])].sort((a, b) => a.localeCompare(b));
    const shown = [...select.options].slice(1).map((option) => option.value);
    if (JSON.stringify(all) !== JSON.stringify(shown))
        select.replaceChildren(select.options[0], ...all.map((value) => h("option", { value }, name(value))));
    select.value = chosen;
}

function tellLive() {
    const box = byId("live");
    box.classList.toggle("is-paused", paused);
    box.classList.toggle("is-late", !paused && answeredAt !== null && Date.now() - answeredAt > 3 * EVERY_MS);
    say(
        byId("live-text"),
        paused
            ? "paused"
            : answeredAt === null
              ? "loading"
              : Date.now() - answeredAt > 3 * EVERY_MS
                ? `as of ${ago(answeredAt)}`
                : "live",
    );
}

function speak(text) {
    say(byId("spoken"), text);
}

// -- what can be changed

function change(values) {
    view.change(values);
    showChoices();
    startAgain();
}

function showChoices() {
    for (const input of byId("ranges").querySelectorAll("input")) input.checked = input.value === view.view.range;
    for (const id of ["department", "model"])
        fillSelect(
            id,
            [...byId(id).options].slice(1).map((option) => option.value),
        );
    byId("outcome").value = view.view.outcome;
    byId("controls").classList.toggle("is-filtered", view.filtered());
}

function setUp() {
    view.read();
    byId("ranges").append(
        ...Object.entries(view.RANGES).map(([value, { label, spoken }]) =>
            h(
                "label",
                {},
                h("input", {
                    type: "radio",
                    name: "range",
                    value,
                    "aria-label": spoken,
                    onchange: () => change({ range: value }),
                }),
                h("span", { "aria-hidden": "true" }, label),
            ),
        ),
    );
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["department", "model", "outcome"])
        byId(id).addEventListener("change", () => change({ [id]: byId(id).value }));
    byId("pause").addEventListener("click", () => {
        paused = !paused;
        byId("pause").setAttribute("aria-pressed", String(paused));
        say(byId("pause"), paused ? "Resume" : "Pause");
        if (paused) tellLive();
        else tick();
    });
    byId("older").addEventListener("click", () => {
        const { department, model, outcome } = view.view;
        const params = { department, model, outcome: outcome === "failed_over" ? "" : outcome, limit: ROWS };
        fetchOlder(params, how()).catch((error) => tellFaults([`log: ${error.message}`], 2));
    });
    byId("newer").addEventListener("click", showWaiting);
    byId("copy").addEventListener("click", copy);
    byId("theme").addEventListener("click", nextTheme);
    tellTheme();
    const signOut = byId("sign-out");
    show(signOut, facts.signed_in);
    signOut.addEventListener("click", async () => {
        await post("/dashboard/logout");
        location.reload();
    });
    say(byId("version"), `Tollbridge ${facts.version}`);
    addEventListener("popstate", () => {
        view.read();
        showChoices();
        startAgain();
    });
    document.addEventListener("visibilitychange", () => document.hidden || tick());
    showChoices();
    tick();
}

async function copy() {
    const line = byId("curl");
    try {
        await navigator.clipboard.writeText(line.textContent);
        say(byId("copy"), "Copied");
        setTimeout(() => say(byId("copy"), "Copy"), 2000);
    } catch {
        getSelection().selectAllChildren(line); // no clipboard off https: marked, it is one keystroke away
    }
}

const THEMES = { "": "as the system has them", light: "light", dark: "dark" };

function nextTheme() {
    const names = Object.keys(THEMES);
    const following = names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length];
    if (following) document.documentElement.dataset.theme = following;
    else delete document.documentElement.dataset.theme;
    try {
        localStorage.setItem("tollbridge-theme", following);
    } catch {
        // storage is switched off: it holds as long as the page does
    }
    tellTheme();
    recolour();
}

function tellTheme() {
    const spoken = `Colours: ${THEMES[document.documentElement.dataset.theme ?? ""]}`;
    byId("theme").setAttribute("aria-label", spoken);
    byId("theme").title = spoken;
}

setUp();
