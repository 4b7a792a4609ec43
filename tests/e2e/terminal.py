"""terminal.py - mlxd on a pseudo-terminal, as a person at the keyboard sees it.

    with Terminal([mlxd, "run", model], env) as t:
        t.expect(">>> ")
        t.type("Hello\\r")
        t.expect(">>> ")

What the program writes is collected as bytes; `expect` waits for a text behind what was expected
before, and returns what lay between.
"""

import os
import pty
import select
import signal
import subprocess
import termios
import time

from harness import CRASH, HANG_S, environment

CTRL_C, CTRL_D, UP = b"\x03", b"\x04", b"\x1b[A"


class Terminal:
    def __init__(self, args, env=None, rows=40, columns=100):
        self.fd, slave = pty.openpty()
        termios.tcsetwinsize(self.fd, (rows, columns))
        self.text, self.at = b"", 0

        def lead():
            os.setsid()
            # The terminal that the session opens first is its own: Ctrl-C then becomes SIGINT.
            os.close(os.open(os.ttyname(0), os.O_RDWR))

        variables = environment({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})})
        self.process = subprocess.Popen(list(map(str, args)), stdin=slave, stdout=slave,
                                        stderr=slave, env=variables, preexec_fn=lead)
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.fd)
        assert not CRASH.search(self.text.decode(errors="replace")), self.text

    def read(self, limit_s):
        """Takes what comes within the time; False at the end."""
        if not select.select([self.fd], [], [], limit_s)[0]:
            return True
        try:
            more = os.read(self.fd, 65536)
        except OSError:  # EIO: nobody has the other end open
            return False
        self.text += more
        return bool(more)

    def expect(self, part, limit_s=HANG_S):
        part = part.encode() if isinstance(part, str) else part
        end = time.monotonic() + limit_s
        while part not in self.text[self.at:]:
            assert time.monotonic() < end, f"{part!r} did not come: {self.text[self.at:]!r}"
            assert self.read(0.2) or part in self.text[self.at:], \
                f"ended without {part!r}: {self.text[self.at:]!r}"
        found = self.text.index(part, self.at)
        between = self.text[self.at:found]
        self.at = found + len(part)
        return between.decode(errors="replace").replace("\r\n", "\n")

    def type(self, keys):
        keys = keys.encode() if isinstance(keys, str) else keys
        while keys:
            keys = keys[os.write(self.fd, keys):]

    def ask(self, line):
        """Types a line and Enter; returns what came until the next prompt."""
        self.type(line + "\r")
        self.expect("\n")
        return self.expect(">>> ")

    def end(self, limit_s=HANG_S):
        """Waits for the end; returns the exit status."""
        end = time.monotonic() + limit_s
        while self.read(0.1):
            assert time.monotonic() < end, f"it goes on: {self.text[self.at:]!r}"
        return self.process.wait(timeout=limit_s)
