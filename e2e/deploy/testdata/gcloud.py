"""Runs gcloud many times and loads it once.

serve LIB SOCKET loads the gcloud below LIB and forks for each call. It prints "ready",
and ends when its standard input does.
call SOCKET ARGUMENT... is one call, with the environment, the folder and the files of
this process.
"""

import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback


def call(path, argv):
    with socket.socket(socket.AF_UNIX) as conn:
        conn.connect(path)
        request = {"argv": argv, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(conn, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
        code = conn.makefile().readline()
    return int(code or 1)


def run(gcloud, conn, learn):
    """Is one gcloud, in a process of its own, and does not return."""
    data, fds, _, _ = socket.recv_fds(conn, 1 << 20, 3)
    while not data.endswith(b"\n"):
        data += conn.recv(1 << 20)
    request = json.loads(data)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    os.setpgid(0, 0)

    def end_with_caller():
        if not conn.recv(1):
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_with_caller, daemon=True).start()
    loaded = set(sys.modules)
    code = 0
    try:
        gcloud.main()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1 if e.code else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    names = "\n".join(name for name in sys.modules if name not in loaded)
    learn.send(names.encode()[: 1 << 17])
    conn.sendall(b"%d\n" % code)
    os._exit(0)


def serve(lib, path):
    sys.path.insert(0, lib)
    import gcloud  # which puts the libraries that come with it in front

    importlib.import_module("googlecloudsdk.gcloud_main")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    learned, learn = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the calls
    events = selectors.DefaultSelector()
    for file in (server, learned, sys.stdin):
        events.register(file, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in events.select():
            if key.fileobj is sys.stdin:
                return
            if key.fileobj is learned:
                # What one call needed is there for the next ones.
                for name in learned.recv(1 << 18).decode().split("\n"):
                    try:
                        importlib.import_module(name)
                    except Exception:
                        pass  # the next call loads it itself, or says why not
                continue
            conn, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                run(gcloud, conn, learn)
            conn.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        # After the socket come the options of Python and the name of the program.
        at = next(i for i, word in enumerate(sys.argv) if word.endswith("gcloud.py") and i > 2)
        sys.exit(call(sys.argv[2], sys.argv[at:]))
