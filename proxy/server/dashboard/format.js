// Values as people read them. Unknown (null) is a dash, never a zero.

export const NONE = "–";
const LOCALE = "en-US";
const WHOLE = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const COMPACT = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumFractionDigits: 1 });
const CENTS = new Intl.NumberFormat(LOCALE, { style: "currency", currency: "USD" });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const SHORT = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

function number(value) {
    if (value === null || value === undefined || value === "") return null;
    const found = Number(value);
    return Number.isFinite(found) ? found : null;
}

export function count(value) {
    const n = number(value);
    if (n === null) return NONE;
    return Math.abs(n) < 10_000 ? WHOLE.format(n) : COMPACT.format(n).replace("K", "k");
}

export function exact(value) {
    const n = number(value);
    return n === null ? NONE : WHOLE.format(n);
}

/** USD from a decimal string or a number: cents, but what is smaller than a dime keeps two digits that mean something. */
export function usd(value) {
    const n = number(value);
    if (n === null) return NONE;
    const size = Math.abs(n);
    if (size === 0) return "$0";
    if (size >= 10_000) return `$${COMPACT.format(n).replace("K", "k")}`;
    if (size >= 0.1) return CENTS.format(n);
    if (size < 1e-9) return "<$0.000000001";
    return `${n < 0 ? "-" : ""}$${size.toFixed(Math.min(12, 1 - Math.floor(Math.log10(size)))).replace(/0+$/, "")}`;
}

/** A share 0..1. What is nearly all is not rounded up to all, nor what is hardly anything down to nothing. */
export function share(value, least = 0) {
    const n = number(value);
    if (n === null) return NONE;
    const percent = n * 100;
    if (percent > 99.9 && percent < 100) return "99.9 %";
    if (percent > 0 && percent < 0.1) return "<0.1 %";
    const digits = percent < 10 || percent > 99 ? 1 : least;
    return `${percent.toFixed(digits).replace(/\.0$/, "")} %`;
}

export function ms(value) {
    const n = number(value);
    if (n === null) return NONE;
    if (n < 10) return `${n.toFixed(1).replace(/\.0$/, "")} ms`;
    if (n < 1000) return `${Math.round(n)} ms`;
    if (n < 60_000) return `${(n / 1000).toFixed(n < 10_000 ? 2 : 1)} s`;
    return duration(n / 1000);
}

/** Seconds, in the two largest units. */
export function duration(seconds) {
    const n = number(seconds);
    if (n === null) return NONE;
    const s = Math.max(0, Math.round(n));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 && s < 600 ? ` ${s % 60} s` : ""}`;
    if (s < 86_400) return `${Math.floor(s / 3600)} h${Math.floor((s % 3600) / 60) ? ` ${Math.floor((s % 3600) / 60)} min` : ""}`;
    return `${Math.floor(s / 86_400)} d${s < 864_000 && Math.floor((s % 86_400) / 3600) ? ` ${Math.floor((s % 86_400) / 3600)} h` : ""}`;
}

function date(value) {
    if (value === null || value === undefined || value === "") return null;
    const found = new Date(value);
    return Number.isNaN(found.getTime()) ? null : found;
}

export function ago(value, now = Date.now()) {
    const at = date(value);
    if (at === null) return "never";
    const s = (now - at.getTime()) / 1000;
    return s < 5 ? "just now" : `${duration(s)} ago`;
}

/** 14:05:09 today, else 20 Nov 14:05. */
export function moment(value, now = new Date()) {
    const at = date(value);
    if (at === null) return NONE;
    return at.toDateString() === now.toDateString() ? CLOCK.format(at) : `${DAY.format(at)} ${SHORT.format(at)}`;
}

/** 14:05, with the day where it is not today. */
export function soon(value, now = new Date()) {
    const at = date(value);
    if (at === null) return NONE;
    return at.toDateString() === now.toDateString() ? SHORT.format(at) : `${DAY.format(at)} ${SHORT.format(at)}`;
}

export function day(value) {
    const at = date(value);
    return at === null ? NONE : DAY.format(at);
}

export function hour(value) {
    const at = date(value);
    return at === null ? NONE : SHORT.format(at);
}

/** How much more or less than before; null where there is nothing to compare with. */
export function change(now, before) {
    const a = number(now);
    const b = number(before);
    if (a === null || b === null || b === 0) return null;
    const percent = Math.round(((a - b) / b) * 100);
    if (percent === 0) return "as before";
    if (percent > 999) return "over ten times as before";
    return `${percent > 0 ? "+" : "−"}${Math.abs(percent)} % on before`;
}

export function words(value) {
    return value === null || value === undefined || value === "" ? NONE : String(value).replaceAll("_", " ");
}

/** A name that anybody may have chosen: what would change the direction of writing, or not show at all, shows as a box. */
export function name(value) {
    if (value === null || value === undefined || value === "") return NONE;
    return String(value).replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, "\u25a1");
}

export function plural(n, one, many = `${one}s`) {
    return `${exact(n)} ${n === 1 ? one : many}`;
}

export { number };
