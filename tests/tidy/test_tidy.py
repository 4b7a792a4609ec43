#!/usr/bin/env python3
"""test_tidy - each rule of tidy.py fires on a bad example and stays quiet on a good one.

    python3 tests/tidy/test_tidy.py

An example is a little tree of files, written to a temporary folder and checked as a whole.
"""

import os
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tidy  # noqa: E402  (found through the line above)

ABOUT = "/* what it is */\n"


def header(guard, body="int mlxd_x(void);\n"):
    return f"{ABOUT}#ifndef {guard}\n#define {guard}\n{body}#endif\n"


def function(lines, head="static void f(void)"):
    """A function that is `lines` lines long."""
    return ABOUT + head + " {\n" + "    g();\n" * (lines - 2) + "}\n"


class Tidy(unittest.TestCase):
    def check(self, files):
        """What tidy says about a tree {path: text or bytes}."""
        with tempfile.TemporaryDirectory() as root:
            for path, text in files.items():
                full = os.path.join(root, path)
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "wb") as f:
                    f.write(text if isinstance(text, bytes) else text.encode())
            return tidy.run(root)[0]

    def assert_fires(self, where, files):
        """Exactly one violation, whose line begins with `where` ("path:line: rule")."""
        said = self.check(files)
        self.assertEqual(len(said), 1, said)
        self.assertTrue(said[0].startswith(where + ": "), said)

    def assert_quiet(self, files):
        self.assertEqual(self.check(files), [])

    def test_edges(self):
        kernel = header("MLXD_KERNEL_A_H")
        net = header("MLXD_NET_A_H")
        tree = {"src/kernel/a.h": kernel, "src/net/a.h": net}
        self.assert_quiet({**tree, "src/model/m.c": ABOUT + '#include "kernel/a.h"\n'})
        self.assert_quiet({**tree, "src/cluster/m.c": ABOUT + '#include "net/a.h"\n'})
        self.assert_fires("src/model/m.c:2: edges",
                          {**tree, "src/model/m.c": ABOUT + '#include "net/a.h"\n'})
        self.assert_fires("src/net/m.c:3: edges",
                          {**tree, "src/net/m.c": ABOUT + '\n# include "kernel/a.h"\n'})
        self.assert_fires("tests/unit/model/m.c:2: edges",
                          {**tree, "tests/unit/model/m.c": ABOUT + '#include "net/a.h"\n'})
        self.assert_quiet({**tree, "src/model/m.c": ABOUT + '/* #include "net/a.h" */\n'})

    def test_edges_of_every_folder(self):
        """The table, written out once more: who may include whom."""
        order = ["base", "format", "kernel", "model", "backend", "net", "cluster", "serve", "cli"]
        may = {"base": "base", "format": "base format", "kernel": "base kernel",
               "model": "base format kernel model", "backend": "base format kernel model backend",
               "net": "base format net", "cluster": " ".join(order[:7]),
               "serve": " ".join(order[:8]), "cli": " ".join(order)}
        headers = {f"src/{f}/a.h": header(f"MLXD_{f.upper()}_A_H") for f in order}
        for user in order:
            for used in order:
                tree = {**headers, f"src/{user}/u.c": ABOUT + f'#include "{used}/a.h"\n'}
                with self.subTest(user=user, used=used):
                    if used in may[user].split():
                        self.assert_quiet(tree)
                    else:
                        self.assert_fires(f"src/{user}/u.c:2: edges", tree)

    def test_include_form(self):
        tree = {"src/base/a.h": header("MLXD_BASE_A_H")}
        for line in ('#include "a.h"', '#include "../base/a.h"', "#include <base/a.h>",
                     '#include "base/missing.h"', '#include "other/a.h"'):
            with self.subTest(line=line):
                self.assert_fires("src/base/m.c:2: edges",
                                  {**tree, "src/base/m.c": f"{ABOUT}{line}\n"})
        self.assert_fires("src/extra/m.c:1: edges", {"src/extra/m.c": ABOUT})
        self.assert_quiet({"src/cluster/m.c": ABOUT + '#include "x.pb-c.h"\n'})
        self.assert_fires("src/net/m.c:2: edges",
                          {"src/net/m.c": ABOUT + '#include "x.pb-c.h"\n'})
        self.assert_quiet({"tests/unit/base/help.h": header("HELP_H"),
                           "tests/unit/base/m.c": ABOUT + '#include "help.h"\n'})
        self.assert_quiet({"tests/help.h": header("HELP_H"),
                           "tests/unit/base/m.c": ABOUT + '#include "../../help.h"\n'})
        self.assert_fires("tests/unit/base/m.c:2: edges",
                          {**tree, "tests/unit/base/m.c": ABOUT
                           + '#include "../../../src/base/a.h"\n'})

    def test_own_header_first(self):
        tree = {"src/base/a.h": header("MLXD_BASE_A_H")}
        own, other = '#include "base/a.h"\n', "#include <stdio.h>\n"
        self.assert_quiet({**tree, "src/base/a.c": ABOUT + own + other})
        self.assert_fires("src/base/a.c:2: edges", {**tree, "src/base/a.c": ABOUT + other + own})
        self.assert_fires("src/base/a.c:1: edges", {**tree, "src/base/a.c": ABOUT})
        private = header("MLXD_BASE_A_INTERNAL_H", own + "int mlxd_a;\n")
        self.assert_quiet({**tree, "src/base/a_internal.h": private,
                           "src/base/a.c": ABOUT + '#include "base/a_internal.h"\n' + other})

    def test_cycle(self):
        a = header("MLXD_BASE_A_H", '#include "base/b.h"\nint mlxd_a(void);\n')
        b = header("MLXD_BASE_B_H", '#include "base/a.h"\nint mlxd_b(void);\n')
        self.assert_fires("src/base/b.h:4: cycle", {"src/base/a.h": a, "src/base/b.h": b})
        self.assert_quiet({"src/base/a.h": a, "src/base/b.h": header("MLXD_BASE_B_H")})

    def test_guard(self):
        self.assert_quiet({"src/kernel/x86/a_b.h": header("MLXD_KERNEL_X86_A_B_H")})
        self.assert_fires("src/base/a.h:2: guard", {"src/base/a.h": header("MLXD_A_H")})
        self.assert_fires("src/base/a.h:1: guard", {"src/base/a.h": ABOUT + "int mlxd_x;\n"})
        self.assert_fires("tests/a.h:1: guard", {"tests/a.h": ABOUT + "#pragma once\nint x;\n"})

    def test_umbrella(self):
        only = header("MLXD_BASE_ALL_H", '#include "base/a.h"\n')
        tree = {"src/base/a.h": header("MLXD_BASE_A_H")}
        self.assert_fires("src/base/all.h:1: umbrella", {**tree, "src/base/all.h": only})
        limits = header("MLXD_BASE_LIMITS_H", "#define MLXD_LIMIT_THREADS 64\n")
        self.assert_quiet({**tree, "src/base/limits.h": limits})

    def test_opening(self):
        self.assert_fires("src/base/a.c:1: opening", {"src/base/a.c": "int mlxd_x;\n" + ABOUT})
        self.assert_fires("scripts/a:1: opening", {"scripts/a": "#!/bin/sh\nset -e\n"})
        self.assert_fires("tests/a.py:1: opening", {"tests/a.py": "import os\n"})
        self.assert_fires("proto/a.proto:1: opening", {"proto/a.proto": "package a;\n"})
        self.assert_quiet({"scripts/a": "#!/bin/sh\n# a - does\nset -e\n",
                           "tests/a.py": '#!/usr/bin/env python3\n"""a"""\n'})

    def test_length(self):
        self.assert_quiet({"src/base/a.c": function(70)})
        self.assert_fires("src/base/a.c:2: length", {"src/base/a.c": function(71)})
        self.assert_fires("tests/unit/base/a.c:2: length", {"tests/unit/base/a.c": function(71)})
        self.assert_quiet({"src/base/a.c": ABOUT + "static int x;\n" * 999})
        self.assert_fires("src/base/a.c:1001: length",
                          {"src/base/a.c": ABOUT + "static int x;\n" * 1000})
        self.assert_quiet({"src/base/a.c": "/* Generated by x */\n" + "static int x;\n" * 1000})
        self.assert_quiet({"src/base/a.c": "/*" + "x" * 96 + "*/\n"})
        self.assert_fires("src/base/a.c:1: length", {"src/base/a.c": "/*" + "x" * 97 + "*/\n"})
        self.assert_fires("tests/a.py:1: length", {"tests/a.py": "#" + "x" * 100 + "\n"})

    def test_length_sees_functions_only(self):
        table = "static const int t[] = {\n" + "    1,\n" * 100 + "};\n"
        struct = "struct s {\n" + "    int x;\n" * 100 + "};\n"
        macro = "#define M(x) do { \\\n" + "    x; \\\n" * 100 + "} while (0)\n"
        brace = 'static void f(void) {\n    g("{");\n    g(\'{\'); /* { */\n}\n'
        self.assert_quiet({"src/base/a.c": ABOUT + table + struct + macro + brace * 40})
        split = "static int f(int a,\n             int b) {\n" + "    g();\n" * 68 + "}\n"
        self.assert_fires("src/base/a.c:3: length", {"src/base/a.c": ABOUT + "\n" + split})

    def test_banned(self):
        for calls, _, folders, _ in tidy.BANNED:
            place = "kernel" if "kernel" in folders else "serve"
            for call in calls.replace("*", "init").split():
                with self.subTest(call=call):
                    body = f"{ABOUT}static void f(void) {{\n    {call}(1);\n}}\n"
                    self.assert_fires(f"src/{place}/a.c:3: banned", {f"src/{place}/a.c": body})

    def test_banned_places(self):
        def uses(call):
            return f"{ABOUT}static void f(void) {{\n    {call}(1);\n}}\n"
        self.assert_quiet({"src/base/mem.c": uses("malloc")})
        self.assert_fires("src/base/other.c:3: banned", {"src/base/other.c": uses("malloc")})
        self.assert_quiet({"src/base/err.c": uses("abort")})
        self.assert_quiet({"src/base/thread.c": uses("pthread_mutex_lock")})
        self.assert_quiet({"src/serve/a.c": uses("exp")})
        self.assert_quiet({"tests/unit/base/a.c": uses("free")})
        self.assert_fires("src/base/os.c:3: banned", {"src/base/os.c": uses("atoi")})
        self.assert_quiet({"src/base/os_linux.c": uses("atoi")})
        for call in ("OPENSSL_free", "table->free", "table.exp", "mlxd_exp", "static_assert",
                     "strtok_r", "snprintf", "expected"):
            with self.subTest(call=call):
                self.assert_quiet({"src/model/a.c": uses(call)})
        self.assert_quiet({"src/base/a.c": ABOUT + '/* malloc(1) */\nchar *x = "free(";\n'})

    def test_allow(self):
        call = "static void f(void) {\n    %s\n    free(p);%s\n}\n"
        reason = "/* tidy: allow banned - the library allocated it */"
        self.assert_quiet({"src/net/a.c": ABOUT + call % (reason, "")})
        self.assert_quiet({"src/net/a.c": ABOUT + call % ("g();", " " + reason)})
        self.assert_fires("src/net/a.c:4: banned",
                          {"src/net/a.c": ABOUT + call % ("/* tidy: allow banned */", "")})
        self.assert_fires("src/net/a.c:4: banned",
                          {"src/net/a.c": ABOUT + call % ("/* tidy: allow dead - x */", "")})

    def test_symbol(self):
        self.assert_fires("src/base/a.c:2: symbol",
                          {"src/base/a.c": function(3, "int thing_open(void)")})
        self.assert_fires("src/base/a.c:2: symbol", {"src/base/a.c": function(
            3, "__attribute__((noinline)) int thing_open(void)")})
        for head in ("int mlxd_thing_open(void)", "static int thing(void)", "int main(void)",
                     "MLXD_INLINE int thing(void)",
                     "MLXD_PRINTF(1, 2) void mlxd_log(const char *fmt, ...)"):
            with self.subTest(head=head):
                self.assert_quiet({"src/base/a.c": function(3, head)})
        self.assert_quiet({"tests/unit/base/a.c": function(3, "int helper(void)")})

    def test_dead(self):
        for line in ("#if 0", "// f(x);", "    // if (x) {", "/* f(x); */"):
            with self.subTest(line=line):
                self.assert_fires("src/base/a.c:2: dead", {"src/base/a.c": f"{ABOUT}{line}\n"})
        self.assert_fires("src/base/a.c:2: dead", {"src/base/a.c": ABOUT + "/* TO" "DO more */\n"})
        self.assert_quiet({"src/base/a.c": ABOUT + "// prose\n/* see f() */\nint mlxd_x; // y\n"})

    def test_text(self):
        self.assert_fires("src/base/a.c:2: text", {"src/base/a.c": ABOUT + "\tint mlxd_x;\n"})
        self.assert_fires("docs/a.md:1: text", {"docs/a.md": "# a \n"})
        self.assert_fires("src/base/a.c:1: text", {"src/base/a.c": ABOUT.rstrip()})
        self.assert_fires("src/base/a.c:1: text", {"src/base/a.c": "/* na\u00efve */\n"})
        self.assert_fires("src/base/a.c:1: text", {"src/base/a.c": b"/* \xff */\n"})
        self.assert_fires("src/base/a.c:1: text", {"src/base/a.c": "/* a */\r\n"})
        self.assert_quiet({"src/base/a.c": ABOUT + 'const char *mlxd_x = "\u00ef";\n',
                           "Makefile": "# a\nx:\n\ttouch x\n", "docs/a.md": "na\u00efve\n"})

    def test_link(self):
        self.assert_quiet({"docs/a.md": "[b](b.md#x) [top](../README.md) [w](https://x/) [h](#h)\n"
                           "[dir](../docs)\n```\n[no](no.md)\n```\n`[no](no.md)`\n",
                           "docs/b.md": "b\n", "README.md": "r\n"})
        self.assert_fires("docs/a.md:2: link", {"docs/a.md": "a\n[b](b.md)\n"})
        self.assert_fires("docs/a.md:1: link", {"docs/a.md": "[b]: ../b.md\n"})

    def test_what_is_read(self):
        bad = "int x;\t\n"
        self.assert_quiet({"build/a.c": bad, "build-asan/a.c": bad, ".git/a.c": bad,
                           "tests/golden/a.json": bad, "src/__pycache__/a.py": bad})
        self.assertTrue(self.check({"scripts/tool": "#!/bin/sh\n# tool\n\ttrue\n"}))

    def test_exit_code(self):
        script = tidy.__file__
        with tempfile.TemporaryDirectory() as root:
            empty = subprocess.run([sys.executable, script, root], capture_output=True)
            self.assertEqual(empty.returncode, 1, "nothing to check is a failure")
            with open(os.path.join(root, "a.c"), "w", encoding="ascii") as f:
                f.write(ABOUT)
            good = subprocess.run([sys.executable, script, root], capture_output=True)
            self.assertEqual(good.returncode, 0)
            with open(os.path.join(root, "a.c"), "a", encoding="ascii") as f:
                f.write("\t\n")
            bad = subprocess.run([sys.executable, script, root], capture_output=True, text=True)
            self.assertEqual(bad.returncode, 1)
            self.assertIn("a.c:2: text: ", bad.stdout)


if __name__ == "__main__":
    unittest.main()
