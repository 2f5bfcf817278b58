"""Machines to try clusters on: processes in Linux namespaces of their own, with an sshd each.

A machine has its own processes, network, host name, home folder, ssh keys and /tmp/ray, and sees the files of the real
one. So `ray up` and `ray stop` run there as they lie, and reach nothing of what else runs on the real machine.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

_SETUP = """
set -e
hostname "$NAME"
ip link set lo up
mount --make-rprivate /
mount --bind "$FOLDER/home" "$HOME"
mount --bind "$FOLDER/passwd" /etc/passwd
mount --bind "$FOLDER/ray" /tmp/ray
mount --bind "$FOLDER/ssh" "$SOCKETS"
mkdir -p /run/sshd
mount -t tmpfs -o mode=755 none /run/sshd
"$SSHD" -h "$FOLDER/hostkey" -o PidFile=none -E "$FOLDER/sshd.log"
echo ready > "$FOLDER/ready"
exec sleep infinity
"""


def missing() -> str | None:
    """Why there can be no machines here, or None."""
    for command, package in (
        ("rsync", "rsync"),
        ("ssh", "openssh-client"),
        ("ip", "iproute2"),
        ("unshare", "util-linux"),
    ):
        if shutil.which(command) is None:
            return f"{command} is needed (apt install {package}; .ci/packages does it)"
    if sshd() is None:
        return "sshd is needed (apt install openssh-server; .ci/packages does it)"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--uts", "--fork", "true"], capture_output=True, text=True
    )
    return f"namespaces are needed, root may make them: {tried.stderr.strip()}" if tried.returncode else None


def sshd() -> str | None:
    """The ssh server's program: it wants to be called by its full path."""
    return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


class Machine:
    """A machine under way; `environment` is that of a terminal opened on it, without what the tests' own has."""

    def __init__(self, name: str, folder: Path, key: Path) -> None:
        self.name, self.folder = name, folder
        self.home = folder / "home"
        home = folder.parent / "home"  # where the machine sees it: the same path on all, as it is as a rule
        home.mkdir(exist_ok=True)
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        self.home.chmod(0o700)
        user = getpass.getuser()
        sockets = Path(f"/tmp/ray_ssh_{hashlib.sha256(user.encode()).hexdigest()[:10]}")  # as Ray names them
        for path in (folder / "ray", folder / "ssh", Path("/tmp/ray"), sockets):
            path.mkdir(exist_ok=True)
        lines = [line.split(":") for line in Path("/etc/passwd").read_text(encoding="utf-8").splitlines()]
        for line in lines:
            if line[0] == user:
                line[5] = str(home)
        (folder / "passwd").write_text("".join(":".join(line) + "\n" for line in lines), encoding="utf-8")
        shutil.copy(key, self.home / ".ssh" / "id_ed25519")
        shutil.copy(key.with_suffix(".pub"), self.home / ".ssh" / "authorized_keys")
        (self.home / ".bashrc").touch()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "hostkey")], check=True)
        self.environment = {
            "HOME": str(home),
            "USER": user,
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TMPDIR": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        setup = {"NAME": name, "FOLDER": str(folder), "SOCKETS": str(sockets), "SSHD": str(sshd())}
        self._process = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--net", "--uts", "--fork", "--mount-proc", "--kill-child"),
                *("bash", "-c", _SETUP),
            ],
            env={**self.environment, **setup},
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not (folder / "ready").is_file():
            assert self._process.poll() is None, "the machine did not start"
            assert time.monotonic() < deadline, "the machine takes too long to start"
            time.sleep(0.05)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self.process = int(children.split()[0])

    def install(self) -> None:
        """Have what `node.sh install` would find done: the tests' own virtual environment, up to date."""
        (self.home / ".raylab").mkdir()
        (self.home / ".raylab" / "venv").symlink_to(sys.prefix)
        parts = [(CHECKOUT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
        stamp = hashlib.sha256(b"".join(parts) + b"cluster\n").hexdigest()
        (self.home / ".raylab" / "installed").write_text(stamp + "\n")

    def run(self, *command: str, seconds: float = 180, cwd: Path = CHECKOUT, **environment: str) -> tuple[int, str]:
        """Run a command in a terminal of this machine: its exit code and what it printed."""
        done = subprocess.run(
            ["nsenter", "-t", str(self.process), "-m", "-p", "-n", "-u", f"--wd={cwd}", *command],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            start_new_session=True,  # ssh is not to reach for the terminal that the tests were started from
        )
        return done.returncode, done.stdout

    def processes(self) -> list[str]:
        """The command lines of all that runs here but the machine itself."""
        listed = self.run("ps", "-eo", "args", "--no-headers")[1].splitlines()
        own = ("sleep infinity", "ps ", "sshd:")
        return [line for line in listed if not line.startswith(own) and not line.endswith("<defunct>")]

    def connect(self, other: Machine, network: str) -> None:
        """A cable to another machine: NETWORK.1 here, NETWORK.2 there."""
        name = "eth" + network.replace(".", "")
        ends = [name, "netns", str(self.process), "type", "veth", "peer", name, "netns", str(other.process)]
        subprocess.run(["ip", "link", "add", *ends], check=True)
        for machine, number in ((self, 1), (other, 2)):
            assert machine.run("ip", "addr", "add", f"{network}.{number}/24", "dev", name) == (0, "")
            assert machine.run("ip", "link", "set", name, "up") == (0, "")

    def stop(self) -> None:
        """End the machine with all that runs on it."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def machines(folder: Path, *names: str) -> Iterator[list[Machine]]:
    """Machines that reach each other by ssh with one key; they end with the context."""
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with contextlib.ExitStack() as stack:
        made = []
        for name in names:
            (folder / name).mkdir()
            made.append(Machine(name, folder / name, key))
            stack.callback(made[-1].stop)
        yield made
