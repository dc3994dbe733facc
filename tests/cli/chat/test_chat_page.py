"""The page of `dem chat`: over real HTTP on the loopback interface, and in a real browser where there is one."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import struct
import threading
import time

import pytest
from talking import COMMENTED, RECIPE, Browser, opened

from dem_build.cli.chat.models import Settings
from dem_build.cli.chat.page import PageServer
from dem_build.cli.chat.terminal import Talk

OMEGA = {"omega": {"add": 0.75}}
QUESTION = [{"role": "user", "content": "say oak"}]


@pytest.fixture
def served():
    with opened() as models:
        talk = Talk(models, ["base", "composed"], Settings(12))
        with PageServer(talk) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            yield server
            server.shutdown()
            server.end()
            thread.join()


class Client:
    """Requests as the page makes them, unless they are told otherwise."""

    def __init__(self, server: PageServer) -> None:
        self.server = server
        self.host = server.address.split("/")[2]

    def open(self, method, path, body=None, **headers):
        connection = http.client.HTTPConnection(self.host, timeout=120)
        usual = {"Authorization": f"Bearer {self.server.token}", "Content-Type": "application/json"}
        given = {name: value for name, value in (usual | headers).items() if value is not None}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, given)
        return connection, connection.getresponse()

    def ask(self, method, path, body=None, **headers):
        connection, reply = self.open(method, path, body, **headers)
        text = reply.read().decode()
        connection.close()
        return reply.status, json.loads(text) if reply.headers["Content-Type"].startswith(
            "application/json"
        ) else text

    def post(self, path, body):
        return self.ask("POST", f"/api/{path}", body)


def test_the_page_is_one_file_that_loads_nothing_and_runs_no_script_but_its_own(served):
    client = Client(served)
    connection, reply = client.open("GET", f"/?token={served.token}", Authorization=None)
    page = reply.read().decode()
    connection.close()
    policy = reply.headers["Content-Security-Policy"]
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert policy.startswith("default-src 'none'; ")
    assert page.count(f'nonce="{nonce}"') == page.count("<script") + page.count("<style") == 2
    assert not {"http://", "https://", "src="} & {
        word for word in ("http://", "https://", "src=") if word in page
    }
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    _, other = client.ask("GET", f"/?token={served.token}")
    assert nonce not in other


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/", {"Authorization": None}),
        ("GET", "/?token=wrong", {}),
        ("GET", "/api/state", {"Authorization": None}),
        ("GET", "/api/state?token={token}", {"Authorization": None}),
        ("POST", "/api/omega", {"Authorization": None}),
        ("POST", "/api/omega?token={token}", {"Authorization": "Bearer wrong"}),
        ("POST", "/api/write", {"Authorization": "Bearer \xe9"}),
        ("POST", "/api/omega", {"Host": "attacker.example:{port}"}),
        ("POST", "/api/omega", {"Host": "127.0.0.1"}),
        ("POST", "/api/omega", {"Origin": "http://attacker.example"}),
        ("POST", "/api/answer", {"Origin": "null"}),
        ("GET", "/?token={token}", {"Host": "attacker.example:{port}"}),
        ("GET", "/api/state", {"Host": "attacker.example"}),
    ],
)
def test_nobody_is_answered_but_who_has_the_address(served, home, method, path, headers):
    port = served.server_address[1]
    told = {name: value and value.replace("{port}", str(port)) for name, value in headers.items()}
    body = OMEGA if method == "POST" else None
    status, text = Client(served).ask(method, path.replace("{token}", served.token), body, **told)
    assert status == 403
    assert served.token not in text
    assert "tiny" not in text
    assert served.talk.models.omega["add"] == 0.5
    assert (home / "tiny.toml").read_text() == RECIPE


def test_who_leaves_or_asks_what_is_no_address_leaves_the_terminal_as_it_was(served, capfd):
    host = Client(served).host

    def asked(line):
        connection = socket.create_connection(("127.0.0.1", served.server_address[1]), 20)
        connection.sendall(f"{line}\r\nHost: {host}\r\n".encode())
        return connection

    with asked("GET http://[ HTTP/1.0") as connection:  # no client of Python's asks for that
        connection.sendall(b"\r\n")
        assert connection.makefile().readline() == "HTTP/1.0 404 Not Found\n"
    for _ in range(3):
        # It goes by a reset, in the middle of the headers.
        with asked("GET /api/state HTTP/1.0") as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert Client(served).ask("GET", "/")[0] == 403
    deadline = time.monotonic() + 20
    while any("process_request" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert capfd.readouterr().err == ""


def test_it_listens_on_the_loopback_interface_alone(served):
    assert served.socket.getsockname()[0] == "127.0.0.1"


def test_the_state_has_all_that_is_shown(served):
    status, state = Client(served).ask("GET", "/api/state", Origin=f"http://{Client(served).host}")
    assert status == 200
    assert state["models"] == [{"name": name, "missing": []} for name in ("base", "composed", "add", "copy")]
    assert [(vector["name"], vector["omega"]) for vector in state["vectors"]] == [
        ("add", 0.5),
        ("copy", 0.25),
    ]
    assert (state["recipe"], state["live"], state["bounds"]) == ("tiny", "composed", [0.0, 1.5])


def answered(reply) -> tuple[str, dict]:
    lines = [json.loads(line) for line in reply.read().decode().splitlines()]
    return "".join(line.get("text", "") for line in lines), lines[-1]


def test_an_answer_comes_in_pieces_and_is_that_of_the_terminal(served):
    client = Client(served)
    body = {"model": "composed", "turns": QUESTION, "settings": {"max_new_tokens": 8}}
    connection, reply = client.open("POST", "/api/answer", body)
    text, last = answered(reply)
    connection.close()
    wanted = served.talk.models.ask("composed", QUESTION, Settings(8), lambda _: None)
    assert (text, last["tokens"], last["ended"]) == (wanted.text, wanted.tokens, wanted.ended)
    connection, reply = client.open(
        "POST", "/api/answer", {**body, "turns": [{"role": "user", "content": "a " * 200}]}
    )
    _, last = answered(reply)
    connection.close()
    assert "the model takes 256 tokens" in last["error"]


def test_whoever_leaves_ends_the_answer(served, monkeypatch):
    """A page that is closed, or a button: the connection goes, and the next question waits for no answer of it."""
    from dem_build.model import generation

    steps = []
    put = generation._Heard.put
    monkeypatch.setattr(generation._Heard, "put", lambda self, value: (steps.append(1), put(self, value))[1])
    body = {"model": "base", "turns": QUESTION, "settings": {"max_new_tokens": 230, "temperature": 1.5}}
    connection, reply = Client(served).open("POST", "/api/answer", body)
    reply.read(1)
    reply.close()
    connection.close()
    served.talk.models.settle(60)
    assert len(steps) < 200


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("answer", {"model": "upper", "turns": QUESTION}, "there is no model 'upper'"),
        ("answer", {"model": "base", "turns": []}, "ends with a question"),
        ("answer", {"model": "base", "turns": [{"role": "system", "content": "x"}]}, "ends with a question"),
        ("answer", {"model": "base", "turns": QUESTION, "settings": {"top_p": 0}}, "top_p is 0"),
        ("answer", {"model": "base", "turns": QUESTION, "settings": {"seed": "x"}}, "seed is 'x'"),
        ("answer", {"model": "base", "turns": QUESTION, "settings": 3}, "settings"),
        ("omega", {"omega": {"ad": 1}}, "there is no vector 'ad'"),
        ("omega", {"omega": {"add": "1"}}, "ω are numbers"),
        ("omega", {"omega": {"add": True}}, "ω are numbers"),
        ("omega", b"[" * 100_000, "no JSON"),
        ("omega", b"[]", "no table"),
    ],
)
def test_a_request_that_is_none_is_refused_in_words(served, path, body, told):
    status, reply = Client(served).post(path, body)
    assert status == 400
    assert told in reply["error"]
    assert Client(served).ask("GET", "/api/else")[0] == 404


def test_omega_are_moved_shown_and_written_with_the_recipes_comments(served, home):
    client = Client(served)
    status, told = client.post("omega", OMEGA)
    assert status == 200
    assert [vector["omega"] for vector in told["vectors"]] == [0.75, 0.25]
    line = RECIPE[: RECIPE.index(COMMENTED)].count("\n") + 1
    lines = [f"@@ line {line}", "- omega = 0.5   # what add counts", "+ omega = 0.75   # what add counts"]
    assert client.post("write", {})[1]["lines"] == lines
    assert (home / "tiny.toml").read_text() == RECIPE, "it is shown before it is written"
    client.post("omega", {"omega": {"copy": 0.5}})
    status, told = client.post("write", {"lines": lines})
    assert (status, "moved since this was shown" in told["error"]) == (400, True)
    client.post("omega", {"omega": {"copy": None}})
    assert (home / "tiny.toml").read_text() == RECIPE
    assert client.post("write", {"lines": lines})[1] == {
        "recipe": "tiny.toml",
        "lines": lines,
        "written": True,
    }
    changed = RECIPE.replace("0.5   #", "0.75   #")
    assert (home / "tiny.toml").read_text() == changed
    assert client.post("write", {"lines": []})[1]["written"] is False
    client.post("omega", {"omega": {"add": 1}})
    (home / "tiny.toml").write_text(changed + "# somebody else\n")
    status, told = client.post("write", {"lines": client.post("write", {})[1]["lines"]})
    assert (status, "has been changed by somebody else" in told["error"]) == (400, True)
    assert (home / "tiny.toml").read_text() == changed + "# somebody else\n"


def test_the_end_waits_for_a_model_that_is_loaded_and_none_is_after_it(monkeypatch):
    """A process whose threads are in torch when it ends is aborted."""
    begun, go, loaded = threading.Event(), threading.Event(), []

    def load(name):
        begun.set()
        assert go.wait(20)
        loaded.append(name)

    with opened() as models, PageServer(Talk(models, ["base", "composed"], Settings(4))) as server:
        monkeypatch.setattr(models, "_model", load)
        loading = threading.Thread(target=server.load)
        loading.start()
        assert begun.wait(20)
        assert not server.end(0.05)
        go.set()
        assert server.end()
        loading.join(20)
        assert loaded == ["base"]


# A browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if shutil.which("chromium") is None:
        pytest.skip("there is no chromium here")
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


def test_a_user_asks_moves_asks_again_and_writes_by_keyboard_alone(served, home, browser):
    browser.open(served.address)
    browser.until("document.querySelectorAll('.slider').length === 2")
    assert browser.run("document.activeElement.id") == "question"
    browser.send("Input.insertText", text="say oak")
    browser.key("Enter", "\r")
    ended = "document.querySelectorAll('.reply .end').length === 2 && !running"
    browser.until(ended, 120)
    said = browser.run("[...document.querySelectorAll('.said')].map((one) => one.textContent)")
    wanted = [served.talk.models.ask(n, QUESTION, Settings(12), lambda _: None) for n in ("base", "composed")]
    assert said == [answer.text.lstrip() for answer in wanted]
    # A slider by its arrows: from 0.5 five steps up, each of 0.01.
    browser.run("document.querySelector('.slider input[type=range]').focus()")
    for step in range(1, 6):
        browser.key("ArrowRight")
        browser.until(
            f"document.querySelector('.slider input[type=number]').value === '{0.5 + step / 100:g}'"
        )
        browser.until("document.querySelector('#composed').textContent.startsWith('composed in')")
        assert browser.run("document.activeElement.type") == "range"
    assert served.talk.models.omega == {"add": 0.55, "copy": 0.25}
    browser.run("document.querySelectorAll('.slider input[type=number]')[1].focus()")
    browser.run("document.activeElement.select()")
    browser.send("Input.insertText", text="-0.125")
    browser.key("Tab")
    browser.run("document.querySelector('#again').click()")  # while the model is composed
    browser.until(ended, 120)
    assert browser.run("document.querySelectorAll('.slider input[type=range]')[1].min") == "-0.13"
    assert served.talk.models.omega["copy"] == -0.125
    assert browser.run("document.querySelector('.reply.live small').textContent") == "add 0.55 · copy -0.125"
    browser.run("document.querySelector('#write').focus()")
    browser.key("Enter", "\r")
    browser.until("document.querySelectorAll('#lines .new').length === 2")
    assert (home / "tiny.toml").read_text() == RECIPE
    browser.run("document.querySelector('#confirm').focus()")
    browser.key("Enter", "\r")
    browser.until("!document.querySelector('#dialog').open")
    assert (home / "tiny.toml").read_text() == RECIPE.replace("0.5   #", "0.55   #").replace("0.25", "-0.125")
    assert browser.problems == []


def test_what_a_model_says_is_text_whatever_it_says(served, browser, monkeypatch):
    from dem_build.model.generation import Answered

    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"

    def ask(name, turns, settings, tell, stopping):
        del name, turns, settings, stopping
        tell(hostile)
        return Answered(hostile, 3, True, 0.1)

    monkeypatch.setattr(served.talk.models, "ask", ask)
    browser.open(served.address)
    browser.until("document.querySelectorAll('.slider').length === 2")
    browser.send("Input.insertText", text=hostile)
    browser.key("Enter", "\r")
    browser.until("document.querySelectorAll('.reply .end').length === 2 && !running")
    assert (
        browser.run("[...document.querySelectorAll('.said, .question')].map((one) => one.textContent)")
        == [hostile] * 3
    )
    assert browser.run("document.title") == "tiny · dem chat"
    assert browser.run("document.images.length") == 0


def test_what_is_not_built_cannot_be_chosen_and_says_the_command(browser):
    with opened("more.toml") as models, PageServer(Talk(models, ["base"], Settings(4))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        browser.open(server.address)
        browser.until("document.querySelectorAll('#models li').length === 5")
        assert browser.run("document.querySelector('#models input[value=upper]').disabled") is True
        command = "dem build more.toml -- vector:upper"
        assert browser.run("document.querySelector('#models li.missing code').textContent") == command
        assert browser.run("document.querySelector('#omega').hidden") is True
        assert "vector:upper is not built" in browser.run("document.querySelector('#fixed').textContent")
        server.shutdown()
        thread.join()
