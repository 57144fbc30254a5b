"""Looking at a machine: everything that `facts` has fields for. Nothing here judges.

What cannot be looked at becomes `Missing`, with the reason: no systemd, no permission, no nginx.
"""

from sockd.doctor.gather.everything import Load, gather

__all__ = ["Load", "gather"]
