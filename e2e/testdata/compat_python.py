"""Drives a server with the published Python client, as its users do.

MIOSA_BASE_URL and MIOSA_API_KEY say which server. Every step prints one line,
"ok NAME" or "FAIL NAME: why"; a step whose sandbox is gone fails too. Nothing
here reaches around the client: what it does not offer is not tested here.
"""

import asyncio
import sys
import threading
import time
import traceback

import miosa
from miosa import AsyncMiosa, Miosa
from miosa.errors import MiosaError, NotFoundError

steps = []


def step(f):
    steps.append(f)
    return f


def equal(got, want):
    assert got == want, f"got {got!r}, want {want!r}"


def eventually(what, done, seconds=20):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def first(stream, fits, seconds=20):
    """Reads a stream in a thread until an item fits, and returns all it read."""
    got, done = [], threading.Event()

    def read():
        try:
            for item in stream:
                got.append(item)
                if fits(item):
                    return
        except Exception as e:  # the assertion below shows it
            got.append(e)
        finally:
            done.set()

    threading.Thread(target=read, daemon=True).start()
    return got, done


class World:
    """What the steps hand on to each other."""


w = World()
client = Miosa()
sandboxes = client.sandboxes


@step
def create():
    w.sb = sandboxes.create(
        name="py-main", size="small", timeout_sec=600, persistent=True, tags=["a", "b"],
        env={"GREETING": "hello"}, metadata={"team": "x", "n": 3}, external_user_id="u-1",
    )
    equal(w.sb.size, "small")
    equal((w.sb.cpu_count, w.sb.memory_mb, w.sb.disk_size_mb), (2, 4096, 10240))
    equal(w.sb.resource_contract["id"], "sandbox/small@v1")
    equal((w.sb.name, w.sb.persistent, w.sb.external_user_id), ("py-main", True, "u-1"))
    equal(w.sb.metadata, {"team": "x", "n": 3})
    assert w.sb.created_at is not None and w.sb.slug


@step
def wait_ready_by_stream():
    assert w.sb.wait_until_ready(timeout=60)
    equal((w.sb.state, w.sb.ready), ("running", True))


@step
def wait_ready_by_polling():
    assert w.sb.wait_until_ready(timeout=60, stream=False)
    equal(w.sb.readiness()["ready"], True)


@step
def get_and_refresh():
    equal(sandboxes.get(w.sb.id).id, w.sb.id)
    equal(sandboxes.connect(w.sb.slug).id, w.sb.id)
    equal(w.sb.refresh().state, "running")


@step
def get_of_another():
    try:
        sandboxes.get("sbx_00000000000000000000000000")
    except NotFoundError as e:
        equal((e.status_code, e.code), (404, "NOT_FOUND"))
        assert e.request_id, "no request id"
        return
    raise AssertionError("no error")


@step
def list_with_filters():
    ids = lambda **kw: [s.id for s in sandboxes.list(**kw)]
    assert w.sb.id in ids()
    equal(ids(state="running", external_user_id="u-1"), [w.sb.id])
    equal(ids(tags=["a"]), [w.sb.id])
    equal(ids(external_user_id="nobody"), [])
    equal(ids(tags=["nothing"]), [])


@step
def execute():
    r = w.sb.exec("echo out; echo err >&2; exit 3")
    equal((r.stdout, r.stderr, r.exit_code), ("out\n", "err\n", 3))
    r = w.sb.commands.run("pwd; echo $GREETING $MORE", {"cwd": "/tmp", "env": {"MORE": "again"}, "timeout_sec": 20})
    equal((r.stdout, r.exit_code), ("/tmp\nhello again\n", 0))


@step
def exec_timeout():
    try:
        w.sb.exec("sleep 60", {"timeout": 1})
    except MiosaError as e:
        equal((e.status_code, e.code), (504, "EXEC_TIMEOUT"))
        return
    raise AssertionError("no error")


@step
def exec_in_background():
    """§12.23: background children must not hold the answer."""
    equal(w.sb.exec("nohup sleep 300 >/tmp/out 2>&1 & echo started").stdout, "started\n")


@step
def exec_stream():
    events = list(w.sb.exec.stream("for i in 1 2 3; do echo line $i; done; echo bad >&2; exit 4"))
    equal([e.data["line"] for e in events if e.type == "stdout"], ["line 1", "line 2", "line 3"])
    equal([e.data["line"] for e in events if e.type == "stderr"], ["bad"])
    equal(events[-1].type, "exit")
    equal(events[-1].data["exit_code"], 4)


@step
def files_write_read():
    w.sb.files.write("/workspace/a b/ü.txt", "text\n")
    equal(w.sb.files.read_text("/workspace/a b/ü.txt"), "text\n")
    blob = bytes(range(256)) * 1000
    w.sb.files.write("/workspace/blob.json", blob)  # §12.13: not taken for JSON
    equal(w.sb.files.read("/workspace/blob.json"), blob)
    w.sb.files.write("/workspace/e.json", '{"content": "aGVsbG8="}')
    equal(w.sb.files.read_text("/workspace/e.json"), '{"content": "aGVsbG8="}')
    w.sb.files.write("/workspace/empty", b"")
    equal(w.sb.files.read("/workspace/empty"), b"")


@step
def files_missing():
    try:
        w.sb.files.read("/workspace/none")
    except NotFoundError as e:
        equal(e.code, "FILE_NOT_FOUND")
        return
    raise AssertionError("no error")


@step
def files_list_and_stat():
    listed = w.sb.files.list("/workspace")
    equal(listed["path"], "/workspace")
    names = {e["name"]: e for e in listed["entries"]}
    assert names["a b"]["is_dir"] and names["a b"]["type"] == "directory", names
    equal(names["blob.json"]["size"], 256000)
    st = w.sb.files.stat("/workspace/blob.json")
    equal((st["path"], st["type"], st["size"], type(st["mode"])), ("/workspace/blob.json", "file", 256000, str))


@step
def files_write_many_and_tree():
    r = w.sb.files.write_many([{"path": "/workspace/t/1", "content": "one"}, {"path": "/workspace/t/d/2", "content": b"\x00two"}])
    equal((len(r["written"]), r["failed"]), (2, []))
    w.sb.files.write_files([{"path": "/workspace/t/3", "data": "three"}])
    equal(w.sb.files.read("/workspace/t/d/2"), b"\x00two")
    tree = w.sb.files.tree("/workspace/t", depth=2)
    equal((tree["path"], tree["type"]), ("/workspace/t", "dir"))
    equal(sorted(c["name"] for c in tree["children"]), ["1", "3", "d"])


@step
def files_watch():
    got, done = first(w.sb.files.watch("/workspace/t"), lambda e: e.path == "/workspace/t/new" and e.event == "created")
    n = 0
    while not done.is_set() and n < 200:  # until the watch is there to see it
        n += 1
        w.sb.exec("rm -f /workspace/t/new; touch /workspace/t/new")
        done.wait(0.05)
    assert done.is_set() and not isinstance(got[-1], Exception), got
    assert all(e.path for e in got), f"an event without a path: {got}"


@step
def exports():
    one = w.sb.create_export("/workspace/t/1", label="one")
    assert one["files"][0]["download_url"].startswith("http"), one
    equal(w.sb.download_export("/workspace/t/1"), b"one")
    equal(w.sb.download_export(["/workspace/t/1", "/workspace/t/3"])[:2], b"\x1f\x8b")


@step
def processes():
    p = w.sb.processes.start("echo hi; exec sleep 300", name="sleeper", env={"A": "1"})
    assert isinstance(p["pid"], str) and p["pid"].isdigit(), p
    equal((p["name"], p["status"]), ("sleeper", "running"))
    assert p["pid"] in [q["pid"] for q in w.sb.processes.list()]
    equal(w.sb.processes.get(p["pid"])["command"], "echo hi; exec sleep 300")
    eventually("its output", lambda: w.sb.processes.logs(p["pid"]) == "hi\n")
    w.sb.processes.stop(p["pid"])
    eventually("its end", lambda: w.sb.processes.get(p["pid"])["status"] != "running")


@step
def process_stream():
    p = w.sb.processes.start("echo one; echo two >&2; exit 5")
    events = list(w.sb.processes.stream(p["pid"]))
    equal([e.get("line") for e in events if e["type"] == "stdout"], ["one"])
    equal([e.get("line") for e in events if e["type"] == "stderr"], ["two"])
    equal((events[-1]["type"], events[-1]["exit_code"]), ("exit", 5))


@step
def background_command():
    p = w.sb.commands.run("sleep 300", background=True)
    assert isinstance(p.pid, int) and p.pid > 0
    equal(p.status()["status"], "running")
    p.kill()
    eventually("its end", lambda: p.status()["status"] != "running")


@step
def env():
    w.sb.env.set([{"key": "LATER", "value": "on"}, {"key": "GREETING", "value": "bye"}])
    equal(w.sb.exec("echo $LATER $GREETING").stdout, "on bye\n")
    listed = w.sb.env.list()
    rows = listed["data"] if isinstance(listed, dict) else listed
    assert {"LATER", "GREETING"} <= {r["key"] for r in rows}, listed
    w.sb.env.delete("LATER")
    equal(w.sb.exec("echo .$LATER.").stdout, "..\n")


@step
def terminal():
    t = w.sb.terminal.create(cols=100, rows=30)
    assert t["session_id"] and t["stream_auth"] and t["ws_url"].startswith("ws://"), t
    w.sb.terminal.delete(t["session_id"])


@step
def events():
    got, done = first(w.sb.events.stream(), lambda e: e["type"] == "state_changed" and '"running"' in e["data"])
    assert done.wait(20) and not isinstance(got[-1], Exception), got


@step
def logs():
    assert w.sb.get_logs(lines=10) is not None


@step
def update():
    w.sb.update(name="py-renamed", tags=["c"], metadata={"k": "v"}, timeout_sec=900, idle_timeout_sec=800)
    equal((w.sb.name, w.sb.timeout_sec, w.sb.idle_timeout_sec), ("py-renamed", 900, 800))
    equal(w.sb.metadata.get("k"), "v")
    equal([s.id for s in sandboxes.list(tags=["c"])], [w.sb.id])


@step
def tags():
    w.sb.tags.set(["d", "e"])
    equal([s.id for s in sandboxes.list(tags=["d"])], [w.sb.id])
    equal(sandboxes.list(tags=["c"]), [])


@step
def extend():
    before = w.sb.refresh().timeout_remaining_ms
    w.sb.extend()
    equal(w.sb.timeout_sec, 900)
    w.sb.extend(2000)
    equal(w.sb.timeout_sec, 2000)
    assert w.sb.timeout_remaining_ms > before, (w.sb.timeout_remaining_ms, before)


@step
def usage():
    u = w.sb.usage()
    equal((u["sandbox_id"], u["state"]), (w.sb.id, "running"))
    for field in ("runtime_sec", "provisioned_vcpu_ms", "provisioned_memory_mb_ms", "active_cpu_ms",
                  "network_ingress_bytes", "network_egress_bytes", "estimated_cost_cents", "timeout_sec"):
        equal((field, type(u[field])), (field, int))


@step
def metrics():
    assert isinstance(w.sb.metrics("1h"), dict) and w.sb.metrics(), "nothing"


@step
def by_name():
    equal(sandboxes.get_by_name("py-renamed").id, w.sb.id)
    equal(sandboxes.get_or_create("py-renamed").id, w.sb.id)
    other = sandboxes.get_or_create("py-other", timeout_sec=300, wait_until_ready=True)
    assert other.id != w.sb.id
    equal((other.name, other.state), ("py-other", "running"))
    sandboxes.delete(other.id)
    equal(sandboxes.get(other.id).state, "destroyed")


@step
def idempotency():
    a = sandboxes.create(name="py-once", idempotency_key="py-key-1", timeout_sec=300)
    b = sandboxes.create(name="py-once", idempotency_key="py-key-1", timeout_sec=300)
    equal(a.id, b.id)
    try:
        sandboxes.create(name="py-twice", idempotency_key="py-key-1", timeout_sec=300)
    except MiosaError as e:
        equal((e.status_code, e.code), (409, "IDEMPOTENCY_PAYLOAD_MISMATCH"))
    else:
        raise AssertionError("no error")
    a.destroy()


@step
def wrong_template():
    try:
        sandboxes.create("no-such-template")
    except MiosaError as e:
        equal((e.status_code, e.code), (400, "INVALID_TEMPLATE"))
        return
    raise AssertionError("no error")


@step
def templates():
    listed = sandboxes.list_templates()
    equal(listed["default_template_id"], "miosa-sandbox")
    assert any(t["id"] == "miosa-sandbox" for t in listed["data"])
    equal(sandboxes.get_template("miosa-sandbox")["id"], "miosa-sandbox")


@step
def stop_and_bring_back():
    """A stop keeps the files of a persistent one; the client's only way back is resume."""
    w.sb.exec("echo kept > /workspace/kept")
    w.sb.stop()
    equal(w.sb.refresh().state, "paused")
    back = sandboxes.get_or_create("py-renamed", wait_until_ready=True)
    equal((back.id, back.state), (w.sb.id, "running"))
    equal(back.exec("cat /workspace/kept").stdout, "kept\n")
    w.sb.refresh()


@step
def asynchronously():
    async def run():
        async with AsyncMiosa() as c:
            sb = await c.sandboxes.create(timeout_sec=300)
            try:
                assert await sb.wait_until_ready(timeout=60)
                r = await sb.exec("echo async")
                equal((r.stdout, r.exit_code), ("async\n", 0))
                await sb.files.write("/workspace/f", "x")
                equal(await sb.files.read("/workspace/f"), b"x")
                events = [e async for e in sb.exec_stream("echo s")]
                equal((events[0].data["line"], events[-1].type), ("s", "exit"))
            finally:
                await sb.destroy()

    asyncio.run(run())


@step
def destroy():
    w.sb.destroy()
    equal((w.sb.state, type(w.sb.total_runtime_sec)), ("destroyed", int))
    sandboxes.delete(w.sb.id)  # §12.28: once more is fine
    assert w.sb.id not in [s.id for s in sandboxes.list()]


def main():
    equal(miosa.__version__, sys.argv[1])
    for f in steps:
        try:
            f()
            print("ok", f.__name__, flush=True)
        except Exception as e:
            where = traceback.extract_tb(e.__traceback__)
            line = next((x.lineno for x in reversed(where) if x.filename == __file__), 0)
            print(f"FAIL {f.__name__}: line {line}: {type(e).__name__}: {e}".replace("\n", " "), flush=True)
    print("end", len(steps), flush=True)


main()
