"""Runs crun's tests and compares with the list of those that are known to fail.

Each file runs in namespaces of its own. A test that hangs is ended with its file; the file then
runs again with the tests that it had not come to.
"""

import argparse
import collections
import glob
import os
import re
import select
import shutil
import subprocess
import sys
import tomllib

HERE = os.path.dirname(os.path.abspath(__file__))
# Seconds without a further result after which a test hangs; the slowest takes ten.
PATIENCE = 60
# Why a test may fail. Anything else is to be mended.
REASONS = ("crun-only feature", "crun's wording", "the machine lacks it: ")
LINE = re.compile(r"^(ok|not ok) \d+ - (.*?) #(.*)$")


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("runtime", "init", "tests", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("files", nargs="*")
    return parser.parse_args()


def expectations():
    """File and test to reason."""
    with open(os.path.join(HERE, "expectations.toml"), "rb") as file:
        table = tomllib.load(file)
    known = {}
    for entry in table["fails"]:
        if not entry["reason"].startswith(REASONS):
            sys.exit(f"conformance-crun: {entry['test']}: {entry['reason']!r} is no reason")
        known[(entry["file"], entry["test"])] = entry["reason"]
    return known


def names(args, file):
    """The tests of a file, in the order in which they run."""
    code = f"import {file[:-3]} as t; print('\\n'.join(t.all_tests))"
    done = subprocess.run(["python3", "-c", code], cwd=args.tests, env=environment(args),
                          capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def environment(args):
    shims = os.path.join(HERE, "shims")
    return dict(os.environ, OCI_RUNTIME=args.runtime, INIT=args.init, PYTHONUNBUFFERED="1",
                PYTHONPATH=f"{shims}:{args.tests}")


def once(args, file, wanted, some, log):
    """Runs tests of a file until they end or hang; gives what they said."""
    folder = os.path.join(args.out, "work")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    # A shell comes first, because somebody has to reap what loses its parent.
    script = 'python3 "$0"; exit $?'
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
               "--mount-proc", "bash", "-c", script, os.path.join(args.tests, file)]
    env = environment(args)
    if some:
        env["RUN_TESTS"] = " ".join(wanted)
    said = collections.OrderedDict()
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=log)
    os.set_blocking(process.stdout.fileno(), False)
    rest = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        if not ready:
            process.kill()
            process.wait()
            return said, True
        data = process.stdout.read()
        if data == b"":
            process.wait()
            return said, False
        rest += data
        *lines, rest = rest.split(b"\n")
        for line in lines:
            text = line.decode(errors="replace")
            log.write(text.encode() + b"\n")
            match = LINE.match(text)
            if match:
                skipped = match[3].startswith("SKIP")
                said[match[2]] = "skip" if skipped else match[1]


def groups():
    """Control groups of containers whose tests did not delete them."""
    return {*glob.glob("/sys/fs/cgroup/wrun-test-*"), *glob.glob("/sys/fs/cgroup/*/wrun-test-*")}


def sweep(before):
    """Removes groups that came since; their processes ended with the process namespace."""
    for group in groups() - before:
        try:
            os.rmdir(group)
        except OSError as error:
            print(f"  left: {group}: {error.strerror}", flush=True)


def run_file(args, file):
    """Every test of a file to how it ended: ok, skip, not ok, hangs, silent."""
    wanted = names(args, file)
    results = {}
    with open(os.path.join(args.out, file + ".log"), "wb") as log:
        some = False
        while wanted:
            said, hung = once(args, file, wanted, some, log)
            some = True
            results.update(said)
            wanted = [name for name in wanted if name not in said]
            if hung and wanted:
                results[wanted.pop(0)] = "hangs"
            elif wanted:
                results.update((name, "silent") for name in wanted)
                wanted = []
    return results


def main():
    args = arguments()
    known = expectations()
    files = args.files or sorted(name for name in os.listdir(args.tests)
                                 if name.startswith("test_") and name.endswith(".py"))
    counts = collections.Counter()
    differences = []
    for file in files:
        before = groups()
        results = run_file(args, file)
        sweep(before)
        for name, outcome in results.items():
            failed = outcome not in ("ok", "skip")
            counts["failed" if failed else outcome] += 1
            reason = known.get((file, name))
            if failed and reason is None:
                differences.append(f"{file} {name}: {outcome}, expected to pass")
            elif failed:
                print(f"  {file} {name}: {outcome} (expected: {reason})", flush=True)
            elif outcome == "ok" and reason is not None:
                differences.append(f"{file} {name}: passes, expected to fail ({reason})")
        for (of, name), _ in known.items():
            if of == file and name not in results:
                differences.append(f"{file} {name}: is on the list and does not exist")
    for line in differences:
        print("  DIFFERENT " + line)
    print(f"conformance-crun: {counts['ok']} passed, {counts['failed']} failed, "
          f"{counts['skip']} skipped of {sum(counts.values())}; "
          f"{len(differences)} differ from what is expected")
    return 1 if differences or not counts else 0


sys.exit(main())
