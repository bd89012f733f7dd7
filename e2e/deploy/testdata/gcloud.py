"""Runs gcloud many times and loads it once.

serve LIB SOCKET loads the gcloud below LIB and forks for each call. It prints "ready",
and ends when its standard input does.
call SOCKET PROGRAM ARGUMENT... is one call, with the environment, the folder and the
files of this process.
"""

import importlib
import json
import os
import select
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


def run(gcloud, conn, modules):
    """Is one gcloud, in a process of its own, and does not return."""
    os.setpgid(0, 0)
    data, fds, _, _ = socket.recv_fds(conn, 1 << 20, 3)
    while not data.endswith(b"\n"):
        more = conn.recv(1 << 20)
        if not more:
            os._exit(1)  # the caller is gone
        data += more
    request = json.loads(data)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    # Some modules read settings when they are loaded, and what was read is kept.
    from googlecloudsdk.core.configurations import named_configs

    named_configs.ActivePropertiesFile.Invalidate()

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
    with open(modules, "a") as file:
        file.write("".join(name + "\n" for name in sys.modules if name not in loaded))
    conn.sendall(b"%d\n" % code)
    os._exit(0)


def serve(lib, path):
    socket.send_fds, socket.recv_fds  # which Python has since 3.9
    sys.path.insert(0, lib)
    import gcloud  # which puts the libraries that come with it in front

    importlib.import_module("googlecloudsdk.gcloud_main")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the calls
    modules = path + ".modules"
    with open(modules, "a+") as learned:
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            # What earlier calls needed is there for the next ones.
            for name in learned.read().split():
                try:
                    importlib.import_module(name)
                except BaseException:
                    pass  # the next call loads it itself, or says why not
            conn, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                run(gcloud, conn, modules)
            conn.close()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        # After the socket come the options of Python and the name of the program.
        at = next(i for i, word in enumerate(sys.argv) if word.endswith("gcloud.py") and i > 2)
        sys.exit(call(sys.argv[2], sys.argv[at:]))
