"""How `make jars` gets at Maven and a compiler where they are missing, played with commands that only note their words."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "infra" / "build_jars.sh"
NEEDED = ("bash", "dirname", "env", "find", "mktemp", "rm", "sed", "sh", "tail", "touch", "wc")


class Machine:
    """A folder of commands that is the whole PATH, and a copy of the script."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.infra = root / "infra"
        for folder in (self.bin, self.infra / "jars" / "job", self.infra / "jars" / "broker"):
            folder.mkdir(parents=True)
        shutil.copy(SCRIPT, self.infra)
        for name in NEEDED:
            (self.bin / name).symlink_to(shutil.which(name) or name)

    def has(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def build(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": str(self.bin), "HOME": os.devnull, "TMPDIR": str(self.infra)}
        command = [str(self.bin / "bash"), str(self.infra / "build_jars.sh")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def said(self) -> list[str]:
        path = self.infra / "said"
        return path.read_text().splitlines() if path.exists() else []

    def can_install(self, *, prefix: str = "apt-get") -> None:
        """apt-get that writes down what it was told, and brings mvn and javac."""
        mvn, javac = self.bin / "mvn", self.bin / "javac"
        made = f"printf '#!/usr/bin/env bash\\necho mvn \"$@\" >> {self.infra}/said\\n' > {mvn}"
        javac_made = f"printf '#!/usr/bin/env bash\\necho javac 17.0.1\\n' > {javac}"
        made_if_installing = f'if [ "$1" = install ]; then {made}; {javac_made}; chmod +x {mvn} {javac}; fi'
        (self.bin / "chmod").symlink_to(shutil.which("chmod") or "chmod")
        self.has("apt-get", f'echo "{prefix} $*" >> {self.infra}/said\n{made_if_installing}')


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_is_there_is_used_and_nothing_is_installed(machine: Machine) -> None:
    machine.has("mvn", f'echo mvn "$@" >> {machine.infra}/said')
    machine.has("javac", "echo javac 21.0.2")
    machine.has("apt-get", f"echo apt-get >> {machine.infra}/said")
    done = machine.build()
    assert done.returncode == 0, done.stderr
    assert machine.said() == ["mvn -B -q -Dstyle.color=never clean package"]
    assert (machine.infra / "jars" / ".ready").exists()


def test_root_installs_maven_and_a_compiler(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-cache", "exit 0")
    machine.can_install()
    done = machine.build()
    assert done.returncode == 0, done.stderr
    assert machine.said() == [
        "apt-get update",
        "apt-get install -y --no-install-recommends maven openjdk-17-jdk-headless",
        "mvn -B -q -Dstyle.color=never clean package",
    ]


def test_a_compiler_that_is_too_old_is_missing(machine: Machine) -> None:
    machine.has("id", "echo 0")
    machine.has("apt-cache", "exit 1")
    machine.has("javac", "echo javac 1.8.0_392")
    machine.has("mvn", "exit 0")
    machine.can_install()
    assert machine.build().returncode == 0
    assert machine.said()[1] == "apt-get install -y --no-install-recommends default-jdk-headless"


def test_a_user_who_may_use_sudo_installs_with_it(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("apt-cache", "exit 0")
    machine.has("sudo", f'echo "sudo $1" >> {machine.infra}/said\n[ "$1" = -n ] && shift\n[ "$1" = true ] || "$@"')
    machine.can_install()
    done = machine.build()
    assert done.returncode == 0, done.stderr
    assert "apt-get update" in machine.said()
    assert machine.said()[0] == "sudo -n"


def test_who_may_not_install_is_told_the_line_to_run(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.has("apt-cache", "exit 0")
    machine.has("sudo", "exit 1")
    machine.can_install()
    done = machine.build()
    assert done.returncode == 1
    assert "sudo sh -c 'apt-get update && apt-get install -y maven default-jdk-headless'" in done.stderr
    assert machine.said() == []


def test_without_apt_get_it_is_said_what_is_needed(machine: Machine) -> None:
    done = machine.build()
    assert done.returncode == 1
    assert "Maven and a Java compiler (17 or newer) are needed" in done.stderr
    assert not (machine.infra / "jars" / ".ready").exists()


def test_a_build_that_fails_leaves_no_mark_and_says_where_everything_comes_from(machine: Machine) -> None:
    machine.has("javac", "echo javac 17.0.1")
    machine.has("mvn", "echo '[ERROR] cannot find symbol'; exit 1")
    done = machine.build()
    assert done.returncode == 1
    assert "Maven Central" in done.stderr
    assert "cannot find symbol" in done.stdout
    assert not (machine.infra / "jars" / ".ready").exists()
