#!/usr/bin/env python3
"""tidy - the style rules that a machine can check; part of `make check`.

    python3 tests/tidy/tidy.py [ROOT]

Reads every source file below ROOT (default: this repository) and prints `file:line: rule: message`
for each violation; exits 1 when there is one. What a rule is for:

    edges       an #include goes down the table EDGES, is written from src/, own header first
    cycle       headers that include each other in a ring
    guard       a header's guard is its path: src/base/mem.h has MLXD_BASE_MEM_H
    umbrella    a header that only includes other headers hides what a file depends on
    opening     a file opens with a comment that says what it is
    length      files, functions and lines that one can still read
    banned      calls that are unsafe, or that belong into one place (table BANNED)
    symbol      functions with external linkage carry the project's prefix
    dead        code that is switched off or commented out
    text        tabs, trailing blanks, missing newline at the end, non-ASCII outside strings
    link        a Markdown link to a file that is not there

C is looked at after comments and the contents of strings have been blanked out, line for line; the
rules are plain enough that this is sufficient, there is no parser. Where breaking a rule makes the
code plainly better, say so on the line or the line before:

    /* tidy: allow banned - the library frees this block with free() */

Every rule fires on a bad example in test_tidy.py.
"""

import os
import re
import sys

FILE_LINES_MAX = 1000
FUNCTION_LINES_MAX = 70
COLUMNS_MAX = 100

# Which folders of src/ a folder may include from, besides itself.
EDGES = {
    "base": (),
    "format": ("base",),
    "kernel": ("base",),
    "model": ("base", "format", "kernel"),
    "backend": ("base", "format", "kernel", "model"),
    "net": ("base", "format"),
    "hub": ("base", "format"),
    "cluster": ("base", "format", "kernel", "model", "backend", "net"),
    "serve": ("base", "format", "kernel", "model", "backend", "net", "cluster"),
    "cli": ("base", "format", "kernel", "model", "backend", "net", "hub", "cluster", "serve"),
}
# Who may see the C code that protoc-c generates (included without a folder).
PROTO_USERS = ("cluster", "serve", "cli")

LIBM = ("exp exp2 expm1 pow log log2 log10 log1p sin cos tan asin acos atan atan2 "
        "sinh cosh tanh cbrt hypot erf erfc tgamma lgamma").split()

# (calls, folders or files of src/ where they are allowed, folders of src/ they are banned in, why)
SRC = tuple(EDGES)
BANNED = [
    ("gets strcpy strcat stpcpy sprintf vsprintf", (), SRC, "does not know its room"),
    ("strtok gmtime localtime ctime asctime", (), SRC, "hidden state; use the _r form"),
    ("alloca", (), SRC, "unbounded stack"),
    ("atoi atol atoll atof", ("base/os_linux.c", "base/os_darwin.c"), SRC,
     "cannot report an error; use strtol and check"),
    ("system popen", (), SRC, "runs a shell"),
    ("rand srand random srandom drand48", (), SRC, "not reproducible; use the sampler's generator "
     "or mlxd_os_random"),
    ("assert", (), SRC, "off in release; use MLXD_ASSERT"),
    ("abort", ("base",), SRC, "use MLXD_ASSERT, or return an error"),
    ("malloc calloc realloc reallocarray free strdup strndup asprintf vasprintf aligned_alloc "
     "posix_memalign", ("base/mem.c",), SRC, "use base/mem.h, which counts"),
    ("pthread_mutex_* pthread_cond_* pthread_rwlock_* pthread_spin_* pthread_create",
     ("base",), SRC, "threads meet in base/thread.h"),
    (" ".join(f"{name} {name}f {name}l" for name in LIBM), (), ("kernel", "model"),
     "libm's last bit differs between machines; use kernel/math.h"),
]

SKIP_DIRS = {"__pycache__", "node_modules"}
C_NAMES = (".c", ".h")
TEXT_NAMES = C_NAMES + (".py", ".sh", ".cmake", ".proto", ".yaml", ".yml", ".md", ".css", ".js",
                        ".html", "CMakeLists.txt", "Makefile", "requirements.txt")


class Source:
    """One file: its path from the root with slashes, and its text."""

    def __init__(self, root, path):
        self.path = path
        with open(os.path.join(root, path), "rb") as f:
            self.raw = f.read()
        self.text = self.raw.decode("utf-8", "replace")
        self.lines = self.text.split("\n")
        if self.lines[-1] == "":
            self.lines.pop()
        self.is_c = path.endswith(C_NAMES)
        parts = path.split("/")
        self.in_src = parts[0] == "src" and len(parts) > 2
        self.in_tests = parts[0] == "tests"
        # The folder of src/ this is, or tests: tests/unit/kernel/x.c belongs to kernel.
        self.folder = None
        if self.in_src:
            self.folder = parts[1]
        elif parts[:2] == ["tests", "unit"] and len(parts) > 3:
            self.folder = parts[2]
        if self.is_c:
            self.code = mask(self.text, strings=True)
            self.no_comments = mask(self.text, strings=False)

    def allows(self, line, rule):
        """Whether a `tidy: allow` comment covers `rule` on that line (counted from 1)."""
        pattern = re.compile(r"tidy: allow " + rule + r" - \S")
        return any(pattern.search(text) for text in self.lines[max(0, line - 2):line])


TOKEN = re.compile(r"""/\*.*?\*/ | //(?:\\\n|[^\n])* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'
                   """, re.DOTALL | re.VERBOSE)


def mask(text, strings):
    """C text with comments, and with `strings` also the contents of literals, made blank."""

    def blank(match):
        token = match.group()
        if token[0] == "/":
            return re.sub(r"[^\n]", " ", token)
        return token[0] + " " * (len(token) - 2) + token[0] if strings else token

    return TOKEN.sub(blank, text)


def line_at(text, offset):
    return text.count("\n", 0, offset) + 1


def without_preprocessor(code):
    """Masked C text with directives, and their continuation lines, made blank."""
    directive = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
    return directive.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), code)


def functions(source):
    """Yields (head, first line, last line) of each function defined in the file."""
    code = without_preprocessor(source.code)
    depth = start = 0
    head = None
    for match in re.finditer(r"[{};]", code):
        char, at = match.group(), match.start()
        if char == "{":
            if depth == 0:
                before = code[start:at]
                is_function = before.rstrip().endswith(")") and "=" not in before
                head = (before, start) if is_function else None
            depth += 1
            continue
        if char == "}":
            depth -= 1
        if depth == 0:
            if head and char == "}":
                text, first = head
                first += len(text) - len(text.lstrip())
                yield text.strip(), line_at(code, first), line_at(code, at)
                head = None
            start = at + 1


INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.MULTILINE)


def includes(source):
    """(line, quote, name) of each #include; lines from 1."""
    return [(line_at(source.no_comments, m.start()), m.group(1), m.group(2))
            for m in INCLUDE.finditer(source.no_comments)]


def is_beside(path, name, paths):
    """Whether `name`, seen from the file at `path`, is another file of tests/."""
    target = os.path.normpath(os.path.join(os.path.dirname(path), name))
    return target.startswith("tests/") and target in paths


def check_edge(source, paths, line, quote, name):
    if quote == "<":
        if "src/" + name in paths:
            yield line, "edges", f'<{name}> is ours: write "{name}"'
        return
    target = name.split("/")[0]
    if name.endswith(".pb-c.h") and "/" not in name:
        if source.folder not in PROTO_USERS:
            yield line, "edges", f'{source.folder} must not include generated "{name}"'
    elif source.in_tests and is_beside(source.path, name, paths):
        return
    elif "/" not in name or name.startswith("."):
        yield line, "edges", f'"{name}": includes are written from src/'
    elif target not in EDGES:
        yield line, "edges", f'"{name}": src/ has no folder {target} in the table of edges'
    elif "src/" + name not in paths:
        yield line, "edges", f'"{name}" is not in src/'
    elif source.folder and target != source.folder and target not in EDGES[source.folder]:
        yield line, "edges", f'{source.folder} must not include from {target}: "{name}"'


def check_includes(source, paths):
    """edges"""
    if source.in_src and source.folder not in EDGES:
        yield 1, "edges", f"src/{source.folder} is not in the table of edges"
        return
    if source.folder not in EDGES:
        return
    found = includes(source)
    for line, quote, name in found:
        yield from check_edge(source, paths, line, quote, name)
    own = source.path[:-2] + ".h"
    if source.in_src and source.path.endswith(".c") and own in paths:
        first = found[0] if found else (1, '"', "")
        # A folder's own x_internal.h may stand in front of it: it is x.h plus what is private.
        private = first[2].endswith("_internal.h") and first[2].startswith(source.folder + "/")
        if first[2] != own[len("src/"):] and not private:
            yield first[0], "edges", f'own header "{own[len("src/"):]}" comes first'


def check_cycles(sources):
    """cycle: walks the headers of src/ depth first; yields (path, line, rule, message)."""
    graph = {s.path: [("src/" + name, line) for line, quote, name in includes(s) if quote == '"']
             for s in sources if s.in_src and s.path.endswith(".h")}
    done, trail = set(), []

    def walk(path):
        trail.append(path)
        for target, line in graph[path]:
            if target in trail:
                ring = " -> ".join(trail[trail.index(target):] + [target])
                yield path, line, "cycle", ring
            elif target in graph and target not in done:
                yield from walk(target)
        trail.pop()
        done.add(path)

    for path in sorted(graph):
        if path not in done:
            yield from walk(path)


def check_header(source, _):
    """guard, umbrella"""
    if not source.path.endswith(".h"):
        return
    opening = re.match(r"\s*#ifndef[ \t]+(\w+)\s*\n\s*#define[ \t]+(\w+)", source.code)
    if not opening or opening.group(1) != opening.group(2):
        yield 1, "guard", "a header begins with #ifndef NAME, #define NAME"
    elif source.in_src:
        want = "MLXD_" + re.sub(r"[^A-Z0-9]", "_", source.path[len("src/"):].upper())
        if opening.group(1) != want:
            yield line_at(source.code, opening.start(1)), "guard", f"expected {want}"
    has_macros = len(re.findall(r"^[ \t]*#[ \t]*define", source.code, re.MULTILINE)) > 1
    if not has_macros and not without_preprocessor(source.code).strip():
        yield 1, "umbrella", "declares nothing itself"


def check_opening(source, _):
    """opening"""
    lines = source.lines
    if not lines:
        return
    at = 1 if lines[0].startswith("#!") and len(lines) > 1 else 0
    name = os.path.basename(source.path)
    if source.is_c or name.endswith(".css"):
        good = lines[0].startswith("/*")
    elif name.endswith((".proto", ".js")):
        good = lines[0].startswith(("/*", "//"))
    elif name.endswith(".html"):
        good = any("<!--" in text for text in lines[:3])
    elif name.endswith(".md"):
        good = True
    elif name.endswith(".py") or "python" in lines[0]:
        good = lines[at].startswith(('"""', "#"))
    else:
        good = lines[at].startswith("#")
    if not good:
        yield 1, "opening", "opens with a comment that says what the file is"


def check_length(source, _):
    """length"""
    if source.path.endswith((".md", ".html")):
        return
    count = len(source.lines)
    if count > FILE_LINES_MAX and "Generated by" not in source.text[:1000]:
        yield count, "length", f"{count} lines, at most {FILE_LINES_MAX}"
    for number, text in enumerate(source.lines, 1):
        if len(text) > COLUMNS_MAX:
            yield number, "length", f"{len(text)} columns, at most {COLUMNS_MAX}"
    if source.is_c:
        for _, first, last in functions(source):
            if last - first + 1 > FUNCTION_LINES_MAX:
                yield (first, "length",
                       f"function of {last - first + 1} lines, at most {FUNCTION_LINES_MAX}")


CALL = re.compile(r"(?<![\w.>])([a-z]\w*)[ \t\n]*\(")  # a call through a struct is no match
BANNED_NAMES = {name: row for row in BANNED for name in row[0].split() if name[-1] != "*"}
BANNED_STEMS = {name[:-1]: row for row in BANNED for name in row[0].split() if name[-1] == "*"}


def check_banned(source, _):
    """banned"""
    if not source.is_c or not source.in_src:
        return
    for match in CALL.finditer(source.code):
        name = match.group(1)
        row = BANNED_NAMES.get(name) or BANNED_STEMS.get(name[:name.rfind("_") + 1])
        if not row:
            continue
        _, allowed, folders, why = row
        if source.folder not in folders or source.folder in allowed:
            continue
        if source.path[len("src/"):] not in allowed:
            yield line_at(source.code, match.start()), "banned", f"{name}(): {why}"


def check_symbols(source, _):
    """symbol"""
    if not source.in_src or not source.path.endswith(".c"):
        return
    for head, first, _ in functions(source):
        head = re.sub(r"__attribute__\s*\(\(.*?\)\)|MLXD_\w+\s*\([^)]*\)", " ", head)
        name = re.search(r"(\w+)\s*\(", head)
        if not name or re.search(r"\bstatic\b|\bMLXD_\w*INLINE\b", head):
            continue
        if not name.group(1).startswith("mlxd_") and name.group(1) != "main":
            yield first, "symbol", f"{name.group(1)}: make it static or name it mlxd_..."


DEAD = re.compile(r"""^[ \t]*\#[ \t]*if[ \t]+0\b | ^[ \t]*//.*[;{}]$ | ^[ \t]*/\*.*[;{}][ ]?\*/$
                  | \b(?:TO[D]O|FIX[M]E)\b""", re.MULTILINE | re.VERBOSE)


def check_dead(source, _):
    """dead"""
    if not source.is_c:
        return
    for match in DEAD.finditer(source.text):
        found = match.group().strip()
        if found.startswith("/*") and source.path.endswith(".h"):
            continue  # an example of use
        what = "do it now, or open an issue" if found[0].isalpha() else "code that is switched off"
        yield line_at(source.text, match.start()), "dead", what


def check_text(source, _):
    """text"""
    if source.raw and not source.raw.endswith(b"\n"):
        yield len(source.lines), "text", "no newline at the end of the file"
    is_make = source.path.endswith("Makefile")
    for number, text in enumerate(source.lines, 1):
        if text != text.rstrip():
            yield number, "text", "blanks at the end of the line"
        if "\t" in text and not is_make:
            yield number, "text", "tab"
    if source.is_c:
        literals = re.compile(r'"(?:\\.|[^"\\\n])*"')
        for number, text in enumerate(source.lines, 1):
            if not text.isascii() and not literals.sub("", text).isascii():
                yield number, "text", "non-ASCII character outside a string"


def check_links(source, paths):
    """link"""
    if not source.path.endswith(".md"):
        return
    folder = os.path.dirname(source.path)
    fenced = False
    for number, text in enumerate(source.lines, 1):
        if text.lstrip().startswith("```"):
            fenced = not fenced
        if fenced:
            continue
        text = re.sub(r"`[^`]*`", "", text)
        targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text)
        targets += re.findall(r"^\s*\[[^\]]+\]:\s*(\S+)", text)
        for target in targets:
            if re.match(r"[a-z][a-z0-9+.-]*:|#", target):
                continue
            path = os.path.normpath(os.path.join(folder, target.split("#")[0]))
            if path not in paths:
                yield number, "link", f"{target} is not there"


CHECKS = (check_includes, check_header, check_opening, check_length, check_banned, check_symbols,
          check_dead, check_text, check_links)


def is_source(root, path):
    if path.endswith(TEXT_NAMES):
        return True
    if "." in os.path.basename(path):
        return False
    with open(os.path.join(root, path), "rb") as f:
        return f.read(2) == b"#!"


def find(root):
    """(paths of everything, files and folders, that a link may point to; paths of sources)"""
    paths, sources = {"."}, []
    for folder, dirs, files in os.walk(root):
        rel = os.path.relpath(folder, root)
        dirs[:] = sorted(d for d in dirs if d not in SKIP_DIRS and (d == ".ci" or d[0] != "."))
        if rel == ".":
            dirs[:] = [d for d in dirs if not d.startswith("build")]
        for name in sorted(files):
            path = os.path.normpath(os.path.join(rel, name)).replace(os.sep, "/")
            paths.add(path)
            if is_source(root, path):
                sources.append(path)
        paths.update(os.path.normpath(os.path.join(rel, d)) for d in dirs)
    return paths, sources


def run(root):
    """Checks the tree below `root`; returns (violations as text, number of files read)."""
    paths, names = find(root)
    sources = [Source(root, name) for name in names]
    found = []
    for source in sources:
        for check in CHECKS:
            for line, rule, message in check(source, paths):
                if not source.allows(line, rule):
                    found.append((source.path, line, rule, message))
    found.extend(check_cycles(sources))
    return [f"{path}:{line}: {rule}: {message}" for path, line, rule, message in sorted(found)], \
        len(sources)


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    root = sys.argv[1] if len(sys.argv) > 1 else default
    violations, count = run(root)
    for text in violations:
        print(text)
    if count == 0:
        print("tidy: found no files to check")
        return 1
    if not violations:
        print(f"tidy: {count} files are in order")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
