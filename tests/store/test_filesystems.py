"""Which file systems are this machine's own, by Linux's account of what is mounted."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.store import file_systems

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
30 27 0:26 / {0}/nfs rw,relatime shared:2 master:1 - nfs4 server:/export rw,vers=4.2
31 30 0:27 / {0}/nfs/scratch rw - xfs /dev/vdb rw
32 27 0:28 / {0}/my\\040runs rw - lustre mgs@tcp:/work rw
33 27 0:29 / {0}/hidden rw - tmpfs tmpfs rw
34 33 0:30 / {0}/hidden rw - fuse.sshfs host: rw
35 27 0:31 / {0}/new rw - hugelocalfs /dev/vdc rw
"""


@pytest.mark.parametrize(
    ("place", "kind", "local"),
    [
        ("plain", "ext4", True),
        ("nfs", "nfs4", False),
        ("nfs/run", "nfs4", False),
        ("nfsish", "ext4", True),
        ("nfs/scratch/run", "xfs", True),
        ("my runs/run", "lustre", False),
        ("hidden/run", "fuse.sshfs", False),  # the later mount hides the earlier
        ("new/run", "hugelocalfs", False),  # unknown: perhaps of many machines
        ("link", "nfs4", False),
    ],
)
def test_a_folder_has_the_kind_of_the_mount_it_lies_on(
    place: str, kind: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(tmp_path))
    monkeypatch.setattr(file_systems, "MOUNTS", mounts)
    (tmp_path / "nfs" / "run").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "nfs" / "run")
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    assert file_systems.file_system(tmp_path / place) == kind
    assert file_systems.is_local(tmp_path / place) == local


def test_where_nothing_tells_what_is_mounted_no_folder_counts_as_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_systems, "MOUNTS", tmp_path / "no such file")
    assert file_systems.file_system(tmp_path) is None
    assert not file_systems.is_local(tmp_path)


def test_this_machine_tells_what_proc_is() -> None:
    assert file_systems.file_system(Path("/proc/self")) == "proc"
