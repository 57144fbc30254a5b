"""Who a process is: user, groups, and the variables that go with them."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    name: str
    """Empty where the user has none, as a container's number."""
    uid: int
    gid: int
    groups: list[int]
    home: str

    def assume(self) -> None:
        """Become this, for good. PermissionError."""
        os.setgroups(self.groups)
        os.setgid(self.gid)
        os.setuid(self.uid)

    def variables(self) -> dict[str, str]:
        """Those that User= sets, systemd.exec(5)."""
        name = self.name or "nobody"
        return {"HOME": self.home, "USER": name, "LOGNAME": name}


def find_user(text: str) -> pwd.struct_passwd:
    """By name or number. KeyError."""
    return pwd.getpwuid(int(text)) if text.isdigit() else pwd.getpwnam(text)


def find_group(text: str) -> int:
    """The number of a group, by name or number, which it must be known under. KeyError."""
    return (grp.getgrgid(int(text)) if text.isdigit() else grp.getgrnam(text)).gr_gid


def find(user: str, group: str) -> Identity:
    """`user` with its groups; `group`, if not empty, instead of its first one. KeyError."""
    account = find_user(user)
    gid = find_group(group) if group else account.pw_gid
    return Identity(
        account.pw_name,
        account.pw_uid,
        gid,
        os.getgrouplist(account.pw_name, gid),
        account.pw_dir,
    )
