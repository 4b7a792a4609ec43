#!/usr/bin/env python3
"""test_docs - names in the documentation are those of the sources; part of `make check`.

    python3 tests/docs/test_docs.py            check; exits 1 with a line for each difference
    python3 tests/docs/test_docs.py --print    the option rows as docs/configuration.md wants them

    options     every row of the table in src/cli/options.c is in docs/configuration.md as --print
                shows it (flag, environment, key, default, values, commands, help), and no other;
                mlxd(1) has every flag, mlxd.yaml(5) and docs/mlxd.yaml.example have every key
    examples    `mlxd COMMAND` in a code block has a command and flags that exist
    REST        docs/api.md names every route and every request field, with the ranges of numbers
    metrics     docs/operations.md names every metric, and no other
    errors      docs/operations.md has every exit code of src/base/err.c
    man pages   mandoc has nothing to say about them (where mandoc is installed)
    the binary  accepts docs/mlxd.yaml.example (where TEST_MLXD names one)

The C sources are read with regular expressions: the tables there have one form.
"""

import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMANDS = {"RUN": "run", "SERVE": "serve", "WORKER": "worker", "PLAN": "plan", "BENCH": "bench",
            "PULL": "pull", "LS": "ls", "RM": "rm", "INSPECT": "inspect", "TEMPLATE": "template",
            "CERTS": "certs", "HEALTH": "healthcheck", "MLXD_CMD_VERSION": "version"}
MAN1, MAN5 = "docs/man/mlxd.1", "docs/man/mlxd.yaml.5"
EXAMPLE = "docs/mlxd.yaml.example"
GUIDES = ("README.md", "ARCHITECTURE.md", "docs/configuration.md", "docs/api.md",
          "docs/operations.md", "docs/security.md", "docs/benchmarks.md",
          "docs/models-and-cache.md")


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


# ---- the option table ----

def limits():
    """MLXD_LIMIT_X of base/limits.h as numbers."""
    found = {}
    for name, text in re.findall(r"#define (MLXD_LIMIT_\w+) +([^/\n]+)", read("src/base/limits.h")):
        if re.fullmatch(r"[\d()u <]+", text.strip()):
            found[name] = eval(text.replace("u", ""), {"__builtins__": {}})  # pylint: disable=W0123
    return found


class Option:
    """One row of `options[]`."""

    PATTERN = re.compile(
        r'\{"(?P<name>[\w-]+)",\s*(?P<letter>0|\'\w\'),\s*(?P<arg>NULL|"[^"]*"),'
        r'\s*(?P<env>NULL|"\w+"),\s*(?P<key>NULL|"[\w.]+"),\s*(?P<type>\w+),\s*AT\(\w+\),'
        r'\s*(?P<min>[^,]+),\s*(?P<max>[^,]+),\s*(?P<default>NULL|"[^"]*"),\s*(?P<commands>[\w|]+),'
        r'\s*"(?P<help>(?:[^"\\]|\\.)*)"\}')

    def __init__(self, match, numbers):
        def text(group):
            value = match.group(group)
            return "" if value in ("NULL", "0") else value.strip("\"'")
        self.name, self.letter, self.arg = match.group("name"), text("letter"), text("arg")
        self.env, self.key = text("env"), text("key")
        default = match.group("default")
        self.default = "" if default == "NULL" else default.strip('"')
        self.type = match.group("type")
        self.range = [numbers.get(match.group(g), match.group(g)) for g in ("min", "max")]
        names = match.group("commands").split("|")
        self.commands = list(COMMANDS.values()) if names == ["ALL"] else \
            [COMMANDS[name] for name in names]
        self.help = match.group("help").replace('\\"', '"')

    def values(self):
        if self.type in ("UINT", "INT", "REAL"):
            return f"{self.range[0]} to {self.range[1]}"
        if self.type == "NUMBERS":
            return f"{self.range[0]} to {self.range[1]}, list"
        return {"FLAG": "flag", "LIST": "list", "TEXT": ""}[self.type]

    def row(self):
        flag = f"`-{self.letter}`, " if self.letter else ""
        flag += f"`--{self.name}{' ' + self.arg if self.arg else ''}`"
        code = [f"`{text}`" if text else "" for text in (self.env, self.key, self.default)]
        text = self.help.replace("<", "&lt;").replace("|", "&#124;")
        cells = [flag, *code, self.values(), ", ".join(self.commands), text]
        return "| " + " | ".join(cells) + " |"


def options():
    text = read("src/cli/options.c")
    table = text[text.index("options[] = {"):text.index("/* clang-format on */")]
    found = [Option(match, limits()) for match in Option.PATTERN.finditer(table)]
    count = len(re.findall(r'^    \{"', table, re.MULTILINE))
    assert count == len(found) > 30, f"{count} rows in options.c, {len(found)} understood"
    return found


def differences(where, what, have, want):
    for item in sorted(set(want) - set(have)):
        yield f"{where}: {what} is missing: {item}"
    for item in sorted(set(have) - set(want)):
        yield f"{where}: {what} does not exist: {item}"


def check_options(rows):
    have = re.findall(r"^\| (?:`-\w`, )?`--.*\|$", read("docs/configuration.md"), re.MULTILINE)
    yield from differences("docs/configuration.md", "row", have, [o.row() for o in rows])
    man = read(MAN1)
    yield from differences(MAN1, "flag", re.findall(r"\bFl -([a-z][a-z-]*)", man),
                           [o.name for o in rows])
    env = re.findall(r"^\.It Ev (\w+)", man, re.MULTILINE)
    # Those of others, which are no options of ours.
    env = [name for name in env if not name.startswith(("XDG", "HF_", "HUGGING", "SSL_"))]
    yield from differences(MAN1, "variable", env,
                           [o.env for o in rows if o.env])
    keys = [o.key for o in rows if o.key]
    yield from differences(MAN5, "key", re.findall(r"^\.It Cm (\w+\.\w+)", read(MAN5),
                                                   re.MULTILINE), keys)
    section, have = "", []
    for line in read(EXAMPLE).splitlines():
        head = re.match(r"(?:# )?(\w+):$", line)
        member = re.match(r"  (?:# )?(\w+):", line)
        section = head.group(1) if head else section
        have += [f"{section}.{member.group(1)}"] if member else []
    yield from differences(EXAMPLE, "key", have, keys)


# ---- code blocks ----

def code_lines(text):
    """Lines of fenced blocks, those that end in a backslash joined."""
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def check_examples(rows):
    known = {command: {"--" + o.name for o in rows if command in o.commands} |
             {"-" + o.letter for o in rows if o.letter and command in o.commands}
             for command in COMMANDS.values()}
    for path in GUIDES:
        for line in code_lines(read(path)):
            match = re.match(r"(?:\$ )?(?:[A-Z_]+=\S* )*(?:build/)?mlxd (\S+)(.*)", line.strip())
            if not match:
                continue
            command, rest = match.group(1), re.sub(r"\"[^\"]*\"|'[^']*'|\s#.*", " ", match.group(2))
            if command not in known:
                yield f"{path}: no such command: {line.strip()}"
                continue
            for flag in re.findall(r"(?<=\s)(--[a-z-]+|-[a-z])(?=[\s=]|$)", rest):
                if flag not in known[command]:
                    yield f"{path}: mlxd {command} has no {flag}: {line.strip()}"


# ---- REST, metrics, exit codes ----

def check_rest():
    text = read("docs/api.md")
    for path in set(re.findall(r'MLXD_HTTP_(?:GET|POST), "([^"]+)"', read("src/serve/api.c"))):
        if f"`{path}`" not in text and f" {path}`" not in text:
            yield f"docs/api.md: route is missing: {path}"
    table = read("src/serve/api_fields.c")
    table = table[table.index("} fields[] = {"):table.index("/* ---- errors ---- */")]
    rows = re.findall(r'\{"(\w+)", \w+, (\w+), [^,]+, ([^,]+), ([^,]+),', table)
    assert len(rows) > 40, "the field table of api_fields.c is not understood"
    for name, kind, low, high in rows:
        if f"`{name}`" not in text:
            yield f"docs/api.md: field is missing: {name}"
        if kind == "INTEGER":
            high = {"INT32_MAX": 2**31 - 1, **limits()}.get(high, high)
            row = re.search(rf"^\| `{name}`.*$", text, re.MULTILINE)
            if not row or f"{low} to {high}" not in row.group():
                yield f"docs/api.md: {name}: expected the range {low} to {high}"


def check_metrics():
    source = "".join(read(f"src/serve/{name}.c") for name in ("metrics", "metrics_text"))
    names = {n for n in re.findall(r'"((?:mlx|process)_[a-z_]+)"', source) if not n.endswith("_")}
    have = re.findall(r"^\| `((?:mlx|process)_[a-z_]+)", read("docs/operations.md"), re.MULTILINE)
    yield from differences("docs/operations.md", "metric", have, names)


def check_exit_codes():
    table = read("src/base/err.c")
    codes = set(re.findall(r'^    \[MLXD_\w+\] = \{"[^"]*", (\d+),', table, re.MULTILINE))
    section = re.search(r"^## Exit codes$(.*?)^## ", read("docs/operations.md"),
                        re.MULTILINE | re.DOTALL)
    have = re.findall(r"^\| (\d+) \|", section.group(1) if section else "", re.MULTILINE)
    yield from differences("docs/operations.md", "exit code", have, codes | {"130"})


# ---- with tools ----

def check_man():
    mandoc = shutil.which("mandoc")
    if not mandoc:
        print("docs: no mandoc here, the man pages are not linted")
        return
    for path in (MAN1, MAN5):
        done = subprocess.run([mandoc, "-T", "lint", "-W", "style", os.path.join(ROOT, path)],
                              capture_output=True, text=True, check=False)
        for line in (done.stdout + done.stderr).splitlines():
            # A page that is not installed yet, and the operating system's own habits.
            if "referenced manual not found" not in line and "(OpenBSD)" not in line:
                yield line


def check_binary():
    binary = os.environ.get("TEST_MLXD", "")
    if not os.access(binary, os.X_OK):
        return
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLXD_", "DEVICE_"))}
    for command in ("run", "serve", "worker", "plan", "bench"):
        done = subprocess.run([binary, command, "--config", os.path.join(ROOT, EXAMPLE),
                               "--log-level", "none"],
                              env=env, capture_output=True, text=True, check=False, timeout=60)
        if EXAMPLE.rsplit("/", 1)[1] in done.stderr or "log level" not in done.stderr:
            yield f"{EXAMPLE}: mlxd {command} says: {done.stderr.strip()}"


def main():
    rows = options()
    if sys.argv[1:] == ["--print"]:
        print("\n".join(o.row() for o in rows))
        return 0
    found = []
    for check in (check_options(rows), check_examples(rows), check_rest(), check_metrics(),
                  check_exit_codes(), check_man(), check_binary()):
        found += check
    print("\n".join(found) if found else f"docs: {len(rows)} options and all names are in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
