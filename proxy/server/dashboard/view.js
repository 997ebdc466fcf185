// What is looked at: it lives in the address, so that it can be sent to somebody.

export const RANGES = {
    "1h": { label: "1 h", spoken: "1 hour", seconds: 3600, step: "minute" },
    "6h": { label: "6 h", spoken: "6 hours", seconds: 6 * 3600, step: "hour" },
    "24h": { label: "24 h", spoken: "24 hours", seconds: 24 * 3600, step: "hour" },
    "7d": { label: "7 d", spoken: "7 days", seconds: 7 * 86_400, step: "hour" },
    "30d": { label: "30 d", spoken: "30 days", seconds: 30 * 86_400, step: "day" },
};
const DEFAULT = "24h";
const OUTCOMES = new Set(["ok", "failed", "failed_over", "rejected", "interrupted", "client_gone", "running"]);

export const view = { range: DEFAULT, department: "", model: "", outcome: "" };
let zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

export function read() {
    const given = new URLSearchParams(location.search);
    view.range = Object.hasOwn(RANGES, given.get("range") ?? "") ? given.get("range") : DEFAULT;
    view.department = given.get("department") ?? "";
    view.model = given.get("model") ?? "";
    view.outcome = OUTCOMES.has(given.get("outcome")) ? given.get("outcome") : "";
}

export function change(values) {
    Object.assign(view, values);
    const params = new URLSearchParams();
    if (view.range !== DEFAULT) params.set("range", view.range);
    for (const key of ["department", "model", "outcome"]) if (view[key]) params.set(key, view[key]);
    const text = params.toString();
    history.pushState(null, "", text ? `?${text}` : location.pathname);
}

export function step() {
    return RANGES[view.range].step;
}

export function since() {
    return view.range;
}

export function zoneName() {
    return zone;
}

/** The proxy does not know this browser's zone. */
export function forgetZone() {
    zone = "UTC";
}

/** What every report is asked for. */
export function filters() {
    return { department: view.department, model: view.model };
}

export function filtered() {
    return Boolean(view.department || view.model);
}
