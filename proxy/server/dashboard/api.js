// Asking the proxy. The browser sends its cookie along; where that is not enough any more, the page is loaded anew and shows the form.

export class Refused extends Error {
    constructor(status, message, param) {
        super(message);
        this.status = status;
        this.param = param;
    }
}

const PATIENCE_MS = 20_000;

/** The answer as JSON. Throws Refused for an error that was answered, TypeError when nothing answered. */
export async function get(path, params = {}, signal = undefined) {
    return ask(`${path}${query(params)}`, { signal });
}

export async function post(path, body = undefined) {
    return ask(path, {
        method: "POST",
        body: body === undefined ? undefined : JSON.stringify(body),
        headers: { "content-type": "application/json" },
    });
}

function query(params) {
    const given = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
    return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function ask(url, { signal, ...options } = {}) {
    const patience = AbortSignal.timeout(PATIENCE_MS);
    const answer = await fetch(url, {
        credentials: "same-origin",
        redirect: "error",
        ...options,
        signal: signal ? AbortSignal.any([signal, patience]) : patience,
    });
    if (answer.status === 401) {
        location.reload();
        throw new Refused(401, "signed out");
    }
    if (answer.status === 204) return null;
    const text = await answer.text();
    let value = null;
    try {
        value = JSON.parse(text);
    } catch {
        throw new Refused(answer.status, `${answer.status} without JSON`);
    }
    if (!answer.ok) throw new Refused(answer.status, value?.error?.message ?? `error ${answer.status}`, value?.error?.param);
    return value;
}
