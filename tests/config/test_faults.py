"""Every fault by its exact place and words: what a user reads has to be right to the column."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config.faults import ConfigError, ConfigFault
from proxy.config.load import load
from proxy.dialects.openai_request import checked_model

pytestmark = pytest.mark.unit

HERE = Path(__file__).parent

CLOSE_THE_BRACKET = (
    "1:23: not valid YAML: did not find expected ',' or ']' "
    "(check the indentation, brackets and quotes here and on the line before)"
)

# The file, and what is said of it after `providers.yaml:`.
FAULTS: list[tuple[str, list[str]]] = [
    ("serverr: {port: 1}", ["1:1: unknown key 'serverr' (did you mean 'server'?)"]),
    ("server: {prot: 1}", ["1:10: unknown key 'prot' (did you mean 'port'?)"]),
    (
        "alerts: {severity: {bugdet: info}, off: [provider_dwon]}",
        [
            "1:21: unknown key 'bugdet' (did you mean 'budget'?)",
            "1:42: off: 'provider_dwon': not one of the words known here (did you mean 'provider_down'?)",
        ],
    ),
    ("server: {port: abc}", ["1:16: port: 'abc': a whole number is needed (write for example port: 8080)"]),
    ("server: {port: 70000}", ["1:16: port: '70000': must be at most 65535 (write for example port: 8080)"]),
    ("server: {port: true}", ["1:16: port: 'true': a number is needed (write for example port: 8080)"]),
    ("server: []", ["1:9: server: a list: a mapping is needed (write keys and values, indented below it)"]),
    ("server: {max_body: 32}", ["1:20: max_body: '32': a size is needed (write a number with its unit: 512KiB, 32MiB or 1GiB)"]),
    (
        "server: {max_body: 32MIB}",
        ["1:20: max_body: '32MIB': a size is needed (write a number with its unit: 512KiB, 32MiB or 1GiB)"],
    ),
    (
        "server: {log_level: verbose}",
        ["1:21: log_level: 'verbose': not one of the words known here (write debug, info, warning or error)"],
    ),
    (
        "server: {cors_origins: app.example.com}",
        ["1:24: cors_origins: 'app.example.com': a list is needed (write [a, b], or lines that start with - below it)"],
    ),
    (
        "server: {cors_origins: [app.example.com]}",
        ["1:25: 'app.example.com' is not an origin (write scheme and host: https://app.example.com)"],
    ),
    (
        "server: {drain: {delay: 2}}",
        ["1:25: delay: '2': a duration is needed (write a number with its unit: 250ms, 3s, 2m or 1h)"],
    ),
    (
        "chains: {a: {targets: [demo/chat], quality: {min: 0.6, judge: nope, judge_budget: {usd: 1}}}}",
        ["1:63: unknown model 'nope' (write a chain, or provider/model of a provider in this file)"],
    ),
    (
        "chains: {smart: [demo/chat], a: {targets: [demo/chat], quality: {min: 0.6, judge: smrat, judge_budget: {usd: 1}}}}",
        ["1:83: unknown model 'smrat' (did you mean 'smart'?)"],
    ),
    ("auth: nobody", ["1:7: auth: 'nobody': not one of the words known here (write none)"]),
    ("auth: {admin_token: ''}", ["1:21: 'admin_token' is empty (write a variable such as ${NAME}, or remove the line)"]),
    ("auth:\n  admin_token:", ["2:15: 'admin_token' is empty (write a variable such as ${NAME}, or remove the line)"]),
    (
        "auth: {admin_token: 12345}",
        ["1:21: admin_token: text is needed (write for example admin_token: ${TOLLBRIDGE_ADMIN_TOKEN})"],
    ),
    (
        "auth: {admin_token: a-token, metrics_token: a-token}",
        ["1:45: the same as admin_token (write another: this one must open /metrics only)"],
    ),
    (
        "defaults: {timeouts: {connect: 3}}",
        ["1:32: connect: '3': a duration is needed (write a number with its unit: 250ms, 3s, 2m or 1h)"],
    ),
    ("defaults: {timeouts: {connect: 0s}}", ["1:32: connect: '0s': no time at all (write a duration above zero, such as 3s)"]),
    ("defaults: {retries: -1}", ["1:21: retries: '-1': must be at least 0 (write for example retries: 1)"]),
    ("defaults: {circuit: {error_rate: 2}}", ["1:34: error_rate: '2': must be at most 1.0 (write for example error_rate: 0.5)"]),
    ("defaults: {circuit: {open: 60s}}", ["1:12: circuit: open (60s) is longer than open_max (30s) (raise open_max)"]),
    (
        "providers: {my-vllm: {base_url: http://10.0.0.5/v1}}",
        ["1:13: provider 'my-vllm' is not in the catalogue and does not say its dialect (write dialect: openai)"],
    ),
    (
        "providers: {my-vllm: {dialect: openai}}",
        [
            "1:13: provider 'my-vllm' is not in the catalogue and does not say its base_url (write base_url: http://10.0.0.5:8000/v1)"
        ],
    ),
    (
        "providers: {gorq: {}}",
        ["1:13: provider 'gorq' is not in the catalogue and does not say its dialect and base_url (did you mean 'groq'?)"],
    ),
    ("providers: {groq: {dialect: opnai}}", ["1:29: dialect: 'opnai': not one of the words known here (did you mean 'openai'?)"]),
    (
        "providers: {groq: {dialect: anthropic}}",
        ["1:29: dialect: the known address of 'groq' speaks openai (write the base_url that speaks anthropic)"],
    ),
    (
        "providers: {groq: {base_url: ftp://x}}",
        ["1:30: base_url is not an address (write one that starts with http:// or https://)"],
    ),
    (
        "providers: {groq: {base_url: 'http://169.254.169.254/v1'}}",
        ["1:30: base_url is an address where clouds hand out credentials (write another, or allow_private: true if it is meant)"],
    ),
    (
        "providers: {groq: {base_url: 'http://2852039166/v1'}}",
        ["1:30: base_url is an address where clouds hand out credentials (write another, or allow_private: true if it is meant)"],
    ),
    (
        "providers: {groq: {base_url: 'http://[::ffff:169.254.169.254]/v1'}}",
        ["1:30: base_url is an address where clouds hand out credentials (write another, or allow_private: true if it is meant)"],
    ),
    (
        "providers: {groq: {base_url: 'http://u:hunter2@x/v1'}}",
        ["1:30: base_url holds a user or password (write the key as api_key)"],
    ),
    (
        "providers: {groq: {base_url: 'http://x/v1?k=1'}}",
        ["1:30: base_url holds a query or fragment (write the part before it; Azure's version goes into api_version)"],
    ),
    ("providers: {groq: {api_key: ''}}", ["1:29: a key cannot be empty (write a variable such as ${NAME}, or remove the line)"]),
    ("providers: {groq: {api_key: a1, api_keys: [b1]}}", ["1:33: both api_key and api_keys are written (keep one of them)"]),
    ("providers: {groq: {api_keys: []}}", ['1:30: api_keys lists nothing (write ["${KEY_A}", "${KEY_B}"], or remove the line)']),
    (
        "providers: {groq: {api_keys: k1}}",
        ['1:30: api_keys: a list is needed (write for example api_keys: ["${KEY_A}", "${KEY_B}"])'],
    ),
    ("providers: {groq: {api_key: 5}}", ["1:29: api_key: text is needed (write for example api_key: ${GROQ_API_KEY})"]),
    ("providers: {groq: {headers: {Host: x}}}", ["1:30: 'Host' cannot be set as a header (remove it)"]),
    (
        "providers: {groq: {proxy: 'socks5://p:1'}}",
        [
            "1:27: proxy is not an address (write one that starts with http://; for another kind of proxy also write transport: httpx)"
        ],
    ),
    (
        "providers: {groq: {ca_file: nowhere.pem}}",
        ["1:29: ca_file: cannot be read: No such file or directory (write the path of a PEM file)"],
    ),
    ("providers: {groq: {prices: {'*': {input: 1}}}}", ["1:29: 'output' is missing (write for example output: 0.6)"]),
    (
        "providers: {groq: {prices: {'*': {input: x, output: 1}}}}",
        ["1:42: input: 'x': a number is needed (write for example input: 0.2)"],
    ),
    (
        "providers: {groq: {quotas: [{per: day}]}}",
        ["1:29: a quota is of requests or of tokens (write one of the two)"],
    ),
    (
        "providers: {groq: {quotas: [{requests: 5, per: day, time_zone: Europe/Berln}]}}",
        ["1:64: time_zone: 'Europe/Berln': no time zone is called that (write for example time_zone: America/Los_Angeles)"],
    ),
    (
        "retention: {requests: 90}",
        ["1:23: requests: '90': a time is needed (write a number with its unit: 48h, 90d, 8w or 2y)"],
    ),
    (
        "alerts: {error_rate: {warning: 0.5}}",
        ["1:10: error_rate: the warning comes after the error (write error above 0.5)"],
    ),
    ("alerts: {to: [{least: error}]}", ["1:15: alerts go to a webhook or by apprise (write one of the two)"]),
    (
        "alerts: {to: [{webhook: example.com}]}",
        ["1:25: webhook is not an address (write one that starts with http:// or https://)"],
    ),
    (
        "providers: {'a b': {dialect: openai, base_url: 'http://x/v1'}}",
        ["1:13: 'a b' cannot name a provider (use letters, digits, '.', '_' and '-')"],
    ),
    ("providers: {groq: {base_url: '${NOPE}'}}", ["1:30: NOPE is not set (set it, or write ${NAME:-default})"]),
    (
        "providers: {groq: {base_url: '${NO PE}'}}",
        ["1:30: '${NO PE}' is not a variable (write ${NAME}, ${NAME:-default} or ${file:/path})"],
    ),
    ("providers: {groq: {base_url: '${NOPE'}}", ["1:30: '${' is not closed (write ${NAME}, or $${ for a plain ${)"]),
    ("chains: {smart: [opnai/gpt-4o]}", ["1:18: unknown provider 'opnai' (did you mean 'openai'?)"]),
    ("chains: {smart: [zzz/gpt-4o]}", ["1:18: unknown provider 'zzz' (add a stanza 'zzz:' under providers:)"]),
    ("chains: {smart: [gpt-4o]}", ["1:18: 'gpt-4o' is not a target, which is provider/model (write for example openai/gpt-4o)"]),
    ("chains: {smart: [openai]}", ["1:18: 'openai' is not a target, which is provider/model (write openai/MODEL)"]),
    ("chains: {smart: []}", ["1:10: chain 'smart' lists nothing (write at least one target, such as openai/gpt-4o)"]),
    (
        "chains:\n  smart:",
        ["2:9: smart: nothing is written: a list is needed (write [a, b], or lines that start with - below it)"],
    ),
    (
        "chains: {smart: openai/gpt-4o}",
        ["1:17: smart: 'openai/gpt-4o': a list is needed (write [a, b], or lines that start with - below it)"],
    ),
    (
        "chains: {smart: [openai/*]}",
        ["1:18: 'openai/*' has a '*', but the chain's name 'smart' has none to fill it (write a model's name)"],
    ),
    ("chains: {'a*b*': [openai/*]}", ["1:10: 'a*b*' holds more than one '*' (keep one)"]),
    ("chains: {'*': ['openai/*/*']}", ["1:16: 'openai/*/*' has its '*' in the wrong place (write one '*', after the provider)"]),
    ("chains: {'*': ['*/gpt']}", ["1:16: '*/gpt' has its '*' in the wrong place (write one '*', after the provider)"]),
    (
        "chains: {smart: {target: [openai/gpt-4o]}}",
        [
            "1:10: 'targets' is missing (write for example targets: [groq/llama-3.3-70b-versatile, openai/gpt-5])",
            "1:18: unknown key 'target' (did you mean 'targets'?)",
        ],
    ),
    (
        "chains: {smart: {targets: [openai/gpt-4o], hedge: {after: soon, max_extra_cost: 500%}}}",
        [
            "1:59: after: 'soon': a percentile or a time is needed (write p95, or such as 800ms)",
            "1:81: max_extra_cost: '500%': a share is needed (write something between 0% and 100%, such as 5%)",
        ],
    ),
    (
        "chains: {smart: {targets: [{weight: 2}, {target: openai/gpt-4o, static: 'no'}, openai/gpt-4o]}}",
        [
            "1:28: a target is a model or a static answer (write one of target and static)",
            "1:41: a target is a model or a static answer (write one of target and static)",
        ],
    ),
    (
        "chains: {smart: {targets: [openai/gpt-4o], weights: {capability: 0, cost: 0, performance: 0, availability: 0}}}",
        ["1:44: weights: nothing counts (write one that is above 0)"],
    ),
    (
        "chains: {smart: {targets: [openai/gpt-4o], quality: {min: 0.5, judge: openai/gpt-4o}}}",
        ["1:71: judge: each answer would cost a second one (write judge_budget: {usd: 5, per: month}, too)"],
    ),
    (
        "providers: {static: {dialect: openai, base_url: 'http://a.test'}}",
        ["1:13: 'static' is who gives static answers (give the provider another name)"],
    ),
    (
        "chains: {smart: {targets: [openai/gpt-4o], strategy: wieghted}}",
        ["1:54: strategy: 'wieghted': not one of the words known here (did you mean 'weighted'?)"],
    ),
    (
        "chains: {smart: {targets: [openai/gpt-4o], failover_on: [500]}}",
        [
            "1:58: failover_on: '500': not one of the words known here (write 429, 5xx, timeout, connection, auth, not_found or policy)"
        ],
    ),
    (
        "chains: {smart: {targets: [{target: openai/gpt-4o, timeout: 3s}]}}",
        ["1:52: unknown key 'timeout' (did you mean 'timeouts'?)"],
    ),
    (
        "chains: {smart: {targets: [{model: x}]}}",
        ["1:29: unknown key 'model' (known here: timeouts, retries, circuit, target, static, weight)"],
    ),
    ("chains: {smart: [5]}", ["1:18: smart: '5': text is needed (put it in quotes)"]),
    ("clients: {a: {}}", ["1:11: client 'a' has no key (write key: ${A_KEY})"]),
    ("clients: {a: {key: '${NOPE}'}}", ["1:20: NOPE is not set (set it, or remove the client)"]),
    ("clients: {a: {key: '${NOPE:-}'}}", ["1:20: ${NOPE:-} is empty (set it, or remove the client)"]),
    ("clients: {a: {key: k-one}, b: {key: k-one}}", ["1:37: client 'a' has the same key (give each its own)"]),
    (
        "clients: {a: {key: k-one, chains: [smrt]}}\nchains: {smart: [demo/chat]}",
        ["1:36: unknown chain 'smrt' (did you mean 'smart'?)"],
    ),
    (
        "clients: {a: {key: k-one, limits: {rpm: 0}}}",
        ["1:41: rpm: '0': must be at least 1 (write for example rpm: 30)"],
    ),
    ("clients: {a: {key: k-one, budget: {usd: -1}}}", ["1:41: usd: '-1': must be at least 0 (write for example usd: 50)"]),
    (
        "clients: {a: {key: k-one, budget: 5}}",
        ["1:35: budget: '5': a mapping is needed (write for example budget: {usd: 50, per: month})"],
    ),
    ("clients: {a: {keys: k-one}}", ['1:21: keys: a list is needed (write for example keys: ["${OLD_KEY}", "${NEW_KEY}"])']),
    ("clients: [a]", ["1:10: clients: a list: a mapping is needed (write keys and values, indented below it)"]),
    (
        "auth: {admin_token: k-one}\nclients: {a: {key: k-one}}",
        ["2:20: the same as auth.admin_token (give the client a key of its own)"],
    ),
    (
        "chains: {a: [demo/chat]}\nchains: {b: [demo/chat]}",
        ["2:1: duplicate key 'chains', first written on line 1 (keep one of them)"],
    ),
    ("chains: {a: [demo/chat], a: [demo/down]}", ["1:26: duplicate key 'a', first written on line 1 (keep one of them)"]),
    (
        "chains: {a: [demo/chat}",
        [CLOSE_THE_BRACKET],
    ),
    (
        "chains:\n\ta: [demo/chat]",
        ["2:1: not valid YAML: found character that cannot start any token (indent with spaces, not tabs)"],
    ),
    (
        "clients: {a: {key: ${X}}}",
        ["1:21: not valid YAML: did not find expected ',' or '}' (inside { } and [ ] put a variable in quotes: \"${NAME}\")"],
    ),
    ("a: *b", ["1:4: not valid YAML: found undefined alias (define the anchor before it is used, or put the text in quotes)"]),
    ("- a\n- b", ["1:1: the file must be a mapping (write keys such as chains: at the beginning of a line)"]),
    ("just text", ["1:1: the file must be a mapping (write keys such as chains: at the beginning of a line)"]),
    ("a: 1\n---\nb: 2", ["2:1: not valid YAML: more than one document (one document a file: remove the second ---)"]),
    (
        "server: !!python/object:os.system {}",
        ["1:9: the tag 'tag:yaml.org,2002:python/object:os.system' means nothing here (remove it)"],
    ),
    ("server: {host: !env X}", ["1:16: the tag '!env' means nothing here (remove it)"]),
    ("? [a, b]\n: c", ["1:3: a key must be text (write one word, in quotes if it has special characters)"]),
    ("\x00", ["1:1: a character that no YAML file may hold (remove it)"]),
    ("a: '\x01'", ["1:5: a character that no YAML file may hold (remove it)"]),
]


def faults_of(text: str, folder: Path, **environ: str) -> list[str]:
    file = folder / "providers.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, environ=environ)
    return [str(fault).removeprefix(f"{file}:") for fault in caught.value.faults]


@pytest.mark.parametrize(("text", "expected"), FAULTS, ids=[text[:50] for text, _ in FAULTS])
def test_a_fault_says_where_what_and_what_to_write_instead(text: str, expected: list[str], tmp_path: Path) -> None:
    assert faults_of(text, tmp_path) == expected


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
server: {prot: 8080, max_body: 32}
auth: {admin_token: ""}
providers:
  groq: {base_url: "http://169.254.169.254/v1", api_kye: x}
chains:
  smart: [opnai/gpt-4o, openai/gpt-4o]
  smart: [openai/gpt-4o]
clients:
  one: {key: "${ONE}", chains: [smrt]}
"""
    places = [fault.split(": ")[0] for fault in faults_of(text, tmp_path)]
    assert places == ["1:10", "1:32", "2:21", "4:20", "4:49", "6:11", "7:3", "9:14", "9:33"]


@pytest.mark.parametrize("form", ["{a: [%s]}", "{a: {targets: [%s]}}"], ids=["short", "long"])
def test_all_faults_of_a_chain_are_told_at_once(form: str, tmp_path: Path) -> None:
    items = {
        "gpt-4o": "is not a target, which is provider/model",
        "5": "text is needed",
        "opnai/gpt-5": "did you mean 'openai'?",
        "[]": "text is needed",
        "{weight: 2}": "write one of target and static",
        "openai/gpt-5": None,
    }
    text = "chains: " + form % ", ".join(items)
    told = faults_of(text, tmp_path, OPENAI_API_KEY="sk-fake-key-abcd")
    expected = [(text.index(item) + 1, words) for item, words in items.items() if words is not None]
    assert [int(fault.split(":")[1]) for fault in told] == [column for column, _ in expected]
    assert all(words in fault for (_, words), fault in zip(expected, told, strict=True)), told


def test_one_mistake_is_told_once_and_not_by_what_follows_from_it(tmp_path: Path) -> None:
    text = "providers: {mine: {dialect: opnai, base_url: 'http://10.0.0.5/v1'}}\nchains: {smart: [mine/a]}"
    assert faults_of(text, tmp_path) == ["1:29: dialect: 'opnai': not one of the words known here (did you mean 'openai'?)"]


def test_a_fault_never_shows_a_secret(tmp_path: Path) -> None:
    text = """\
auth: {admin_token: [hush-hush-1]}
providers:
  groq: {api_key: {is: hush-hush-2}, base_url: "https://user:hush-hush-3@example.com/v1", proxy: "ftp://a:hush-hush-4@b"}
clients: {a: {key: "${A}"}, b: {key: "${B}"}}
"""
    told = "\n".join(faults_of(text, tmp_path, A="hush-hush-5", B="hush-hush-5"))
    assert told.count("\n") == 4
    assert "hush" not in told


def test_a_fault_reads_as_file_line_column_message() -> None:
    assert str(ConfigFault("providers.yaml", 3, 7, "wrong (write right)")) == "providers.yaml:3:7: wrong (write right)"


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", environ={})
    assert (
        str(caught.value) == f"{tmp_path}/none.yaml:1:1: cannot be read: No such file or directory (name another with --config)"
    )


def test_a_file_that_is_not_utf8_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_bytes(b"chains:\n  caf\xe9: [demo/chat]\n")
    with pytest.raises(ConfigError, match=r"providers.yaml:2:1: not UTF-8 text"):
        load(tmp_path / "providers.yaml", environ={})


def test_a_file_of_aliases_that_would_grow_without_end_is_a_fault(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert faults_of("\n".join(lines), tmp_path)[0].endswith(
        "too many values, counting every use of an alias (make the file simpler)"
    )


@pytest.mark.parametrize(
    "text",
    ["[" * 500, "[" * 1_000_000, "- " * 500_000, "{a: " * 200_000, "a: &a [*a]", "{a: " * 60 + "1" + "}" * 60],
    ids=["brackets", "a million brackets", "dashes", "braces", "an alias of itself", "a closed one"],
)
def test_deep_and_circular_files_are_faults(text: str, tmp_path: Path) -> None:
    assert faults_of(text, tmp_path)


def test_a_file_over_the_limit_is_a_fault(tmp_path: Path) -> None:
    limit = 1 << 20
    (tmp_path / "providers.yaml").write_text("#" * limit)
    load(tmp_path / "providers.yaml", environ={})
    assert faults_of("#" * (limit + 1), tmp_path) == ["1:1: the file is larger than 1 MiB (this can hardly be the right file)"]


def test_of_a_file_without_end_no_more_is_read_than_shows_that_it_is_the_wrong_one() -> None:
    with pytest.raises(ConfigError, match=r"^/dev/zero:1:1: the file is larger than 1 MiB"):
        load(Path("/dev/zero"), environ={})


@pytest.mark.parametrize("name", ["", "x" * 257, "é" * 129, "e\u0301", "a\\nb", "a\\u202eb"], ids=ascii)
def test_a_chain_has_a_name_that_can_be_asked_for(name: str, tmp_path: Path) -> None:
    why = "names are 1 to 256 bytes of printable text in Unicode's NFC form (write another)"
    expected = [f"1:10: nobody could ask for a chain of this name: {why}"]
    assert faults_of(f'chains: {{"{name}": [demo/chat]}}', tmp_path) == expected


@pytest.mark.parametrize("name", ["x" * 256, "é" * 128, "模型", " x ", "\u00e9"], ids=ascii)
def test_and_any_other_name_will_do(name: str, tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text(f'chains: {{"{name}": [demo/chat]}}', encoding="utf-8")
    assert checked_model(name) in load(file, environ={}).chains


def test_what_is_odd_about_an_anchor_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "providers.yaml"
    file.write_text(
        "providers:\n  a: &a {dialect: openai, base_url: http://10.0.0.5/v1, api_key: written}\n  b: {<<: *a}\n", encoding="utf-8"
    )
    (warning,) = load(file, environ={}).warnings
    assert warning == f"{file}:2:66: a key is written out in the file (better: keep it in a variable, ${{NAME}})"


def test_a_secret_is_not_told_wherever_it_was_written_by_mistake(tmp_path: Path) -> None:
    written = yaml.safe_load((HERE / "whole_vocabulary.yaml").read_text(encoding="utf-8"))
    said = 0
    for place in _scalars(written):
        config = copy.deepcopy(written)
        inside = config
        for step in place[:-1]:
            inside = inside[step]
        inside[place[-1]] = "${MISTAKEN}"
        file = tmp_path / "providers.yaml"
        file.write_text(yaml.safe_dump(config), encoding="utf-8")
        environ = {
            "MISTAKEN": "hush-7f3a9c51d2e8/hush-4b06c55a19",
            "GROQ_API_KEY": "k-groq-00000001",
            "SEARCH_AGENT_KEY": "k-agent-0000000001",
        }
        try:
            messages = list(load(file, environ=environ).warnings)
        except ConfigError as error:
            messages = list(map(str, error.faults))
        assert not [message for message in messages if "hush-" in message], place
        said += any("${MISTAKEN}" in message for message in messages)
    assert said > 50


def _scalars(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    match value:
        case dict():
            for key, item in value.items():
                yield from _scalars(item, (*path, key))
        case list():
            for index, item in enumerate(value):
                yield from _scalars(item, (*path, index))
        case _:
            yield path


def test_a_fault_in_the_env_file_names_that_file_and_not_its_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GOOD=1\nhush hush\n")
    (tmp_path / "providers.yaml").write_text("")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "providers.yaml", environ={})
    assert str(caught.value) == f"{tmp_path}/.env:2:1: not a variable (write NAME=value, or # before a comment)"


def test_an_env_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "providers.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be read: No such file or directory \(name another with --env-file\)"):
        load(tmp_path / "providers.yaml", environ={}, env_file=tmp_path / "none.env")
