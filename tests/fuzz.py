"""A seeded fuzzer: ``python tests/fuzz.py --minutes 10 [--seed N] [--only KIND]``.

Each case changes small valid files by a seed and runs the real commands on them in a process of its
own, forked from one that has imported everything. A finding is an exit code that no command has, a
traceback or a bare Python error in what it says, more time or memory than the bounds, a file written
outside of the case's folder, a started program or a connection. Findings are kept with their seed.
``python tests/fuzz.py --replay KIND:SEED`` runs one case again and prints what it said.
"""

import argparse
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # no thread may run when the process forks
os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HFGD_TRACEBACK": "1"}
sys.path.insert(0, str(Path(__file__).parent))

from fuzz_kinds import KINDS, make_templates  # noqa: E402

CPU, WALL = 30.0, 180.0  # seconds that a case may take: of the processor, and in all
MEMORY = 1_200  # MB that a case may take beyond what the imports take
ROOM = 4_000  # MB of address space beyond it, where memory ends
BARE = re.compile(
    r"Traceback \(most recent|\b(?:Type|Attribute|Key|Index|Assertion|Recursion|UnboundLocal|Name|"
    r"Unicode\w*|ZeroDivision|Overflow|Memory|Value|Runtime|NotImplemented|Import)Error\b(?!s)"
    r"|unexpected error in hfgd"
)
WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
STARTS = ("subprocess.Popen", "os.exec", "os.system", "os.posix_spawn", "socket.connect")


# ---- in the case's own process ---------------------------------------------------------------


def _case(kind, seed, templates, box):
    """Run one case in ``box``; the answers go into result.json line by line."""
    os.setsid()
    box = Path(os.path.realpath(box))
    os.chdir(box)
    os.environ |= {"HOME": str(box), "TMPDIR": str(box / "tmp"), "COLUMNS": "140"}
    (box / "tmp").mkdir()
    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = _status("VmSize") * 1024 + ROOM * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _status("VmRSS")
    results = os.open(box / "result.json", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    caught = []

    def say(**values):
        os.write(results, (json.dumps(values) + "\n").encode())

    watched = [True]
    sys.addaudithook(lambda event, values: watched[0] and _watch(event, values, box, caught))
    rng = random.Random(f"{kind}:{seed}")
    watched[0] = False
    try:
        commands = KINDS[kind](rng, templates)
    except Exception:  # the fuzzer's own mistake
        say(broken=traceback.format_exc())
        os._exit(0)
    for number, command in enumerate(commands):
        output = box / f"said-{number}.txt"
        handle = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        watched[0] = isinstance(command, list)
        code = _run(command)
        watched[0] = False
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
        shown = command if isinstance(command, list) else command.__name__
        say(command=shown, code=code, said=output.read_text(errors="replace")[-6000:])
        os.close(handle)
    say(memory=(_status("VmHWM") - before) / 1024, caught=caught[:5])
    os._exit(0)


def _run(command):
    """The exit code of a command, or 0 of a function that does not raise."""
    from hfgd.cli import main

    if not isinstance(command, list):
        try:
            command()
        except Exception:
            traceback.print_exc()
            return 70
        return 0
    sys.argv = ["hfgd", *command]
    try:
        main()
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else 0 if leave.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def _watch(event, values, box, caught):
    """An audit hook: what is written, started or reached."""
    if event == "open":
        path, mode, flags = values
        writing = isinstance(mode, str) and bool(set(mode) & set("wax+"))
        writing |= isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if not writing or isinstance(path, int):
            return
        paths = [path]
    elif event in WRITES:
        paths = [value for value in values[:2] if isinstance(value, str | bytes | os.PathLike)]
        paths = paths[1:] if event in ("os.symlink", "os.link") else paths
    elif event in STARTS:
        caught.append(f"{event}: {values!r}"[:300])
        return
    else:
        return
    for path in paths:
        place = os.path.realpath(os.path.dirname(os.path.abspath(os.fsdecode(path))))
        if not (place + "/").startswith((f"{box}/", "/dev/", "/proc/")):
            caught.append(f"{event} outside: {os.fsdecode(path)!r}"[:300])


def _status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    return 0


# ---- in the one that has imported everything ---------------------------------------------------


def run_case(kind, seed, templates, box):
    """One case: (findings, exit codes, MB, seconds of the processor)."""
    shutil.rmtree(box, ignore_errors=True)
    box.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        try:
            _case(kind, seed, templates, box)
        except BaseException:
            with (box / "result.json").open("a") as file:
                file.write(json.dumps({"broken": traceback.format_exc()}) + "\n")
        finally:
            os._exit(9)
    status, used, late = _wait(child)
    lines = (box / "result.json").read_text().splitlines() if (box / "result.json").exists() else []
    results = [json.loads(line) for line in lines]
    seconds = used.ru_utime + used.ru_stime
    findings = [f"the fuzzer itself: {r['broken']}" for r in results if "broken" in r]
    codes = []
    for result in results:
        if "code" in result:
            codes.append(result["code"])
            findings += judge(result["command"], result["code"], result["said"])
    memory = next((r["memory"] for r in results if "memory" in r), 0.0)
    for result in results:
        findings += [f"caught: {what}" for what in result.get("caught", ())]
    if late:
        findings.append(f"no end within {WALL:.0f} s")
    elif not any("memory" in r or "broken" in r for r in results):
        findings.append(f"the process ended with status {status}")
    if seconds > CPU and not late:
        findings.append(f"{seconds:.0f} s of the processor")
    if memory > MEMORY:
        findings.append(f"{memory:.0f} MB")
    return findings, codes, memory, seconds


def judge(command, code, said):
    """What is wrong with an exit code and a text."""
    known = (0, 1, 2, 3) if isinstance(command, list) and command[:1] == ["train"] else (0, 1, 2)
    wrong = [] if code in known else [f"exit code {code}"]
    bare = BARE.search(said)
    if bare:
        wrong.append(f"says '{bare.group()}'")
    if code == 2 and "hfgd: " not in said and "Usage: hfgd" not in said:
        wrong.append("exit code 2 without a sentence")
    if code == 2 and len(said) > 5000:
        wrong.append("a sentence without end")
    return wrong


def _wait(child):
    began, late = time.monotonic(), False
    while True:
        pid, status, used = os.wait4(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - began > WALL:
            late = True
            os.killpg(child, signal.SIGKILL)
            _, status, used = os.wait4(child, 0)
            break
        time.sleep(0.003)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it has started
    return status, used, late


def _import_everything():
    import importlib
    import pkgutil

    import hfgd

    for module in pkgutil.walk_packages(hfgd.__path__, "hfgd."):
        if not module.name.endswith(("__main__", "hfgd.ray")):
            importlib.import_module(module.name)
    for name in ("onnxruntime", "onnx", "pyarrow.parquet", "httpx", "rasterio", "PIL.features"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    import torch
    from PIL import Image

    Image.init()
    torch.set_num_threads(1)


def fuzz(minutes, cases, seed, only, kept):
    """Run cases until the time or the number is over; returns the number of findings."""
    _import_everything()
    work = Path(tempfile.mkdtemp(prefix="hfgd-fuzz-"))
    make_templates(work / "templates")
    kinds = [only] if only else list(KINDS)
    codes, worst, found = Counter(), {"MB": (0.0, ""), "s": (0.0, "")}, Counter()
    began, number = time.monotonic(), 0
    end = began + 60 * minutes
    while time.monotonic() < end and number < cases:
        kind, own = kinds[number % len(kinds)], seed + number // len(kinds)
        findings, theirs, memory, seconds = run_case(kind, own, work / "templates", work / "box")
        number += 1
        codes.update(theirs)
        worst["MB"] = max(worst["MB"], (memory, f"{kind}:{own}"))
        worst["s"] = max(worst["s"], (seconds, f"{kind}:{own}"))
        if findings:
            found[kind] += 1
            _keep(kept, kind, own, findings, work / "box")
    shutil.rmtree(work, ignore_errors=True)
    spent = (time.monotonic() - began) / 60
    print(f"{number} cases in {spent:.1f} min, seeds from {seed}, kinds {', '.join(kinds)}")
    print("exit codes: " + ", ".join(f"{code}: {n}" for code, n in sorted(codes.items())))
    print(f"worst memory {worst['MB'][0]:.0f} MB ({worst['MB'][1]}), ", end="")
    print(f"worst time {worst['s'][0]:.1f} s of the processor ({worst['s'][1]})")
    print(f"findings: {sum(found.values())} {dict(found)}" + (f", in {kept}" if found else ""))
    return sum(found.values())


def _keep(kept, kind, seed, findings, box):
    place = kept / f"{kind}-{seed}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for file in sorted(box.glob("said-*.txt")) + sorted(box.glob("result.json")):
        shutil.copy(file, place)
    (place / "findings.txt").write_text("\n".join(findings) + "\n")
    print(
        f"{kind}:{seed}: {'; '.join(f.strip().splitlines()[-1][:160] for f in findings)}",
        flush=True,
    )


def replay(which):
    """Run one case again; its folder stays."""
    kind, _, seed = which.rpartition(":")
    _import_everything()
    work = Path(tempfile.mkdtemp(prefix="hfgd-fuzz-"))
    make_templates(work / "templates")
    findings, codes, memory, seconds = run_case(kind, int(seed), work / "templates", work / "box")
    for line in (work / "box" / "result.json").read_text().splitlines():
        result = json.loads(line)
        print(result.get("command", ""), result.get("code", ""), result.get("said", ""), sep="\n")
        print(result.get("broken", ""), *result.get("caught", ()), sep="\n")
    print(f"{findings}, exit codes {codes}, {memory:.0f} MB, {seconds:.1f} s; in {work / 'box'}")
    return len(findings)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS))
    parser.add_argument("--replay", metavar="KIND:SEED")
    parser.add_argument("--kept", type=Path, default=Path(tempfile.gettempdir()) / "hfgd-findings")
    given = parser.parse_args()
    if given.replay:
        sys.exit(1 if replay(given.replay) else 0)
    sys.exit(1 if fuzz(given.minutes, given.cases, given.seed, given.only, given.kept) else 0)


if __name__ == "__main__":
    main()
