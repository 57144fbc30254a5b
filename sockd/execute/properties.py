"""A unit's properties, as systemd tells them over D-Bus → as systemd-run takes them.

Sources: org.freedesktop.systemd1(5) for the types, systemd.exec(5) for the syntax.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

INFINITY = (1 << 64) - 1
DEFAULT_ERROR = (1 << 31) - 2  # SystemCallErrorNumber=kill


def settings_of(shown: Mapping[str, Any]) -> Iterator[str]:
    """Each property of `COPIED` as "NAME=value", as `systemd-run --property=` takes it.

    `shown` is name → value of org.freedesktop.systemd1.Service, with the bit masks among them
    (`MASKS`) as `systemctl show` writes them.
    """
    for name, convert in COPIED.items():
        # What was a boolean once and has more values has a second name for them, here and there:
        # PrivateUsers=yes is PrivateUsersEx=identity.
        key = f"{name}Ex" if f"{name}Ex" in shown else name
        if key in shown:
            yield from (f"{left}={right}" for left, right in convert(key, shown[key]))
    for name in LIMITS:
        if name in shown:
            yield f"{name}={_limit(shown[f'{name}Soft'])}:{_limit(shown[name])}"


Converted = Iterator[tuple[str, str]]


def _plain(name: str, value: Any) -> Converted:
    if isinstance(value, bool):
        yield name, "yes" if value else "no"
    elif value != "":
        yield name, str(value)


def _octal(name: str, value: int) -> Converted:
    yield name, f"{value:04o}"


def _mask(name: str, value: str) -> Converted:
    yield name, value  # also when empty: no capability at all


def _words(name: str, value: list[str]) -> Converted:
    if value:
        yield name, " ".join(_quoted(word) for word in value)


def _list(name: str, value: list[Any]) -> Converted:
    """A list that allows, or one that refuses."""
    allows, words = value
    if words or allows:
        yield name, ("" if allows else "~") + " ".join(words)


def _error(name: str, value: int) -> Converted:
    yield name, "kill" if value == DEFAULT_ERROR else str(value)


def _optional(name: str, value: list[Any]) -> Converted:
    ignored_if_missing, text = value
    if text:
        yield name, ("-" if ignored_if_missing else "") + text


def _files(name: str, value: list[list[Any]]) -> Converted:
    for path, ignored_if_missing in value:
        yield name.removesuffix("s"), ("-" if ignored_if_missing else "") + path


def _binds(name: str, value: list[list[Any]]) -> Converted:
    for source, target, ignored_if_missing, flags in value:
        recursive = "rbind" if flags else "norbind"
        source = ("-" if ignored_if_missing else "") + source
        yield name, f"{_quoted(source)}:{_quoted(target)}:{recursive}"


def _mounts(name: str, value: list[list[str]]) -> Converted:
    for path, options in value:
        yield name, f"{_quoted(path)}:{_quoted(options)}" if options else _quoted(path)


def _pairs(name: str, value: list[list[str]]) -> Converted:
    for left, right in value:
        yield name, f"{left}:{right}"


def _devices(name: str, value: list[list[str]]) -> Converted:
    for path, access in value:
        yield name, f"{path} {access}"


def _networks(name: str, value: list[list[Any]]) -> Converted:
    for _family, address, length in value:
        yield name, f"{ipaddress.ip_address(bytes(address))}/{length}"


def _quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _limit(value: int) -> str:
    return "infinity" if value == INFINITY else str(value)


MASKS = ("CapabilityBoundingSet", "AmbientCapabilities", "RestrictNamespaces")

LIMITS = tuple(
    "Limit" + name
    for name in (
        *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NOFILE", "AS", "NPROC", "MEMLOCK"),
        *("LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
    )
)

_CONVERTERS: dict[Callable[[str, Any], Converted], tuple[str, ...]] = {
    _plain: (
        *("User", "Group", "DynamicUser", "WorkingDirectory", "RootDirectory", "RootImage"),
        *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateUsers"),
        *("PrivateNetwork", "PrivateMounts", "PrivateIPC", "PrivatePIDs", "IPCNamespacePath"),
        *("NetworkNamespacePath", "MountAPIVFS", "ProtectProc", "ProcSubset", "ProtectClock"),
        *("ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs"),
        *("ProtectKernelModules", "ProtectKernelTunables", "NoNewPrivileges", "LockPersonality"),
        *("MemoryDenyWriteExecute", "RestrictRealtime", "RestrictSUIDSGID", "RemoveIPC"),
        *("KeyringMode", "Personality", "DevicePolicy", "SetLoginEnvironment", "Slice"),
    ),
    _mask: MASKS,
    _octal: (
        *("UMask", "StateDirectoryMode", "CacheDirectoryMode", "LogsDirectoryMode"),
        "ConfigurationDirectoryMode",
    ),
    _words: (
        *("SupplementaryGroups", "Environment", "PassEnvironment", "UnsetEnvironment"),
        *("StateDirectory", "CacheDirectory", "LogsDirectory", "ConfigurationDirectory"),
        *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths"),
        "SystemCallArchitectures",
    ),
    _list: ("SystemCallFilter", "RestrictAddressFamilies", "RestrictFileSystems"),
    _error: ("SystemCallErrorNumber",),
    _optional: ("AppArmorProfile", "SELinuxContext"),
    _files: ("EnvironmentFiles",),
    _binds: ("BindPaths", "BindReadOnlyPaths"),
    _mounts: ("TemporaryFileSystem",),
    _pairs: ("LoadCredential", "LoadCredentialEncrypted"),
    _devices: ("DeviceAllow",),
    _networks: ("IPAddressAllow", "IPAddressDeny"),
}

COPIED = {name: convert for convert, names in _CONVERTERS.items() for name in names}
"""Every property that the surroundings of a process consist of. RuntimeDirectory is not among
them: that of the service would be removed at the command's end."""
