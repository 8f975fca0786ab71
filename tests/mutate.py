#!/usr/bin/env python3
"""mutate.py - do the tests notice? Break each function of mi.c in several ways and see them go red.

    python3 tests/mutate.py                            the library half, four changes a function
    python3 tests/mutate.py --quick                    without the slow tests: then try survivors
    python3 tests/mutate.py --only 'hook|word_end' --each 8
    python3 tests/mutate.py --only t_quantile --first 'program house.sh'    these tests come first
    python3 tests/mutate.py --change 'row < to' 'row <= to'      one change of one's own
    python3 tests/mutate.py --report                   count what is in the log

A change is one of: return early, drop a line, swap an operator, a number off by one, negate a
condition. Changes that do not compile or give the same machine code are not counted. Each is
built with -O1 in a folder of its own and goes through the tests, quick ones first, up to the first
that fails, crashes or hangs. What no test notices is a survivor: a hole in the tests, or a change
that cannot be seen (look). The log (build-mutants/log.tsv) goes on where it stopped; it is not part
of make test, because all of it takes hours of one core.

Needs Python 3.8 and gcc or clang; run it from the root of the repository.
"""
import argparse
import collections
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading

SWAPS = [("<=", "<"), (">=", ">"), ("==", "!="), ("!=", "=="), ("&&", "||"), ("||", "&&"),
         ("+=", "-="), ("-=", "+="), ("*=", "="), ("<<", ">>"), (">>", "<<"), ("++", "--"),
         ("<", "<="), (">", ">="), ("+", "-"), ("-", "+"), ("*", "+"), ("/", "*"), ("%", "/"),
         ("&", "|"), ("|", "&"), ("^", "&"), ("?", "? 0 :")]
KINDS = ["early", "drop", "swap", "number", "negate"]
# quick ones first; white-box tests compile mi.c themselves
TESTS = ["calls", "edges", "files", "config", "golden", "kernels", "tokens", "numbers", "traps",
         "memory", "gradient", "gpt2", "promises", "sweeps", "tiny", "program", "sampling"]
WHITEBOX = {"kernels", "tokens", "memory", "numbers", "program"}
SCRIPTS = ["files.sh", "weights.sh", "edits.sh", "circuits.sh", "readouts.sh", "sweeps.sh",
           "house.sh", "cli.sh"]
SLOW = ["gpt2", "tiny", "program", "sampling"] + SCRIPTS


def blank(text):
    """The text with comments, strings, attributes and preprocessor lines made blank."""
    def erase(match):
        return re.sub(r"[^\n]", " ", match.group())
    text = re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|'
                  r'^[ \t]*#(?:[^\n\\]|\\.|\\\n)*', erase, text, flags=re.S | re.M)
    return re.sub(r"__attribute__\(\((?:[^()]|\([^()]*\))*\)\)", erase, text)


Function = collections.namedtuple("Function", "name head start end section")


def functions_of(text):
    """Every function: its name, what stands before it, where its body starts and ends."""
    code, found = blank(text), []
    rulers = [(m.start(), m.group(1))
              for m in re.finditer(r"^/\* =+ \*/\n/\* (\S[^*]*?) +\*/", text, re.M)]
    definition = r"^(?P<head>[A-Za-z_][^;{}=]*?)\b(?P<name>[A-Za-z_]\w*)\([^;{}]*\)\s*\{"
    for m in re.finditer(definition, code, re.M):
        if m.group("name") in ("if", "for", "while", "switch", "defined"):
            continue
        depth, end = 1, m.end()
        while depth and end < len(code):
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        section = [title for at, title in rulers if at < m.start()][-1:] or [""]
        found.append(Function(m.group("name"), m.group("head"), m.end(), end - 1, section[0]))
    return found


def changes_of(text, code, function, kind):
    """All changes of one kind: (position, old, new)."""
    start, end = function.start, function.end
    body = code[start:end]
    if kind == "early":
        if re.search(r"\bvoid\s+$", function.head) or re.match(r".*\bvoid\s*$", function.head):
            return [(start, "", " return;")]
        if "*" in function.head:
            return [(start, "", " return NULL;")]
        if re.search(r"\b(int|int64_t|int32_t|char)\s*$", function.head):
            return [(start, "", " return %d;" % n) for n in (0, 1, -1)]
        scalar = re.search(r"\b(float|double|uint\w+|size_t|MiSite)\s*$", function.head)
        return [(start, "", " return 0;" if scalar else " return (%s){0};"
                 % re.sub(r"\b(static|inline)\b", "", function.head).strip())]
    if kind == "drop":
        return [(start + m.start(1), text[start + m.start(1):start + m.end(1)], ";")
                for m in re.finditer(r"^[ \t]+([^\s;{}][^;{}\n]*;)[ \t]*$", body, re.M)
                if not re.match(r"(for|while|break|default|else|do)\b", m.group(1))
                and m.group(1).count("(") == m.group(1).count(")")]
    if kind == "negate":
        found = []
        for m in re.finditer(r"\b(?:if|while) \(", body):
            depth, at = 1, m.end()
            while depth and at < len(body):
                depth += {"(": 1, ")": -1}.get(body[at], 0)
                at += 1
            inside = text[start + m.end():start + at - 1]
            found.append((start + m.end(), inside, "!(" + inside + ")"))
        return found
    if kind == "number":
        return [(start + m.start(), m.group(), str(int(m.group()) + d))
                for m in re.finditer(r"(?<![\w.])\d+(?![\w.])", body) for d in (1, -1)
                if not (d == -1 and m.group() == "0") and not m.group().startswith("00")]
    found = []
    for m in re.finditer(r"<=|>=|==|!=|&&|\|\||\+=|-=|\*=|<<|>>|\+\+|--|->|[-+*/%&|^<>?]", body):
        for old, new in SWAPS:
            if m.group() == old:
                found.append((start + m.start(), old, new))
    return found


class Lab:
    def __init__(self, folder, compiler):
        self.folder, self.compiler = folder, compiler
        self.flags = ["-O1", "-march=native", "-std=gnu11", "-w", "-I."]
        if subprocess.run([compiler, "-fopenmp", "-x", "c", "-", "-o", os.devnull],
                          input=b"#include <omp.h>\nint main(void){return 0;}",
                          capture_output=True).returncode == 0:
            self.flags.append("-fopenmp")
        os.makedirs(folder + "/tree/tests", exist_ok=True)  # no link: "../mi.c" is to be ours
        for name in ["mi.h", "tokenizer.bin", "tiny.safetensors", "wild.safetensors"] + \
                ["tests/" + name for name in os.listdir("tests")]:
            link = folder + "/tree/" + name
            if not os.path.lexists(link):
                os.symlink(os.path.abspath(name), link)
        self.objects = {}
        for test in TESTS:
            if test not in WHITEBOX and os.path.exists("tests/test_%s.c" % test):
                self.objects[test] = os.path.abspath("%s/test_%s.o" % (folder, test))
                subprocess.run([compiler, *self.flags, "-c", "tests/test_%s.c" % test, "-o",
                                self.objects[test]], check=True)

    def cc(self, *arguments):
        return subprocess.run([self.compiler, *self.flags, *arguments], cwd=self.folder + "/tree",
                              capture_output=True).returncode == 0

    def write(self, text):
        with open(self.folder + "/tree/mi.c", "w") as file:
            file.write(text)

    def library(self, text):
        """The machine code of the library, or None if it does not compile."""
        self.write(text)
        if not self.cc("-DMI_NO_MAIN", "-c", "mi.c", "-o", "../mi.o"):
            return None
        with open(self.folder + "/mi.o", "rb") as file:
            return file.read()

    def passes(self, command, seconds):
        def limits():
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
            if command[0] != "sh":
                resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        environment = dict(os.environ, OMP_NUM_THREADS="1", GOMP_SPINCOUNT="1000", MI="../mi")
        process = subprocess.Popen(command, cwd=self.folder + "/tree", env=environment,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                   stdin=subprocess.DEVNULL, preexec_fn=limits,
                                   start_new_session=True)

        def stop():                     # whole: it may have children
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        timer = threading.Timer(6 * seconds, stop)
        timer.start()
        red = any(line.startswith(b"FAIL") for line in process.stdout)  # the first one is enough
        if red:
            stop()
        status = process.wait()
        timer.cancel()
        return not red and status == 0

    def verdict(self, section, quick, first):
        """The first test that goes red, or None."""
        first = first or [test for test, title in (("kernels", "ernels"), ("tokens", "Tokens"),
                                                   ("gradient", "backward"), ("program", "Means"))
                          if title in section]
        order = first + [t for t in TESTS + SCRIPTS if t not in first and
                         not (quick and t in SLOW)]
        program = False
        for test in order:
            if not program and (test == "sampling" or test in SCRIPTS):
                program = self.cc("mi.c", "-o", "../mi", "-lm")
                for name in ("tokenizer.bin", "tiny.safetensors", "wild.safetensors"):
                    shutil.copy(name, self.folder)
            if test in SCRIPTS:
                if not self.passes(["sh", "tests/test_" + test], 300):
                    return test
                continue
            if test in WHITEBOX:
                built = self.cc("-DMI_NO_MAIN", "tests/test_%s.c" % test, "-o", "../test", "-lm")
                if not built:
                    continue            # a static function that is not used any more, perhaps
            else:
                if test not in self.objects:
                    continue
                self.cc(self.objects[test], "../mi.o", "-o", "../test", "-lm")
            if not self.passes(["../test"], 40):
                return test
        return None


def report(log):
    rows = [line.rstrip("\n").split("\t") for line in open(log)] if os.path.exists(log) else []
    red, total = collections.Counter(), collections.Counter()
    for name, _, _, _, verdict in rows:
        total[name] += 1
        red[name] += verdict != "SURVIVED"
    for name in total:
        if red[name] < total[name]:
            print("%-28s %d of %d went red" % (name, red[name], total[name]))
            for row in rows:
                if row[0] == name and row[4] == "SURVIVED":
                    print("    line %s: %s: %s" % (row[1], row[2], row[3]))
    print("%d functions, %d of %d changes went red" % (len(total), sum(red.values()),
                                                       sum(total.values())))


def one_line(text):
    return " ".join(text.split())[:100]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=4, help="changes of each function (4)")
    parser.add_argument("--only", default="", help="only functions whose name matches this")
    parser.add_argument("--section", default="", help="only sections whose title matches this")
    parser.add_argument("--seed", type=int, default=1, help="which changes are chosen (1)")
    parser.add_argument("--part", default="0/1", help="1/3: the second third of the functions")
    parser.add_argument("--folder", default="build-mutants")
    parser.add_argument("--cc", default="gcc")
    parser.add_argument("--change", nargs=2, metavar=("OLD", "NEW"), help="try this one change")
    parser.add_argument("--quick", action="store_true",
                        help="leave out the slow tests (" + ", ".join(SLOW) + ")")
    parser.add_argument("--first", default="", help="these tests come first")
    parser.add_argument("--report", action="store_true", help="only count what is in the log")
    options = parser.parse_args()
    log = options.folder + "/log.tsv"
    if options.report:
        return report(log)
    text = open("mi.c").read()
    lab = Lab(options.folder, options.cc)
    original = lab.library(text)
    if original is None:
        sys.exit("mi.c does not compile")
    quick, first = options.quick, options.first.split()
    if options.change:
        old, new = options.change
        if text.count(old) != 1:
            sys.exit("that text stands %d times in mi.c" % text.count(old))
        at = text.index(old)
        section = [f.section for f in functions_of(text) if f.start <= at < f.end] or [""]
        if lab.library(text.replace(old, new)) is None:
            sys.exit("does not compile")
        verdict = lab.verdict(section[0], quick, first)
        print("%s -> %s: %s" % (one_line(old), one_line(new), verdict or "SURVIVED"))
        return verdict is None
    done = {line.split("\t")[0] for line in open(log)} if os.path.exists(log) else set()
    library = text.find("\n#ifndef MI_NO_MAIN")
    code = blank(text)
    functions = functions_of(text[:library])
    random.Random(options.seed).shuffle(functions)      # what is done by then stands for the whole
    part, parts = map(int, options.part.split("/"))
    for function in functions[part::parts]:
        if function.name in done or not re.search(options.only, function.name) or \
           not re.search(options.section, function.section):
            continue
        chance = random.Random("%s %d" % (function.name, options.seed))
        choices = {kind: changes_of(text, code, function, kind) for kind in KINDS}
        for kind in KINDS:
            chance.shuffle(choices[kind])
        made, lines = 0, []
        while made < options.each and any(choices.values()):
            for kind in KINDS:
                if not choices[kind] or made == options.each:
                    continue
                at, old, new = choices[kind].pop()
                machine = lab.library(text[:at] + new + text[at + len(old):])
                if machine is None or machine == original:
                    continue
                made += 1
                verdict = lab.verdict(function.section, quick, first) or "SURVIVED"
                line_start, line_end = text.rfind("\n", 0, at) + 1, text.find("\n", at)
                shown = one_line(text[line_start:at] + "[" + old + " -> " + new.strip() + "]" +
                                 text[at + len(old):line_end])
                lines.append("%s\t%d\t%s\t%s\t%s\n" % (function.name, text.count("\n", 0, at) + 1,
                                                       kind, shown, verdict))
                print(lines[-1], end="", flush=True)
        with open(log, "a") as file:
            file.writelines(lines)
    report(log)


if __name__ == "__main__":
    sys.exit(main())
