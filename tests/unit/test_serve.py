"""`foldstream serve`: a real server process, real requests, and the same predictions as `foldstream predict`."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import foldstream as fs
import jsonschema
import numpy as np
import pandas as pd
import psutil
import pytest
from foldstream.cluster.serve.address import address_of, choose_token, listen
from foldstream.cluster.serve.batches import Batcher, FullError, Limits
from foldstream.cluster.serve.server import serve
from foldstream.cluster.serve.service import Service
from foldstream.storage.errors import UsageError
from PIL import Image

ROWS = 240
START_SECONDS = 240


def houses() -> pd.DataFrame:
    """Numbers, some of them missing, categories, dates, and a target far from zero."""
    draws = np.random.default_rng(0)
    when = pd.to_datetime(1_600_000_000 + 86_400 * draws.integers(0, 900, ROWS), unit="s")
    table = pd.DataFrame(
        {
            "house": [f"h{number}" for number in range(ROWS)],
            "area": draws.normal(120, 30, ROWS).round(1),
            "age": np.where(draws.random(ROWS) < 0.2, np.nan, draws.integers(0, 90, ROWS)),
            "city": draws.choice(["Ulm", "Bonn", 'the "Hague", NL'], ROWS),
            "sold": when.strftime("%d.%m.%Y"),
        }
    )
    return table.assign(price=2000 * table["area"] + draws.normal(0, 1000, ROWS))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run on houses, with what `predict` says of some rows beside it."""
    root = tmp_path_factory.mktemp("houses")
    table = houses()
    table.to_csv(root / "houses.csv", index=False)
    fs.convert_csv(root / "houses.csv", root / "houses.zarr", label="price", id="house")
    fs.train(root / "houses.zarr", root / "run", model="mlp", folds=2, epochs=2, batch_size=32)
    table.drop(columns="price").head(60).to_csv(root / "new.csv", index=False)
    fs.predict(root / "run", root / "new.csv", root / "predicted.csv")
    return root / "run"


@contextmanager
def server_of(run: Path, *options: str) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with exit code 0 and leaves nothing behind."""
    command = [sys.executable, "-m", "foldstream.cli", "--json", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        assert process.stdout
        address = json.loads(process.stdout.readline())["value"]
        watchdog.cancel()
        yield address
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert psutil.wait_procs(children, 10)[1] == []
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with server_of(run) as address:
        yield address


def ask(address: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, data, sent)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The new rows as JSON."""
    rows: list[dict[str, Any]] = json.loads(pd.read_csv(run.parent / "new.csv").to_json(orient="records"))
    return rows


def one_problem(answer: tuple[int, Any]) -> tuple[int, str]:
    (problem,) = answer[1]["errors"]
    return answer[0], f"{problem.get('row', '')} {problem.get('column', '')}: {problem['reason']}"


def test_the_predictions_are_those_of_predict(address: str, run: Path) -> None:
    expected = pd.read_csv(run.parent / "predicted.csv")
    bodies: list[tuple[Any, str]] = [
        (rows_of(run), "application/json"),
        ((run.parent / "new.csv").read_bytes(), "text/csv; charset=utf-8"),
    ]
    for body, kind in bodies:
        status, answer = ask(f"{address}/predict", body, Content_Type=kind)
        assert status == 200
        assert answer["warnings"] == []
        assert [one["id"] for one in answer["predictions"]] == expected["house"].tolist()
        prices = [one["prediction"]["price"] for one in answer["predictions"]]
        np.testing.assert_allclose(prices, expected["price"], rtol=1e-6)
    (single,) = ask(f"{address}/predict", rows_of(run)[7])[1]["predictions"]
    assert single["prediction"]["price"] == pytest.approx(expected["price"][7], rel=1e-6)


def test_unknown_categories_are_warned_of(address: str, run: Path) -> None:
    rows = [rows_of(run)[0], rows_of(run)[1] | {"city": "Rome"}]
    status, answer = ask(f"{address}/predict", rows)
    assert status == 200
    reason = "'Rome' does not occur in the training data, and counts as unknown"
    assert answer["warnings"] == [{"reason": reason, "row": 1, "column": "city"}]
    other = ask(f"{address}/predict", rows_of(run)[:2])[1]
    assert answer["predictions"][0] == other["predictions"][0]
    assert answer["predictions"][1] != other["predictions"][1]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"area": "wide"}, "2 area: 'wide' is not a number"),
        ({"area": [1]}, "2 area: the value must be a number, a string or null"),
        ({"sold": "yesterday"}, "2 sold: 'yesterday' is not a date such as 24.11.2026, with the day first"),
        ({"sold": "24.11.2020 10:00"}, "2 : the column 'sold' contains times of day"),
        ({"city": "a\0b"}, "2 city: the text contains a NUL byte"),
        ({"area": None, "city": "two\nlines"}, ""),
    ],
)
def test_an_invalid_row_is_named(address: str, run: Path, change: dict[str, Any], problem: str) -> None:
    first, *others = rows_of(run)[:4]
    rows = [first | {"city": "two\r\nlines"}, others[0], others[1] | change, others[2]]
    answer = ask(f"{address}/predict", rows)
    if problem:
        assert one_problem(answer) == (422, problem)
    else:
        assert answer[0] == 200


def test_each_invalid_row_is_named(address: str, run: Path) -> None:
    rows = [row | {"age": "old"} if number in (1, 3) else row for number, row in enumerate(rows_of(run)[:5])]
    del rows[4]["city"]
    status, answer = ask(f"{address}/predict", rows)
    assert status == 422
    assert [(one["row"], one["column"]) for one in answer["errors"]] == [(4, "city")]
    status, answer = ask(f"{address}/predict", rows[:4])
    assert [(one["row"], one["column"]) for one in answer["errors"]] == [(1, "age"), (3, "age")]


@pytest.mark.parametrize(
    ("path", "body", "kind", "expected"),
    [
        ("predict", b"{", "application/json", (400, " : the body is not JSON")),
        ("predict", b"[" * 100_000, "application/json", (400, " : the ")),
        ("predict", b"\xff", "application/json", (400, " : the body is not JSON")),
        ("predict", b"[]", "application/json", (422, " : the request has no rows")),
        ("predict", b"[1]", "application/json", (422, "0 : a row must be an object")),
        ("predict", b'a,b\n"x', "text/csv", (400, " : the body is not CSV")),
        ("predict", b"x", "text/plain", (415, " : the content type is 'text/plain'; use application/json or text/csv")),
        ("nothing", b"x", "text/plain", (404, " : there is no such page; see /openapi.json")),
    ],
)
def test_a_body_that_cannot_be_read(address: str, path: str, body: bytes, kind: str, expected: tuple[int, str]) -> None:
    status, problem = one_problem(ask(f"{address}/{path}", body, Content_Type=kind))
    assert status == expected[0]
    assert problem.startswith(expected[1])


def test_a_large_body_is_refused_before_it_is_sent(address: str) -> None:
    connection = HTTPConnection(address.removeprefix("http://"))
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(40 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["errors"][0]["reason"]) == (
        413,
        "the body has more than 16,777,216 bytes; send fewer rows at once",
    )
    connection.close()


def test_the_description_fits_the_service(address: str, run: Path) -> None:
    status, document = ask(f"{address}/openapi.json")
    assert status == 200
    names = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))
    assert {*names} == {*document["components"]["schemas"]}
    post = document["paths"]["/predict"]["post"]
    content = post["requestBody"]["content"]["application/json"]
    body = jsonschema.Draft202012Validator({**content["schema"], "components": document["components"]})
    row, rows = document["components"]["schemas"]["Row"], rows_of(run)
    assert row["required"] == ["area", "age", "city", "sold"]
    assert row["properties"]["city"]["examples"] == ["Bonn", "Ulm", 'the "Hague", NL']
    body.validate(rows)
    body.validate(content["example"])
    assert not body.is_valid({name: value for name, value in rows[0].items() if name != "area"})
    assert not body.is_valid(rows[0] | {"area": "wide"})
    for asked, expected in ((content["example"], 200), (rows[0] | {"area": "wide"}, 422)):
        status, answer = ask(f"{address}/predict", asked)
        assert status == expected
        schema = post["responses"][str(status)]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(answer)


def test_the_page_shows_the_columns_and_a_command_that_works(address: str) -> None:
    with urllib.request.urlopen(address) as answer:
        page = answer.read().decode()
    for text in (
        "<td>area</td>",
        "number or null",
        "such as 24.11.2026, with the day first",
        f"curl {address}/predict",
    ):
        assert text in page


def test_loopback_answers_only_to_its_own_name(address: str) -> None:
    status, problem = one_problem(ask(f"{address}/openapi.json", Host="rebound.example"))
    assert (status, problem[:20]) == (403, " : the host is not t")
    assert ask(f"{address}/health", Host="localhost:1")[0] == 200


def test_concurrent_requests_are_predicted_together(address: str, run: Path) -> None:
    rows, before = rows_of(run), ask(f"{address}/health")[1]
    with ThreadPoolExecutor(30) as threads:
        answers = list(threads.map(lambda row: ask(f"{address}/predict", row), rows * 2))
    after = ask(f"{address}/health")[1]
    assert [answer["predictions"][0]["id"] for _, answer in answers] == [row["house"] for row in rows * 2]
    assert after["requests"] - before["requests"] == after["rows"] - before["rows"] == 120
    assert after["batches"] - before["batches"] < 100


Client = Callable[[str], Any]


def served(service: Service, client: Client, token: str | None = None, **limits: float) -> Any:
    """What a client finds at the address of a server in this process, which SIGTERM stops."""

    async def main() -> Any:
        loop, found, sockets = asyncio.get_running_loop(), list[Any](), listen("127.0.0.1", 0)

        def ready() -> None:
            found.append(loop.run_in_executor(None, client, address_of(sockets)))

        def stop(_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        serving = asyncio.create_task(
            serve(service, "run", sockets, token, ready, Limits(**limits))  # type: ignore[arg-type]
        )
        while not found and not serving.done():
            await asyncio.sleep(0.01)
        found[0].add_done_callback(stop)
        await serving
        return await found[0]

    return asyncio.run(main())


def test_a_token_is_needed_where_there_is_one(run: Path) -> None:
    rows, right = rows_of(run), {"Authorization": "Bearer secret"}

    def client(address: str) -> list[int]:
        found = [ask(f"{address}/health", Host="elsewhere.example")[0]]
        for given in ("", "secret", "Bearer", "Bearer wrong", "Bearer s\xe9cret", "Basic secret", "Bearer secrets"):
            for path in ("openapi.json", "predict", "", "nothing"):
                found.append(ask(f"{address}/{path}", rows if path == "predict" else None, Authorization=given)[0])
        return [*found, ask(f"{address}/openapi.json", **right)[0], ask(f"{address}/predict", rows[0], **right)[0]]

    assert served(Service(run), client, "secret") == [200, *[401] * 28, 200, 200]


def test_too_much_at_once_is_refused(run: Path) -> None:
    rows = rows_of(run)[:6]

    def client(address: str) -> list[int]:
        for _ in range(5):  # clients that leave before they have sent everything
            connection = HTTPConnection(address.removeprefix("http://"))
            connection.putrequest("POST", "/predict")
            connection.putheader("Content-Length", "1000")
            connection.endheaders(b"[")
            connection.close()
        with ThreadPoolExecutor(4) as threads:  # one is answered, and one is received, while others come
            several = list(threads.map(lambda _: ask(f"{address}/predict", rows[:4])[0], range(4)))
        return [ask(f"{address}/predict", rows)[0], *sorted(several), ask(f"{address}/health")[0]]

    found = served(Service(run), client, request_rows=5, requests=2, seconds=1.0)
    assert found == [413, 200, 200, 503, 503, 200]


def test_a_request_that_has_arrived_is_answered_before_the_server_ends(run: Path) -> None:
    rows = rows_of(run)

    def client(address: str) -> tuple[int, Any]:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return ask(f"{address}/predict", rows)

    assert served(Service(run), client, seconds=1.0)[0] == 200


def test_other_addresses_demand_a_token() -> None:
    assert choose_token("127.0.0.1", None) is None
    assert choose_token("localhost", "") is None
    assert choose_token("127.0.0.1", "given") == choose_token("0.0.0.0", "given") == "given"
    made = {choose_token(host, token) for host in ("0.0.0.0", "::", "10.0.0.5", "example.org") for token in (None, "")}
    assert len(made) == 8
    assert all(token and len(token) > 40 for token in made)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # tornado leaves the socket open
def test_an_address_that_is_taken_is_refused_before_anything_is_loaded() -> None:
    (taken,) = listen("127.0.0.1", 0)
    with taken, pytest.raises(UsageError, match="Address already in use; choose others, port 0 for a free one"):
        listen("127.0.0.1", int(address_of([taken]).rpartition(":")[2]))


def test_the_queue_is_bounded_and_batches_too() -> None:
    seen: list[list[int]] = []

    def predict(requests: Sequence[Sequence[int]]) -> list[int]:
        seen.append([len(rows) for rows in requests])
        if requests[0] == [13]:
            raise ValueError("unlucky")
        return [sum(rows) for rows in requests]

    async def main() -> None:
        batcher = Batcher[int, int](predict, Limits(batch_rows=4, waiting_rows=15, seconds=0.05))
        asked = [asyncio.ensure_future(batcher.answer(rows)) for rows in ([1], [2, 3], [4, 5], [6] * 9, [7])]
        await asyncio.sleep(0)
        with pytest.raises(FullError):
            await batcher.answer([8])
        asked[1].cancel()
        running = asyncio.create_task(batcher.run())
        assert [await one for one in (asked[0], *asked[2:])] == [1, 9, 54, 7]
        with pytest.raises(ValueError, match="unlucky"):
            await batcher.answer([13])
        assert await batcher.answer([1, 1]) == 2
        running.cancel()
        batcher.thread.shutdown()

    asyncio.run(main())
    assert seen == [[1, 2], [9], [1], [1], [2]]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Light and dark photos in folders."""
    root, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(60):
        place = root / "photos" / ("light" if number % 2 else "dark") / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((draws.integers(0, 128, (20, 24, 3)) + 127 * (number % 2)).astype(np.uint8)).save(place)
    fs.convert_images(root / "photos", root / "photos.zarr", size=16)
    fs.train(root / "photos.zarr", root / "run", model="mlp", folds=2, epochs=2, batch_size=16)
    return root


def form_of(files: Sequence[Path]) -> bytes:
    heads = [f'--edge\r\nContent-Disposition: form-data; name="files"; filename="{one.name}"\r\n\r\n' for one in files]
    parts = [head.encode() + one.read_bytes() + b"\r\n" for head, one in zip(heads, files, strict=True)]
    return b"".join(parts) + b"--edge--\r\n"


def test_images_are_files(photos: Path) -> None:
    files = sorted((photos / "photos" / "light").iterdir())[:5]
    fs.predict(photos / "run", photos / "photos" / "light", photos / "predicted.csv")
    known = pd.read_csv(photos / "predicted.csv", index_col="path")
    expected = [known.loc[file.name] for file in files]
    with server_of(photos / "run") as address:
        rows = [{"image": base64.b64encode(file.read_bytes()).decode()} for file in files]
        of_json = ask(f"{address}/predict", rows)
        of_form = ask(f"{address}/predict", form_of(files), Content_Type="multipart/form-data; boundary=edge")
        of_file = ask(f"{address}/predict", files[0].read_bytes(), Content_Type="image/png")
        wrong = ask(f"{address}/predict", [rows[0], {"image": base64.b64encode(b"no image").decode()}, {}])
        broken = ask(f"{address}/predict", [rows[0], {"image": base64.b64encode(b"no image").decode()}])
        of_csv = ask(f"{address}/predict", b"a\n1\n", Content_Type="text/csv")
        row = ask(f"{address}/openapi.json")[1]["components"]["schemas"]["Row"]
        page = urllib.request.urlopen(address).read().decode()
    for status, answer in (of_json, of_form):
        assert status == 200
        for one, row_of_predict in zip(answer["predictions"], expected, strict=True):
            assert one["label"] == row_of_predict["class"]
            assert one["probabilities"][one["label"]] == pytest.approx(row_of_predict["probability"], abs=6e-5)
    assert [one["id"] for one in of_form[1]["predictions"]] == [file.name for file in files]
    assert of_file[1]["predictions"][0]["probabilities"] == pytest.approx(of_json[1]["predictions"][0]["probabilities"])
    assert one_problem(wrong) == (422, "2 image: the image is missing")
    assert one_problem(broken) == (422, "1 : the file is not an image of a supported format")
    assert of_csv[0] == 415
    assert row["required"] == ["image"]
    assert "--data-binary @photo.png" in page
