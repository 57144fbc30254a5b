"""The lab: a real Debian, booted with its own systemd, for tests and for `make lab`.

`image` makes the root file system, `package` builds the Debian package in it, `machine` boots it,
`site` deploys an example there, `load` is the client that runs inside.
"""
