"""Commands in processes of their own that have torch and transformers imported: forked from one that did so once.

    python warm.py SOCKET SCRIPT [ARGUMENT ...]       as `python SCRIPT ...`, in this folder and environment
    python warm.py SOCKET -m MODULE [ARGUMENT ...]    as `python -m MODULE ...`

Importing takes seconds, and most of what short commands take. A command ends as its process does: with its exit code,
or by the signal that killed it; and it is killed with whoever asked for it. What a new interpreter would settle anew is
shared: the seed of hashes, and whatever imports read from the environment; and what is left when all is written and the
functions of `atexit` have run is not taken apart. The fixture `warm` (conftest.py) starts the process that waits for
commands.
"""

import json
import os
import select
import signal
import socket
import sys


def ask(address: str, arguments: list[str]) -> int:
    """Have a command run with our folder, environment, input and output. Returns what became of it, as Popen does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"."], [0, 1, 2])
        told = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        server.sendall(json.dumps(told).encode())
        server.shutdown(socket.SHUT_WR)
        return int(server.makefile().read())


def serve(listener: socket.socket) -> list[str]:
    """Wait for commands until our input ends. Returns the arguments of one, in a new process, ready to run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for commands
    while listener in select.select([listener, 0], [], [])[0]:
        client, _ = listener.accept()
        if os.fork():
            client.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, streams, _, _ = socket.recv_fds(client, 1, 3)
        told = json.loads(client.makefile().read())
        if command := os.fork():
            end, watch = os.pidfd_open(command), select.poll()
            watch.register(end, select.POLLIN)
            watch.register(client, 0)  # tells when it is gone
            if end not in dict(watch.poll()):
                os.kill(command, signal.SIGKILL)
                os._exit(0)
            client.sendall(str(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])).encode())
            os._exit(0)
        for there, here in enumerate(streams):
            os.dup2(here, there)
            os.close(here)
        client.close(), listener.close()
        os.chdir(told["folder"])
        os.environ.clear()
        os.environ.update(told["environment"])
        return list(told["arguments"])
    os._exit(0)


if __name__ == "__main__" and sys.argv[1] != "serve":
    end = ask(sys.argv[1], sys.argv[2:])
    if end < 0:
        os.kill(os.getpid(), -end)
    sys.exit(end)

if __name__ == "__main__":
    import atexit
    import gc
    import random
    import runpy
    import threading

    gc.disable()  # of what is imported here nothing is ever freed
    import transformers

    import headscope.cli
    import headscope.interp.sweep  # noqa: F401

    for name in ("AutoModelForCausalLM", "LlamaForCausalLM", "PreTrainedTokenizerFast", "Trainer"):
        getattr(transformers, name)
    gc.freeze()
    gc.enable()
    given = serve(socket.socket(fileno=int(sys.argv[2])))
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    random.seed()
    if module := given[0] == "-m":
        del given[0]
    sys.argv[:] = given
    sys.path[:] = dict.fromkeys([
        os.getcwd() if module else os.path.dirname(os.path.abspath(given[0])),
        *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        *sys.path[1:],
    ])  # fmt: skip
    try:
        if module:
            runpy.run_module(given[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(given[0], run_name="__main__")
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    else:
        code = 0
    # As an interpreter ends, but for taking apart what was imported, which takes longer than a short command.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code & 255)
