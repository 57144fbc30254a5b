"""`sockd doctor`: what a senior would look at, what it means, and the command that mends it.

`gather` looks at the machine, `checks` has the table of what is looked for, one module for each
group judges, and `report` writes it down.
"""

from sockd.doctor.checks import examine
from sockd.doctor.gather import gather
from sockd.doctor.report import document, is_well, text

__all__ = ["document", "examine", "gather", "is_well", "text"]
