"""`tollbridge ledger`: what it prints, what it changes, and how it exits."""

import csv
import io
import json
import sqlite3
import time
from pathlib import Path

import pytest

from proxy.accounting.pricing import PriceBook
from proxy.storage.drainer import Drainer
from proxy.storage.sqlite import LEDGER
from tests.command_line import invoke
from tests.storage.records import begin, completion, end, failover, opened, rejected, request_id, write

pytestmark = pytest.mark.unit

FILE = """\
providers:
  openai: {api_key: sk-fake, prices: {"*": {input: 1, output: 2}}}
chains: {smart: [openai/gpt-4o]}
"""


def run(*arguments: str) -> tuple[int, str, str]:
    done = invoke(["ledger", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def no_price_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """To compile it takes a second, and the file has the one price that is needed."""

    async def nothing(_book: PriceBook) -> None:
        return None

    monkeypatch.setattr(PriceBook, "warm", nothing)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    now_ms = int(time.time() * 1000)
    unpriced = opened(4, now_ms)
    folder = tmp_path / "data"
    records = [*completion(1, now_ms), *failover(2, now_ms), rejected(3, now_ms, model='=cmd|" /C calc"!A0')]
    write(folder, [*records, begin(unpriced), end(unpriced, cost_nusd=None, price_source=None)])
    drainer = Drainer(folder, time.time)
    drainer.drain()
    drainer.close()
    (tmp_path / "providers.yaml").write_text(FILE, encoding="utf-8")
    return folder


def damage(data_dir: Path) -> None:
    connection = sqlite3.connect(data_dir / LEDGER)
    connection.execute("UPDATE daily_sums SET cost_nusd = cost_nusd + 1 WHERE slice = 1")
    connection.commit()
    connection.close()


def test_a_ledger_that_adds_up_is_0_and_one_that_does_not_is_1_with_what_differs(data_dir: Path) -> None:
    code, out, _ = run("verify", "--data-dir", str(data_dir))
    assert (code, "adds up" in out) == (0, True)
    assert json.loads(run("verify", "--data-dir", str(data_dir), "--json")[1])["data"]["ok"] is True
    damage(data_dir)
    code, out, _ = run("verify", "--data-dir", str(data_dir))
    assert code == 1
    assert "does not add up: 1 difference." in out
    assert "cost_nusd -1" in out
    code, out, _ = run("verify", "--data-dir", str(data_dir), "--json")
    told = json.loads(out)["data"]
    assert (code, told["ok"], told["differing"]) == (1, False, 1)
    assert told["differences"][0]["check"] == "sums"
    code, out, _ = run("repair", "--data-dir", str(data_dir), "--json")
    told = json.loads(out)["data"]
    assert (code, told["ok"], told["repaired"]["requests"]) == (0, True, 4)


def test_a_damaged_file_is_replaced_and_said_so(data_dir: Path) -> None:
    (data_dir / LEDGER).write_bytes(b"no database" * 500)
    assert run("verify", "--data-dir", str(data_dir))[0] == 1
    code, out, _ = run("repair", "--data-dir", str(data_dir))
    assert code == 0
    assert "set aside" in out
    assert "adds up" in out


def test_while_a_server_runs_it_is_refused_with_what_to_do(data_dir: Path) -> None:
    drainer = Drainer(data_dir, time.time)
    code, out, err = run("repair", "--data-dir", str(data_dir))
    assert (code, out) == (1, "")
    assert "stop it first" in err
    config = str(data_dir.parent / "providers.yaml")
    code, out, _ = run("reprice", "--apply", "--config", config, "--json")
    assert (code, "stop it first" in json.loads(out)["error"]["message"]) == (1, True)
    drainer.close()


def test_prices_are_shown_first_and_written_when_told_to(data_dir: Path) -> None:
    config = str(data_dir.parent / "providers.yaml")
    code, out, _ = run("reprice", "--config", config, "--json")
    told = json.loads(out)
    assert (code, told["applied"]) == (0, False)
    expected = {
        "provider": "openai", "model": "gpt-4o", "attempts": 1, "changed": 1, "before_usd": "0", "unpriced_before": 1,
        "after_usd": "0.0002", "unpriced_after": 0,
    }  # fmt: skip
    assert told["data"] == [expected]
    assert "Nothing is changed yet" in run("reprice", "--config", config)[1]
    assert "1 attempt priced again" in run("reprice", "--config", config, "--apply")[1]
    assert "No attempt would cost anything else" in run("reprice", "--config", config)[1]
    assert (
        json.loads(run("reprice", "--config", config, "--all", "--provider", "openai", "--json")[1])["data"][0]["attempts"] == 3
    )
    assert run("verify", "--config", config)[0] == 0
    assert run("reprice", "--config", config, "--all")[0] == 2


def test_rows_go_to_standard_output_or_a_file(data_dir: Path, tmp_path: Path) -> None:
    where = ("--data-dir", str(data_dir))
    code, out, _ = run("export", *where)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, len(rows)) == (0, 4)
    assert (rows[0]["cost_usd"], rows[3]["cost_usd"], rows[0]["stream"]) == ("0.00125", "", "false")
    assert rows[2]["model"].startswith("'=cmd")
    code, _, err = run("export", *where, "--attempts", "-o", str(tmp_path / "attempts.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "attempts.jsonl").read_text().splitlines()]
    assert (code, len(lines), "4 attempts written" in err) == (0, 4, True)
    assert lines[0]["outcome"] == "ok"
    assert [json.loads(line)["id"] for line in run("export", *where, "--format", "jsonl", "--since", "1h")[1].splitlines()] == [
        row["id"] for row in rows
    ]
    assert run("export", *where, "--until", "2026-01-01")[1].count("\n") == 1
    assert rows[0]["id"].endswith(request_id(1)[-3:])


def test_a_copy_is_whole_private_and_takes_the_place_of_the_last_one(data_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / LEDGER
    copy.parent.mkdir()
    drainer = Drainer(data_dir, time.time)  # as beside a running server
    for _ in range(2):
        assert run("backup", str(copy), "--data-dir", str(data_dir))[0] == 0
    drainer.close()
    assert [path.name for path in copy.parent.iterdir()] == [LEDGER]
    assert copy.stat().st_mode & 0o077 == 0
    assert run("export", "--data-dir", str(copy.parent))[1] == run("export", "--data-dir", str(data_dir))[1]
    assert run("backup", "/nowhere/copy.db", "--data-dir", str(data_dir))[0] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("export", "--format", "parquet"), 2, "DuckDB"),
        (("export", "-o", "rows.xlsx"), 2, "csv, jsonl"),
        (("export", "--since", "yesterday"), 2, "must be a time"),
        (("export", "-o", "/nowhere/rows.csv"), 1, "cannot be written"),
    ],
)
def test_what_cannot_be_meant_is_said(data_dir: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(*arguments, "--data-dir", str(data_dir))
    assert (done[0], said in done[2].replace("\n", " ").replace("│", "")) == (code, True), done


def test_without_a_ledger_there_is_a_sentence(tmp_path: Path) -> None:
    for command in ("verify", "export"):
        code, _, err = run(command, "--data-dir", str(tmp_path))
        assert (code, "there is no ledger.db" in err) == (1, True)
